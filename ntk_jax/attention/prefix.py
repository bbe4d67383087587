"""Attention of whole rows: each tile of queries against its visible keys.

For queries and keys of the same positions 0, 1, 2, ... The keys that a tile
sees are then one slice that the program knows: nothing outside it is computed,
and the scores of a tile stay in a CPU's cache. Tiles are unrolled, so that
they run side by side. A few heads go at a time: all together fall out of cache
and run 1.5-2x slower; small inputs go at once, because a loop over them costs
as much again.
"""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp

from ntk_jax.attention.tile import (
  Logits,
  Saved,
  by_group,
  finish,
  gradients,
  see,
)
from ntk_jax.mask import Mask
from ntk_jax.typing import Array

# Scores of all heads and tiles together up to which no loop is worth while.
_SMALL = 2**21
# Scores held at once beyond: 1 MiB of float32, about one core's L2 cache.
_SCORES_IN_CACHE = 2**18


def loops(batch: int, kv_heads: int, group: int, length: int) -> int:
  """Into how many steps the heads of a batch are split.

  >>> loops(32, 4, 1, 128), loops(1, 8, 1, 2048)  # small: no loop
  (1, 8)
  """
  heads = batch * kv_heads
  return heads // _heads_at_once(heads, group, length)


def forward(
  q_MQTH: Array, k_MRSH: Array, v_MRSH: Array, mask: Mask, logits: Logits
) -> tuple[Array, Array]:
  """Output `[M, Q, T, Hv]` in q's dtype, log-sum-exp `[M, Q, T]`.

  M steps of R kv heads, which serve Q = R G query heads each.

  >>> x = jnp.arange(4.0).reshape(1, 1, 4, 1)
  >>> out, _ = forward(0 * x, x, x, Mask(), Logits(1.0))
  >>> print(out.ravel())
  [0.  0.5 1.  1.5]
  """
  Q, T = q_MQTH.shape[1:3]

  def some_heads(qkv: tuple[Array, Array, Array]) -> tuple[Array, Array]:
    q_QTH, k_RSH, v_RSH = qkv
    q_RGTH = by_group(q_QTH, k_RSH)
    tiles = []
    for rows, keys, visible in _tiles(T, mask):
      q_RGtH = q_RGTH[:, :, rows]
      seen = see(q_RGtH, k_RSH[:, keys], v_RSH[:, keys], visible, logits)
      tiles.append(finish(seen))
    out_RGTH, lse_RGT = (jnp.concatenate(x, 2) for x in zip(*tiles))
    out_QTH = out_RGTH.reshape(Q, T, -1).astype(q_MQTH.dtype)
    return out_QTH, lse_RGT.reshape(Q, T)

  return jax.lax.map(some_heads, (q_MQTH, k_MRSH, v_MRSH))


def backward(
  saved: Saved, k_MRSH: Array, v_MRSH: Array, mask: Mask, logits: Logits
) -> tuple[Array, Array, Array]:
  """Gradients of q, k and v, in the layout of `forward`.

  >>> x = jnp.ones((1, 1, 1, 1))
  >>> saved = Saved(x, 3 * x, x[..., 0], 0 * x[..., 0])
  >>> [float(d.sum()) for d in backward(saved, x, x, Mask(), Logits(1.0))]
  [3.0, 3.0, 3.0]
  """
  Q, T = saved.q.shape[1:3]

  def some_heads(
    inputs: tuple[Saved, Array, Array],
  ) -> tuple[Array, Array, Array]:
    saved_T, k_RSH, v_RSH = inputs
    saved_T = jax.tree.map(lambda x: by_group(x, k_RSH), saved_T)
    dk_RHS = jnp.zeros(k_RSH.mT.shape, jnp.float32)
    dv_RHS = jnp.zeros(v_RSH.mT.shape, jnp.float32)
    dqs = []
    for rows, keys, visible in _tiles(T, mask):
      saved_t = Saved(*(x[:, :, rows] for x in saved_T))
      dq, dk, dv = gradients(
        saved_t, k_RSH[:, keys], v_RSH[:, keys], visible, logits
      )
      dqs.append(dq)
      dk_RHS = dk_RHS.at[..., keys].add(dk)
      dv_RHS = dv_RHS.at[..., keys].add(dv)
    dq_QTH = jnp.concatenate(dqs, 2).reshape(Q, T, -1)
    # Transposed here, while they are in cache; not by the product itself, which
    # a CPU cannot do for bfloat16.
    dk_RHS, dv_RHS = jax.lax.optimization_barrier((dk_RHS, dv_RHS))
    dk_RSH, dv_RSH = dk_RHS.mT, dv_RHS.mT
    return (
      dq_QTH.astype(saved.q.dtype),
      dk_RSH.astype(k_RSH.dtype),
      dv_RSH.astype(v_RSH.dtype),
    )

  return jax.lax.map(some_heads, (saved, k_MRSH, v_MRSH))


def _tile(length: int) -> int:
  """Query rows per tile: 128, and 256 for long rows, to unroll fewer."""
  return min(256, max(128, -(-length // 8)))


def _heads_at_once(heads: int, group: int, length: int) -> int:
  """The largest divisor of `heads` (kv) whose scores fit the cache together."""
  if heads * group * length**2 <= _SMALL:
    return heads
  fitting = max(1, _SCORES_IN_CACHE // (group * _tile(length) * length))
  return next(n for n in range(fitting, 0, -1) if heads % n == 0)


def _tiles(length: int, mask: Mask) -> Iterator[tuple[slice, slice, Array]]:
  """The rows of each tile, the keys that it sees some of, and which."""
  tile = _tile(length)
  # Keys before a window are skipped if it is known and nothing is seen there.
  window = mask.window if isinstance(mask.window, int) else None
  for start in range(0, length, tile):
    stop = min(start + tile, length)
    first = 0
    if window is not None and not mask.sink_tokens:
      first = max(0, start - window + 1)
    keys = slice(first, stop if mask.causal else length)
    positions = jnp.arange(start, stop)
    visible = mask.visible(positions, jnp.arange(keys.start, keys.stop))
    yield slice(start, stop), keys, visible
