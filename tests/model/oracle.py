"""The decoder written again in float64 numpy, position by position."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import numpy as np

from ntk_jax.model import ModelConfig, Params


class OraclePlan(NamedTuple):
  """What a scheme does, spelt out."""

  inv_freq: np.ndarray
  factor: float = 1.0
  q_scale: np.ndarray | float = 1.0
  window: int = 10**9


def norm(
  x: np.ndarray, weight: Any, eps: float = 1e-6, offset: bool = False
) -> np.ndarray:
  """RMS norm over the last dim."""
  weight = np.asarray(weight, np.float64) + offset
  return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * weight


def rotate(x: np.ndarray, angle: np.ndarray, factor: float) -> np.ndarray:
  """Pairs (i, i + H/2) as complex numbers."""
  half = x.shape[-1] // 2
  z = (x[..., :half] + 1j * x[..., half:]) * factor * np.exp(1j * angle)
  return np.concatenate([z.real, z.imag], -1)


def gate_of(x: np.ndarray, activation: str) -> np.ndarray:
  """The three gates."""
  if activation == 'silu':
    return x / (1 + np.exp(-x))
  if activation == 'gelu':
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    return x / 2 * (1 + np.tanh(inner))
  erf = np.vectorize(math.erf)
  return x / 2 * (1 + erf(x / math.sqrt(2)))


def capped(x: np.ndarray, cap: float | None) -> np.ndarray:
  """Soft cap."""
  return x if cap is None else cap * np.tanh(x / cap)


def decoder(
  params: Params,
  config: ModelConfig,
  row: np.ndarray,
  plans: list[OraclePlan],
  positions: np.ndarray | None = None,
  segments: np.ndarray | None = None,
) -> np.ndarray:
  """Logits of one row."""
  c, T = config, len(row)
  held: Any = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
  position = np.arange(T) if positions is None else positions
  segment = np.ones(T) if segments is None else segments

  def normed(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return norm(x, weight, c.norm_eps, c.norm_offset)

  x = held.embed[row] * (np.sqrt(c.dim) if c.scale_embed else 1)
  for number, plan_number in enumerate(c.plan):
    w = {name: leaf[number] for name, leaf in held.layers.items()}
    plan = plans[plan_number]

    def project(h: np.ndarray, name: str, w: Any = w) -> np.ndarray:
      return h @ w[name] + w.get(f'{name}_bias', 0)

    h = normed(x, w['attention_norm'])
    out = attend(h, w, plan, c, position, segment)
    out = project(out, 'out')
    x = x + (normed(out, w['attention_post_norm']) if c.post_norms else out)
    h = normed(x, w['mlp_norm'])
    if c.experts:
      out = mixture(h, w, c)
    else:
      hidden = gate_of(project(h, 'gate'), c.activation) * project(h, 'up')
      out = project(hidden, 'down')
    x = x + (normed(out, w['mlp_post_norm']) if c.post_norms else out)
  last = held.embed.T if c.tied else held.unembed
  return capped(normed(x, held.final_norm) @ last, c.logit_soft_cap)


def mixture(
  h: np.ndarray, w: dict[str, np.ndarray], c: ModelConfig
) -> np.ndarray:
  """The MLP of experts, token by token and expert by expert."""
  out = np.zeros_like(h)
  for i, token in enumerate(h):
    odds = np.exp(token @ w['router'] - (token @ w['router']).max())
    p = odds / odds.sum()
    # A stable sort: of equal ones the lower number first.
    chosen = np.argsort(-p, kind='stable')[: c.experts_per_token]
    for e in chosen:
      hidden = gate_of(token @ w['gate'][e], c.activation)
      hidden = hidden * (token @ w['up'][e])
      out[i] += p[e] / p[chosen].sum() * (hidden @ w['down'][e])
  return out


def attend(
  h: np.ndarray,
  w: dict[str, np.ndarray],
  plan: OraclePlan,
  c: ModelConfig,
  position: np.ndarray,
  segment: np.ndarray,
) -> np.ndarray:
  """Attention of one row before the output matrix, head by head."""
  T = len(h)
  angle = position[:, None] * plan.inv_freq
  q_scale = np.broadcast_to(plan.q_scale, T)
  scale = c.attention_scale
  if scale is None:
    scale = 1 / (c.head_dim if c.divisor == 'linear' else np.sqrt(c.head_dim))
  out = np.zeros((T, c.heads * c.head_dim))
  for head in range(c.heads):
    mine = slice(head * c.head_dim, (head + 1) * c.head_dim)
    shared = head // (c.heads // c.kv_heads)
    its = slice(shared * c.head_dim, (shared + 1) * c.head_dim)
    q, k, v = (
      h @ w[name][:, at] + (w[f'{name}_bias'][at] if c.qkv_bias else 0)
      for name, at in (('q', mine), ('k', its), ('v', its))
    )
    if c.qk_norm:
      q = norm(q, w['q_norm'], c.norm_eps, c.norm_offset)
      k = norm(k, w['k_norm'], c.norm_eps, c.norm_offset)
    q = rotate(q, angle, plan.factor) * q_scale[:, None]
    k = rotate(k, angle, plan.factor)
    for i in range(T):
      distance = position[i] - position
      seen = (distance >= 0) & (distance < plan.window)
      seen &= (segment == segment[i]) & (segment[i] != 0)
      if seen.any():
        logits = capped(scale * k[seen] @ q[i], c.attention_soft_cap)
        weights = np.exp(logits - logits.max())
        out[i, mine] = weights @ v[seen] / weights.sum()
    if c.head_norm:
      out[:, mine] = norm(out[:, mine], w['head_norm'][mine], c.norm_eps)
  return out
