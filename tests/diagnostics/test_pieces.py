"""Entropy, far loss and gradient norm against other ways to get them."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model import oracle

from ntk_jax.data import retrieval
from ntk_jax.diagnostics import (
  QUERIES,
  Measured,
  cut,
  measure,
  normalised_entropy,
)
from ntk_jax.diagnostics import pieces as module
from ntk_jax.errors import ConfigError
from ntk_jax.evaluation.score import TestRows, evaluate
from ntk_jax.loss import cross_entropy
from ntk_jax.mask import Mask
from ntk_jax.model import ModelConfig, Params, forward, init_params
from ntk_jax.rope.spec import RopeSpec
from ntk_jax.scheme import Scheme
from ntk_jax.temperature import Temperature

CONFIG = ModelConfig(
  vocab=retrieval.VOCAB,
  dim=12,
  layers=2,
  heads=4,
  kv_heads=2,
  head_dim=4,
  mlp_dim=8,
)
CAPPED = dataclasses.replace(
  CONFIG,
  attention_soft_cap=2.0,
  logit_soft_cap=3.0,
  qk_norm=True,
  qkv_bias=True,
  norm_offset=True,
)
SCHEMES = {
  'none': Scheme(RopeSpec('default', 4)),
  'window': Scheme(RopeSpec('default', 4), window=9),
  'yarn': Scheme(RopeSpec('yarn', 4, factor=4.0, original_length=32)),
  'log-n': Scheme(RopeSpec('default', 4), Temperature('logn', length=32)),
  'dynamic': Scheme(RopeSpec('dynamic', 4, factor=1.0, original_length=32)),
}
TOKENS = 70  # two pieces of 33 leave 4, one of 64 leaves 6
TOLERANCE = 2e-5


def params_of(config: ModelConfig) -> Params:
  """Sharper than at the start, so that positions matter."""
  params = init_params(jax.random.key(0), config)
  layers = {**params.layers}
  for name in ('q', 'k'):
    layers[name] = 3 * layers[name]
  for i, name in enumerate(n for n in layers if n.endswith(('bias', 'norm'))):
    noise = jax.random.normal(jax.random.key(i), layers[name].shape)
    layers[name] = layers[name] + 0.3 * noise
  return params._replace(layers=layers)


@pytest.fixture(scope='module')
def texts() -> np.ndarray:
  rng = np.random.default_rng(0)
  return rng.integers(97, 123, size=(3, TOKENS + 1)).astype(np.int32)


def pieces_of(texts: np.ndarray, length: int) -> np.ndarray:
  """The pieces as rows of their own, each with the byte after it."""
  return np.stack(
    [
      text[start : start + length + 1]
      for text in texts
      for start in range(0, TOKENS - length + 1, length)
    ]
  )


def entropy_of(weights: np.ndarray) -> float:
  """Normalised entropy of one query's weights over what it sees."""
  weights = weights[weights > 0]
  return float(-(weights * np.log(weights)).sum() / np.log(len(weights)))


@pytest.mark.parametrize('soft_cap', [None, 1.5])
@pytest.mark.parametrize('window', [None, 5])
def test_entropy_is_that_of_the_weights(
  soft_cap: float | None, window: int | None
) -> None:
  rng = np.random.default_rng(1)
  B, S, N, K, H = 2, 19, 6, 3, 5
  few = np.array([4, 11, 18])
  q = 2 * rng.normal(size=(B, len(few), N, H))
  k = 2 * rng.normal(size=(B, S, K, H))
  a = rng.uniform(0.5, 2, size=(len(few), 1))
  found = normalised_entropy(
    jnp.asarray(q, jnp.float32),
    jnp.asarray(k, jnp.float32),
    Mask(window=window).visible(few, np.arange(S)),
    scale=0.3,
    q_scale=a,
    soft_cap=soft_cap,
  )
  assert found.shape == (B, len(few), N)
  for b, i, n in np.ndindex(*found.shape):
    first = 0 if window is None else max(0, few[i] - window + 1)
    seen = k[b, first : few[i] + 1, n // 2]
    logits = 0.3 * a[i] * (seen @ q[b, i, n])
    if soft_cap is not None:
      logits = soft_cap * np.tanh(logits / soft_cap)
    weights = np.exp(logits - logits.max())
    expected = entropy_of(weights / weights.sum())
    np.testing.assert_allclose(found[b, i, n], expected, rtol=0, atol=2e-6)


def test_even_weights_have_one_and_a_lone_key_nothing_to_choose() -> None:
  k = jnp.ones((1, 5, 1, 2)).at[0, 3].set(40.0)
  seen = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [0, 0, 1, 0, 0], 5 * [0]])
  found = normalised_entropy(
    jnp.ones((1, 4, 1, 2)), k, jnp.asarray(seen, bool), scale=1.0
  )
  np.testing.assert_allclose(found.ravel(), [1, 0, 1, 1], atol=1e-6)


def weights_seen(
  h: np.ndarray, w: Any, plan: Any, c: ModelConfig, position: np.ndarray
) -> np.ndarray:
  """Normalised entropies [T, N] of a layer in float64, from its input."""
  T, G = len(h), c.heads // c.kv_heads
  angle = position[:, None] * plan.inv_freq
  q, k = (
    (h @ w[name] + w.get(f'{name}_bias', 0)).reshape(T, -1, c.head_dim)
    for name in 'qk'
  )
  if c.qk_norm:
    q = oracle.norm(q, w['q_norm'], c.norm_eps, c.norm_offset)
    k = oracle.norm(k, w['k_norm'], c.norm_eps, c.norm_offset)
  q, k = (oracle.rotate(x, angle[:, None], plan.factor) for x in (q, k))
  q = q * np.broadcast_to(plan.q_scale, T)[:, None, None]
  found = np.ones((T, c.heads))
  for i, n in np.ndindex(T, c.heads):
    seen = k[max(0, i - plan.window + 1) : i + 1, n // G]
    logits = seen @ q[i, n] / np.sqrt(c.head_dim)
    logits = oracle.capped(logits, c.attention_soft_cap)
    weights = np.exp(logits) / np.exp(logits).sum()
    found[i, n] = entropy_of(weights) if i else 1.0
  return found


@pytest.mark.parametrize('length', [33, 64])
@pytest.mark.parametrize(
  ('config', 'name'),
  [*((CONFIG, name) for name in SCHEMES), (CAPPED, 'log-n')],
)
def test_entropy_of_a_model_is_that_of_the_float64_decoder(
  texts: np.ndarray,
  monkeypatch: pytest.MonkeyPatch,
  config: ModelConfig,
  name: str,
  length: int,
) -> None:
  """Every piece by itself, layer by layer, at the places that are sampled."""
  params, scheme = params_of(config), SCHEMES[name]
  found = measure(params, config, scheme, texts, length)
  inv_freq, factor = scheme.spec.frequencies(length)
  q_scale = scheme.arrays(length, np.arange(length)).q_scale
  plan = oracle.OraclePlan(
    inv_freq, float(factor), np.float64(q_scale), scheme.window or 10**9
  )
  layers: list[np.ndarray] = []
  attend = oracle.attend

  def recording(
    h: Any, w: Any, plan: Any, c: Any, position: Any, s: Any
  ) -> Any:
    layers.append(weights_seen(h, w, plan, c, position))
    return attend(h, w, plan, c, position, s)

  monkeypatch.setattr(oracle, 'attend', recording)
  for row in pieces_of(texts, length):
    oracle.decoder(params, config, row[:-1], [plan])
  each = np.reshape(layers, (3, -1, config.layers, length, config.heads))
  by_place = np.moveaxis(each, 2, 0).reshape(config.layers, 3, -1, config.heads)
  queries = cut(TOKENS, length).queries
  expected = by_place[:, :, queries].mean(axis=(1, 2))
  assert found.entropy.shape == (config.layers, config.heads)
  np.testing.assert_allclose(found.entropy, expected, atol=TOLERANCE)
  assert np.ptp(expected) > 0.01  # heads differ: none stands for another


@pytest.mark.parametrize(
  ('config', 'name', 'length'),
  [*((CONFIG, name, 64) for name in SCHEMES), (CAPPED, 'yarn', 33)],
)
def test_far_loss_is_what_evaluation_finds_at_the_same_positions(
  texts: np.ndarray, config: ModelConfig, name: str, length: int
) -> None:
  params = params_of(config)
  found = measure(params, config, SCHEMES[name], texts, length)
  rows = TestRows(pieces_of(texts, length), 0, (length,))
  scores = evaluate(params, config, SCHEMES[name], rows)
  # As `evaluate` does, and by hand from the losses at every position.
  for losses in (scores.loss, scores.position_loss[:, length // 2 :]):
    expected = losses.mean(dtype=np.float64)
    np.testing.assert_allclose(found.far_loss, expected, atol=TOLERANCE)


def mean_gradient(
  params: Params, config: ModelConfig, scheme: Scheme, rows: np.ndarray
) -> Params:
  """The gradient of the plain mean loss, pieces as rows of their own."""
  length = rows.shape[1] - 1
  arrays = scheme.arrays(length, np.arange(length))

  @jax.jit
  def mean_loss(params: Params) -> Any:
    logits = forward(params, config, rows[:, :-1], None, None, arrays)
    return cross_entropy(logits, rows[:, 1:]).mean()

  return jax.tree.map(np.float64, jax.grad(mean_loss)(params))


def size_of(tree: Params) -> float:
  """The global norm in float64."""
  return float(np.sqrt(sum((x**2).sum() for x in jax.tree.leaves(tree))))


@pytest.mark.parametrize(
  ('config', 'name', 'length'),
  [
    (CONFIG, 'none', 33),
    (CONFIG, 'window', 64),
    (CONFIG, 'dynamic', 64),
    (CAPPED, 'log-n', 33),
  ],
)
def test_gradient_norm_is_that_of_the_plain_mean_loss(
  texts: np.ndarray, config: ModelConfig, name: str, length: int
) -> None:
  params, scheme = params_of(config), SCHEMES[name]
  found = measure(params, config, scheme, texts, length)
  rows = pieces_of(texts, length)
  expected = size_of(mean_gradient(params, config, scheme, rows))
  assert expected > 0.1
  np.testing.assert_allclose(found.grad_norm, expected, rtol=2e-5)


def test_a_step_along_the_gradient_raises_the_loss_by_its_norm(
  texts: np.ndarray,
) -> None:
  """The slope of the float64 decoder's loss, by finite differences."""
  params, scheme = params_of(CONFIG), SCHEMES['none']
  rows = pieces_of(texts, 33)
  plan = oracle.OraclePlan(scheme.spec.frequencies(None)[0])
  way = mean_gradient(params, CONFIG, scheme, rows)
  step = 1e-4 / size_of(way)

  def mean_loss(sign: int) -> float:
    moved = jax.tree.map(
      lambda p, g: np.float64(p) + sign * step * g, params, way
    )
    losses = []
    for row in rows:
      z = oracle.decoder(moved, CONFIG, row[:-1], [plan])
      lse = np.log(np.exp(z).sum(-1))
      losses.append(lse - z[np.arange(33), row[1:]])
    return float(np.mean(losses))

  slope = (mean_loss(1) - mean_loss(-1)) / 2e-4
  found = measure(params, CONFIG, scheme, texts, 33)
  np.testing.assert_allclose(found.grad_norm, slope, rtol=1e-4)


def test_what_is_left_over_counts_for_nothing(texts: np.ndarray) -> None:
  params = params_of(CONFIG)
  other = texts.copy()
  other[:, 67:] = 5  # two pieces of 33 end at 66, and their last target
  found, same, more = (
    measure(params, CONFIG, SCHEMES['yarn'], t, n)
    for t, n in ((texts, 33), (other, 33), (other, 35))
  )
  for x, y, z in zip(found, same, more):
    assert np.array_equal(x, y)
    assert not np.array_equal(x, z)


def test_pieces_are_whole_and_queries_are_spread_over_their_ends() -> None:
  for length in (16, 33, 64, 512):
    pieces = cut(1000, length)
    whole = 1000 // length
    assert pieces.segments.max() == whole
    assert (pieces.segments == 0).sum() == 1000 - whole * length
    assert pieces.far.sum() == whole * (length - length // 2)
    assert len(set(pieces.queries)) == QUERIES
    assert pieces.far[pieces.queries].all()
    assert (pieces.positions[pieces.queries] >= length // 2).all()
    counts = np.bincount(pieces.segments[pieces.queries])[1:]
    assert counts.max() - counts.min() <= 1 or whole > QUERIES


@pytest.mark.parametrize('length', [0, 71])
def test_a_piece_that_does_not_fit_is_refused(
  texts: np.ndarray, length: int
) -> None:
  with pytest.raises(ConfigError, match=f'length is {length}: .* has 1 to 70'):
    measure(params_of(CONFIG), CONFIG, SCHEMES['none'], texts, length)


def test_one_executable_for_all_lengths_methods_and_models(
  texts: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
  traced = []
  watched = module.watched

  def counting(*args: Any) -> Any:
    traced.append(1)
    return watched(*args)

  monkeypatch.setattr(module, 'watched', counting)
  # A config that no other test has compiled.
  config = dataclasses.replace(CONFIG, rope_theta=9998.0)
  found: list[Measured] = [
    measure(params, config, scheme, texts, length)
    for params in (params_of(config), jax.device_get(params_of(config)))
    for scheme in SCHEMES.values()
    for length in (35, 64)
  ]
  first = len(traced)
  assert first <= 2  # `accumulate` traces what it sums once more for its shape
  assert len({float(m.grad_norm) for m in found[:10]}) == 10
