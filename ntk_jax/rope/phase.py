"""Exact rotation angles: cosine and sine that are right at any position."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from ntk_jax.errors import ConfigError, unknown
from ntk_jax.positions import as_int32
from ntk_jax.rope import fixed_point
from ntk_jax.typing import (
  Array,
  ArrayLike,
  Float,
  Float32,
  Int,
  NDArray,
  UInt32,
)

PRECISIONS = ('exact', 'float32')


def phases(inv_freq: Float[ArrayLike, '*P']) -> UInt32[NDArray, '*P 2']:
  """Phase words of inverse frequencies, made on the host.

  F = round(w / (2 pi) * 2**64) modulo 2**64, exactly rounded; the last dim
  holds its (high, low) uint32 words.

  Args:
    inv_freq: w in radians per position, concrete, float64 or float32.

  Raises:
    ConfigError: a traced array, another dtype, or a frequency that is
      negative or not finite.

  Source: the phase accumulator of direct digital synthesis (Tierney, Rader
  and Gold 1971), with a step of 64 bits.

  >>> phases(np.array([1.0, 0.0]))
  array([[ 683565275, 2475754826],
         [         0,          0]], dtype=uint32)
  """
  if isinstance(inv_freq, jax.core.Tracer):
    raise ConfigError(
      f'inv_freq is traced as {inv_freq.dtype}: phase words are made on the '
      'host, from concrete frequencies; a traced float32 array goes to '
      'cos_sin as it is'
    )
  w = np.asarray(inv_freq)
  if w.dtype not in (np.float64, np.float32):
    raise ConfigError(
      f'inv_freq is {w.dtype}: frequencies are float64 or float32 (in 16 bits '
      'the angle is lost after a few hundred positions), phase words are '
      'uint32 [..., P, 2]'
    )
  wrong = w[~(np.isfinite(w) & (w >= 0))]
  if wrong.size:
    raise ConfigError(
      f'inv_freq has {wrong.size} of {w.size} values that are negative or not '
      f'finite, first {wrong[0]}'
    )
  flat = [fixed_point.turns(value) for value in w.ravel().tolist()]
  words = np.array(flat, np.uint64).reshape(w.shape)
  return np.stack([words >> 32, words & 0xFFFFFFFF], -1).astype(np.uint32)


def cos_sin(
  positions: Int[ArrayLike, '*positions'] | list,
  inv_freq: ArrayLike,
  *,
  attention_factor: ArrayLike = 1.0,
  precision: str = 'exact',
) -> tuple[Float32[Array, '*angles'], Float32[Array, '*angles']]:
  """Cosine and sine of the rotation angles, times the attention factor.

  angle = positions[..., None] * inv_freq. With precision 'exact' both are
  within 2e-7 of the float64 value for positions up to 2**24 and within 3e-7
  over all of int32, under jit, without x64. With 'float32' they are what
  transformers computes: the angle is the rounded float32(p) * float32(w), and
  both are off by up to 7e-2 at a million tokens.

  Args:
    positions: int32 `[..., T]`.
    inv_freq: w in radians per position, `[..., P]`, broadcast against
      `positions[..., None]`; frequencies per row, `[B, P]`, are passed as
      `inv_freq[:, None]`. It is a concrete float64 or float32 array; or the
      words of `phases`, `[..., P, 2]`; or a float32 jax array, traced or not:
      the angles are exact for the values given, with a gradient.
    attention_factor: a scalar, or broadcast against positions (one per row,
      `[B]`, is passed as `attention_factor[:, None]`); multiplied in float32.
    precision: 'exact' or 'float32'.

  Returns:
    Two float32 arrays `[..., T, P]`.

  Raises:
    ConfigError: an unknown precision, phase words with 'float32', positions
      that are not integers or do not fit in int32, frequencies as in
      `phases`, shapes that do not broadcast.

  Source: Su et al. 2021, arXiv:2104.09864, eq. 34.

  >>> cos, sin = cos_sin(np.array([0, -1_000_000]), np.array([1.0]))
  >>> print(cos.ravel(), sin.ravel())
  [1.        0.9367521] [0.         0.34999353]
  """
  if precision not in PRECISIONS:
    raise unknown('precision', precision, PRECISIONS)
  p = jnp.asarray(as_int32(positions))[..., None]
  w = _frequencies(inv_freq, precision)
  factor = jnp.asarray(attention_factor, jnp.float32)[..., None]
  words = w.dtype == jnp.uint32
  _check_broadcast(p, w[..., 0] if words else w, factor)
  if words:
    cos, sin = _from_words(p, w)
  elif precision == 'exact':
    cos, sin = _learned(p, w)
  else:
    angle = p.astype(jnp.float32) * w
    cos, sin = jnp.cos(angle), jnp.sin(angle)
  return factor * cos, factor * sin


def lerope(inv_freq: ArrayLike, alpha_P: ArrayLike) -> Float32[Array, '*B P']:
  """Learned frequencies: every one times a trained multiplier.

  w_i * exp(alpha_i) in float32, differentiable; alpha starts at 0.

  Args:
    inv_freq: w in radians per position.
    alpha_P: logarithms of the multipliers, `[P]`.

  Raises:
    ConfigError: phase words, which cannot be multiplied, or another number of
      pairs.

  Source: LeRoPE in Mistral Large 4 (transformers 5.23, mistral_large4).

  >>> print(lerope(np.array([1.0, 0.5]), np.array([0.0, np.log(2)])))
  [1. 1.]
  """
  if not jnp.issubdtype(jnp.asarray(inv_freq).dtype, jnp.floating):
    raise ConfigError(
      'inv_freq are phase words or integers: learned multipliers act on '
      'frequencies themselves, and the product goes to cos_sin'
    )
  w, alpha = (jnp.asarray(x, jnp.float32) for x in (inv_freq, alpha_P))
  if w.ndim < 1 or alpha.shape != w.shape[-1:]:
    raise ConfigError(
      f'alpha_P has shape {alpha.shape}, must be one per pair: {w.shape[-1:]}'
    )
  return w * jnp.exp(alpha)


def _frequencies(inv_freq: ArrayLike, precision: str) -> Array:
  """Phase words, or float32 frequencies: learned ones and for 'float32'."""
  if not isinstance(inv_freq, jax.Array):
    inv_freq = np.asarray(inv_freq)
  if inv_freq.dtype == np.uint32:
    if precision == 'float32':
      raise ConfigError(
        "precision is 'float32' and inv_freq phase words: pass the "
        "frequencies themselves, or precision='exact'"
      )
    if inv_freq.ndim < 2 or inv_freq.shape[-1] != 2:
      raise ConfigError(
        f'inv_freq is uint32 of shape {inv_freq.shape}: phase words have the '
        'shape [..., P, 2]'
      )
    return jnp.asarray(inv_freq)
  if isinstance(inv_freq, jax.Array) and inv_freq.dtype == np.float32:
    return inv_freq
  words = phases(inv_freq)
  if precision == 'exact':
    return jnp.asarray(words)
  return jnp.asarray(np.asarray(inv_freq), jnp.float32)


def _check_broadcast(p: Array, w: Array, factor: Array) -> None:
  try:
    np.broadcast_shapes(p.shape, w.shape, factor.shape)
  except ValueError:
    raise ConfigError(
      f'shapes do not broadcast: positions[..., None] {p.shape}, inv_freq '
      f'{w.shape}, attention_factor[..., None] {factor.shape}; what is per '
      'row needs a dim for positions: inv_freq[:, None], '
      'attention_factor[:, None]'
    ) from None


@jax.jit
def _from_words(p: Array, words: Array) -> tuple[Array, Array]:
  """Cosine and sine of p * w, as one program also when called eagerly."""
  units = fixed_point.phase(p, words[..., 0], words[..., 1])
  return fixed_point.rotation(units)


@jax.custom_jvp
@jax.jit
def _learned(p: Array, w: Array) -> tuple[Array, Array]:
  """Cosine and sine of p * w for float32 w; NaN where w is not finite."""
  radians = jnp.where(jnp.isfinite(w), fixed_point.RADIANS, jnp.nan)
  units = fixed_point.phase(p, *fixed_point.turns_of_float32(w))
  return fixed_point.rotation(units, radians)


@_learned.defjvp  # pyrefly: ignore[bad-argument-type] jit hides the types
def _learned_jvp(
  primals: tuple[Array, Array], tangents: tuple[object, Array]
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
  """d cos = -p sin dw and d sin = p cos dw; positions have no tangent."""
  (p, w), (_, dw) = primals, tangents
  cos, sin = _learned(p, w)
  dangle = p.astype(jnp.float32) * dw
  return (cos, sin), (-sin * dangle, cos * dangle)
