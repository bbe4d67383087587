"""Rotating queries and keys, and moving rotated keys to new frequencies."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from ntk_jax.errors import ConfigError, unknown
from ntk_jax.rope.fixed_point import difference
from ntk_jax.rope.phase import cos_sin, phases
from ntk_jax.typing import Array, ArrayLike, Float, Int, NDArray

# Of x and of the result: whether pair i is channels (2i, 2i + 1), or
# (i, i + P).
LAYOUTS = {
  'half': (False, False),
  'interleaved': (True, True),
  'interleaved_to_half': (True, False),
}
SPANS = ('leading', 'trailing')


def apply_rope(
  x: Float[ArrayLike, '*B T heads H'],
  cos: Float[ArrayLike, '*angles P'],
  sin: Float[ArrayLike, '*angles P'],
  *,
  layout: str = 'half',
  span: str = 'leading',
  inverse: bool = False,
) -> Float[Array, '*B T heads H']:
  """Queries or keys with each pair of channels turned by its angle.

  (a, b) -> (a cos - b sin, b cos + a sin), in float32, rounded once.

  Args:
    x: `[..., T, heads, H]`; the result has its dtype.
    cos: `[..., T, P]` as `cos_sin` gives it, attention factor included; the
      head dim is inserted here.
    sin: like cos.
    layout: which channels are a pair. 'half': (i, i + P), as Llama in
      transformers; 'interleaved': (2i, 2i + 1), as GPT-J and Meta's Llama;
      'interleaved_to_half': taken interleaved and given as half, as
      DeepSeek-V3.
    span: whether the first ('leading') or the last ('trailing') 2 P channels
      are rotated; the others pass through, to the bit.
    inverse: turn by the opposite angle. Only sin changes its sign: an
      attention factor in cos and sin multiplies again, so that there and back
      is its square. 'interleaved_to_half' goes back from half to interleaved.

  Raises:
    ConfigError: an unknown layout or span, x that is not floating, cos and
      sin of different shapes, 2 P > H, angles that do not fit x.

  Source: Su et al. 2021, arXiv:2104.09864, eq. 34.

  >>> x = jnp.array([1.0, 2.0, 3.0, 4.0, 5.0])[None, None]
  >>> cos, sin = jnp.zeros((1, 2)), jnp.ones((1, 2))  # a quarter turn
  >>> print(apply_rope(x, cos, sin)[0, 0])
  [-3. -4.  1.  2.  5.]
  >>> y = apply_rope(x, cos, sin, layout='interleaved', span='trailing')
  >>> print(y[0, 0])
  [ 1. -3.  2. -5.  4.]
  """
  x, cos, sin = jnp.asarray(x), jnp.asarray(cos), jnp.asarray(sin)
  _check(x, cos, sin, layout, span)
  width = 2 * cos.shape[-1]
  interleaved = LAYOUTS[layout][::-1] if inverse else LAYOUTS[layout]
  if inverse:
    sin = -sin
  if width == x.shape[-1]:
    return _rotate(x, cos, sin, interleaved)
  if span == 'leading':
    turned = _rotate(x[..., :width], cos, sin, interleaved)
    return jnp.concatenate([turned, x[..., width:]], axis=-1)
  rest = x.shape[-1] - width
  turned = _rotate(x[..., rest:], cos, sin, interleaved)
  return jnp.concatenate([x[..., :rest], turned], axis=-1)


def rerotate(
  k: Float[ArrayLike, '*B T heads H'],
  positions: Int[ArrayLike, '*positions'] | list,
  old: ArrayLike,
  new: ArrayLike,
  *,
  factor_ratio: ArrayLike = 1.0,
  layout: str = 'half',
  span: str = 'leading',
) -> Float[Array, '*B T heads H']:
  """Rotated keys moved from old to new frequencies, without the plain keys.

  R(p (w_new - w_old)) k * factor_ratio, since rotations compose; the
  difference is that of the phase words modulo 2**64, which is exact. This is
  what a cache of one layer needs. Deeper layers' keys come from hidden states
  made under the old frequencies: there it is an approximation for a one-off
  change, and no step of a decode loop (each call rounds k once more).

  Args:
    k: keys `[..., T, heads, H]` as `apply_rope` left them.
    positions: int32 `[..., T]` of the keys.
    old: frequencies under which k was rotated: concrete float64 or float32
      `[..., P]`, or phase words `[..., P, 2]`; broadcast as in `cos_sin`.
    new: frequencies to move to, likewise.
    factor_ratio: new attention factor over the old one.
    layout: that of `apply_rope` when it made k; after 'interleaved_to_half'
      the keys are half-split.
    span: as in `apply_rope`.

  Raises:
    ConfigError: as `cos_sin` and `apply_rope`.

  Source: the group property of rotations, Su et al. 2021, arXiv:2104.09864,
  section 3.2.

  >>> old, new = np.array([np.pi / 2]), np.array([np.pi])
  >>> k = jnp.array([[[0.0, 1.0]]])  # (1, 0) at position 1, rotated by old
  >>> print(rerotate(k, np.array([1]), old, new)[0, 0].round(6))
  [-1.  0.]
  """
  if layout not in LAYOUTS:
    raise unknown('layout', layout, LAYOUTS)
  old, new = _words(old), _words(new)
  if old.shape[-2] != new.shape[-2]:
    raise ConfigError(
      f'old has {old.shape[-2]} pairs and new {new.shape[-2]}, must be alike'
    )
  turn = difference(new, old)
  cos, sin = cos_sin(positions, turn, attention_factor=factor_ratio)
  rotated = 'half' if layout == 'interleaved_to_half' else layout
  return apply_rope(k, cos, sin, layout=rotated, span=span)


@functools.partial(jax.jit, static_argnames='interleaved')
def _rotate(
  x: Array, cos: Array, sin: Array, interleaved: tuple[bool, bool]
) -> Array:
  """The rotation of all channels; `interleaved` is of x and of the result."""
  cos, sin = (y.astype(jnp.float32)[..., None, :] for y in (cos, sin))
  P = cos.shape[-1]
  pairs = (P, 2) if interleaved[0] else (2, P)
  y = x.astype(jnp.float32).reshape(*x.shape[:-1], *pairs)
  a, b = (
    (y[..., 0], y[..., 1]) if interleaved[0] else (y[..., 0, :], y[..., 1, :])
  )
  turned = jnp.stack(
    [a * cos - b * sin, b * cos + a * sin], -1 if interleaved[1] else -2
  )
  return turned.astype(x.dtype).reshape(x.shape)


def _words(inv_freq: ArrayLike) -> Array | NDArray:
  """Phase words, checked as `cos_sin` does where they are given."""
  w = inv_freq if isinstance(inv_freq, jax.Array) else np.asarray(inv_freq)
  if w.dtype != np.uint32:
    w = phases(w)
  if w.ndim < 2 or w.shape[-1] != 2:
    raise ConfigError(
      f'frequencies of shape {np.shape(inv_freq)} are neither [..., P] nor '
      'phase words [..., P, 2]'
    )
  return w


def _check(x: Array, cos: Array, sin: Array, layout: str, span: str) -> None:
  """ConfigError for what a caller can get wrong."""
  if layout not in LAYOUTS:
    raise unknown('layout', layout, LAYOUTS)
  if span not in SPANS:
    raise unknown('span', span, SPANS)
  if not jnp.issubdtype(x.dtype, jnp.floating):
    raise ConfigError(f'x is {x.dtype}, must be a floating dtype')
  if x.ndim < 3 or cos.ndim < 1:
    raise ConfigError(
      f'x has shape {x.shape} and cos {cos.shape}: x is [..., T, heads, H] and '
      'cos [..., T, P]'
    )
  if cos.shape != sin.shape:
    raise ConfigError(f'cos has shape {cos.shape} and sin {sin.shape}')
  width = 2 * cos.shape[-1]
  if width > x.shape[-1]:
    raise ConfigError(
      f'cos has {cos.shape[-1]} pairs, {width} channels, x has only '
      f'{x.shape[-1]}'
    )
  try:
    fits = np.broadcast_shapes(cos.shape[:-1], x.shape[:-2]) == x.shape[:-2]
  except ValueError:
    fits = False
  if not fits:
    raise ConfigError(
      f'cos of shape {cos.shape} does not fit x of shape {x.shape}: x is '
      '[..., T, heads, H] and cos [..., T, P], without a head dim'
    )
