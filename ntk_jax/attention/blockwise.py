"""Causal attention by tiles of queries, forward and backward, any backend.

A tile of query rows meets the whole visible prefix at once: its scores
(tile x prefix) stay in a CPU's cache, no tile above the diagonal is computed,
and no T x T array exists. The backward pass recomputes the weights from the
saved log-sum-exp. Long rows go a few heads at a time, because all of them
together fall out of cache and run 1.5-2x slower; small inputs go at once,
because a loop over them costs as much again.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from ntk_jax.errors import ConfigError
from ntk_jax.typing import Array, ArrayLike, Float

# Scores of all heads and tiles together up to which no loop is worth while.
_SMALL = 2**21
# Scores held at once beyond: 1 MiB of float32, about one core's L2 cache.
_SCORES_IN_CACHE = 2**18
_HIDDEN = -1e30

# Operands of any precision, sums in float32.
_einsum = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)


def blockwise_attention(
  q: Float[Array, 'B T N H'],
  k: Float[Array, 'B T K H'],
  v: Float[Array, 'B T K H'],
  *,
  window: ArrayLike = 2**31 - 1,
  scale: float | None = None,
) -> Float[Array, 'B T N H']:
  """Causal softmax attention in O(T) memory, forward and backward.

  The same equation as `reference_attention`: `out_i = sum_j softmax_j(scale *
  q_i . k_j) v_j` over `0 <= i - j < window`. Differentiable in q, k and v.

  Args:
    q: queries; N query heads.
    k: keys; K heads, each serving G = N // K query heads, never repeated.
    v: values.
    window: keys that a query sees, itself included; may be traced, so that
      one executable serves full and windowed attention.
    scale: multiplier of the logits, H**-0.5 if None.

  Returns:
    The weighted values, in q's dtype.

  Raises:
    ConfigError: if K does not divide N, shapes disagree, or the window is a
      number below 1.

  Source: the tiling of FlashAttention-2 (Dao 2023, arXiv 2307.08691).

  >>> x = jnp.arange(4.0).reshape(1, 4, 1, 1)
  >>> out = blockwise_attention(0 * x, x, x, window=2)
  >>> print([round(float(y), 2) for y in out.ravel()])
  [0.0, 0.5, 1.5, 2.5]
  """
  B, T, N, H = q.shape
  K = k.shape[2]
  if k.shape != (B, T, K, H) or v.shape != k.shape or N % K:
    raise ConfigError(
      f'attention shapes disagree: q {q.shape}, k {k.shape}, v {v.shape}; '
      'k and v must be alike, share batch, length and head dim with q, and '
      'have a number of heads that divides that of q'
    )
  if isinstance(window, int) and window < 1:
    raise ConfigError(
      f'window is {window}: a query sees itself, so a window is at least 1'
    )
  G = N // K
  rows = _heads_at_once(B * K, G, T)
  q_MRGTH = (
    q.reshape(B, T, K, G, H).transpose(0, 2, 3, 1, 4).reshape(-1, rows, G, T, H)
  )
  k_MRTH = k.transpose(0, 2, 1, 3).reshape(-1, rows, T, H)
  v_MRTH = v.transpose(0, 2, 1, 3).reshape(-1, rows, T, H)
  scale = H**-0.5 if scale is None else scale
  out_MRGTH = _attend(q_MRGTH, k_MRTH, v_MRTH, jnp.int32(window), float(scale))
  out_BTKGH = out_MRGTH.reshape(B, K, G, T, H).transpose(0, 3, 1, 2, 4)
  return out_BTKGH.reshape(B, T, N, H)


def _tile(length: int) -> int:
  """Query rows per tile: 128, and 256 for long rows, to unroll fewer."""
  return min(256, max(128, -(-length // 8)))


def _heads_at_once(heads: int, group: int, length: int) -> int:
  """The largest divisor of `heads` (kv) whose scores fit the cache together."""
  if heads * group * length**2 <= _SMALL:
    return heads
  fitting = max(1, _SCORES_IN_CACHE // (group * _tile(length) * length))
  return next(n for n in range(fitting, 0, -1) if heads % n == 0)


def _tiles(length: int) -> list[tuple[int, int]]:
  tile = _tile(length)
  return [(t, min(t + tile, length)) for t in range(0, length, tile)]


def _scores(
  q_RGtH: Array, k_RSH: Array, start: int, window: ArrayLike, scale: float
) -> Array:
  """Scaled logits of one tile against its prefix, hidden keys at -1e30."""
  s_RGtS = scale * _einsum('rgth,rsh->rgts', q_RGtH, k_RSH)
  t, S = s_RGtS.shape[-2:]
  distance_tS = start + jnp.arange(t)[:, None] - jnp.arange(S)
  visible_tS = (distance_tS >= 0) & (distance_tS < window)
  return jnp.where(visible_tS, s_RGtS, _HIDDEN)


# q, k, v, window, out, log-sum-exp
Saved = tuple[Array, Array, Array, ArrayLike, Array, Array]


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _attend(
  q: Array, k: Array, v: Array, window: ArrayLike, scale: float
) -> Array:
  return _forward(q, k, v, window, scale)[0]


def _forward(
  q: Array, k: Array, v: Array, window: ArrayLike, scale: float
) -> tuple[Array, Saved]:
  def some_heads(qkv: tuple[Array, Array, Array]) -> tuple[Array, Array]:
    q_RGTH, k_RTH, v_RTH = qkv
    outs, lses = [], []
    for start, stop in _tiles(q_RGTH.shape[2]):
      s = _scores(
        q_RGTH[:, :, start:stop], k_RTH[:, :stop], start, window, scale
      )
      top = s.max(axis=-1, keepdims=True)
      p = jnp.exp(s - top)
      total = p.sum(axis=-1, keepdims=True)
      out = _einsum('rgts,rsh->rgth', p.astype(v.dtype), v_RTH[:, :stop])
      outs.append((out / total).astype(q.dtype))
      lses.append((top + jnp.log(total))[..., 0])
    return jnp.concatenate(outs, 2), jnp.concatenate(lses, 2)

  out, lse = jax.lax.map(some_heads, (q, k, v))
  return out, (q, k, v, window, out, lse)


def _backward(
  scale: float, saved: Saved, d_out: Array
) -> tuple[Array, Array, Array, None]:
  q, k, v, window, out, lse = saved
  delta = (out.astype(jnp.float32) * d_out).sum(axis=-1)

  def some_heads(xs: tuple[Array, ...]) -> tuple[Array, Array, Array]:
    q_RGTH, k_RTH, v_RTH, do_RGTH, lse_RGT, delta_RGT = xs
    dk = jnp.zeros(k_RTH.shape, jnp.float32)
    dv = jnp.zeros(v_RTH.shape, jnp.float32)
    dqs = []
    for start, stop in _tiles(q_RGTH.shape[2]):
      rows = slice(start, stop)
      q_t, do_t = q_RGTH[:, :, rows], do_RGTH[:, :, rows]
      s = _scores(q_t, k_RTH[:, :stop], start, window, scale)
      p = jnp.exp(s - lse_RGT[:, :, rows, None])
      dp = _einsum('rgth,rsh->rgts', do_t, v_RTH[:, :stop])
      ds = p * (dp - delta_RGT[:, :, rows, None]) * scale
      ds, p = ds.astype(q.dtype), p.astype(q.dtype)
      dqs.append(_einsum('rgts,rsh->rgth', ds, k_RTH[:, :stop]))
      dk = dk.at[:, :stop].add(_einsum('rgts,rgth->rsh', ds, q_t))
      dv = dv.at[:, :stop].add(_einsum('rgts,rgth->rsh', p, do_t))
    dq = jnp.concatenate(dqs, 2).astype(q.dtype)
    return dq, dk.astype(k.dtype), dv.astype(v.dtype)

  dq, dk, dv = jax.lax.map(some_heads, (q, k, v, d_out, lse, delta))
  return dq, dk, dv, None


_attend.defvjp(_forward, _backward)
