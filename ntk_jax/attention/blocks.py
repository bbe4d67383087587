"""Attention by blocks whose bounds are known when the program runs.

For any positions, segments, dropped keys and a runtime window, in one
executable: each tile of queries visits the blocks of keys that it may see
some of, found from the ranges of their positions and segments, and no other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from ntk_jax.attention.tile import (
  Logits,
  Saved,
  Softmax,
  by_group,
  finish,
  gradients,
  no_keys,
  see,
)
from ntk_jax.mask import Mask
from ntk_jax.typing import Array

# Scores of a step, all heads together: 2 MiB of float32. Smaller steps leave
# a second core idle, larger ones fall out of cache.
_SCORES = 2**19
_LAST = np.iinfo(np.int32).max

Tree = TypeVar('Tree')  # a pytree of arrays


class Rows(NamedTuple):
  """Positions, segments (0 is padding) and kept keys, int32 and bool."""

  q_positions_BT: Array
  kv_positions_BS: Array
  q_segments_BT: Array | None = None
  kv_segments_BS: Array | None = None
  kv_keep_BS: Array | None = None


class _Blocks(NamedTuple):
  """One side's positions, segments and kept keys, by block: `[B, n, size]`."""

  positions: Array
  segments: Array | None
  keep: Array | None = None


class _Ranges(NamedTuple):
  """Lowest and highest position and segment of each block, padding left out."""

  first: Array
  last: Array
  first_segment: Array
  last_segment: Array


def loops(batch: int, kv_heads: int, group: int, T: int, S: int) -> int:
  """Into how many steps the heads of a batch are split; rows stay apart.

  >>> loops(32, 4, 1, 128, 128), loops(1, 8, 1, 4096, 4096)
  (32, 2)
  """
  tile, block = _sizes(T, S)
  fitting = min(kv_heads, max(1, _SCORES // (group * tile * block)))
  at_once = next(n for n in range(fitting, 0, -1) if kv_heads % n == 0)
  return batch * kv_heads // at_once


def forward(
  q_MQTH: Array,
  k_MRSH: Array,
  v_MRSH: Array,
  rows: Rows,
  mask: Mask,
  logits: Logits,
) -> tuple[Array, Array]:
  """Output `[M, Q, T, Hv]` in q's dtype, log-sum-exp `[M, Q, T]`.

  M steps of R kv heads of one row, which serve Q = R G query heads each.

  >>> x = jnp.arange(4.0).reshape(1, 1, 4, 1)
  >>> p = jnp.array([[5, 6, 7, 9]])
  >>> mask = Mask(window=jnp.int32(2))
  >>> out, _ = forward(0 * x, x, x, Rows(p, p), mask, Logits(1.0))
  >>> print(out.ravel())
  [0.  0.5 1.5 3. ]
  """
  (M, Q, T, _), (S, Hv) = q_MQTH.shape, v_MRSH.shape[2:]
  tile, block = _sizes(T, S)
  qs, ks = _by_block(rows, tile, block)
  inputs = _pad(q_MQTH, 2, tile), *(_pad(x, 2, block) for x in (k_MRSH, v_MRSH))

  def some_heads(inputs: tuple[Array, Array, Array, Array]) -> Any:
    b, q_QTH, k_RSH, v_RSH = inputs
    q_RGTH = by_group(q_QTH, k_RSH)

    def one_tile(i: Array) -> tuple[Array, Array]:
      q_RGtH = _cut(q_RGTH, i, tile, 2)

      def one_block(j: Array, seen: Softmax) -> Softmax:
        keys = _cut(k_RSH, j, block, 1), _cut(v_RSH, j, block, 1)
        visible = _visible(mask, qs, ks, b, i, j)
        return see(q_RGtH, *keys, visible, logits, seen)

      seen = _over_visible(one_block, no_keys(q_RGtH, Hv), mask, qs, ks, b, i)
      out_RGtH, lse_RGt = finish(seen)
      return out_RGtH.astype(q_QTH.dtype), lse_RGt

    out, lse = jax.lax.map(one_tile, jnp.arange(q_QTH.shape[1] // tile))
    return _join_tiles(out, Q), _join_tiles(lse, Q)

  out, lse = jax.lax.map(some_heads, (_row_of_step(rows, M), *inputs))
  return out[:, :, :T], lse[:, :, :T]


def backward(
  saved: Saved,
  k_MRSH: Array,
  v_MRSH: Array,
  rows: Rows,
  mask: Mask,
  logits: Logits,
) -> tuple[Array, Array, Array]:
  """Gradients of q, k and v, in the layout of `forward`.

  >>> x, p = jnp.ones((1, 1, 1, 1)), jnp.array([[7]])
  >>> saved = Saved(x, 3 * x, x[..., 0], 0 * x[..., 0])
  >>> grads = backward(saved, x, x, Rows(p, p), Mask(), Logits(1.0))
  >>> [float(d.sum()) for d in grads]
  [3.0, 3.0, 3.0]
  """
  (M, Q, T, _), S = saved.q.shape, k_MRSH.shape[2]
  tile, block = _sizes(T, S)
  qs, ks = _by_block(rows, tile, block)
  saved = Saved(*(_pad(x, 2, tile) for x in saved))
  kv = [_pad(x, 2, block) for x in (k_MRSH, v_MRSH)]

  def some_heads(inputs: tuple[Array, Saved, Array, Array]) -> Any:
    b, saved_T, k_RSH, v_RSH = inputs
    saved_T = jax.tree.map(lambda x: by_group(x, k_RSH), saved_T)

    def one_tile(
      dkv: tuple[Array, Array], i: Array
    ) -> tuple[tuple[Array, Array], Array]:
      saved_t = Saved(*(_cut(x, i, tile, 2) for x in saved_T))

      def one_block(j: Array, sums: tuple[Array, ...]) -> tuple[Array, ...]:
        keys = _cut(k_RSH, j, block, 1), _cut(v_RSH, j, block, 1)
        visible = _visible(mask, qs, ks, b, i, j)
        dq, dk, dv = gradients(saved_t, *keys, visible, logits)
        dq_RGtH, dk_RHS, dv_RHS = sums
        return dq_RGtH + dq, _add(dk_RHS, dk, j), _add(dv_RHS, dv, j)

      sums = jnp.zeros(saved_t.q.shape, jnp.float32), *dkv
      dq_RGtH, dk, dv = _over_visible(one_block, sums, mask, qs, ks, b, i)
      return (dk, dv), dq_RGtH.astype(saved_t.q.dtype)

    dk, dv = (jnp.zeros(x.mT.shape, jnp.float32) for x in (k_RSH, v_RSH))
    tiles = jnp.arange(saved.q.shape[2] // tile)
    (dk, dv), dq = jax.lax.scan(one_tile, (dk, dv), tiles)
    dk, dv = dk.mT.astype(k_RSH.dtype), dv.mT.astype(v_RSH.dtype)
    return _join_tiles(dq, Q), dk, dv

  inputs = _row_of_step(rows, M), saved, *kv
  dq, dk, dv = jax.lax.map(some_heads, inputs)
  return dq[:, :, :T], dk[:, :, :S], dv[:, :, :S]


def _sizes(T: int, S: int) -> tuple[int, int]:
  """Queries of a tile and keys of a block; larger for longer rows."""
  tile = min(T, 256, max(128, T // 8))
  # Few queries (decoding) see more keys at once.
  block = min(S, max(2**14 // tile, min(512, S // 4)))
  return tile, block


def _by_block(rows: Rows, tile: int, block: int) -> tuple[_Blocks, _Blocks]:
  """Both sides by block, with segments if given or if a side is padded."""
  q_pos, kv_pos, q_seg, kv_seg, keep = rows
  padded = q_pos.shape[1] % tile or kv_pos.shape[1] % block
  if q_seg is None and padded:
    q_seg, kv_seg = jnp.ones_like(q_pos), jnp.ones_like(kv_pos)

  def cut(x: Array, size: int) -> Array:
    return _pad(x, 1, size).reshape(x.shape[0], -1, size)

  q = _Blocks(
    cut(q_pos, tile),
    None if q_seg is None else cut(q_seg, tile),
  )
  kv = _Blocks(
    cut(kv_pos, block),
    None if kv_seg is None else cut(kv_seg, block),
    None if keep is None else cut(keep, block),
  )
  return q, kv


def _ranges(side: _Blocks) -> _Ranges:
  """Of blocks `[..., n, size]`; first > last where all is padding."""

  def bounds(x: Array, real: Array | bool) -> tuple[Array, Array]:
    low = jnp.where(real, x, _LAST).min(axis=-1)
    return low, jnp.where(real, x, -_LAST - 1).max(axis=-1)

  if side.segments is None:
    ones = jnp.ones(side.positions.shape[:-1], jnp.int32)
    return _Ranges(*bounds(side.positions, True), ones, ones)
  real = side.segments != 0
  return _Ranges(*bounds(side.positions, real), *bounds(side.segments, real))


def _may_see(mask: Mask, q: _Ranges, kv: _Ranges) -> Array:
  """Whether some query of a tile can see some key of a block."""
  real = (q.first_segment <= q.last_segment) & (
    kv.first_segment <= kv.last_segment
  )
  seen = real
  if mask.causal:
    seen &= kv.first <= q.last
  if mask.window is not None:
    window = jnp.maximum(mask.window, 0).astype(jnp.uint32)
    least = (q.first - kv.last).astype(jnp.uint32)
    near = (q.first < kv.last) | (least < window)
    if mask.sink_tokens:
      near |= (kv.last >= 0) & (kv.first < mask.sink_tokens)
    seen &= near
  if mask.document:
    seen &= q.first_segment <= kv.last_segment
    seen &= kv.first_segment <= q.last_segment
  return seen


def _over_visible(
  step: Callable[[Array, Tree], Tree],
  start: Tree,
  mask: Mask,
  qs: _Blocks,
  ks: _Blocks,
  b: Array,
  i: Array,
) -> Tree:
  """`step(j, carry)` over the blocks j that tile i of row b may see."""
  q = _ranges(jax.tree.map(lambda x: x[b, i], qs))
  kv = _ranges(jax.tree.map(lambda x: x[b], ks))
  may = jnp.broadcast_to(_may_see(mask, q, kv), ks.positions.shape[1:2])
  order = jnp.nonzero(may, size=may.size, fill_value=0)[0]
  return jax.lax.fori_loop(
    0, may.sum(), lambda n, carry: step(order[n], carry), start
  )


def _visible(
  mask: Mask, qs: _Blocks, ks: _Blocks, b: Array, i: Array, j: Array
) -> Array:
  """Which query of tile i sees which key of block j, in row b."""
  q = jax.tree.map(lambda x: x[b, i], qs)
  kv = jax.tree.map(lambda x: x[b, j], ks)
  return mask.visible(
    q.positions, kv.positions, q.segments, kv.segments, kv.keep
  )


def _row_of_step(rows: Rows, steps: int) -> Array:
  B = rows.q_positions_BT.shape[0]
  return jnp.arange(steps) // (steps // B)


def _pad(x: Array, dim: int, size: int) -> Array:
  """Zeros at the end of a dim, to a multiple of the size."""
  widths = [(0, 0)] * x.ndim
  widths[dim] = (0, -x.shape[dim] % size)
  return jnp.pad(x, widths) if widths[dim][1] else x


def _cut(x: Array, n: Array, size: int, dim: int) -> Array:
  return jax.lax.dynamic_slice_in_dim(x, n * size, size, dim)


def _add(sum_RHS: Array, part_RHs: Array, j: Array) -> Array:
  size = part_RHs.shape[-1]
  before = jax.lax.dynamic_slice_in_dim(sum_RHS, j * size, size, 2)
  return jax.lax.dynamic_update_slice_in_dim(
    sum_RHS, before + part_RHs, j * size, 2
  )


def _join_tiles(x: Array, heads: int) -> Array:
  """`[n, R, G, t, ...]` to `[Q, n t, ...]`."""
  n, t = x.shape[0], x.shape[3]
  return jnp.moveaxis(x, 0, 2).reshape(heads, n * t, *x.shape[4:])
