"""Initialisation that knows the length: what attention does to a variance.

At initialisation a softmax over n keys averages n values, so that its output
shrinks as n grows, unless the values are alike. Here is how much, and three
ways to keep it flat: a gain on the output, a temperature, or a norm per head
on the output, which needs no derivation. Scalars are float64 on the host.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from ntk_jax import temperature
from ntk_jax.errors import ConfigError
from ntk_jax.temperature.scalars import check_integer, check_number
from ntk_jax.typing import Array, Float, Float32, Float64, NDArray


def logit_variance(head_dim: int, divisor: str | float = 'sqrt') -> float:
  """Variance s^2 of the logits q.k / divisor, for q and k of unit variance.

  s^2 = H / divisor^2: 1 for 'sqrt', 1 / H for 'linear'. A multiplier c of q
  (a temperature) makes it c^2 s^2.

  Args:
    head_dim: H.
    divisor: as in `ntk_jax.temperature.divisor`.

  Raises:
    ConfigError: as `divisor` does.

  Source: Vaswani et al. 2017, arXiv:1706.03762, footnote 4; Yang et al. 2022,
  arXiv:2203.03466 (muP).

  >>> logit_variance(64), logit_variance(64, 'linear')
  (1.0, 0.015625)
  """
  return head_dim / temperature.divisor(head_dim, divisor) ** 2


def shared_input_term(
  n: int, inv_freq: Float64[NDArray, ' P'] | None = None
) -> float:
  """How alike n keys of one input are after rotation: 1 without rope.

  t = mean_p |1/n sum_m exp(i w_p m)|^2
    = mean_p (sin(n w_p / 2) / (n sin(w_p / 2)))^2,  m in [0, n),

  which is the mean over pairs of keys of mean_p cos(w_p (j - k)): pairs that
  turn often within n tokens drop out, slow ones stay. See
  `attention_variance` for what it is good for.

  Args:
    n: keys.
    inv_freq: w in radians per position, one per pair of the head; channels
      that are not rotated are pairs of frequency 0. None is no rope.

  Raises:
    ConfigError: n that is not an integer or below 1, no pairs.

  >>> w = 1e4 ** -(np.arange(16) / 16)
  >>> shared_input_term(4096), round(shared_input_term(4096, w), 3)
  (1.0, 0.167)
  """
  check_integer('n', n, least=1)
  if inv_freq is None:
    return 1.0
  w = np.asarray(inv_freq, np.float64)
  if w.size == 0:
    raise ConfigError('inv_freq is empty: one frequency per pair, or None')
  half = (w - 2 * np.pi * np.round(w / (2 * np.pi))) / 2  # no whole turns
  still = half == 0
  half = np.where(still, 1.0, half)
  kernel = np.where(still, 1.0, np.sin(n * half) / (n * np.sin(half)))
  return float(np.mean(kernel**2))


def attention_variance(
  n: int,
  *,
  rho: float = 0.0,
  logit_variance: float = 1.0,
  dim: int | None = None,
  inv_freq: Float64[NDArray, ' P'] | None = None,
) -> float:
  """Var(out) / Var(v) of a softmax over n keys at initialisation.

  r(n) = rho + (1 - rho) min(1, e^{s^2} / n) + t s^2 / D.

  Logits z_j are Gaussian of variance s^2, so the weights p_j = e^{z_j} / Z are
  lognormal: Z -> n e^{s^2 / 2} and sum_j e^{2 z_j} -> n e^{2 s^2}, hence
  sum_j p_j^2 -> e^{s^2} / n. Values of mean correlation rho add up to
  sum_jk p_j p_k E[v_j v_k] = sum_j p_j^2 + rho (1 - sum_j p_j^2). Last, keys
  and values project the same inputs: weighting by e^{u_j . x_j}, with u_j the
  query seen through W_k, |u_j|^2 = s^2, moves the mean of x_j to u_j, and that
  of v to W_v mean_j(u_j), which no number of keys averages out: W_v has
  variance 1 / D, and |mean_j u_j|^2 = t s^2 (`shared_input_term`).

  It holds while s^2 < ln(n) / 2, where it is a fifth too large already;
  beyond, a few weights carry sum_j p_j^2, far below e^{s^2} / n. Equal tokens
  share their logits too, which is left out: on text with rho about 0.1 and
  s^2 = 1 the measured ratio is 1.0 to 1.1 times this one with rope, 1.2 to
  1.4 times without.

  Args:
    n: keys that a query sees.
    rho: mean correlation of the values (`mean_correlation`).
    logit_variance: s^2.
    dim: D, the width of the inputs; None leaves the last term out.
    inv_freq: rope's frequencies for that term, as in `shared_input_term`.

  Raises:
    ConfigError: s^2 >= ln(n) / 2, rho that no n values have, numbers of no
      use, inv_freq without dim.

  >>> round(1024 * attention_variance(1024), 3)
  2.718
  >>> round(attention_variance(1024, rho=0.1), 4)
  0.1024
  """
  check_integer('n', n, least=1)
  check_number('rho', rho)
  check_number('logit_variance', logit_variance)
  if (n - 1) * rho <= -1 or rho > 1:
    raise ConfigError(
      f'rho is {rho} over n = {n} values, must be above -1 / (n - 1) and at '
      'most 1, as any mean correlation: measure it with mean_correlation'
    )
  if logit_variance < 0:
    raise ConfigError(
      f'logit_variance is {logit_variance}, must not be below 0'
    )
  if logit_variance >= math.log(n) / 2:
    raise ConfigError(
      f'logit_variance is {logit_variance:.4g} over n = {n} keys, must be '
      f'below ln(n) / 2 = {math.log(n) / 2:.4g} for the weights to average '
      'out: take a larger divisor, a smaller temperature or more keys, or norm '
      'the attention output per head, which is flat at any length'
    )
  sum_of_squares = min(1.0, math.exp(logit_variance) / n)
  variance = rho + (1 - rho) * sum_of_squares
  if dim is None:
    if inv_freq is not None:
      raise ConfigError('inv_freq is given without dim: the term is t s^2 / D')
    return variance
  check_integer('dim', dim, least=1)
  return variance + shared_input_term(n, inv_freq) * logit_variance / dim


def length_aware_gain(
  n: int,
  n_ref: int,
  *,
  rho: float,
  rho_ref: float | None = None,
  logit_variance: float = 1.0,
  dim: int | None = None,
  inv_freq: Float64[NDArray, ' P'] | None = None,
) -> float:
  """Gain of W_o (or W_v) that makes n keys give the variance of n_ref keys.

  sqrt(r(n_ref) / r(n)), r as in `attention_variance`. With rho = 0 and no
  last term it is sqrt(n / n_ref); on text, where tokens repeat and values are
  alike, that gain explodes, the more the deeper the layer. So rho has no
  default: measure it, it depends on the corpus and the tokens.

  Args:
    n: keys that a query sees.
    n_ref: keys at which the gain is 1.
    rho: mean correlation of the values over n keys.
    rho_ref: that over n_ref keys; None is rho.
    logit_variance: s^2, the same at both.
    dim: as in `attention_variance`.
    inv_freq: as in `attention_variance`.

  Raises:
    ConfigError: as `attention_variance` does, at n or at n_ref.

  >>> length_aware_gain(512, 128, rho=0.0)
  2.0
  >>> round(length_aware_gain(512, 128, rho=0.1), 4)
  1.0662
  """
  at = {'logit_variance': logit_variance, 'dim': dim, 'inv_freq': inv_freq}
  rho_ref = rho if rho_ref is None else rho_ref
  before = attention_variance(n_ref, rho=rho_ref, **at)
  return math.sqrt(before / attention_variance(n, rho=rho, **at))


def mean_correlation(
  values: Float[Array, '*B n H'],
) -> Float32[Array, '*B']:
  """Mean correlation rho of n values: their mean product over mean square.

  rho = mean_{i != j} v_i . v_j / mean_i |v_i|^2
      = (|sum_i v_i|^2 - sum_i |v_i|^2) / ((n - 1) sum_i |v_i|^2),

  in O(n), a value with itself left out: 0 on average for independent values
  of mean 0, 1 for equal ones. About zero, not about the mean: a common part
  of all values is what attention cannot average out.

  Args:
    values: `[..., n, H]`, values of a head, or any vectors.

  Returns:
    float32 `[...]`; NaN where all values are 0.

  Raises:
    ConfigError: fewer than two values.

  >>> print(mean_correlation(jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])))
  0.33333334
  """
  n = values.shape[-2]
  if n < 2:
    raise ConfigError(f'values has n = {n}, a correlation takes at least 2')
  v = values.astype(jnp.float32)
  each = jnp.sum(v * v, axis=(-2, -1))
  together = jnp.sum(jnp.sum(v, axis=-2) ** 2, axis=-1)
  return (together - each) / ((n - 1) * each)


def entropy_flat_multiplier(n: int, n_ref: int) -> float:
  """Multiplier of q that keeps the normalised entropy H / ln n of n_ref keys.

  sqrt(ln n / ln n_ref): the entropy of lognormal weights is ln n - s^2 / 2,
  its share of ln n is constant where s^2 grows like ln n. For n >= n_ref it
  is the number that `temperature.longrope` gives cos and sin, both q and k,
  whose effect is its square.

  Args:
    n: keys that a query sees, at least 2.
    n_ref: keys at which it is 1, at least 2.

  Raises:
    ConfigError: counts that are not integers or below 2.

  >>> entropy_flat_multiplier(65536, 16)
  2.0
  """
  check_integer('n', n, least=2)
  check_integer('n_ref', n_ref, least=2)
  return math.sqrt(math.log(n) / math.log(n_ref))


def variance_flat_multiplier(
  n: int, n_ref: int, *, logit_variance: float = 1.0
) -> float:
  """Multiplier of q that keeps e^{s^2} / n, the sum of squares, of n_ref keys.

  sqrt(1 + ln(n / n_ref) / s^2), since s^2 must grow by ln(n / n_ref). It
  reaches the end of the derivation, s^2 = ln(n) / 2, at n = n_ref^2 e^{-2
  s^2}; from there on the output's variance falls slowly.

  Args:
    n: keys that a query sees.
    n_ref: keys at which it is 1.
    logit_variance: s^2 at n_ref, above 0.

  Raises:
    ConfigError: counts that are not integers or below 1, s^2 that is not
      above 0, n so small that no temperature is flat: n <= n_ref e^{-s^2}.

  >>> round(variance_flat_multiplier(4096, 128), 4)
  2.1132
  """
  check_integer('n', n, least=1)
  check_integer('n_ref', n_ref, least=1)
  check_number('logit_variance', logit_variance)
  if logit_variance <= 0:
    raise ConfigError(f'logit_variance is {logit_variance}, must be above 0')
  square = 1 + math.log(n / n_ref) / logit_variance
  if square <= 0:
    raise ConfigError(
      f'n is {n}, must be above n_ref e^-s^2 = '
      f'{n_ref * math.exp(-logit_variance):.4g}: fewer keys vary more than '
      f'{n_ref} do, even with equal weights'
    )
  return math.sqrt(square)


def init_matrix(
  key: Array, shape: tuple[int, ...], fan_in: int, gain: float = 1.0
) -> Float32[Array, '*shape']:
  """Gaussian matrix that keeps the variance of its input, times gain^2.

  Standard deviation gain / sqrt(fan_in).

  Args:
    key: of `jax.random`.
    shape: of the result; leading dims stack matrices.
    fan_in: inputs that each output sums over.
    gain: of the output: `length_aware_gain` for W_o, `residual_gain` for what
      writes to the residual stream, their product for both.

  Raises:
    ConfigError: fan_in below 1, a gain that is not finite or below 0.

  Source: LeCun et al. 1998, Efficient BackProp, section 4.6.

  >>> w = init_matrix(jax.random.key(0), (2, 300, 100), fan_in=300)
  >>> w.shape, round(float(w.std() * 300**0.5), 2)
  ((2, 300, 100), 1.0)
  """
  check_integer('fan_in', fan_in, least=1)
  check_number('gain', gain)
  if gain < 0:
    raise ConfigError(f'gain is {gain}, must not be below 0')
  return jax.random.normal(key, shape) * np.float32(gain / math.sqrt(fan_in))


def residual_gain(layers: int) -> float:
  """Gain of the matrices that write to the residual stream: 1 / sqrt(2 L).

  Each of the 2 L branches adds variance 1 / (2 L): it does not grow with L.

  Args:
    layers: L, blocks of attention and MLP.

  Raises:
    ConfigError: layers that are not an integer or below 1.

  Source: Radford et al. 2019 (GPT-2), section 2.3.

  >>> residual_gain(8)
  0.25
  """
  check_integer('layers', layers, least=1)
  return 1 / math.sqrt(2 * layers)
