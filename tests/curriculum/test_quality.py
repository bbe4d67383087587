"""The controller: bounds for any series, purity, triggers, back-offs."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curriculum.playing import (
  FLOOR,
  LENGTHS,
  STEPS,
  Measure,
  first_growth,
  growth_steps,
  made,
  nothing,
  played,
)
from ntk_jax.curriculum.clock import Clock, Run
from ntk_jax.curriculum.quality import (
  Quality,
  QualityConfig,
  quality_problems,
  quality_schedule,
)
from ntk_jax.curriculum.settings import GrowthConfig
from ntk_jax.curriculum.stage import LengthSchedule, Stage
from ntk_jax.errors import ConfigError

METRICS = (
  'loss',
  'text',
  'answers',
  'near',
  'skipped',
  'probe/loss',
  'probe/gain',
  'probe/ahead',
  'probe/recall',
)


def series(kind: str, rng: np.random.Generator) -> Iterator[Any]:
  """A metric step by step; None is one that is not measured."""
  level = float(rng.choice([0.0, 0.1, 1.0, 3.0]))
  for step in itertools.count():
    yield {
      'none': None,
      'nan': math.nan,
      'constant': level,
      'random': float(rng.standard_normal() + level),
      'falls': 3.0 / (1 + step / 20),
      'grows': 0.02 * step,
      'spikes': level + 50.0 * float(rng.random() < 0.3),
      'infinite': float(rng.choice([math.inf, -math.inf, math.nan, 0.0])),
      'one': 1.0,
    }[kind]


KINDS = (
  *('none', 'nan', 'constant', 'random', 'falls', 'grows'),
  *('spikes', 'infinite', 'one'),
)


def any_measure(kinds: tuple[str, ...], seed: int) -> Measure:
  streams = {
    name: series(kind, np.random.default_rng([seed, i]))
    for i, (name, kind) in enumerate(zip(METRICS, kinds))
  }
  return lambda step, stage: {
    name: value
    for name, stream in streams.items()
    if (value := next(stream)) is not None
  }


def assert_bounded(schedule: Quality, stages: list[Stage]) -> None:
  """Everything that holds whatever was measured.

  Args:
    schedule: of kind 'quality', with the default bounds.
    stages: for each step.
  """
  steps, every = len(stages), schedule.check_every
  nominal = [0.64 * steps * n / sum(LENGTHS[:-1]) for n in LENGTHS[:-1]]
  changes = [i for i in range(1, steps) if stages[i] != stages[i - 1]]
  assert all(step % every == 0 for step in changes)
  assert all(s.length == LENGTHS[-1] for s in stages[int(0.7 * steps) :])
  runs = [list(run) for _, run in itertools.groupby(stages, lambda s: s.begun)]
  for before, run, after in zip([None, *runs], runs, [*runs[1:], None]):
    stage, stay = run[0], len(run)
    k = LENGTHS.index(stage.length)
    assert stage.attempt <= 2
    assert stage.before == LENGTHS[max(0, k - 1)]
    undone = before is not None and stage.attempt > before[0].attempt
    assert undone == (before is not None and before[0].length > stage.length)
    if after is None:
      assert k == len(LENGTHS) - 1
    elif after[0].length < stage.length:  # a spike, found as it settled
      assert after[0].length == stage.before
      assert stay <= schedule.stays.settles[k] + every
    else:
      assert after[0].length == LENGTHS[k + 1]
      if undone:
        assert nominal[k] / 4 <= stay <= nominal[k] / 4 + 2 * every
      else:
        assert nominal[k] / 2 <= stay <= 2 * nominal[k] + every


@settings(max_examples=60, deadline=None)
@given(
  kinds=st.tuples(*[st.sampled_from(KINDS)] * len(METRICS)),
  seed=st.integers(0, 99),
  cut=st.integers(0, STEPS),
)
def test_any_series_is_bounded_and_resumes(
  kinds: tuple[str, ...], seed: int, cut: int
) -> None:
  schedule = made()
  log: list[dict[str, Any]] = []
  measure = any_measure(kinds, seed)

  def logged(step: int, stage: Stage) -> dict[str, Any]:
    log.append(measure(step, stage))
    return log[-1]

  states = played(schedule, logged)
  stages = [schedule.stage(state) for state in states]
  assert_bounded(schedule, stages[:-1])
  # The state is plain JSON, without NaN, and so is a resumed run's.
  text = json.dumps(states[cut], allow_nan=False)
  state = json.loads(text)
  assert state == states[cut]
  assert len(text) < 5_000
  for step in range(cut, STEPS):
    clock = Clock(step + 1, 4096 * (step + 1))
    state = schedule.advance(state, clock, log[step])
    assert state == states[step + 1]
  # The log has null for what is not finite; it gives the same stages, but
  # where plus infinity said that a growth had failed.
  if 'infinite' not in kinds:
    lines = json.loads(json.dumps(log).replace('NaN', 'null'))
    assert played(schedule, lambda step, stage: lines[step]) == states


def test_nothing_measured_leaves_it_to_the_clock() -> None:
  """Twice the nominal stays, until the reserve asks for the rest."""
  schedule = made()
  states = played(schedule, nothing)
  stages = [schedule.stage(state) for state in states]
  assert_bounded(schedule, stages[:-1])
  begun = sorted({stage.begun for stage in stages})
  nominal = [0.64 * STEPS * n / sum(LENGTHS[:-1]) for n in LENGTHS[:-1]]
  assert 0 <= begun[1] - 2 * nominal[0] < schedule.check_every
  # Twice its nominal stay would leave the third stage less than its floor.
  assert 0 <= begun[3] - begun[2] - nominal[2] / 2 < schedule.check_every
  assert 0 <= 0.7 * STEPS - begun[3] < schedule.check_every
  assert [schedule.upcoming(states[i]) for i in (0, *begun[1:])] == [
    *LENGTHS[1:],
    None,
  ]


def test_it_is_a_length_schedule() -> None:
  schedule = made()
  assert isinstance(schedule, LengthSchedule)
  assert schedule.lengths() == LENGTHS
  assert schedule.backs_off
  assert set(schedule.watches) == set(METRICS) - {'loss'}
  assert not made(kind='threshold').backs_off
  assert made(kind='threshold').watches == ('answers',)
  assert hash(schedule) == hash(made())


def test_one_length_is_the_full_one_from_the_start() -> None:
  schedule = made(lengths=(512,))
  states = played(schedule, nothing)
  assert {schedule.stage(s) for s in states} == {Stage(512, 512, 0)}


def test_states_are_not_changed() -> None:
  schedule = made()
  measure = any_measure(('random',) * len(METRICS), 1)
  states = [schedule.start()]
  kept = [json.dumps(states[0])]
  for step in range(STEPS):
    measured = measure(step, schedule.stage(states[-1]))
    clock = Clock(step + 1, 4096 * (step + 1))
    states.append(schedule.advance(states[-1], clock, measured))
    kept.append(json.dumps(states[-1]))
  assert [json.dumps(state) for state in states] == kept


# The simple mode.


def test_the_measured_rule_grows_when_recall_is_learned() -> None:
  """EMA 0.8 of the recall loss below 0.2, 15 of 240 steps at least."""
  config = QualityConfig(check=5 / 240, min_stay=15 / 240)
  schedule = made(config, 'threshold')
  # Learned at step 60; once it is, longer rows are no harder.
  losses = np.where(np.arange(STEPS) < 60, math.log(16), 0.05)
  states = played(schedule, lambda step, stage: {'answers': losses[step]})
  # 0.05 + 2.72 * 0.8^n < 0.2 from n = 13 on: the next check is 75.
  assert growth_steps(schedule, states) == [75, 90, 105]


@pytest.mark.parametrize('seed', range(8))
def test_the_measured_rule_against_a_loop(seed: int) -> None:
  """Losses rise with every growth, and are measured at two steps of three."""
  config = QualityConfig(check=5 / 240, min_stay=15 / 240, reserve=0.05)
  schedule = made(config, 'threshold')
  rng = np.random.default_rng(seed)
  noise, seen = rng.lognormal(0, 0.5, STEPS), rng.random(STEPS) < 2 / 3

  def loss(step: int, begun: int) -> float:
    if not seen[step]:
      return math.nan
    return float(noise[step] * 2.8 * math.exp(-(step - begun) / 12))

  states = played(schedule, lambda s, stage: {'answers': loss(s, stage.begun)})
  begun, average, expected = 0, None, []
  for step in range(STEPS):
    value = loss(step, begun)
    if not math.isnan(value):
      average = value if average is None else 0.8 * average + 0.2 * value
    done = step + 1
    learned = average is not None and average < 0.2
    if learned and done % 5 == 0 and done - begun >= 15 and len(expected) < 3:
      expected.append(done)
      begun, average = done, None
  assert len(expected) == 3
  assert growth_steps(schedule, states) == expected


def test_a_threshold_may_be_one_to_rise_above() -> None:
  config = QualityConfig(watch='probe/recall', threshold=0.9, smoothing=0.0)
  schedule = made(config, 'threshold')
  states = played(schedule, lambda s, stage: {'probe/recall': float(s >= 50)})
  assert 50 < growth_steps(schedule, states)[0] < 60


def test_the_longest_stay_of_the_simple_mode() -> None:
  schedule = made(QualityConfig(max_stay=0.125), 'threshold')
  states = played(schedule, nothing)
  assert growth_steps(schedule, states) == [30, 60, 90]


# Triggers of the controller.


@pytest.mark.parametrize(
  ('trigger', 'names'),
  [
    ('threshold', ('answers',)),
    ('plateau', ('probe/loss',)),
    ('gain', ('probe/gain',)),
    ('ahead', ('probe/ahead', 'probe/recall')),
  ],
)
def test_a_trigger_ends_a_stay_and_nothing_missing_does(
  trigger: str, names: tuple[str, ...]
) -> None:
  """It holds at the floor; without one of its metrics only the clock does."""
  config = QualityConfig(triggers=(trigger,), growing=0.64)
  values = {'answers': 0.1, 'probe/loss': 2.0, 'probe/gain': 0.05}
  values |= {'probe/ahead': 0.0, 'probe/recall': 0.95}
  good = {name: values[name] for name in names}
  assert first_growth(config, lambda step, stage: good) == FLOOR
  by_clock = first_growth(config, nothing)
  assert by_clock > FLOOR
  for name in names:
    for missing in ({}, {name: math.nan}, {name: math.inf}):
      part = {n: v for n, v in good.items() if n != name} | missing
      assert first_growth(config, lambda step, stage, p=part: p) == by_clock


@pytest.mark.parametrize(
  ('trigger', 'bad'),
  [
    ('threshold', {'answers': 0.3}),
    ('gain', {'probe/gain': 0.01}),  # flat, but nothing is gained
    ('ahead', {'probe/ahead': 0.01, 'probe/recall': 1.0}),
    ('ahead', {'probe/ahead': -0.1, 'probe/recall': 0.8}),
  ],
)
def test_what_is_not_good_enough_does_not_trigger(
  trigger: str, bad: dict[str, float]
) -> None:
  config = QualityConfig(triggers=(trigger,))
  assert first_growth(config, lambda step, stage: bad) > FLOOR


@pytest.mark.parametrize('sign', [-1, 1])
def test_what_still_moves_is_no_plateau(sign: int) -> None:
  """A loss falls and a gain rises by 0.2 per e-fold, until step 700."""

  def measure(step: int, stage: Stage) -> dict[str, float]:
    value = 2 + sign * 0.2 * math.log(min(step + 1, 700))
    return {'probe/loss' if sign < 0 else 'probe/gain': value}

  trigger = 'plateau' if sign < 0 else 'gain'
  step = first_growth(QualityConfig(triggers=(trigger,)), measure)
  assert 700 < step < 1_400


def test_a_trigger_has_to_hold_twice_in_a_row() -> None:
  config = QualityConfig(triggers=('ahead',))
  schedule = made(config, steps=2_000, lengths=(64, 128))

  def at(checks: set[int]) -> Measure:
    return lambda step, stage: {
      'probe/ahead': -1.0 if (step + 1) // 10 in checks else 1.0,
      'probe/recall': 1.0,
    }

  assert schedule.check_every == 10
  assert first_growth(config, at(set(range(0, 999, 2)))) > 1_200
  assert first_growth(config, at({70, 71})) == 710
  three = QualityConfig(triggers=('ahead',), hysteresis=3)
  assert first_growth(three, at({70, 71})) > 1_200


def test_stale_values_do_not_trigger() -> None:
  config = QualityConfig(triggers=('threshold',))
  assert (
    first_growth(
      config, lambda step, stage: {'answers': 0.1} if step < 500 else {}
    )
    > FLOOR
  )


def test_only_due_probes_are_read() -> None:
  config = QualityConfig(triggers=('plateau', 'gain', 'ahead'))
  schedule = made(config)
  measure = any_measure(('random',) * len(METRICS), 5)

  def run(only_due: bool) -> list[Stage]:
    states = [schedule.start()]
    for step, measured in enumerate(lines, 1):
      due = schedule.due(states[-1], step)
      if step % schedule.check_every or (only_due and not due):
        measured = {k: v for k, v in measured.items() if 'probe' not in k}
      clock = Clock(step, 4096 * step)
      states.append(schedule.advance(states[-1], clock, measured))
    return [schedule.stage(state) for state in states]

  lines = [measure(step, Stage(1, 1, 0)) for step in range(STEPS)]
  assert all(s == 1 for s in schedule.stays.strides)
  assert run(True) == run(False)
  assert not schedule.due(schedule.start(), schedule.check_every)  # warm


# Noise.


def early_growths(runs: int, noise: float) -> int:
  """Runs that a falling loss under free noise lets grow before the clock."""
  steps, lengths = 2_000, (64, 128)
  schedule = made(
    QualityConfig(triggers=('plateau',)), steps=steps, lengths=lengths
  )
  by_clock = growth_steps(schedule, played(schedule, nothing, steps))
  early = 0
  for seed in range(runs):
    errors = noise * np.random.default_rng(seed).standard_normal(steps)

    def measure(step: int, stage: Stage, e: Any = errors) -> dict[str, float]:
      if (step + 1) % schedule.check_every:
        return {}
      return {'probe/loss': 5 - 0.2 * math.log(step + 1) + float(e[step])}

    states = played(schedule, measure, steps)
    early += growth_steps(schedule, states) != by_clock
  return early


@pytest.mark.parametrize('noise', [0.01, 0.1, 1.0])
def test_noise_does_not_let_a_falling_loss_grow(noise: float) -> None:
  assert early_growths(3, noise) == 0


@pytest.mark.slow
@pytest.mark.parametrize('noise', [0.01, 0.1, 1.0])
def test_noise_does_so_in_under_a_hundredth_of_runs(noise: float) -> None:
  assert early_growths(1_000, noise) < 10


# Settings.


def test_wrong_settings_are_refused_together() -> None:
  config = QualityConfig(threshold=math.nan, reserve=1.0)
  growth = GrowthConfig('quality', LENGTHS, quality=config)
  run = Run(STEPS, 4096, 10**6, 512)
  assert len(quality_problems(growth, run, METRICS)) == 2
  with pytest.raises(ConfigError, match='threshold is nan.*reserve is 1'):
    quality_schedule(growth, run)
  growth = GrowthConfig('threshold', LENGTHS, quality=QualityConfig(watch='x'))
  assert 'unknown watched metric' in quality_problems(growth, run, METRICS)[0]
