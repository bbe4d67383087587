"""Keys and values of the tokens so far, with their positions.

Tokens are counted in columns, padding included: column c of every row lies in
slot c mod S. A layer with a window of W needs no more than the last W keys of
each query: its buffer rolls over W + chunk - 1 slots, which is exact for up to
`chunk` tokens a call, since masks compare the positions that slots carry.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ntk_jax.errors import ConfigError
from ntk_jax.model.config import ModelConfig
from ntk_jax.typing import Array, ArrayLike


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
  """Slots for tokens of each row, every layer's as many as its scheme needs.

  Keys are held rotated. An empty slot has segment 0: masks never show it.

  Attributes:
    k: of each layer [B, K, S, H], in the compute dtype.
    v: the same.
    positions: int32 [B, S] of each number in the layer plan.
    segments: the same; 0 is padding.
    used: int32 scalar, columns so far.
    windows: by number, the widest window that its buffer serves; None is all.
    chunk: tokens a call at most.
  """

  k: tuple[Array, ...]
  v: tuple[Array, ...]
  positions: tuple[Array, ...]
  segments: tuple[Array, ...]
  used: Array
  windows: tuple[int | None, ...] = dataclasses.field(metadata={'static': True})
  chunk: int = dataclasses.field(metadata={'static': True})

  def extended(
    self,
    shape: tuple[int, int],
    positions: ArrayLike | None,
    segments: ArrayLike | None,
  ) -> tuple[Cache, Array, Array]:
    """The cache that knows of B x T more tokens, and their rows in full.

    The number of slots is the caller's to keep: more tokens than there are
    free slots overwrite the oldest ones.
    """
    T = shape[1]
    if positions is None:
      positions = self.used + jnp.arange(T)
    positions = jnp.broadcast_to(jnp.asarray(positions, jnp.int32), shape)
    if segments is None:
      segments = jnp.ones(shape, jnp.int32)
    segments = jnp.broadcast_to(jnp.asarray(segments, jnp.int32), shape)
    after = dataclasses.replace(
      self,
      positions=tuple(write(a, positions, self.used) for a in self.positions),
      segments=tuple(write(a, segments, self.used) for a in self.segments),
      used=self.used + T,
    )
    return after, positions, segments

  def check(self, tokens: int, windows: Sequence[ArrayLike]) -> None:
    """Refuses what the buffers cannot serve.

    Args:
      tokens: of this call, a row.
      windows: of the schemes, by number; traced ones are not looked at.

    Raises:
      ConfigError: more tokens than slots or than a chunk, a wider window.
    """
    slots = max(a.shape[1] for a in self.positions)
    if tokens > slots:
      raise ConfigError(
        f'{tokens} tokens for a cache of {slots} slots: make it as long as '
        'all that will be read'
      )
    if tokens > self.chunk:
      raise ConfigError(
        f'{tokens} tokens at once for a cache of windows and chunks of '
        f'{self.chunk}: read fewer at a time, or make it with a larger chunk'
      )
    for number, (held, window) in enumerate(zip(self.windows, windows)):
      traced = isinstance(window, jax.core.Tracer)
      if held is not None and not traced and int(np.asarray(window)) > held:
        raise ConfigError(
          f'scheme {number} has a window of {int(np.asarray(window))}, the '
          f'cache was made for {held}: make it with the windows of the schemes'
        )


def write(old: Array, new: Array, column: ArrayLike) -> Array:
  """A rolling buffer after new columns, in place where the buffer is donated.

  Args:
    old: [..., S] or, of keys, [..., S, H]: S is dim 1 of two and 2 of four.
    new: the same with T <= S columns.
    column: the first of them, counted from 0; slots are columns mod S.

  >>> write(jnp.zeros((1, 4), int), jnp.array([[7, 8, 9]]), 2).tolist()
  [[9, 0, 7, 8]]
  """
  dim = 1 if old.ndim == 2 else 2
  S, T = old.shape[dim], new.shape[dim]
  new = new.astype(old.dtype)
  start = jnp.asarray(column, jnp.int32) % S
  if T == 1:
    return jax.lax.dynamic_update_slice_in_dim(old, new, start, dim)
  # Up to the last slot, and the rest from the first one on: two slices of T
  # slots that change only what is theirs.
  low = jnp.minimum(start, S - T)
  wrapped = start - low
  new = jnp.roll(new, wrapped, dim)
  shape = [1] * old.ndim
  shape[dim] = T
  first = jnp.arange(T).reshape(shape) < wrapped
  for at, mine in ((low, ~first), (0, first)):
    held = jax.lax.dynamic_slice_in_dim(old, at, T, dim)
    held = jnp.where(mine, new, held)
    old = jax.lax.dynamic_update_slice_in_dim(old, held, at, dim)
  return old


def empty_cache(
  config: ModelConfig,
  rows: int,
  slots: int,
  windows: Sequence[int | None] = (),
  chunk: int | None = None,
) -> Cache:
  """A cache without tokens.

  Args:
    config: the model's shape.
    rows: B.
    slots: columns of all that will be read, padding included.
    windows: `Scheme.window` by number in the layer plan; layers with a window
      W hold min(slots, W + chunk - 1) columns. Empty: all hold all.
    chunk: tokens that one call reads at most; None is all.

  >>> config = ModelConfig(vocab=9, layers=3, layer_plan=(0, 0, 1))
  >>> cache = empty_cache(config, 2, 64, windows=(8, None), chunk=4)
  >>> [k.shape for k in cache.k]
  [(2, 4, 11, 32), (2, 4, 11, 32), (2, 4, 64, 32)]
  """
  count = max(config.plan) + 1
  every = (*windows, *(None,) * count)[:count]
  chunk = slots if chunk is None else min(chunk, slots)
  sizes = [slots if w is None else min(slots, w + chunk - 1) for w in every]

  def zeros() -> tuple[Array, ...]:
    K, H, dtype = config.kv_heads, config.head_dim, config.precision.compute
    return tuple(jnp.zeros((rows, K, sizes[n], H), dtype) for n in config.plan)

  def places() -> tuple[Array, ...]:
    return tuple(jnp.zeros((rows, size), jnp.int32) for size in sizes)

  held = tuple(w if s < slots else None for w, s in zip(every, sizes))
  return Cache(zeros(), zeros(), places(), places(), jnp.int32(0), held, chunk)
