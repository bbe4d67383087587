"""Keys and values of the tokens so far, with their positions."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ntk_jax.model.block import Slots
from ntk_jax.model.config import ModelConfig
from ntk_jax.typing import Array, ArrayLike


class Cache(NamedTuple):
  """Slots for S tokens of each row, filled from the left.

  Keys are held rotated. An empty slot has segment 0: masks never show it.

  Attributes:
    k: [L, B, S, K, H] in the compute dtype.
    v: the same.
    positions: int32 [B, S].
    segments: int32 [B, S].
    used: int32 scalar, slots filled so far.
  """

  k: Array
  v: Array
  positions: Array
  segments: Array
  used: Array

  @property
  def kv(self) -> tuple[Array, Array]:
    """Keys and values of all layers."""
    return self.k, self.v

  def extended(
    self,
    shape: tuple[int, int],
    positions: ArrayLike | None,
    segments: ArrayLike | None,
  ) -> tuple[Cache, Array, Array]:
    """The cache that knows of B x T more tokens, and their rows in full.

    The number of slots is the caller's to keep: more tokens than free slots
    overwrite the last ones.
    """
    T = shape[1]
    if positions is None:
      positions = self.used + jnp.arange(T)
    positions = jnp.broadcast_to(jnp.asarray(positions, jnp.int32), shape)
    if segments is None:
      segments = jnp.ones(shape, jnp.int32)
    segments = jnp.asarray(segments, jnp.int32)

    def put(old: Array, new: Array) -> Array:
      return jax.lax.dynamic_update_slice_in_dim(old, new, self.used, 1)

    after = self._replace(
      positions=put(self.positions, positions),
      segments=put(self.segments, segments),
      used=self.used + T,
    )
    return after, positions, segments

  def slots(self, kv: tuple[Array, Array], tokens: int) -> Slots:
    """What one layer needs of a cache that was extended by some tokens."""
    start = self.used - tokens
    return Slots(*kv, self.positions, self.segments, start)

  def holding(self, k: Array, v: Array) -> Cache:
    """The cache after a forward pass."""
    return self._replace(k=k, v=v)


def empty_cache(config: ModelConfig, rows: int, slots: int) -> Cache:
  """A cache without tokens.

  >>> empty_cache(ModelConfig(vocab=9), rows=2, slots=64).k.shape
  (4, 2, 64, 4, 32)
  """
  shape = config.layers, rows, slots, config.kv_heads, config.head_dim
  kv = jnp.zeros(shape, config.precision.compute)
  places = jnp.zeros((rows, slots), jnp.int32)
  return Cache(kv, kv, places, places, jnp.int32(0))
