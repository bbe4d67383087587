"""Inverse frequencies by parts: fast pairs kept, slow pairs interpolated.

The family of YaRN, in the letters of `frequencies.py`. A ramp r over pairs is
0 where a pair keeps w_i and 1 where it takes w_i / s; methods differ in where
the ramp runs and in what is blended.
"""

from __future__ import annotations

import math

import numpy as np

from ntk_jax.errors import ConfigError
from ntk_jax.rope.frequencies import (
  Frequencies,
  check_log,
  default_frequencies,
  growth,
  ntk_frequencies,
)


def ntk_by_parts_frequencies(
  theta: float,
  dim: int,
  *,
  factor: float,
  original_length: int,
  ntk_factor: float = 1.0,
  extrapolation_factor: float = 1.0,
) -> Frequencies:
  """NTK-by-parts, version 1: three parts with two ramps.

  `x = (w/s) r + w_ntk (1 - r)` with the ramp r over 1.25 to 0.75 turns within
  L0, then `x r' + w (1 - r')` with r' over 16 to 2 turns; the shares 1 - r and
  1 - r' are multiplied by `ntk_factor` and `extrapolation_factor`.

  Source: `LlamaPartNTKScaledRotaryEmbedding` of jquesnelle/yarn.

  >>> w = ntk_by_parts_frequencies(1e4, 8, factor=4.0, original_length=4096)
  >>> w.round(5).tolist()
  [1.0, 0.1, 0.00698, 0.00025]
  """
  w = default_frequencies(theta, dim)
  share = ntk_factor * (1 - _ramp(theta, dim, original_length, 1.25, 0.75))
  w_ntk = ntk_frequencies(theta, dim, factor=factor)
  mixed = w / factor * (1 - share) + w_ntk * share
  share = extrapolation_factor * (1 - _ramp(theta, dim, original_length, 16, 2))
  return mixed * (1 - share) + w * share


def yarn_frequencies(
  theta: float,
  dim: int,
  *,
  factor: float,
  original_length: int,
  beta_fast: float = 32.0,
  beta_slow: float = 1.0,
  truncate: bool = True,
  extrapolation_factor: float = 1.0,
) -> Frequencies:
  """YaRN as everybody runs it: `(w/s) r_i + w (1 - r_i)`.

  The ramp r rises over pairs, from the pair that turns `beta_fast` times
  within L0 to the one that turns `beta_slow` times; `truncate` rounds both
  ends outwards to whole pairs.

  Source: Peng et al. 2023 (arXiv 2309.00071), definition 2, with the ramp of
  its code and of transformers.

  >>> w = yarn_frequencies(1e4, 8, factor=4.0, original_length=4096)
  >>> w.round(6).tolist()
  [1.0, 0.1, 0.00625, 0.00025]
  """
  w = default_frequencies(theta, dim)
  ramp = _ramp(theta, dim, original_length, beta_fast, beta_slow, truncate)
  kept = extrapolation_factor * (1 - ramp)
  return w / factor * (1 - kept) + w * kept


def yarn_paper_frequencies(
  theta: float,
  dim: int,
  *,
  factor: float,
  original_length: int,
  beta_fast: float = 32.0,
  beta_slow: float = 1.0,
) -> Frequencies:
  """YaRN as the paper writes it, with the ramp over turns within L0.

  `r_i = L0 w_i / (2 pi)`, `g = clip((r - beta_slow) / (beta_fast - beta_slow),
  0, 1)`, `(w/s) (1 - g) + w g`.

  Raises:
    ConfigError: equal betas, which leave no ramp.

  Source: Peng et al. 2023 (arXiv 2309.00071), equations 17 to 19.

  >>> w = yarn_paper_frequencies(1e4, 8, factor=4.0, original_length=4096)
  >>> w.round(6).tolist()
  [1.0, 0.1, 0.003835, 0.00025]
  """
  if beta_fast == beta_slow:
    raise ConfigError(f'beta_fast and beta_slow are both {beta_fast}')
  w = default_frequencies(theta, dim)
  turns = original_length * w / (2 * math.pi)
  kept = np.clip((turns - beta_slow) / (beta_fast - beta_slow), 0.0, 1.0)
  return w / factor * (1 - kept) + w * kept


def dynamic_yarn_frequencies(
  theta: float,
  dim: int,
  *,
  original_length: int,
  length: int | None,
  beta_fast: float = 32.0,
  beta_slow: float = 1.0,
  truncate: bool = True,
  extrapolation_factor: float = 1.0,
) -> Frequencies:
  """YaRN with `s = L / L0` at every length beyond L0.

  Source: `LlamaDynamicYaRNScaledRotaryEmbedding` of jquesnelle/yarn.

  >>> dynamic_yarn_frequencies(1e4, 4, original_length=4096, length=8192)
  array([1.    , 0.0075])
  """
  return yarn_frequencies(
    theta,
    dim,
    factor=growth(length, original_length),
    original_length=original_length,
    beta_fast=beta_fast,
    beta_slow=beta_slow,
    truncate=truncate,
    extrapolation_factor=extrapolation_factor,
  )


def yarn_harmonic_frequencies(
  theta: float,
  dim: int,
  *,
  factor: float,
  original_length: int,
  beta_fast: float = 32.0,
  beta_slow: float = 1.0,
  truncate: bool = True,
  extrapolation_factor: float = 1.0,
) -> Frequencies:
  """YaRN that blends divisors, not frequencies: `w / (r s + (1 - r))`.

  Source: `revised_yarn` of dwzhu-pku/PoSE.

  >>> w = yarn_harmonic_frequencies(1e4, 8, factor=4.0, original_length=4096)
  >>> w.round(6).tolist()
  [1.0, 0.1, 0.004, 0.00025]
  """
  ramp = _ramp(theta, dim, original_length, beta_fast, beta_slow, truncate)
  kept = extrapolation_factor * (1 - ramp)
  return default_frequencies(theta, dim) / ((1 - kept) * factor + kept)


def yarn_log_frequencies(
  theta: float,
  dim: int,
  *,
  factor: float,
  original_length: int,
  beta_fast: float = 32.0,
  beta_slow: float = 1.0,
  truncate: bool = True,
  extrapolation_factor: float = 1.0,
) -> Frequencies:
  """YaRN that blends logarithms: `w * s**(-r)`.

  Source: `yarn_log` of Grok in sglang-jax.

  >>> w = yarn_log_frequencies(1e4, 8, factor=4.0, original_length=4096)
  >>> w.round(6).tolist()
  [1.0, 0.1, 0.005, 0.00025]
  """
  ramp = _ramp(theta, dim, original_length, beta_fast, beta_slow, truncate)
  kept = extrapolation_factor * (1 - ramp)
  return default_frequencies(theta, dim) * factor ** -(1 - kept)


def _ramp(
  theta: float,
  dim: int,
  original_length: int,
  beta_fast: float,
  beta_slow: float,
  truncate: bool = True,
) -> Frequencies:
  """0 for pairs that turn `beta_fast` times within L0, 1 for `beta_slow`."""
  check_log(theta)

  def pair(turns: float) -> float:
    ratio = original_length / (2 * math.pi * turns)
    return dim * math.log(ratio) / (2 * math.log(theta))

  low, high = pair(beta_fast), pair(beta_slow)
  if truncate:
    low, high = math.floor(low), math.ceil(high)
  low, high = max(low, 0), min(high, dim - 1)
  if low == high:
    high += 0.001
  return np.clip((np.arange(dim // 2) - low) / (high - low), 0.0, 1.0)
