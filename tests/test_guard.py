"""The guard against faults at many steps, alone and around a descent."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntk_jax.errors import ConfigError, NumericsError
from ntk_jax.guard import (
  GuardConfig,
  GuardState,
  forget,
  init_guard,
  judge,
  select,
  stop_if_failing,
)
from ntk_jax.optimizer import adamw, descend, global_norm

CONFIG = GuardConfig()
NAN, INF = float('nan'), float('inf')
judged = jax.jit(judge, static_argnames='config')


def run(
  losses: Iterable[float],
  norms: Iterable[float] | None = None,
  config: GuardConfig = CONFIG,
  state: GuardState | None = None,
) -> tuple[list[bool], GuardState]:
  """The judgement of every step of a run, and the memory after it."""
  losses = list(losses)
  state = init_guard(config) if state is None else state
  verdicts = []
  for loss, norm in zip(losses, norms or [1.0] * len(losses), strict=True):
    good, state = judged(state, loss, norm, config=config)
    verdicts.append(bool(good))
  return verdicts, state


def curve(steps: int, seed: int = 0) -> np.ndarray:
  """A loss that falls as losses do, with noise."""
  noise = np.random.default_rng(seed).normal(scale=0.03, size=steps)
  return 2 + 3.5 * (1 + np.arange(steps)) ** -0.3 + noise


def test_an_ordinary_run_is_left_alone() -> None:
  for seed in range(3):
    norms = np.random.default_rng(seed).lognormal(0.0, 0.3, 300)
    verdicts, state = run(curve(300, seed), norms.tolist())
    assert all(verdicts)
    assert (state.good, state.skipped, state.restarts) == (300, 0, 0)
    kept = curve(300, seed).astype(np.float32)[-CONFIG.window :]
    assert sorted(state.losses.tolist()) == sorted(kept.tolist())


@pytest.mark.parametrize('step', [0, 1, 2, 40, 200])
@pytest.mark.parametrize('bad', [NAN, INF, -INF, 1e6])
@pytest.mark.parametrize('which', ['loss', 'norm'])
def test_one_bad_value_is_one_skip(step: int, bad: float, which: str) -> None:
  losses, norms = curve(300), np.ones(300)
  (losses if which == 'loss' else norms)[step] = bad * (1 + 1e-3)
  verdicts, state = run(losses, norms.tolist())
  assert [k for k, good in enumerate(verdicts) if not good] == [step]
  assert (state.skipped, state.in_a_row, state.spikes) == (1, 0, 0)
  assert np.isfinite(state.losses).all()
  assert np.isfinite(state.norms).all()
  assert max(state.losses.max(), state.norms.max()) < 10


@pytest.mark.parametrize(
  ('step', 'loss', 'norm', 'good'),
  [
    # Before 32 good values: ten times the largest, and the slack.
    (5, 30.0, 1.0, True),
    (5, 60.0, 1.0, False),
    (5, 3.0, 11.9, True),
    (5, 3.0, 12.1, False),
    # Then: mean + 6 sigma, but at least the slack.
    (200, 3.0, 2.9, True),
    (200, 3.0, 3.1, False),
    (200, 4.0, 1.0, False),
  ],
)
def test_what_is_a_spike(
  step: int, loss: float, norm: float, good: bool
) -> None:
  losses, norms = curve(step + 1), np.ones(step + 1)
  losses[step], norms[step] = loss, norm
  verdicts, _ = run(losses, norms.tolist())
  assert verdicts == [True] * step + [good]


def test_the_rule_is_its_equation() -> None:
  """Just above and below `mean + 6 sigma` of the last 128 in float64."""
  losses = 3 + np.random.default_rng(0).normal(scale=0.2, size=177)
  verdicts, state = run(losses)
  assert all(verdicts)
  recent = losses[-128:]
  limit = recent.mean() + 6 * recent.std()
  assert run([limit + 1e-4], state=state)[0] == [False]
  assert run([limit - 1e-4], state=state)[0] == [True]


def test_little_noise_makes_no_spike_of_a_harmless_step() -> None:
  assert run([1e-3] * 60 + [0.19])[0][-1]
  assert not run([1e-3] * 60 + [0.21])[0][-1]


@pytest.mark.parametrize('jump', [0.5, 3.0, 50.0])
def test_a_new_level_is_accepted_after_a_few_skips(jump: float) -> None:
  noise = np.random.default_rng(0).normal(scale=0.02, size=300)
  losses = 2 + noise + jump * (np.arange(300) >= 150)
  verdicts, state = run(losses)
  skipped = [k for k, good in enumerate(verdicts) if not good]
  assert skipped == list(range(150, 150 + CONFIG.patience))
  assert state.restarts == 1
  assert state.good == 300 - 150 - CONFIG.patience
  # The new level is guarded as the old one was.
  again, _ = run([NAN, 2 + jump, 40 * (2 + jump)], state=state)
  assert again == [False, True, False]


def test_a_slow_rise_is_followed() -> None:
  verdicts, _ = run(np.linspace(2, 6, 400))
  assert all(verdicts)


def test_what_breaks_a_limit_is_never_a_new_level() -> None:
  for bad in (NAN, 101.0):
    verdicts, state = run([3.0] * 50 + [bad] * 40)
    assert verdicts == [True] * 50 + [False] * 40
    assert (state.in_a_row, state.restarts) == (40, 0)


def test_what_is_not_finite_says_nothing_about_a_level() -> None:
  spikes = [4.0] * CONFIG.patience
  _, state = run([2.0] * 50 + spikes + [NAN])
  assert (state.restarts, state.good) == (0, 50)
  verdicts, state = run([4.0], state=state)
  assert verdicts == [True]
  assert (state.restarts, state.good) == (1, 1)


def test_a_planned_change_is_forgotten() -> None:
  _, state = run([2.0] * 100 + [NAN])
  assert run([3.0], state=state)[0] == [False]
  verdicts, after = run([3.0, 3.1], state=forget(state))
  assert verdicts == [True, True]
  assert (after.good, after.skipped) == (2, 1)


def test_limits_can_be_lifted() -> None:
  config = GuardConfig(max_loss=None, max_norm=None)
  assert run([1e9], [1e9], config)[0] == [True]
  assert run([INF, NAN], config=config)[0] == [False, False]


def test_the_run_stops_after_skips_in_a_row() -> None:
  _, state = run([3.0, NAN, 3.0] + [NAN] * 9)
  stop_if_failing(state, 11, CONFIG)
  _, state = run([NAN], state=state)
  says = r'step 12: 10 steps in a row were skipped \(11 in all\)'
  with pytest.raises(NumericsError, match=says):
    stop_if_failing(state, 12, CONFIG)


Value = st.one_of(
  st.floats(width=32),
  st.floats(0, 10, width=32),
  st.sampled_from([NAN, INF, -INF, 99.0, 1e3]),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(Value, Value), min_size=1, max_size=60))
def test_any_series(series: list[tuple[float, float]]) -> None:
  """Bad values never enter the memory, and good ones never wait for ever."""
  config = GuardConfig(window=8, settled=4, patience=2, stop_after=5)
  losses, norms = zip(*series)
  verdicts, state = run(losses, norms, config)
  assert np.isfinite(state.losses).all() and (state.losses <= 100).all()
  assert np.isfinite(state.norms).all() and (state.norms <= 1e6).all()
  assert int(state.skipped) == verdicts.count(False)
  calm, _ = run([5.0] * 10, [1.0] * 10, config, state)
  assert any(calm[: config.patience + 1])
  for (loss, norm), good in zip(series, verdicts):
    if good:
      assert np.isfinite(loss) and np.isfinite(norm)
      assert loss <= 100 and norm <= 1e6


# A descent on a quadratic with the guard inside the jitted step.


@functools.partial(jax.jit, donate_argnums=0)
def train_step(state: Any, target: jax.Array) -> tuple[Any, jax.Array]:
  params, optimizer, guard = state
  loss, grads = jax.value_and_grad(lambda p: jnp.mean((p['w'] - target) ** 2))(
    params
  )
  good, guard = judge(guard, loss, global_norm(grads), CONFIG)
  update: Any = adamw().update
  updates, moments = update(grads, optimizer, params)
  new = descend(params, updates, 0.05), moments
  return (*select(good, new, (params, optimizer)), guard), good


def train(targets: np.ndarray) -> tuple[Any, list[bool]]:
  params = {'w': jnp.zeros(3)}
  state: Any = params, adamw().init(params), init_guard(CONFIG)
  verdicts = []
  for target in targets:
    state, good = train_step(state, jnp.asarray(target, jnp.float32))
    verdicts.append(bool(good))
  return state, verdicts


@pytest.mark.parametrize('step', [1, 40, 200])
@pytest.mark.parametrize('bad', [NAN, INF, 1e15])
def test_a_fault_costs_its_own_step_alone(step: int, bad: float) -> None:
  """The run with the fault equals the one that never saw its batch."""
  noise = np.random.default_rng(0).normal(scale=0.1, size=(260, 3))
  targets = np.array([1.0, -2.0, 0.5]) + noise
  faulty = targets.copy()
  faulty[step, 1] = bad
  found, verdicts = train(faulty)
  assert [k for k, good in enumerate(verdicts) if not good] == [step]
  expected, _ = train(np.delete(targets, step, axis=0))
  found = found[0], found[1], found[2]._replace(skipped=0)
  expected = expected[0], expected[1], expected[2]._replace(skipped=0)
  for f, e in zip(jax.tree.leaves(found), jax.tree.leaves(expected)):
    np.testing.assert_array_equal(f, e)


@pytest.mark.parametrize(
  ('config', 'says'),
  [
    (GuardConfig(settled=1), 'settled is 1 with a window of 128'),
    (GuardConfig(window=16), 'settled is 32 with a window of 16'),
    (GuardConfig(patience=0), 'patience is 0'),
    (GuardConfig(patience=10), 'patience is 10 with stop_after 10'),
    (GuardConfig(sigmas=NAN), 'sigmas is nan, must be finite and above 0'),
    (GuardConfig(early=1.0), 'early is 1.0, must be finite and above 1'),
    (GuardConfig(max_loss=-1.0), 'max_loss is -1.0'),
    (GuardConfig(max_norm=INF), 'max_norm is inf'),
  ],
)
def test_a_rule_without_a_meaning_is_refused(
  config: GuardConfig, says: str
) -> None:
  with pytest.raises(ConfigError) as error:
    config.validate()
  assert says in str(error.value)


def test_all_problems_at_once() -> None:
  GuardConfig(max_loss=None, max_norm=None).validate()
  with pytest.raises(ConfigError, match='settled is .*; sigmas is '):
    GuardConfig(settled=0, sigmas=0).validate()
