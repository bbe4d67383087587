"""Attention weights of a few queries, written out, and their entropy."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ntk_jax.typing import Array, ArrayLike, Bool, Float, Float32


def attention_weights(
  q: Float[Array, 'B Q N H'],
  k: Float[Array, 'B S K H'],
  visible: Bool[Array, '*B Q S'],
  *,
  scale: float,
  q_scale: ArrayLike = 1.0,
  soft_cap: float | None = None,
) -> tuple[Float32[Array, 'B Q N S'], Float32[Array, 'B Q N S']]:
  """Logits and softmax weights of every query over all keys.

      s_ij = cap(scale * a_i * q_i . k_j),  cap(x) = c tanh(x / c)
      p_ij = exp(s_ij) / sum_j exp(s_ij)

  In float32 and O(Q S) memory: meant for a few queries. A key that a query
  does not see has logit -inf and weight 0.

  Args:
    q: queries as attention takes them, rotated.
    k: keys; each of K heads serves N / K query heads.
    visible: which query sees which key, as `Mask.visible` gives it.
    scale: multiplier of the logits.
    q_scale: multiplier a of each query, broadcast to [B, Q, N].
    soft_cap: bound c of the logits, or None.

  Source: Vaswani et al. 2017 (arXiv 1706.03762), equation 1.

  >>> k = jnp.log(jnp.array([0.5, 0.25, 0.25, 9.0])).reshape(1, 4, 1, 1)
  >>> seen = jnp.array([[True, True, True, False]])
  >>> print(attention_weights(jnp.ones((1, 1, 1, 1)), k, seen, scale=1.0)[1])
  [[[[0.5  0.25 0.25 0.  ]]]]
  """
  (B, Q, N, H), (_, S, K, _), f32 = q.shape, k.shape, jnp.float32
  a_BQN = jnp.broadcast_to(jnp.asarray(q_scale, f32), (B, Q, N))
  q_BQKGH = (q.astype(f32) * a_BQN[..., None]).reshape(B, Q, K, N // K, H)
  s_BQKGS = scale * jnp.einsum(
    'bqkgh,bskh->bqkgs', q_BQKGH, k.astype(f32), precision='highest'
  )
  if soft_cap is not None:
    s_BQKGS = soft_cap * jnp.tanh(s_BQKGS / soft_cap)
  seen_BQS = jnp.broadcast_to(visible, (B, Q, S))
  s_BQNS = jnp.where(
    seen_BQS[:, :, None], s_BQKGS.reshape(B, Q, N, S), -jnp.inf
  )
  return s_BQNS, jax.nn.softmax(s_BQNS, axis=-1)


def normalised_entropy(
  q: Float[Array, 'B Q N H'],
  k: Float[Array, 'B S K H'],
  visible: Bool[Array, '*B Q S'],
  *,
  scale: float,
  q_scale: ArrayLike = 1.0,
  soft_cap: float | None = None,
) -> Float32[Array, 'B Q N']:
  """Entropy of attention weights over that of even ones, 0 to 1.

      H_i / ln n_i,  H_i = -sum_j p_ij ln p_ij

  with `attention_weights` p over the n_i keys j that query i sees. A query
  that sees one key or none has 1.

  Args:
    q: as `attention_weights` takes it, and all the others.
    k: keys.
    visible: which query sees which key.
    scale: multiplier of the logits.
    q_scale: multiplier a of each query.
    soft_cap: bound c of the logits, or None.

  Source: Su 2021 (kexue.fm/archives/8823) asks that it not change with n.

  >>> k = jnp.log(jnp.array([0.5, 0.25, 0.25, 9.0])).reshape(1, 4, 1, 1)
  >>> seen = jnp.array([[True, True, True, False]])
  >>> print(normalised_entropy(jnp.ones((1, 1, 1, 1)), k, seen, scale=1.0))
  [[[0.946...]]]
  """
  _, p_BQNS = attention_weights(
    q, k, visible, scale=scale, q_scale=q_scale, soft_cap=soft_cap
  )
  seen_BQS = jnp.broadcast_to(visible, (*q.shape[:2], k.shape[1]))
  return share_of_entropy(p_BQNS, seen_BQS.sum(axis=-1))


def share_of_entropy(
  p: Float32[Array, 'B Q N S'], n: Array
) -> Float32[Array, 'B Q N']:
  """`H / ln n` of weights over n keys [B, Q]; 1 where n is below 2.

  >>> p = jnp.array([0.5, 0.5, 0.0, 0.0]).reshape(1, 1, 1, 4)
  >>> print(share_of_entropy(p, jnp.array([[4]])))
  [[[0.5]]]
  """
  entropy = jax.scipy.special.entr(p).sum(axis=-1)
  ratio = entropy / jnp.log(n)[..., None]
  return jnp.where(n[..., None] > 1, ratio, 1.0)
