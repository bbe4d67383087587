"""Which key a query sees: one normal form that every backend understands.

`causal & document & (window | sink_tokens)`. A mask is a value: equal masks
are equal and hash alike, so it can be a static argument of jit. It is a pytree
too, for the one field that may be an array: a window given as an int is part
of the program, a window given as an array is an input of it.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ntk_jax.errors import ConfigError
from ntk_jax.typing import Array, ArrayLike, Bool


@jax.tree_util.register_pytree_node_class
@dataclasses.dataclass(frozen=True)
class Mask:
  """The visibility rule `causal & document & (window | sink_tokens)`.

  A query at position i and a key at position j of segments a and b:

      causal:    j <= i
      document:  a == b
      window:    i - j < window
      sinks:     0 <= j < sink_tokens

  Positions are compared, not indices. Where segments are given, segment 0 is
  padding: never seen and seeing nothing, `document` or not.

  Attributes:
    causal: a query sees no later position.
    window: keys that a query sees, itself included, at least 1; None is all.
      An int is static. An int32 scalar array, traced or not, is a runtime
      value: one executable serves every window. Such a mask has no hash and
      equals only itself or a mask that holds the same array.
    document: a query sees its own segment only; needs segments.
    sink_tokens: positions from 0 to below this are seen beyond the window.

  Raises:
    ConfigError: a window below 1, or not an integer scalar; a window without
      causal; negative sink_tokens, or sink_tokens without a window.

  Source: windows: Beltagy et al. 2020, arXiv:2004.05150; sink tokens: Xiao et
  al. 2023, arXiv:2309.17453.

  >>> print(Mask(window=2, sink_tokens=1).visible(jnp.arange(4)).astype(int))
  [[1 0 0 0]
   [1 1 0 0]
   [1 1 1 0]
   [1 0 1 1]]
  >>> Mask(window=3) & Mask(document=True)
  Mask(causal=True, window=3, document=True, sink_tokens=0)
  """

  causal: bool = True
  window: ArrayLike | None = None
  document: bool = False
  sink_tokens: int = 0

  def __post_init__(self) -> None:
    if isinstance(self.window, np.integer):  # hashable, but not an int
      object.__setattr__(self, 'window', int(self.window))
    for name in ('causal', 'document'):
      value = getattr(self, name)
      if not isinstance(value, bool | np.bool_):
        raise ConfigError(f'{name} is {value!r}: it is True or False')
    sinks = self.sink_tokens
    if isinstance(sinks, bool) or not isinstance(sinks, int | np.integer):
      raise ConfigError(f'sink_tokens is {sinks!r}: it is an int, 0 for none')
    if sinks < 0:
      raise ConfigError(f'sink_tokens is {sinks}: at least 0, 0 for none')
    if self.window is None:
      if sinks:
        raise ConfigError(
          f'sink_tokens is {sinks} without a window: they are the tokens '
          'seen beyond the window; set window, or leave sink_tokens at 0'
        )
      return
    if not self.causal:
      raise ConfigError(
        f'window is {self.window} with causal=False: a window counts keys '
        'back from the query, so it needs causal=True'
      )
    _check_window(self.window)

  @property
  def runtime(self) -> bool:
    """Whether the window is an array, known when the program runs."""
    return self.window is not None and not isinstance(self.window, int)

  def visible(
    self,
    q_positions: ArrayLike,
    kv_positions: ArrayLike | None = None,
    q_segments: ArrayLike | None = None,
    kv_segments: ArrayLike | None = None,
    kv_keep: ArrayLike | None = None,
  ) -> Bool[Array, '*B T S']:
    """Which query sees which key, as the equation of the class reads.

    Exact for all int32 positions: distances are compared without a sign.

    Args:
      q_positions: int32 `[*B, T]`.
      kv_positions: int32 `[*B, S]`, those of the queries if None.
      q_segments: int32 `[*B, T]`, 0 is padding; None is one document.
      kv_segments: int32 `[*B, S]`, those of the queries if None.
      kv_keep: bool `[*B, S]`; a key that is not kept is seen by its own query
        only: equal positions, and equal segments where they are given.

    Returns:
      bool `[*B, T, S]`.

    Raises:
      ConfigError: `document` without segments.

    >>> Mask(document=True).visible(
    ...   jnp.arange(3), q_segments=jnp.array([1, 2, 2])).astype(int).tolist()
    [[1, 0, 0], [0, 1, 0], [0, 1, 1]]
    """
    q_T1 = jnp.asarray(q_positions, jnp.int32)[..., :, None]
    kv = q_positions if kv_positions is None else kv_positions
    kv_1S = jnp.asarray(kv, jnp.int32)[..., None, :]
    seen_TS = jnp.ones(jnp.broadcast_shapes(q_T1.shape, kv_1S.shape), bool)
    if self.causal:
      seen_TS &= kv_1S <= q_T1
    if self.window is not None:
      distance = (q_T1 - kv_1S).astype(jnp.uint32)
      near_TS = distance < jnp.maximum(self.window, 0).astype(jnp.uint32)
      sink_1S = (kv_1S >= 0) & (kv_1S < self.sink_tokens)
      seen_TS &= near_TS | sink_1S
    own_TS = q_T1 == kv_1S
    if q_segments is not None:
      a_T1 = jnp.asarray(q_segments, jnp.int32)[..., :, None]
      kv = q_segments if kv_segments is None else kv_segments
      b_1S = jnp.asarray(kv, jnp.int32)[..., None, :]
      own_TS &= a_T1 == b_1S
      seen_TS &= (a_T1 != 0) & (b_1S != 0)
      if self.document:
        seen_TS &= a_T1 == b_1S
    elif self.document:
      raise ConfigError('document is True without segments: give q_segments')
    if kv_keep is not None:
      seen_TS &= jnp.asarray(kv_keep)[..., None, :] | own_TS
    return seen_TS

  def __and__(self, other: Mask) -> Mask:
    if not isinstance(other, Mask):
      return NotImplemented
    narrow = _narrower(self, other)
    return Mask(
      causal=self.causal or other.causal,
      window=narrow.window,
      document=self.document or other.document,
      sink_tokens=narrow.sink_tokens,
    )

  def __eq__(self, other: object) -> bool:
    if not isinstance(other, Mask):
      return NotImplemented
    if self.runtime or other.runtime:
      same = self.window is other.window
    else:
      same = bool(self.window == other.window)
    return same and self._static() == other._static()

  def __hash__(self) -> int:
    if self.runtime:
      raise TypeError(
        'a Mask whose window is an array has no hash: pass it to jit as an '
        'ordinary argument (it is a pytree), or make the window an int'
      )
    return hash((self.window, self._static()))

  def __bool__(self) -> bool:
    raise ConfigError(
      'a Mask has no truth value: combine masks with &, compare a mask that '
      'may be missing with `is None`'
    )

  def _static(self) -> tuple[bool, bool, int]:
    return self.causal, self.document, self.sink_tokens

  def tree_flatten(self) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """The window if it is an array; all else is static.

    >>> len(jax.tree.leaves(Mask(window=3))), jax.tree.leaves(
    ...   Mask(window=np.array(3)))
    (0, [array(3)])
    """
    if self.runtime:
      return (self.window,), (True, None, *self._static())
    return (), (False, self.window, *self._static())

  @classmethod
  def tree_unflatten(
    cls, static: tuple[Any, ...], arrays: tuple[Any, ...]
  ) -> Mask:
    """The mask again; its leaves are whatever jax puts there, unchecked."""
    runtime, window, causal, document, sink_tokens = static
    mask = object.__new__(cls)
    fields = {
      'causal': causal,
      'window': arrays[0] if runtime else window,
      'document': document,
      'sink_tokens': sink_tokens,
    }
    for name, value in fields.items():
      object.__setattr__(mask, name, value)
    return mask


def _check_window(window: ArrayLike) -> None:
  """An int or an integer scalar array, at least 1 where its value is known."""
  dtype, shape = getattr(window, 'dtype', None), getattr(window, 'shape', None)
  is_int = isinstance(window, int) and not isinstance(window, bool)
  is_array = dtype is not None and jnp.issubdtype(dtype, jnp.integer)
  if not (is_int or (is_array and shape == ())):
    raise ConfigError(
      f'window is {window!r}: it is an int, an integer scalar array or None'
    )
  if (is_int or isinstance(window, np.ndarray)) and window < 1:
    raise ConfigError(
      f'window is {window}: a query sees itself, so a window is at least 1, '
      'or None for no window'
    )
  if is_int and window >= 2**31:
    raise ConfigError(f'window is {window}: it is an int32, below 2**31')


def _narrower(a: Mask, b: Mask) -> Mask:
  """The one of two masks whose `window | sink_tokens` lies within the other's.

  `(w1 | s1) & (w2 | s2)` with w1 <= w2 is `w1 | s1` if s1 <= s2, else it has
  no normal form.
  """
  if a.window is None or b.window is None:
    return b if a.window is None else a
  if a.runtime or b.runtime:
    if a.sink_tokens != b.sink_tokens:
      raise ConfigError(
        f'sink_tokens are {a.sink_tokens} and {b.sink_tokens} in masks with '
        'a runtime window: `&` needs them equal'
      )
    window = jnp.minimum(a.window, b.window)
    return dataclasses.replace(a, window=window)
  narrow, wide = sorted(
    (a, b), key=lambda mask: (mask.window, mask.sink_tokens)
  )
  if narrow.sink_tokens > wide.sink_tokens:
    raise ConfigError(
      f'window {narrow.window} with sink_tokens {narrow.sink_tokens} & window '
      f'{wide.window} with sink_tokens {wide.sink_tokens} is not of the form '
      'window | sink_tokens: the smaller window must not have more sinks'
    )
  return narrow
