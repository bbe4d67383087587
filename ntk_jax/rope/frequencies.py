"""Inverse frequencies of the RoPE methods that treat all pairs alike.

Float64, pure, on the host. Throughout: d is the rotary dim, i = 0 .. d/2 - 1
a pair of channels, w_i = theta**(-2 i / d) its unscaled inverse frequency in
radians per token, s the factor, L0 the original length, L the length that a
sequence sees. Methods with a ramp over the pairs are in `yarn.py`; `methods.py`
names them all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ntk_jax.errors import ConfigError
from ntk_jax.typing import Float64, NDArray

Frequencies = Float64[NDArray, ' P']


def default_frequencies(theta: float, dim: int) -> Frequencies:
  """Unscaled: `w_i = theta**(-2 i / d)`.

  Source: Su et al. 2021 (arXiv 2104.09864), section 3.2.2.

  >>> default_frequencies(1e4, 4)
  array([1.  , 0.01])
  """
  return float(theta) ** (-np.arange(0, dim, 2) / dim)


def linear_frequencies(theta: float, dim: int, *, factor: float) -> Frequencies:
  """Position interpolation: `w_i / s`, positions divided by s.

  Source: Chen et al. 2023 (arXiv 2306.15595), equation 4.

  >>> linear_frequencies(1e4, 4, factor=4.0)
  array([0.25  , 0.0025])
  """
  return default_frequencies(theta, dim) / factor


def ntk_frequencies(theta: float, dim: int, *, factor: float) -> Frequencies:
  """NTK-aware: the base becomes `theta * alpha**(d / (d - 2))`.

  The first pair is unchanged, the last divided by alpha exactly.

  Raises:
    ConfigError: a rotary dim of 2, whose one pair cannot do both.

  Source: bloc97 2023; Peng et al. 2023 (arXiv 2309.00071), equation 16.

  >>> ntk_frequencies(1e4, 4, factor=8.0)
  array([1.     , 0.00125])
  """
  return default_frequencies(raised_theta(theta, dim, factor), dim)


def raised_theta(theta: float, dim: int, alpha: float) -> float:
  """The base of NTK-aware scaling, `theta * alpha**(d / (d - 2))`.

  Raises:
    ConfigError: for a rotary dim of 2.

  >>> round(raised_theta(1e4, 128, 8.0), 4)
  82684.6226
  """
  if dim < 4:
    raise ConfigError(
      f'rotary dim is {dim}: the exponent d / (d - 2) of NTK scaling needs '
      'at least 4; use method linear'
    )
  return theta * alpha ** (dim / (dim - 2))


def exponent_frequencies(
  theta: float,
  dim: int,
  *,
  exponent: float | None = None,
  factor: float | None = None,
  original_length: int | None = None,
) -> Frequencies:
  """Exponent form: `theta**(-(2 i / d) * q)`, the base theta**q.

  Equal to NTK-aware scaling by `alpha = theta**((q - 1) (d - 2) / d)`, that is
  `q = 1 + d / (d - 2) * ln(alpha) / ln(theta)`. Without q, the factor and the
  original length give it by `exponent_for`.

  Raises:
    ConfigError: q below 1, or neither q nor factor and original length, or a
      factor that contradicts q.

  Source: an exact rewriting of equation 16 of arXiv 2309.00071.

  >>> w = exponent_frequencies(1e4, 128, exponent=1.2293561871725571)
  >>> bool(np.allclose(w, ntk_frequencies(1e4, 128, factor=8.0), rtol=1e-13))
  True
  """
  implied = None
  if factor is not None and original_length is not None:
    target = factor * original_length
    implied = exponent_for(target, original_length, theta, dim)
  if exponent is None:
    exponent = implied
  if exponent is None:
    raise ConfigError(
      'ntk_exponent needs the option exponent (q >= 1), or factor and '
      'original_length, which give it'
    )
  if implied is not None and not math.isclose(exponent, implied, rel_tol=1e-9):
    raise ConfigError(
      f'exponent is {exponent}, but factor {factor} gives {implied}; give one'
    )
  if exponent < 1:
    raise ConfigError(
      f'exponent is {exponent}: below 1 it raises frequencies (log(L/L0) / '
      'log(theta) is not yet the exponent); use exponent_for'
    )
  return float(theta) ** (-np.arange(0, dim, 2) / dim * exponent)


def exponent_for(
  length: float, original_length: float, theta: float, rotary_dim: int
) -> float:
  """The exponent that extends a model from one length to another.

  `q = 1 + d / (d - 2) * scale` with `scale = log(L / L0) / log(theta)`, at
  least 1: a length at or below the original needs no scaling.

  Args:
    length: target length L in tokens.
    original_length: trained length L0 in tokens.
    theta: base of the unscaled frequencies.
    rotary_dim: channels that turn, d.

  Raises:
    ConfigError: lengths below 1, theta not above 1, or a rotary dim below 4.

  Source: the relation in `exponent_frequencies`.

  >>> round(exponent_for(32768, 4096, 1e4, 128), 12)
  1.229356187173
  >>> exponent_for(2048, 4096, 1e4, 128)
  1.0
  """
  for name, value in (('length', length), ('original_length', original_length)):
    if not (math.isfinite(value) and value >= 1):
      raise ConfigError(f'{name} is {value}, must be at least 1 token')
  check_log(theta)
  if rotary_dim < 4:
    raise ConfigError(f'rotary_dim is {rotary_dim}, must be at least 4')
  scale = math.log(length / original_length) / math.log(theta)
  return 1.0 + rotary_dim / (rotary_dim - 2) * max(0.0, scale)


def dynamic_frequencies(
  theta: float,
  dim: int,
  *,
  factor: float,
  original_length: int,
  length: int | None,
) -> Frequencies:
  """Dynamic NTK: `theta * (s L / L0 - (s - 1))**(d / (d - 2))` beyond L0.

  At or below L0 nothing changes; with s = 1 the last frequency is divided by
  L / L0.

  Source: transformers 4.31 (emozilla 2023), `dynamic`.

  >>> dynamic_frequencies(1e4, 4, factor=1.0, original_length=8, length=32)
  array([1.    , 0.0025])
  """
  seen = max(length or 0, original_length)
  alpha = factor * seen / original_length - (factor - 1)
  return ntk_frequencies(theta, dim, factor=alpha)


def dynamic_linear_frequencies(
  theta: float, dim: int, *, original_length: int, length: int | None
) -> Frequencies:
  """Dynamic interpolation: `w_i * L0 / L` beyond L0.

  Source: `LlamaDynamicScaledRotaryEmbedding(ntk=False)` of jquesnelle/yarn.

  >>> dynamic_linear_frequencies(1e4, 4, original_length=8, length=32)
  array([0.25  , 0.0025])
  """
  times = growth(length, original_length)
  return linear_frequencies(theta, dim, factor=times)


def theta_scale_frequencies(
  theta: float, dim: int, *, factor: float, original_length: int
) -> Frequencies:
  """The base becomes theta**p: the pair that turned once in L0 does in s L0.

  `p = ln(s L0 / (2 pi)) / ln(L0 / (2 pi))`.

  Raises:
    ConfigError: an original length of 6 tokens or less, below one turn.

  Source: `theta_scale` of Grok in sglang-jax.

  >>> theta_scale_frequencies(1e4, 4, factor=4.0, original_length=4096)
  array([1.        , 0.00373357])
  """
  turns = original_length / (2 * math.pi)
  if turns <= 1:
    raise ConfigError(
      f'original_length is {original_length}: theta_scale needs at least 7'
    )
  power = math.log(factor * turns) / math.log(turns)
  return exponent_frequencies(theta, dim, exponent=power)


def longrope_frequencies(
  theta: float,
  dim: int,
  *,
  original_length: int,
  length: int | None,
  short_factor: Sequence[float],
  long_factor: Sequence[float],
) -> Frequencies:
  """LongRoPE: `w_i / long_i` beyond L0, `w_i / short_i` at or below it.

  Source: Ding et al. 2024 (arXiv 2402.13753), equation 3; transformers.

  >>> longrope_frequencies(1e4, 4, original_length=8, length=9,
  ...     short_factor=(1.0, 1.0), long_factor=(1.0, 4.0))
  array([1.    , 0.0025])
  """
  beyond = length is not None and length > original_length
  divisors = np.asarray(long_factor if beyond else short_factor, np.float64)
  return default_frequencies(theta, dim) / divisors


def dynamic_longrope_frequencies(
  theta: float,
  dim: int,
  *,
  factor: float,
  original_length: int,
  length: int | None,
  long_factor: Sequence[float],
) -> Frequencies:
  """LongRoPE whose divisors grow: `1 + (long_i - 1) (L/L0 - 1) / (s - 1)`.

  Raises:
    ConfigError: a factor of 1, which leaves nothing to grow to.

  Source: `DynamicLongRoPEScaledRotaryEmbedding` of microsoft/LongRoPE.

  >>> dynamic_longrope_frequencies(1e4, 4, factor=4.0, original_length=8,
  ...     length=20, long_factor=(1.0, 4.0))
  array([1.   , 0.004])
  """
  if factor <= 1:
    raise ConfigError(f'factor is {factor}: dynamic_longrope needs more than 1')
  share = (growth(length, original_length) - 1) / (factor - 1)
  divisors = 1 + (np.asarray(long_factor, np.float64) - 1) * share
  return default_frequencies(theta, dim) / divisors


def mixed_longrope_frequencies(
  theta: float, dim: int, *, long_factor: Sequence[float], start_token: int
) -> Frequencies:
  """The rescaled side of mixed LongRoPE, `w_i / long_i`.

  The first `start_token` positions keep the original angles: select cos and
  sin of both sides by position.

  Source: `MixedLongRoPEScaledRotaryEmbedding` of microsoft/LongRoPE.

  >>> mixed_longrope_frequencies(
  ...     1e4, 4, long_factor=(1.0, 4.0), start_token=4)
  array([1.    , 0.0025])
  """
  if start_token < 0:
    raise ConfigError(f'start_token is {start_token}, must be 0 or more')
  return default_frequencies(theta, dim) / np.asarray(long_factor, np.float64)


def llama3_frequencies(
  theta: float,
  dim: int,
  *,
  factor: float,
  original_length: int,
  low_freq_factor: float,
  high_freq_factor: float,
) -> Frequencies:
  """Llama 3: `w/s` below `low` turns within L0, `w` above `high`, between both.

  With r = L0 w / (2 pi) turns and g = (r - low) / (high - low):
  `(1 - g) w/s + g w` for low <= r <= high. With low == high it is a step.

  Source: meta-llama/llama-models `apply_scaling`; transformers `llama3`.

  >>> w = llama3_frequencies(1e4, 8, factor=4.0, original_length=1024,
  ...     low_freq_factor=1.0, high_freq_factor=4.0)
  >>> w.round(6).tolist()
  [1.0, 0.1, 0.004074, 0.00025]
  """
  w = default_frequencies(theta, dim)
  turns = original_length * w / (2 * math.pi)
  width = high_freq_factor - low_freq_factor
  g = (turns - low_freq_factor) / width if width else np.ones_like(w)
  blended = (1 - g) * w / factor + g * w
  kept = np.where(turns > high_freq_factor, w, blended)
  return np.where(turns < low_freq_factor, w / factor, kept)


def proportional_frequencies(
  theta: float,
  dim: int,
  *,
  partial_rotary_factor: float = 1.0,
  factor: float = 1.0,
) -> Frequencies:
  """p-RoPE: the first share of the pairs turns, the rest has frequency 0.

  `w_i / s` for i < n = int(p H // 2), with exponents over the full head dim
  H (here `dim`), and 0 beyond.

  Source: Barbero et al. 2024 (arXiv 2410.06205); transformers `proportional`.

  >>> proportional_frequencies(1e4, 8, partial_rotary_factor=0.5)
  array([1. , 0.1, 0. , 0. ])
  """
  turning = int(partial_rotary_factor * dim // 2)
  w = default_frequencies(theta, dim) / factor
  return np.where(np.arange(dim // 2) < turning, w, 0.0)


def ntk_fixed_frequencies(
  theta: float, dim: int, *, factor: float
) -> Frequencies:
  """NTK-RoPE-fixed: `w_i * k**(-2 (i + 1) / d)`.

  Source: Su 2023, kexue.fm/9706, equation 8.

  >>> ntk_fixed_frequencies(1e4, 4, factor=4.0)
  array([0.5   , 0.0025])
  """
  return ntk_mixed_frequencies(theta, dim, factor=factor, b=1.0)


def ntk_mixed_frequencies(
  theta: float, dim: int, *, factor: float, b: float = 0.625
) -> Frequencies:
  """NTK-RoPE-mixed: `w_i * exp(-a (i + 1)**b)`, `a = ln k / (d / 2)**b`.

  Source: Su 2023, kexue.fm/9706, section on mixed bases.

  >>> ntk_mixed_frequencies(1e4, 4, factor=4.0, b=0.5).round(6)
  array([0.375214, 0.0025  ])
  """
  pairs = dim // 2
  share = (np.arange(1, pairs + 1) / pairs) ** b
  return default_frequencies(theta, dim) * np.exp(-math.log(factor) * share)


def growth(length: int | None, original_length: int) -> float:
  """How far a length is beyond the original: `L / L0`, at least 1.

  >>> growth(8192, 4096), growth(100, 4096), growth(None, 4096)
  (2.0, 1.0, 1.0)
  """
  return max(length or 0, original_length) / original_length


def check_log(theta: float) -> None:
  """Refuses a base whose logarithm is not positive.

  Raises:
    ConfigError: theta at or below 1.

  >>> check_log(1e4)
  """
  if theta <= 1:
    raise ConfigError(
      f'theta is {theta}: this method takes its logarithm, which must be '
      'positive; use a base above 1 (10000 is usual)'
    )
