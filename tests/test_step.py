"""One training step: it descends, skips what is not finite, traces once."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntk_jax import step
from ntk_jax.data import retrieval
from ntk_jax.data.batch import Batch
from ntk_jax.data.mixture import Mixture
from ntk_jax.data.text import Corpus
from ntk_jax.model import Controls, ModelConfig, forward, init_params
from ntk_jax.objective import Objective, losses
from ntk_jax.optimizer import adamw
from ntk_jax.rope.spec import RopeSpec
from ntk_jax.scheme import Scheme
from ntk_jax.step import StepConfig, TrainState, init_state, train_step
from ntk_jax.temperature import Temperature

CONFIG = ModelConfig(
  vocab=retrieval.VOCAB,
  dim=8,
  layers=2,
  heads=2,
  kv_heads=1,
  head_dim=4,
  mlp_dim=12,
)
STEP = StepConfig(Objective(CONFIG), adamw())
LENGTH = 48
PLAIN = Scheme(RopeSpec('default', 4))


@pytest.fixture(scope='module')
def batch() -> Batch:
  rng = np.random.default_rng(0)
  document = rng.integers(97, 105, size=5000, dtype=np.uint8)
  corpus = Corpus('made up', (document,), (document,), 'none')
  return Mixture(corpus, 4, LENGTH, seed=0).batch(0)


def new_state() -> TrainState:
  return init_state(init_params(jax.random.key(0), CONFIG), STEP)


def arrays(scheme: Scheme = PLAIN, length: int = LENGTH) -> Any:
  return scheme.arrays(length, np.arange(length))


def run(
  state: TrainState,
  batch: Batch,
  rate: float = 1e-2,
  scheme: Scheme = PLAIN,
  config: StepConfig = STEP,
) -> tuple[TrainState, step.StepMetrics]:
  return train_step(
    state, batch, arrays(scheme), np.float32(rate), config=config
  )


def same(first: Any, second: Any) -> list[bool]:
  return jax.tree.leaves(jax.tree.map(np.array_equal, first, second))


def test_loss_falls(batch: Batch) -> None:
  state, seen = new_state(), []
  for _ in range(40):
    state, metrics = run(state, batch)
    seen.append((float(metrics.text), float(metrics.answers)))
    assert metrics.good
  (first_text, first_recall), (last_text, last_recall) = seen[0], seen[-1]
  assert last_text < 0.6 * first_text
  assert last_recall < 0.6 * first_recall


def test_a_step_is_its_equation(batch: Batch) -> None:
  """A mean over weights, AdamW's direction times the learning rate."""
  positions = jnp.arange(LENGTH)
  before = new_state()

  def parts(params: Any) -> tuple[jax.Array, jax.Array]:
    logits = forward(params, CONFIG, batch.tokens, positions, None, arrays())
    logp = jax.nn.log_softmax(logits)
    nll = -jnp.take_along_axis(
      logp, np.maximum(batch.targets, 0)[..., None], axis=-1
    )[..., 0]
    text = (batch.weights > 0) & ~batch.answers
    return nll[text].mean(), nll[batch.answers].mean()

  def total(params: Any) -> jax.Array:
    text, recall = parts(params)
    return (text + 0.5 * recall) / 1.5

  params: Any = before.params
  grads = jax.jit(jax.grad(total))(params)
  updates, _ = adamw().update(grads, before.optimizer, params)
  expected = jax.tree.map(lambda p, u: p + 0.01 * u, params, updates)
  text, recall = parts(params)
  norm = np.sqrt(
    sum((np.asarray(g) ** 2).sum() for g in jax.tree.leaves(grads))
  )

  after, metrics = run(before, batch, rate=0.01)
  np.testing.assert_allclose(metrics.text, text, rtol=1e-5)
  np.testing.assert_allclose(metrics.answers, recall, rtol=1e-5)
  np.testing.assert_allclose(metrics.grad_norm, norm, rtol=1e-5)
  for found, wanted in zip(
    jax.tree.leaves(after.params), jax.tree.leaves(expected)
  ):
    # Adam's first step divides a gradient by its own size: where that is
    # rounding noise, only the bound of the step is sure.
    close = np.isclose(found, wanted, rtol=0, atol=1e-5)
    assert close.mean() > 0.99
    assert np.abs(found - wanted).max() < 0.021


def test_the_learning_rate_is_data(batch: Batch) -> None:
  start = jax.device_get(new_state().params)
  moved = [
    jax.device_get(run(new_state(), batch, rate)[0].params)
    for rate in (0.0, 1e-3, 2e-3)
  ]
  assert all(same(start, moved[0]))
  for p, a, b in zip(*map(jax.tree.leaves, (start, moved[1], moved[2]))):
    np.testing.assert_allclose(b - p, 2 * (a - p), rtol=0, atol=1e-6)


@pytest.mark.parametrize('poison', [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_changes_nothing(
  batch: Batch, poison: float
) -> None:
  state, _ = run(new_state(), batch)  # an optimizer with history
  before = jax.device_get(state)
  weights = batch.weights.copy()
  weights[0, 3] = poison
  after, metrics = run(state, batch._replace(weights=weights))
  assert not metrics.good
  assert all(same(before[:2], jax.device_get(after[:2])))
  assert int(after.guard.skipped) == 1
  again, metrics = run(after, batch)
  assert metrics.good
  assert not any(same(before.params, jax.device_get(again).params))


def test_the_state_is_donated(batch: Batch) -> None:
  state, _ = run(new_state(), batch)
  run(state, batch)
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))


SCHEMES = {
  'none': PLAIN,
  'window': Scheme(RopeSpec('default', 4), window=32),
  'yarn': Scheme(RopeSpec('yarn', 4, factor=8.0, original_length=32)),
  'log-n': Scheme(RopeSpec('default', 4), Temperature('logn', length=32)),
  'dynamic': Scheme(RopeSpec('dynamic', 4, factor=1.0, original_length=32)),
}


def test_one_trace_per_shape_for_all_schemes(
  batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
  traced = []

  def counting(params: Any, batch: Batch, *args: Any, **options: Any) -> Any:
    traced.append(batch.tokens.shape)
    return losses(params, batch, *args, **options)

  monkeypatch.setattr(step, 'losses', counting)
  # A config that no other test has compiled.
  model = dataclasses.replace(CONFIG, mlp_dim=13)
  config = StepConfig(Objective(model), adamw())
  params = jax.device_get(init_params(jax.random.key(0), model))
  norms = []
  for scheme in SCHEMES.values():
    state = init_state(params, config)
    for rate in (1e-3, 2e-3):  # arrays of jax after arrays of numpy
      state, metrics = run(state, batch, rate, scheme, config)
    norms.append(float(metrics.grad_norm))
  assert traced == [(4, LENGTH)]
  assert len(set(norms)) == len(SCHEMES)  # and they are not the same scheme
  half = jax.tree.map(
    lambda x: np.ascontiguousarray(x[:, : LENGTH // 2]), batch
  )
  short = arrays(PLAIN, LENGTH // 2)
  state = init_state(params, config)
  train_step(state, half, short, np.float32(1), config=config)
  assert traced == [(4, LENGTH), (4, LENGTH // 2)]  # the counter counts


def test_microbatches_make_the_same_step(batch: Batch) -> None:
  whole, metrics = run(new_state(), batch)
  parts = dataclasses.replace(STEP, microbatches=2)
  split, split_metrics = run(new_state(), batch, config=parts)
  for name in ('loss', 'text', 'answers', 'grad_norm'):
    np.testing.assert_allclose(
      getattr(metrics, name), getattr(split_metrics, name), rtol=1e-5
    )
  for a, b in zip(*map(jax.tree.leaves, (whole.params, split.params))):
    # As above: Adam's first step amplifies rounding noise.
    assert np.isclose(a, b, rtol=0, atol=1e-5).mean() > 0.99


def test_what_is_per_row_goes_with_its_microbatch(batch: Batch) -> None:
  positions = np.stack([np.arange(LENGTH) + 5 * row for row in range(4)])
  scheme = Scheme(RopeSpec('default', 4), Temperature('logn', length=4))
  given = scheme.arrays(None, positions)._replace(
    phases=np.stack([arrays().phases] * 4),
    attention_factor=np.array([1.0, 1.1, 1.2, 1.3], np.float32),
  )
  keep = np.random.default_rng(0).random((4, LENGTH)) < 0.7
  controls = Controls(kv_keep=keep, window=np.array([9, 30], np.int32))
  packed = batch._replace(positions=positions.astype(np.int32))
  norms = []
  for count in (1, 2, 4):
    config = dataclasses.replace(STEP, microbatches=count)
    rate = np.float32(0)
    _, metrics = train_step(
      new_state(), packed, given, rate, controls, config=config
    )
    norms.append((float(metrics.loss), float(metrics.grad_norm)))
  np.testing.assert_allclose(norms, norms[:1] * 3, rtol=1e-5)
