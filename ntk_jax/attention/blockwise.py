"""Attention in O(n) memory, forward and backward, on any backend.

One custom gradient over two ways through the work: `prefix` where the keys of
each tile are known beforehand, `blocks` where they are known when the program
runs. Both give the output and its log-sum-exp and differentiate both. The
backward pass recomputes the weights from the saved log-sum-exp.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from ntk_jax.attention import blocks, prefix
from ntk_jax.attention.blocks import Rows
from ntk_jax.attention.tile import Logits, Saved
from ntk_jax.mask import Mask
from ntk_jax.typing import Array, ArrayLike, Float, Float32

# Longest rows whose tiles are unrolled; longer ones cost too much to compile.
_UNROLLED = 2048


def blockwise_attention(
  q: Float[Array, 'B T N H'],
  k: Float[Array, 'B S K H'],
  v: Float[Array, 'B S K Hv'],
  *,
  mask: Mask = Mask(),  # noqa: B008 (frozen)
  q_positions: ArrayLike | None = None,
  kv_positions: ArrayLike | None = None,
  q_segments: ArrayLike | None = None,
  kv_segments: ArrayLike | None = None,
  kv_keep: ArrayLike | None = None,
  scale: float | None = None,
  q_scale: ArrayLike | None = None,
  soft_cap: float | None = None,
  sink_logits: ArrayLike | None = None,
) -> tuple[Float[Array, 'B T N Hv'], Float32[Array, 'B T N']]:
  """Softmax attention in O(T + S) memory, forward and backward.

  The equation of `reference_attention`, K and V never repeated for the heads
  that share them. Differentiable in q, k, v, q_scale and sink_logits, through
  the output and the log-sum-exp. Arguments are those of
  `ntk_jax.attention.attention`, which checks them; here nothing is checked.

  Returns:
    The weighted values in q's dtype, and lse in float32.

  Source: the tiling of FlashAttention-2 (Dao 2023, arXiv:2307.08691).

  >>> x = jnp.arange(4.0).reshape(1, 4, 1, 1)
  >>> out, _ = blockwise_attention(0 * x, x, x, mask=Mask(window=2))
  >>> print(out.ravel())
  [0.  0.5 1.5 2.5]
  """
  (B, T, N, H), S = q.shape, k.shape[1]
  if q_scale is not None:
    a_BTN = jnp.broadcast_to(jnp.asarray(q_scale, jnp.float32), (B, T, N))
    q = (q.astype(jnp.float32) * a_BTN[..., None]).astype(q.dtype)
  sides = q_positions, kv_positions, q_segments, kv_segments, kv_keep
  given = any(x is not None for x in sides)
  rows = None if whole_rows(T, given) else _rows((B, T, S), *sides)
  logits = Logits(
    float(H**-0.5 if scale is None else scale),
    None if soft_cap is None else float(soft_cap),
  )
  out, lse = _attend(logits, q, k, v, mask, rows)
  if sink_logits is None:
    return out, lse
  return _with_sinks(out, lse, jnp.asarray(sink_logits, jnp.float32))


def whole_rows(length: int, given: bool) -> bool:
  """Whether `prefix` serves a call: it knows which keys a tile sees.

  A runtime window is compared there, not skipped; rows are short.

  Args:
    length: T.
    given: whether positions, segments or kept keys are.

  >>> whole_rows(512, given=False), whole_rows(512, given=True)
  (True, False)
  """
  return not given and length <= _UNROLLED


def _rows(
  sizes: tuple[int, int, int],
  q_positions: ArrayLike | None,
  kv_positions: ArrayLike | None,
  q_segments: ArrayLike | None,
  kv_segments: ArrayLike | None,
  kv_keep: ArrayLike | None,
) -> Rows:
  B, T, S = sizes

  def full(x: ArrayLike, length: int) -> Array:
    return jnp.broadcast_to(jnp.asarray(x, jnp.int32), (B, length))

  if kv_segments is None:
    kv_segments = q_segments
  return Rows(
    full(jnp.arange(T) if q_positions is None else q_positions, T),
    full(jnp.arange(S) if kv_positions is None else kv_positions, S),
    None if q_segments is None else full(q_segments, T),
    None if kv_segments is None else full(kv_segments, S),
    None if kv_keep is None else full(kv_keep, S) > 0,
  )


def _with_sinks(
  out_BTNH: Array, lse_BTN: Array, sink_N: Array
) -> tuple[Array, Array]:
  """A logit more in every denominator: exact, from the log-sum-exp alone."""
  empty_BTN = jnp.isneginf(lse_BTN)
  lse_BTN = jnp.where(empty_BTN, 0, lse_BTN)
  total_BTN = jnp.logaddexp(lse_BTN, sink_N)
  share_BTN = jnp.exp(lse_BTN - total_BTN)
  out_BTNH = (out_BTNH * share_BTN[..., None]).astype(out_BTNH.dtype)
  return out_BTNH, jnp.where(empty_BTN, -jnp.inf, total_BTN)


def _split(x_BTNH: Array, loops: int) -> Array:
  """`[B, T, N, ...]` to `[M, B N / M, T, ...]`: a step's heads together."""
  x = jnp.moveaxis(x_BTNH, 1, 2)
  return x.reshape(loops, -1, *x.shape[2:])


def _join(x_MQTH: Array, batch: int) -> Array:
  """`[M, Q, T, ...]` to `[B, T, N, ...]`."""
  M, Q, *rest = x_MQTH.shape
  if M % batch:
    return jnp.moveaxis(x_MQTH.reshape(batch, -1, *rest), 2, 1)
  # One transpose from the loop's own layout: a CPU copies once, not twice.
  x = jnp.moveaxis(x_MQTH.reshape(batch, M // batch, Q, *rest), 3, 1)
  return x.reshape(batch, rest[0], -1, *rest[1:])


Residuals = tuple[Array, Array, Array, Mask, Rows | None, Array, Array]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(
  logits: Logits, q: Array, k: Array, v: Array, mask: Mask, rows: Rows | None
) -> tuple[Array, Array]:
  return _forward(logits, q, k, v, mask, rows)[0]


def _forward(
  logits: Logits,
  q_BTNH: Array,
  k_BSKH: Array,
  v_BSKH: Array,
  mask: Mask,
  rows: Rows | None,
) -> tuple[tuple[Array, Array], Residuals]:
  (B, T, N, _), (S, K) = q_BTNH.shape, k_BSKH.shape[1:3]
  if rows is None:
    loops = prefix.loops(B, K, N // K, T)
  else:
    loops = blocks.loops(B, K, N // K, T, S)
  q, k, v = (_split(x, loops) for x in (q_BTNH, k_BSKH, v_BSKH))
  if rows is None:
    out, lse = prefix.forward(q, k, v, mask, logits)
  else:
    out, lse = blocks.forward(q, k, v, rows, mask, logits)
  # What a rematerialisation policy may keep, so as not to attend again.
  out = checkpoint_name(out, 'attention_out')
  lse = checkpoint_name(lse, 'attention_lse')
  return (_join(out, B), _join(lse, B)), (q, k, v, mask, rows, out, lse)


def _backward(
  logits: Logits, residuals: Residuals, d: tuple[Array, Array]
) -> tuple[Array, Array, Array, None, None]:
  q, k, v, mask, rows, out, lse = residuals
  B = d[0].shape[0]
  d_out, d_lse = (_split(x, q.shape[0]) for x in d)
  delta = (out.astype(jnp.float32) * d_out).sum(axis=-1) - d_lse
  # A row without a key has no gradient, even if its log-sum-exp of -inf has
  # made a NaN further on.
  saved = Saved(q, d_out, lse, jnp.where(jnp.isneginf(lse), 0, delta))
  if rows is None:
    grads = prefix.backward(saved, k, v, mask, logits)
  else:
    grads = blocks.backward(saved, k, v, rows, mask, logits)
  dq, dk, dv = (_join(x, B) for x in grads)
  return dq, dk, dv, None, None


_attend.defvjp(_forward, _backward)
