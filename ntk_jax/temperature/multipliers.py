"""Multipliers of q by query position.

All have one form, per position p and perhaps per head:

  q *= a + b * g(p),

with g one of ln n, ln max(n / T, 1) and ln(1 + floor(n / T)), where n is p + 1
(how many keys a causal query sees) or p. It depends on the query's position
alone, so that cached keys stay right, and is float32 from integer positions:
from bfloat16 ones, a sixth of the first million lands in the wrong step.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax.numpy as jnp

from ntk_jax.errors import ConfigError
from ntk_jax.positions import as_int32
from ntk_jax.temperature.scalars import check_integer, check_number
from ntk_jax.typing import Array, ArrayLike, Float32, Int, Int32

PerHead = ArrayLike | tuple[float, ...]  # a scalar, or one value per head
Growth = Callable[[Array], Array]  # g: positions int32 -> float32


def affine(
  p: Int[ArrayLike, '*p'], a: PerHead, b: PerHead, g: Growth
) -> Float32[Array, '*q']:
  """The form that all multipliers share: a + b * g(p).

  Args:
    p: 0-based query positions, integers, `[..., T]`.
    a: what stays, a scalar or per head `[N]`.
    b: what grows with g, a scalar or per head `[N]`.
    g: a function of int32 positions.

  Returns:
    float32 `[..., T]`, or `[..., T, N]` where a or b is per head.

  Raises:
    ConfigError: positions that are not integers.

  >>> print(affine(jnp.array([0, 3]), 1.0, (0.5, 2.0), log_count))
  [[1.        1.       ]
   [1.6931472 3.7725887]]
  """
  p = jnp.asarray(as_int32(p))
  a, b = _float32(a), _float32(b)
  growth = g(p)
  per_head = max(a.ndim, b.ndim) > 0
  return a + b * (growth[..., None] if per_head else growth)


def _float32(value: PerHead) -> Array:
  try:
    array = jnp.asarray(value, jnp.float32)
  except (TypeError, ValueError) as error:
    raise ConfigError(
      f'a setting of a temperature is {value!r}, must be a number or one per '
      'head'
    ) from error
  if array.ndim > 1:
    raise ConfigError(
      f'a setting of a temperature has shape {array.shape}, must be a number '
      'or one per head'
    )
  return array


def log_count(p: Int32[Array, '*p']) -> Float32[Array, '*p']:
  """g(p) = ln n, with n = p + 1.

  >>> print(log_count(jnp.array([0, 99])))
  [0.        4.6051702]
  """
  return jnp.log(p.astype(jnp.float32) + 1)


def log_excess(length: int, first: int = 1) -> Growth:
  """g(p) = ln max(n / T, 1), with T the length and n = p + first.

  >>> print(log_excess(10)(jnp.array([8, 9, 99])))
  [0.        0.        2.3025851]
  """
  return lambda p: jnp.log(
    jnp.maximum((p.astype(jnp.float32) + first) / length, 1)
  )


def log_steps(length: int, first: int = 1) -> Growth:
  """g(p) = ln(1 + floor(n / T)), with n = p + first; floor on integers.

  >>> print(log_steps(10)(jnp.array([8, 9, 19])))
  [0.        0.6931472 1.0986123]
  """

  def growth(p: Array) -> Array:
    # floor((p + 1) / T), without the overflow of p + 1.
    step = p // length + (p % length == length - 1) * first
    return jnp.log1p(step.astype(jnp.float32))

  return growth


def logn(p: Int[ArrayLike, '*p'], *, length: int) -> Float32[Array, '*p']:
  """log-n scaling: 1 up to the trained length, then log of n to its base.

  max(ln n / ln L0, 1), with n = p + 1.

  Args:
    p: 0-based query positions.
    length: L0, the trained length, at least 2.

  Raises:
    ConfigError: a length that is not an integer or too small; positions that
      are not integers.

  Source: Su 2021, kexue.fm/archives/8823; Qwen (use_logn_attn).

  >>> print(logn(jnp.array([0, 511, 262143]), length=512))
  [1. 1. 2.]
  """
  check_integer('length', length, least=2)
  return affine(p, 1.0, 1 / math.log(length), log_excess(length))


def ssmax(
  p: Int[ArrayLike, '*p'], s: PerHead, b: PerHead = 0.0
) -> Float32[Array, '*q']:
  """Scalable-Softmax: s ln n + b, with n = p + 1 and s, b learned.

  Args:
    p: 0-based query positions.
    s: scale, a scalar or per head `[N]`; 0.43 in the paper's example.
    b: bias, likewise.

  Raises:
    ConfigError: positions that are not integers.

  Source: Nakanishi 2025, arXiv:2501.19399.

  >>> print(ssmax(jnp.array([0, 99]), 0.43))
  [0.        1.9802233]
  """
  return affine(p, b, s, log_count)


def llama4(
  p: Int[ArrayLike, '*p'], *, floor: int = 8192, scale: float = 0.1
) -> Float32[Array, '*p']:
  """Llama 4, on its layers without rope: grows at whole multiples of a floor.

  1 + scale * ln(1 + floor((p + 1) / floor)).

  Args:
    p: 0-based query positions.
    floor: width of a step (floor_scale).
    scale: attn_scale.

  Raises:
    ConfigError: a floor that is not an integer or below 1; positions that are
      not integers.

  Source: Llama 4 (transformers, llama4: attn_temperature_tuning).

  >>> print(llama4(jnp.array([8190, 8191])))
  [1.        1.0693147]
  """
  check_integer('floor', floor, least=1)
  return affine(p, 1.0, scale, log_steps(floor))


def ministral(
  p: Int[ArrayLike, '*p'], *, length: int, beta: float
) -> Float32[Array, '*p']:
  """Ministral 3 and Mistral 4: as `llama4`, but of p and on all layers.

  1 + beta * ln(1 + floor(p / L0)).

  Args:
    p: 0-based query positions.
    length: L0 (original_max_position_embeddings).
    beta: llama_4_scaling_beta.

  Raises:
    ConfigError: a length that is not an integer or below 1; positions that
      are not integers.

  Source: Ministral 3 (transformers, ministral3: get_llama_4_attn_scale).

  >>> print(ministral(jnp.array([16383, 16384]), length=16384, beta=0.1))
  [1.        1.0693147]
  """
  check_integer('length', length, least=1)
  return affine(p, 1.0, beta, log_steps(length, first=0))


def inkling(
  p: Int[ArrayLike, '*p'], *, floor: int = 128000, alpha: float = 0.1
) -> Float32[Array, '*p']:
  """Inkling: smooth growth beyond a floor.

  1 + alpha * ln max((p + 1) / floor, 1).

  Args:
    p: 0-based query positions.
    floor: log_scaling_n_floor.
    alpha: log_scaling_alpha.

  Raises:
    ConfigError: a floor that is not an integer or below 1; positions that are
      not integers.

  Source: Inkling (transformers, inkling), where it scales the relative bias
  too.

  >>> print(inkling(jnp.array([127999, 255999])))
  [1.        1.0693147]
  """
  check_integer('floor', floor, least=1)
  return affine(p, 1.0, alpha, log_excess(floor))


def grok(p: Int[ArrayLike, '*p'], *, length: int) -> Float32[Array, '*p']:
  """Grok: log2(p) / log2(T) for positions beyond T, else 1; p, not p + 1.

  Args:
    p: 0-based query positions.
    length: T (attn_temperature_len), at least 2.

  Raises:
    ConfigError: a length that is not an integer or too small; positions that
      are not integers.

  Source: Grok 2 (SGLang, xai_temperature_len, a multiplier of the logits).

  >>> print(grok(jnp.array([0, 1024, 1048576]), length=1024))
  [1. 1. 2.]
  """
  check_integer('length', length, least=2)
  return affine(p, 1.0, 1 / math.log(length), log_excess(length, first=0))


def learned(
  p: Int[ArrayLike, '*p'], scale_N: PerHead, bias_N: PerHead
) -> Float32[Array, '*q']:
  """Mistral Large 4: scale * ln(p + 1) + bias, learned for every head.

  Args:
    p: 0-based query positions, `[..., T]`.
    scale_N: starts at 0.
    bias_N: starts at 1.

  Returns:
    float32 `[..., T, N]`.

  Raises:
    ConfigError: positions that are not integers.

  Source: Mistral Large 4 (transformers, mistral_large4).

  >>> print(learned(jnp.array([0, 99]), (0.0, 0.5), (1.0, 1.0)))
  [[1.        1.       ]
   [1.        3.3025851]]
  """
  return affine(p, bias_N, scale_N, log_count)


def entropy_invariant(
  p: Int[ArrayLike, '*p'], *, kappa: float, head_dim: int
) -> Float32[Array, '*p']:
  """Su's entropy-invariant softmax: logits kappa ln n / d * q.k, n = p + 1.

  kappa * ln n / sqrt(d) here, on top of the usual divisor sqrt(d).

  Args:
    p: 0-based query positions.
    kappa: a constant of training.
    head_dim: d.

  Raises:
    ConfigError: a head_dim that is not an integer or below 1; positions that
      are not integers.

  Source: Su 2022, kexue.fm/archives/9034.

  >>> print(entropy_invariant(jnp.array([0, 99]), kappa=2.0, head_dim=16))
  [0.        2.3025851]
  """
  check_integer('head_dim', head_dim, least=1)
  check_number('kappa', kappa)
  return affine(p, 0.0, kappa / math.sqrt(head_dim), log_count)


def constant(
  p: Int[ArrayLike, '*p'], *, scale: PerHead
) -> Float32[Array, '*q']:
  """One constant, or one per head, at every position.

  Args:
    p: query positions, for their shape.
    scale: a scalar or per head `[N]`.

  Raises:
    ConfigError: positions that are not integers.

  Source: NoPE's temperature per head, Wang et al. 2024, arXiv:2404.12224.

  >>> print(constant(jnp.arange(2), scale=1.2))
  [1.2 1.2]
  """
  return affine(p, scale, 0.0, lambda p: jnp.zeros(p.shape, jnp.float32))
