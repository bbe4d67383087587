"""The layers of the decoder, pure functions of arrays.

Tokens are flat, [B*T, D], around every projection: a weight gradient over
two contracted dims (B, T) makes transposed copies on a CPU, worth 15-20% of
a step.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ntk_jax.attention.api import attention
from ntk_jax.mask import Mask
from ntk_jax.rope.rotate import apply_rope
from ntk_jax.typing import Array, ArrayLike, Float, NDArray


def rms_norm(
  x: Float[Array, '*B D'], weight: Float[Array, ' D'], eps: float = 1e-6
) -> Float[Array, '*B D']:
  """Root-mean-square norm: `x / sqrt(mean(x^2) + eps) * weight`, in float32.

  Source: Zhang and Sennrich 2019 (arXiv 1910.07467), equation 4.

  >>> y = rms_norm(jnp.array([3.0, 4.0]), jnp.ones(2))
  >>> print([round(float(v), 4) for v in y])
  [0.8485, 1.1314]
  """
  x32 = x.astype(jnp.float32)
  scale = jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + eps)
  return (x32 * scale * weight).astype(x.dtype)


def swiglu(
  x: Float[Array, 'tokens D'], gate: Array, up: Array, down: Array
) -> Float[Array, 'tokens D']:
  """Gated MLP: `(silu(x W_gate) * (x W_up)) W_down`.

  Source: Shazeer 2020 (arXiv 2002.05202), equation 6.

  >>> one = jnp.ones((1, 1))
  >>> print(round(float(swiglu(one, one, one, one)[0, 0]), 4))
  0.7311
  """
  return (jax.nn.silu(x @ gate) * (x @ up)) @ down


def self_attention(
  x: Float[Array, 'tokens D'],
  params: dict[str, Array],
  cos_sin: tuple[Array, Array],
  q_scale: Array | NDArray,
  window: ArrayLike,
  heads: tuple[int, int],
) -> Float[Array, 'tokens D']:
  """Causal self-attention with rotary positions and a temperature.

  `softmax(a(p) * R_p q . R_j k / sqrt(H)) v` within the window, then W_o.

  Args:
    x: normed inputs, B*T flat tokens.
    params: `q`, `k`, `v` [D, heads*H] and `out` [N*H, D].
    cos_sin: float32 [*B, T, P], attention factor included.
    q_scale: float32 multipliers of q, [T] or [B, T].
    window: int32 scalar, keys that a query sees.
    heads: query heads N and kv heads K.

  Returns:
    The attention output, flat.
  """
  cos, sin = cos_sin
  (N, K), T = heads, cos.shape[-2]
  q, k, v = (
    (x @ params[name]).reshape(-1, T, n, params[name].shape[1] // n)
    for name, n in (('q', N), ('k', K), ('v', K))
  )
  q_BTNH = apply_rope(q, cos, sin) * q_scale[..., None, None].astype(q.dtype)
  k_BTKH = apply_rope(k, cos, sin)
  out_BTNH = attention(q_BTNH, k_BTKH, v, mask=Mask(window=window))
  return out_BTNH.reshape(x.shape[0], -1) @ params['out']
