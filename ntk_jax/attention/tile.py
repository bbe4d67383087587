"""The arithmetic of one tile of queries against some keys, both directions.

Letters beyond those of `ntk_jax.typing`: R kv heads held at once, t queries
and s keys of a tile. Operands come as given; sums and softmax are float32.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax.numpy as jnp

from ntk_jax.typing import Array

_einsum = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)


class Logits(NamedTuple):
  """From q . k to a logit: `cap(scale * q . k)`, `cap(x) = c tanh(x / c)`."""

  scale: float
  soft_cap: float | None = None


def by_group(x_QTH: Array, k_RSH: Array) -> Array:
  """`[Q, T, ...]` to `[R, G, T, ...]`: query heads by the kv head they share.

  >>> by_group(jnp.zeros((6, 5)), jnp.zeros((2, 5, 1))).shape
  (2, 3, 5)
  """
  return x_QTH.reshape(k_RSH.shape[0], -1, *x_QTH.shape[1:])


class Softmax(NamedTuple):
  """An online softmax over the keys seen so far: running top, sum, values."""

  top_RGt: Array
  total_RGt: Array
  sum_RGtH: Array


# Stands for the top of a row that has seen no key: exp(-inf - _LOWEST) is 0.
_LOWEST = -1e30


def no_keys(q_RGtH: Array, head_dim: int) -> Softmax:
  """The softmax over no key at all.

  >>> no_keys(jnp.zeros((1, 2, 3, 5)), 7).sum_RGtH.shape
  (1, 2, 3, 7)
  """
  rows = q_RGtH.shape[:-1]
  return Softmax(
    jnp.full(rows, _LOWEST, jnp.float32),
    jnp.zeros(rows, jnp.float32),
    jnp.zeros((*rows, head_dim), jnp.float32),
  )


def _capped(q_RGtH: Array, k_RsH: Array, logits: Logits) -> Array:
  s_RGts = logits.scale * _einsum('rgth,rsh->rgts', q_RGtH, k_RsH)
  if logits.soft_cap is None:
    return s_RGts
  return logits.soft_cap * jnp.tanh(s_RGts / logits.soft_cap)


def see(
  q_RGtH: Array,
  k_RsH: Array,
  v_RsH: Array,
  visible_ts: Array,
  logits: Logits,
  before: Softmax | None = None,
) -> Softmax:
  """The softmax after these keys too.

  >>> x = jnp.ones((1, 1, 1, 1))
  >>> seen = see(0 * x, x[0], 5 * x[0], jnp.ones((1, 1), bool), Logits(1.0))
  >>> [float(a.sum()) for a in seen]  # top logit, sum of weights, values
  [0.0, 1.0, 5.0]
  """
  s_RGts = jnp.where(visible_ts, _capped(q_RGtH, k_RsH, logits), -jnp.inf)
  top_RGt = s_RGts.max(axis=-1)
  floor = _LOWEST if before is None else before.top_RGt
  top_RGt = jnp.maximum(top_RGt, floor)
  p_RGts = jnp.exp(s_RGts - top_RGt[..., None])
  total_RGt = p_RGts.sum(axis=-1)
  sum_RGtH = _einsum('rgts,rsh->rgth', p_RGts.astype(v_RsH.dtype), v_RsH)
  if before is None:
    return Softmax(top_RGt, total_RGt, sum_RGtH)
  shrink_RGt = jnp.exp(before.top_RGt - top_RGt)
  return Softmax(
    top_RGt,
    before.total_RGt * shrink_RGt + total_RGt,
    before.sum_RGtH * shrink_RGt[..., None] + sum_RGtH,
  )


def finish(seen: Softmax) -> tuple[Array, Array]:
  """The output and its log-sum-exp; zero and -inf for rows without a key.

  >>> out, lse = finish(no_keys(jnp.zeros((1, 1, 1, 2)), 1))
  >>> float(out.sum()), float(lse.sum())
  (0.0, -inf)
  """
  empty_RGt = seen.total_RGt == 0
  total_RGt = jnp.where(empty_RGt, 1, seen.total_RGt)
  out_RGtH = seen.sum_RGtH / total_RGt[..., None]
  lse_RGt = jnp.where(empty_RGt, -jnp.inf, seen.top_RGt + jnp.log(total_RGt))
  return out_RGtH, lse_RGt


class Saved(NamedTuple):
  """What the backward pass of a tile needs of its rows.

  `delta` is `sum(out * d_out) - d_lse`: the gradient of the log-sum-exp costs
  nothing more. Both are the row's, `lse` -inf for one without a key.
  """

  q: Array
  d_out: Array
  lse: Array
  delta: Array


def gradients(
  rows: Saved,
  k_RsH: Array,
  v_RsH: Array,
  visible_ts: Array,
  logits: Logits,
) -> tuple[Array, Array, Array]:
  """What these keys and rows add to the gradients of q, k and v, in float32.

  `p = exp(s - lse)`, `ds = p * (d_out . v - delta)`, chained through the cap.

  Source: Dao 2023, arXiv:2307.08691, algorithm 2.

  >>> x = jnp.ones((1, 1, 1, 1))
  >>> rows = Saved(x, 3 * x, jnp.ones((1, 1, 1)), jnp.zeros((1, 1, 1)))
  >>> seen = jnp.ones((1, 1), bool)
  >>> [float(d.sum()) for d in gradients(rows, x[0], x[0], seen, Logits(1.0))]
  [3.0, 3.0, 3.0]
  """
  q_RGtH, d_out_RGtH, lse_RGt, delta_RGt = rows
  s_RGts = _capped(q_RGtH, k_RsH, logits)
  p_RGts = jnp.where(visible_ts, jnp.exp(s_RGts - lse_RGt[..., None]), 0)
  dp_RGts = _einsum('rgth,rsh->rgts', d_out_RGtH, v_RsH)
  ds_RGts = p_RGts * (dp_RGts - delta_RGt[..., None]) * logits.scale
  if logits.soft_cap is not None:
    ds_RGts *= 1 - (s_RGts / logits.soft_cap) ** 2
  ds_RGts = ds_RGts.astype(q_RGtH.dtype)
  return (
    _einsum('rgts,rsh->rgth', ds_RGts, k_RsH),
    _einsum('rgth,rgts->rhs', q_RGtH, ds_RGts),
    _einsum('rgth,rgts->rhs', d_out_RGtH, p_RGts.astype(d_out_RGtH.dtype)),
  )
