"""Random-LTD in the model: what dropped tokens do, and what they do not."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.oracle import gate_of, norm, rotate
from ntk_jax.curriculum.thinning import kept_places, tokens_seen
from ntk_jax.mask import Mask
from ntk_jax.model import Controls, ModelConfig, Params, init_params
from ntk_jax.model.transformer import hidden_states
from ntk_jax.rope.spec import RopeSpec
from ntk_jax.scheme import Scheme
from ntk_jax.temperature import Temperature

CONFIG = ModelConfig(
  vocab=13, dim=8, layers=3, heads=2, kv_heads=2, head_dim=4, mlp_dim=6
)
SEGMENTS = np.array([[1] * 7 + [2] * 8 + [0] * 3, [1] * 12 + [2] * 6])
POSITIONS = np.maximum(tokens_seen(SEGMENTS) - 1, 0)
B, T = SEGMENTS.shape
TOKENS = np.random.default_rng(0).integers(0, 13, (B, T)).astype(np.int32)
KEPT = np.stack(
  [kept_places(np.random.default_rng(5), row, 9) for row in SEGMENTS]
)
KEEP = np.random.default_rng(1).random((B, T)) < 0.6


# Positions enter twice: as angles and as temperatures.
SCHEME = Scheme(RopeSpec('default', 4), Temperature('logn', length=4)).arrays(
  None, POSITIONS
)


def drawn(middle_only: bool = False) -> Params:
  """Parameters whose first and last layer add nothing, if so asked."""
  params = init_params(jax.random.key(0), CONFIG)
  layers: Any = jax.tree.map(lambda leaf: 2 * leaf, params.layers)
  if middle_only:
    layers = dict(layers)
    for name in ('out', 'down'):
      layers[name] = layers[name].at[jnp.array([0, 2])].set(0.0)
  return params._replace(layers=layers)


@functools.partial(jax.jit, static_argnums=2)
def states(
  params: Params, controls: Controls, config: ModelConfig = CONFIG
) -> jax.Array:
  x, _ = hidden_states(
    params, config, TOKENS, POSITIONS, SEGMENTS, SCHEME, controls=controls
  )
  return x.reshape(B, T, -1)


def test_all_tokens_kept_is_the_plain_model() -> None:
  every = np.tile(np.arange(T, dtype=np.int32), (B, 1))
  plain = states(drawn(), Controls(kv_keep=KEEP))
  found = states(drawn(), Controls(kv_keep=KEEP, kept=every))
  # Two programs, fused in two ways.
  np.testing.assert_allclose(found, plain, rtol=0, atol=1e-5)


@pytest.mark.parametrize('row', range(B))
def test_the_gathered_mask_is_the_submatrix(row: int) -> None:
  rule, at = Mask(document=True, window=6), KEPT[row]
  whole = rule.visible(
    POSITIONS[row], q_segments=SEGMENTS[row], kv_keep=KEEP[row]
  )
  gathered = rule.visible(
    POSITIONS[row, at], q_segments=SEGMENTS[row, at], kv_keep=KEEP[row, at]
  )
  np.testing.assert_array_equal(gathered, np.asarray(whole)[at][:, at])
  # Cut to its first rows and columns it would be another.
  assert not np.array_equal(gathered, np.asarray(whole)[: len(at), : len(at)])


def seen_by_hand(row: int) -> np.ndarray:
  """The whole mask of a row, pair by pair."""
  seen = np.zeros((T, T), bool)
  for i in range(T):
    for j in range(i + 1):
      same = SEGMENTS[row, i] == SEGMENTS[row, j] != 0
      seen[i, j] = same and (KEEP[row, j] or i == j)
  return seen


def middle_by_hand(x: np.ndarray, w: dict[str, np.ndarray], row: int) -> Any:
  """One layer on the kept tokens of a row, dense, in float64."""
  at = KEPT[row]
  seen = seen_by_hand(row)[at][:, at]
  position = POSITIONS[row][at]
  angle = position[:, None] * np.array([1.0, 1e-2])
  scale = np.maximum(1, np.log(position + 1) / np.log(4))
  h, heads = norm(x[at], w['attention_norm']), []
  for head in range(2):
    mine = slice(4 * head, 4 * head + 4)
    q, k, v = (h @ w[name][:, mine] for name in 'qkv')
    q, k = rotate(q, angle, 1.0) * scale[:, None], rotate(k, angle, 1.0)
    logits = np.where(seen, q @ k.T / 2, -np.inf)
    some = seen.any(1)
    odds = np.zeros_like(logits)
    odds[some] = np.exp(logits[some] - logits[some].max(1, keepdims=True))
    odds[some] /= odds[some].sum(1, keepdims=True)
    heads.append(odds @ v)
  y = x[at] + np.concatenate(heads, 1) @ w['out']
  h = norm(y, w['mlp_norm'])
  y = y + (gate_of(h @ w['gate'], 'silu') * (h @ w['up'])) @ w['down']
  out = x.copy()
  out[at] = y
  return out


@pytest.mark.parametrize('row', range(B))
def test_the_middle_is_a_dense_layer_on_the_kept_tokens(row: int) -> None:
  """With the mask, positions and temperatures that they have in the row."""
  params = drawn(middle_only=True)
  held: Any = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
  w = {name: leaf[1] for name, leaf in held.layers.items()}
  scale = np.sqrt(CONFIG.dim) if CONFIG.scale_embed else 1
  x = held.embed[TOKENS[row]] * scale
  wanted = norm(middle_by_hand(x, w, row), held.final_norm)
  found = states(params, Controls(kept=KEPT, kv_keep=KEEP))[row]
  real = SEGMENTS[row] > 0
  np.testing.assert_allclose(found[real], wanted[real], rtol=0, atol=2e-5)
  plain = states(params, Controls(kv_keep=KEEP))[row]
  assert np.abs(plain - wanted)[real].max() > 0.1


def test_dropped_rows_have_no_gradient_through_the_middle() -> None:
  """What is kept depends on the kept, and a dropped token on itself alone."""
  params = drawn(middle_only=True)
  dropped = np.setdiff1d(np.arange(T), KEPT[0])
  ids = np.arange(T, dtype=np.int32)[None]  # each token has its own embedding
  config = dataclasses.replace(CONFIG, vocab=T)

  def run(embed: jax.Array) -> jax.Array:
    x, _ = hidden_states(
      params._replace(embed=embed),
      config,
      ids,
      None,
      None,
      Scheme(RopeSpec('default', 4)).arrays(None, np.arange(T)),
      controls=Controls(kept=KEPT[:1]),
    )
    return x

  embed = jax.random.normal(jax.random.key(1), (T, CONFIG.dim))
  slopes = jax.jit(jax.jacrev(run))(embed)  # [T, D, T, D]
  size = np.abs(slopes).max(axis=(1, 3))
  assert (size[KEPT[0]][:, dropped] == 0).all()
  off = ~np.eye(T, dtype=bool)
  assert (size[dropped] * off[dropped] == 0).all()
  assert (np.diag(size) > 0).all()
  below = np.tril(size[KEPT[0]][:, KEPT[0]])
  assert (below[np.tril_indices(len(below))] > 0).all()


def loss(params: Params, controls: Controls, config: ModelConfig) -> jax.Array:
  return (states(params, controls, config) ** 3).sum()


def test_nothing_is_drawn_on_the_device() -> None:
  """Masks are inputs: what the backward pass recomputes has the same ones."""
  config = dataclasses.replace(CONFIG, remat='full')
  controls = Controls(kept=KEPT, kv_keep=KEEP)
  made = jax.make_jaxpr(jax.grad(loss), static_argnums=2)(
    drawn(), controls, config
  )
  text = str(made)
  assert 'remat' in text
  assert 'random' not in text and 'threefry' not in text


@pytest.mark.slow
@pytest.mark.parametrize('remat', ['full', 'dots', 'attention'])
def test_a_recomputed_layer_drops_the_same_tokens(remat: str) -> None:
  controls = Controls(kept=KEPT, kv_keep=KEEP)
  slopes = jax.jit(jax.grad(loss), static_argnums=2)
  plain = slopes(drawn(), controls, dataclasses.replace(CONFIG, remat='none'))
  again = slopes(drawn(), controls, dataclasses.replace(CONFIG, remat=remat))
  for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(again)):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(a).max())
