"""The oracle: attention as the equation reads, in float32, O(T S) memory."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ntk_jax.mask import Mask
from ntk_jax.typing import Array, ArrayLike, Float, Float32


def reference_attention(
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
  """Softmax attention by one einsum over all pairs, nothing skipped.

      s_ij = cap(scale * a_i * q_i . k_j),  cap(x) = c tanh(x / c)
      lse_i = log(exp(sink) + sum_j exp(s_ij))  over the keys j that i sees
      out_i = sum_j exp(s_ij - lse_i) v_j

  A row that sees no key gives zero and lse -inf. Arguments are those of
  `ntk_jax.attention.attention`, which checks them; here nothing is checked.

  Returns:
    The weighted values in q's dtype, and lse in float32.

  Source: Vaswani et al. 2017 (arXiv:1706.03762), equation 1.

  >>> x = jnp.arange(4.0).reshape(1, 4, 1, 1)
  >>> out, _ = reference_attention(0 * x, x, x)  # uniform: running means
  >>> print([round(float(y), 2) for y in out.ravel()])
  [0.0, 0.5, 1.0, 1.5]
  """
  (B, T, N, H), (_, S, K, Hv), f32 = q.shape, v.shape, jnp.float32
  q_pos = jnp.arange(T) if q_positions is None else jnp.asarray(q_positions)
  kv_pos = jnp.arange(S) if kv_positions is None else jnp.asarray(kv_positions)
  visible = mask.visible(q_pos, kv_pos, q_segments, kv_segments, kv_keep)
  visible_BKGTS = jnp.broadcast_to(visible, (B, T, S))[:, None, None]

  a_BTN = jnp.broadcast_to(
    jnp.float32(1 if q_scale is None else q_scale), (B, T, N)
  )
  q_BTKGH = (q.astype(f32) * a_BTN[..., None]).reshape(B, T, K, N // K, H)
  s_BKGTS = jnp.einsum(
    'btkgh,bskh->bkgts', q_BTKGH, k.astype(f32), precision='highest'
  )
  s_BKGTS *= H**-0.5 if scale is None else scale
  if soft_cap is not None:
    s_BKGTS = soft_cap * jnp.tanh(s_BKGTS / soft_cap)
  # Rows without a key are computed with all keys, then replaced: no NaN
  # enters a gradient.
  some_BKGT1 = visible_BKGTS.any(axis=-1, keepdims=True)
  s_BKGTS = jnp.where(visible_BKGTS | ~some_BKGT1, s_BKGTS, -jnp.inf)
  lse_BKGT1 = jax.nn.logsumexp(s_BKGTS, axis=-1, keepdims=True)
  if sink_logits is not None:
    sink_KG11 = jnp.asarray(sink_logits, f32).reshape(K, N // K, 1, 1)
    lse_BKGT1 = jnp.logaddexp(lse_BKGT1, sink_KG11)
  p_BKGTS = jnp.where(some_BKGT1, jnp.exp(s_BKGTS - lse_BKGT1), 0)
  lse_BKGT1 = jnp.where(some_BKGT1, lse_BKGT1, -jnp.inf)
  out_BTKGH = jnp.einsum(
    'bkgts,bskh->btkgh', p_BKGTS, v.astype(f32), precision='highest'
  )
  lse_BTKG = lse_BKGT1[..., 0].transpose(0, 3, 1, 2)
  return out_BTKGH.reshape(B, T, N, Hv).astype(q.dtype), lse_BTKG.reshape(
    B, T, N
  )
