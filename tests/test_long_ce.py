"""LongCE: short contexts, weights and gradients against their definitions."""

from __future__ import annotations

import dataclasses
import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from model.oracle import OraclePlan, decoder

from ntk_jax.curriculum.thinning import tokens_seen
from ntk_jax.data.batch import NO_TARGET, Batch
from ntk_jax.errors import ConfigError
from ntk_jax.long_ce import (
  LongCE,
  Pass,
  key_weights,
  long_weights,
  mean_one,
  windowed,
)
from ntk_jax.model import Controls, ModelConfig, Params, init_params
from ntk_jax.model.transformer import hidden_states
from ntk_jax.objective import Objective, control_specs, losses
from ntk_jax.optimizer import adamw
from ntk_jax.rope.spec import RopeSpec
from ntk_jax.scheme import Scheme
from ntk_jax.step import StepConfig, init_state, train_step

CONFIG = ModelConfig(
  vocab=17, dim=8, layers=2, heads=2, kv_heads=1, head_dim=4, mlp_dim=8
)
B, T = 2, 22
HOW = LongCE(short=4, stride=5, gamma=3.0)
SCHEME = Scheme(RopeSpec('default', 4), window=10).arrays(None, np.arange(T))
PLANS = [OraclePlan(np.array([1.0, 1e-2]), window=10)]


def packed() -> Batch:
  """Two rows of documents, some longer than the short context; one padded."""
  rng = np.random.default_rng(0)
  tokens = rng.integers(0, 17, (B, T)).astype(np.int32)
  segments = np.array([[1] * 3 + [2] * 14 + [3] * 5, [1] * 17 + [0] * 5])
  segments = segments.astype(np.int32)
  targets = np.where(segments > 0, rng.integers(0, 17, (B, T)), NO_TARGET)
  targets[0, [2, 16]] = NO_TARGET
  answers = np.zeros((B, T), bool)
  answers[0, 12] = answers[1, 9] = True
  weights = np.where(targets >= 0, rng.random((B, T)), 0).astype(np.float32)
  positions = np.maximum(tokens_seen(segments) - 1, 0)
  return Batch(
    tokens, targets.astype(np.int32), weights, answers, positions, segments
  )


def drawn() -> Params:
  """Parameters of which what is far away matters."""
  params = init_params(jax.random.key(0), CONFIG)
  return jax.tree.map(lambda leaf: 2 * leaf, params)


def nll_by_hand(row: int, i: int, begin: int) -> float:
  """The loss of a target from the tokens begin to i of its row, in float64."""
  batch, at = packed(), slice(begin, i + 1)
  logits = decoder(
    drawn(),
    CONFIG,
    np.asarray(batch.tokens)[row, at],
    PLANS,
    batch.positions[row, at],
    batch.segments[row, at],
  )[-1]
  top = logits.max()
  chosen = logits[batch.targets[row, i]]
  return float(top + np.log(np.exp(logits - top).sum()) - chosen)


def weights_by_hand() -> np.ndarray:
  """Token by token: how much better it is known from all than from some."""
  K, d, batch = HOW.short, HOW.stride or HOW.short, packed()
  found = np.ones((B, T))
  seen = tokens_seen(batch.segments)
  for row in range(B):
    for i in range(K, T):
      if seen[row, i] > K and batch.targets[row, i] >= 0:
        begin = (i - K) // d * d
        assert K < i - begin + 1 <= K + d
        gain = nll_by_hand(row, i, begin) - nll_by_hand(row, i, 0)
        found[row, i] = min(np.exp(gain), HOW.gamma)
  return found


@jax.jit
def weights_of(
  params: Params, batch: Batch, controls: Controls | None = None
) -> jax.Array:
  x, _ = hidden_states(
    params,
    CONFIG,
    batch.tokens,
    batch.positions,
    batch.segments,
    SCHEME,
    controls=controls,
  )
  told = Pass(batch, SCHEME, controls)
  return long_weights(params, CONFIG, told, x, HOW, chunk=7)


def test_weights_are_their_definition_on_packed_rows() -> None:
  batch, wanted = packed(), weights_by_hand()
  found: Any = np.asarray(weights_of(drawn(), batch))
  known = np.asarray(batch.targets) >= 0
  np.testing.assert_allclose(found[known], wanted[known], rtol=2e-4)
  assert (found > 0).all()
  assert (found <= HOW.gamma).all()
  short = tokens_seen(batch.segments) <= HOW.short
  assert (found[short] == 1).all()
  far = known & ~short
  # The case has something to find: below 1, above 1, and capped.
  assert (found[far] < 0.95).any()
  assert ((found[far] > 1.05) & (found[far] < 3)).any()
  assert (found[far] == 3).any()


def test_a_model_that_knows_nothing_weighs_all_alike() -> None:
  params = jax.tree.map(jnp.zeros_like, drawn())
  assert (np.asarray(weights_of(params, packed())) == 1).all()


def test_weights_stay_in_their_bounds() -> None:
  far = jnp.array([0.0, 1e4, 0.0, 3.0])
  near = jnp.array([1e4, 0.0, 0.0, 3.0])
  found = np.asarray(key_weights(far, near, 5.0))
  assert found[0] == 5.0
  assert 0 < found[1] < 1e-30
  assert (found[2:] == 1).all()


def test_a_row_within_the_short_context_costs_nothing() -> None:
  how = LongCE(short=T)
  assert how.windows(T) == 0
  told = Pass(packed(), SCHEME, None)
  ones = long_weights(drawn(), CONFIG, told, jnp.zeros((B * T, 8)), how)
  assert (np.asarray(ones) == 1).all()
  assert ones.shape == (B, T)


def test_windows_hold_what_the_rows_hold() -> None:
  batch = packed()
  rng = np.random.default_rng(0)
  keep, plan = rng.random((B, T)) < 0.5, rng.integers(0, 2, (B, T))
  phases = np.asarray(SCHEME.phases)
  per_row = SCHEME._replace(
    phases=np.stack([phases, phases + 1]),
    attention_factor=np.array([1.0, 2.0], np.float32),
    q_scale=rng.random((B, T)).astype(np.float32),
  )
  told = Pass(batch, per_row, Controls(kv_keep=keep))
  cut: Any = windowed(told, HOW, multiple=4)
  scheme = cut.schemes[0]
  assert cut.batch.tokens.shape == (B * 4, 12)  # 9 filled up to 12
  for row in range(B):
    for w in range(4):
      at = np.arange(5 * w, min(5 * w + 9, T))
      mine, n = 4 * row + w, len(at)
      for name in ('tokens', 'targets', 'positions', 'segments'):
        found = np.asarray(getattr(cut.batch, name))[mine]
        np.testing.assert_array_equal(found[:n], getattr(batch, name)[row, at])
      assert (np.asarray(cut.batch.segments)[mine, n:] == 0).all()
      assert (np.asarray(cut.batch.targets)[mine, n:] == NO_TARGET).all()
      kept = np.asarray(cut.controls.kv_keep)[mine, :n]
      np.testing.assert_array_equal(kept, keep[row, at])
      scale = np.asarray(scheme.q_scale)[mine, :n]
      np.testing.assert_array_equal(scale, per_row.q_scale[row, at])
      np.testing.assert_array_equal(scheme.phases[mine], per_row.phases[row])
      assert scheme.attention_factor[mine] == row + 1
  # Alternatives lie along a dim of their own, for all rows.
  several = SCHEME._replace(
    phases=np.stack([phases] * 3),
    attention_factor=np.ones(3, np.float32),
    q_scale=rng.random((3, T)).astype(np.float32),
  )
  chosen: Any = windowed(Pass(batch, several, Controls(plan=plan)), HOW)
  scheme = chosen.schemes[0]
  assert scheme.phases.shape == several.phases.shape
  assert scheme.q_scale.shape == (3, B * 4, 9)
  np.testing.assert_array_equal(scheme.q_scale[:, 5], several.q_scale[:, 5:14])
  np.testing.assert_array_equal(
    np.asarray(chosen.controls.plan)[5], plan[1, 5:14]
  )


def test_the_default_gives_each_target_k_to_2k_tokens() -> None:
  how = LongCE(short=8)
  for length in (9, 16, 17, 32, 100):
    windows, step = how.windows(length), how.targets(length)
    assert 8 + windows * step >= length > 8 + (windows - 1) * step
    assert step <= 8  # a window's last target sees 8 + step
  assert LongCE(short=8, stride=64).targets(20) == 12  # no longer than the row


@pytest.mark.parametrize(
  ('settings', 'says'),
  [
    ({'short': 0}, 'short is 0'),
    ({'short': 4, 'stride': 0}, 'stride 0'),
    ({'short': 4, 'gamma': 0.0}, 'gamma 0.0'),
    ({'short': 4, 'gamma': float('nan')}, 'gamma nan'),
  ],
)
def test_wrong_settings(settings: dict[str, Any], says: str) -> None:
  with pytest.raises(ConfigError, match=says):
    LongCE(**settings)


OBJECTIVE = Objective(CONFIG, z_loss=0.1, chunk=7)
EMPHASIS = np.random.default_rng(3).random((B, T)).astype(np.float32)


def summed(
  params: Params,
  batch: Batch,
  controls: Controls | None,
  objective: Objective,
) -> Any:
  sums = losses(params, batch, SCHEME, controls, objective=objective)
  return sums.loss, sums


SLOPES = jax.jit(
  jax.value_and_grad(summed, has_aux=True), static_argnames='objective'
)


def test_the_gradient_is_that_of_constant_weights() -> None:
  """Of mean 1 over text, by the batch's weights; answers keep theirs."""
  batch = packed()
  text = np.where(batch.answers, 0, batch.weights).astype(np.float64)
  factors = weights_by_hand() * EMPHASIS
  factors *= text.sum() / (text * factors).sum()
  np.testing.assert_allclose((text * factors).sum() / text.sum(), 1, rtol=1e-12)
  fixed = np.where(batch.answers, batch.weights, text * factors)
  fixed = batch._replace(weights=fixed.astype(np.float32))
  (value, sums), slopes = SLOPES(drawn(), fixed, None, objective=OBJECTIVE)
  plain = SLOPES(drawn(), batch, None, objective=OBJECTIVE)

  long_ce = dataclasses.replace(OBJECTIVE, long_ce=HOW)
  told = Controls(emphasis=EMPHASIS, long_ce=np.bool_(True))
  (found, mine), own = SLOPES(drawn(), batch, told, objective=long_ce)
  np.testing.assert_allclose(found, value, rtol=1e-4)
  for a, b in zip(jax.tree.leaves(own), jax.tree.leaves(slopes)):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * np.abs(b).max())
  # The weights of a step stay what they were, and so does what is reported.
  np.testing.assert_allclose(mine.weight, batch.weights.sum(), rtol=1e-6)
  for name in ('text', 'text_weight', 'answers', 'answers_weight'):
    np.testing.assert_allclose(
      getattr(mine, name), getattr(plain[0][1], name), rtol=1e-5
    )
  assert abs(float(found - plain[0][0])) > 0.01 * float(found)


def test_it_begins_without_another_program() -> None:
  batch, ones = packed(), np.ones((B, T), np.float32)
  long_ce = dataclasses.replace(OBJECTIVE, long_ce=HOW)
  off, on = (
    SLOPES(
      drawn(), batch, Controls(emphasis=ones, long_ce=x), objective=long_ce
    )
    for x in (np.bool_(False), np.bool_(True))
  )
  compiled: Any = SLOPES
  assert compiled._cache_size() <= 3  # one for both, and two above
  plain = SLOPES(drawn(), batch, None, objective=OBJECTIVE)
  np.testing.assert_allclose(off[0][0], plain[0][0], rtol=1e-6)
  for a, b in zip(jax.tree.leaves(off[1]), jax.tree.leaves(plain[1])):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())
  assert abs(float(on[0][0] - off[0][0])) > 1e-3


def program(objective: Objective, length: int, **told: Any) -> str:
  batch = Batch(*(x[:, :length] for x in packed()))
  scheme = SCHEME._replace(q_scale=SCHEME.q_scale[:length])
  run = functools.partial(losses, objective=objective)
  traced = jax.make_jaxpr(run)(drawn(), batch, scheme, Controls(**told))
  return re.sub('0x[0-9a-f]+', '', str(traced))  # addresses of functions


def test_it_is_in_no_program_without_need() -> None:
  """Rows within the short context, and rows with kept tokens, have none."""
  long_ce = dataclasses.replace(OBJECTIVE, long_ce=HOW)
  kept = np.array([[0, 1, 3]] * 2)
  for length, told, needed in (
    (5, {}, True),
    (4, {}, False),
    (5, {'kept': kept}, False),
  ):
    plain = program(OBJECTIVE, length, **told)
    assert (program(long_ce, length, **told) != plain) == needed
  switched = program(long_ce, 5, long_ce=np.bool_(True))
  assert switched.count('cond[') == 1
  assert 'cond[' not in program(long_ce, 5)  # told nothing, it always runs


def test_factors_have_mean_one_by_weight() -> None:
  rng = np.random.default_rng(0)
  weights, factors = rng.random((2, 3, 5)).astype(np.float32)
  weights[0, :2] = 0
  found = np.asarray(mean_one(factors, weights), np.float64)
  np.testing.assert_allclose(found.sum(), weights.sum(), rtol=1e-6)
  some = weights > 0
  ratio = found[some] / (weights * factors)[some]
  np.testing.assert_allclose(ratio, ratio[0], rtol=1e-6)
  assert (found[~some] == 0).all()
  # Factors of nothing but 0, or of no target at all, change nothing.
  np.testing.assert_array_equal(mean_one(0 * factors, weights), weights)
  np.testing.assert_array_equal(mean_one(factors, 0 * weights), 0 * weights)


def test_what_is_of_no_row_goes_to_every_part_and_device() -> None:
  told = Controls(
    window=np.array([3, 9], np.int32),
    emphasis=EMPHASIS,
    long_ce=np.bool_(True),
  )
  specs = control_specs(told)
  assert specs.window == specs.long_ce == PartitionSpec()
  assert specs.emphasis == PartitionSpec(('data', 'fsdp'), None)
  objective = dataclasses.replace(OBJECTIVE, long_ce=HOW)
  config = StepConfig(objective, adamw(), microbatches=2)
  state = jax.eval_shape(lambda: init_state(drawn(), config))
  run = functools.partial(train_step, config=config)
  rate = np.float32(0)
  after, _ = jax.eval_shape(run, state, packed(), SCHEME, rate, told)
  assert jax.tree.structure(after) == jax.tree.structure(state)
