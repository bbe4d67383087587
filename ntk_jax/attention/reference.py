"""The oracle: attention as the equation reads, in float32, O(T^2) memory."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ntk_jax.typing import Array, ArrayLike, Float


def reference_attention(
  q: Float[Array, 'B T N H'],
  k: Float[Array, 'B T K H'],
  v: Float[Array, 'B T K H'],
  *,
  window: ArrayLike = 2**31 - 1,
  scale: float | None = None,
) -> Float[Array, 'B T N H']:
  """Causal softmax attention with an optional sliding window.

  `out_i = sum_j softmax_j(scale * q_i . k_j) v_j` over `0 <= i - j < window`.

  Args:
    q: queries; N query heads.
    k: keys; K heads, each serving G = N // K query heads.
    v: values.
    window: keys that a query sees, itself included; may be traced.
    scale: multiplier of the logits, H**-0.5 if None.

  Returns:
    The weighted values, in q's dtype.

  Source: Vaswani et al. 2017 (arXiv 1706.03762), equation 1.

  >>> x = jnp.arange(4.0).reshape(1, 4, 1, 1)
  >>> out = reference_attention(0 * x, x, x)  # uniform weights: running means
  >>> print([round(float(y), 2) for y in out.ravel()])
  [0.0, 0.5, 1.0, 1.5]
  """
  B, T, N, H = q.shape
  G = N // k.shape[2]
  scale = H**-0.5 if scale is None else scale
  f32 = jnp.float32
  q_BTKGH = q.astype(f32).reshape(B, T, N // G, G, H)
  s_BKGTS = jnp.einsum('btkgh,bskh->bkgts', q_BTKGH, k.astype(f32)) * scale
  distance_TS = jnp.arange(T)[:, None] - jnp.arange(T)
  visible_TS = (distance_TS >= 0) & (distance_TS < window)
  p_BKGTS = jax.nn.softmax(jnp.where(visible_TS, s_BKGTS, -jnp.inf), axis=-1)
  out_BTKGH = jnp.einsum('bkgts,bskh->btkgh', p_BKGTS, v.astype(f32))
  return out_BTKGH.reshape(B, T, N, H).astype(q.dtype)
