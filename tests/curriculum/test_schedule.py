"""Schedules by clock as state machines, and against the published rules."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntk_jax.curriculum.clock import UNITS, Clock, Run, done, whole
from ntk_jax.curriculum.pace import SHAPES, Planned, planned
from ntk_jax.curriculum.schedule import (
  LengthSchedule,
  Stage,
  boundary_rate,
  schedule_of,
  stage_rate,
)
from ntk_jax.curriculum.settings import GrowthConfig

STEP_TOKENS = 8192
# A walk takes as long as its run.
WALKS = settings(
  max_examples=60, deadline=None, derandomize=True, database=None
)


def run_of(steps: int, length: int) -> Run:
  return Run(steps, STEP_TOKENS, 10 * STEP_TOKENS, length)


def walk(config: GrowthConfig, run: Run) -> list[tuple[Clock, Stage]]:
  """The clock before every step, and what holds for it."""
  schedule = schedule_of(config, run)
  state, clock, found = schedule.start(), Clock(0, 0), []
  for _ in range(run.steps):
    stage = schedule.stage(state)
    found.append((clock, stage))
    read = config.step_tokens(stage.length, run)
    clock = Clock(clock.step + 1, clock.tokens + read)
    state = schedule.advance(state, clock, {})
  return found


# Settings by name: built within the test, where types are checked by chance.
Case = tuple[dict[str, Any], Run]


@st.composite
def ramps(draw: st.DrawFn) -> Case:
  """The settings of a shape, in any unit and batch, and its run."""
  full = 8 * draw(st.integers(2, 512))
  run = run_of(draw(st.integers(2, 200)), full)
  unit = draw(st.sampled_from(UNITS))
  return {
    'kind': draw(st.sampled_from(SHAPES)),
    'start': draw(st.integers(2, full - 1)),
    'multiple': draw(st.integers(1, 100)),
    'unit': unit,
    'over': draw(st.floats(0.01, 1)) * whole(run, unit),
    'root': draw(st.floats(0.3, 4)),
    'step': draw(st.integers(1, 500)),
    'buckets': draw(st.sampled_from([(), (full // 8, full // 2, full)])),
    'batch': draw(st.sampled_from(['tokens', 'rows'])),
  }, run


@st.composite
def stairs(draw: st.DrawFn) -> Case:
  """Of stages at given times or by shares, doublings, cycles, and their run."""
  count = draw(st.integers(1, 5))
  lengths = tuple(16 * 2**k for k in range(count))
  run = run_of(draw(st.integers(40, 200)), lengths[-1])
  unit = draw(st.sampled_from(UNITS))
  kind = draw(st.sampled_from(['discrete', 'doubling', 'grow_p2', 'constant']))
  spots = st.lists(
    st.floats(0.01, 0.99), min_size=count - 1, max_size=count - 1, unique=True
  )
  shares = sorted(draw(spots)) if draw(st.booleans()) else []
  return {
    'kind': kind,
    'lengths': lengths if kind in ('discrete', 'grow_p2') else (),
    'start': 16 if kind == 'doubling' else None,
    'unit': unit,
    'over': draw(st.floats(0.2, 1)) * whole(run, unit),
    'at': tuple(whole(run, unit) * s for s in shares if kind == 'discrete'),
    'cycles': draw(st.integers(1, 3)),
    'batch': draw(
      st.sampled_from(['tokens', 'rows'][: 1 + (kind != 'grow_p2')])
    ),
    'seed': draw(st.integers(0, 3)),
  }, run


@given(ramps())
@WALKS
def test_a_ramp_rises_in_multiples_to_the_full_length(
  case: Case,
) -> None:
  config, run = GrowthConfig(**case[0]), case[1]
  steps = walk(config, run)
  lengths = [stage.length for _, stage in steps]
  assert lengths == sorted(lengths)
  assert config.start is not None and lengths[0] >= config.start
  assert all(n % config.multiple == 0 or n == run.length for n in lengths)
  for clock, stage in steps:
    if done(clock, run, config.unit) >= config.over:
      assert stage.length == run.length


@given(st.one_of(ramps(), stairs()))
@WALKS
def test_a_stage_says_when_it_began_and_what_was_before(
  case: Case,
) -> None:
  config, run = GrowthConfig(**case[0]), case[1]
  before, begun, last = None, 0, None
  for clock, stage in walk(config, run):
    if config.kind == 'grow_p2':
      assert stage == Stage(stage.length, stage.length, 0)
      continue
    if last is not None and stage.length != last:
      before, begun = last, clock.step
    assert stage == Stage(stage.length, before or stage.length, begun)
    last = stage.length


@given(st.one_of(ramps(), stairs()), st.data())
@WALKS
def test_a_resumed_schedule_goes_on_as_if_never_stopped(
  case: Case, data: st.DataObject
) -> None:
  config, run = GrowthConfig(**case[0]), case[1]
  stop = data.draw(st.integers(0, run.steps))
  schedule = schedule_of(config, run)
  state, clock = schedule.start(), Clock(0, 0)
  for clock, expected in [*walk(config, run), (None, None)]:
    if clock is not None:
      if clock.step:
        state = schedule.advance(state, clock, {})
      if clock.step == stop:
        state = json.loads(json.dumps(state))
        schedule = schedule_of(config, run)  # nothing lives outside the state
      assert schedule.stage(state) == expected


@given(st.one_of(ramps(), stairs()))
@WALKS
def test_a_plan_is_what_a_walk_does(case: Case) -> None:
  config, run = GrowthConfig(**case[0]), case[1]
  if config.kind == 'grow_p2':
    return
  plan = planned(
    config.pace(run), lambda length: config.step_tokens(length, run)
  )
  seen: list[Planned] = []
  for clock, stage in walk(config, run):
    if not seen or stage.length != seen[-1].length:
      seen.append(Planned(*clock, stage.length))
  assert list(plan) == seen


@given(st.one_of(ramps(), stairs()))
@WALKS
def test_states_are_not_changed_and_lengths_are_told(
  case: Case,
) -> None:
  config, run = GrowthConfig(**case[0]), case[1]
  schedule = schedule_of(config, run)
  assert isinstance(schedule, LengthSchedule)
  assert (schedule.watches, schedule.check_every, schedule.backs_off) == (
    (),
    0,
    False,
  )
  state = schedule.start()
  kept = dict(state)
  schedule.advance(state, Clock(run.steps, run.steps * STEP_TOKENS), {})
  assert state == kept
  told = schedule.lengths()
  for _, stage in walk(config, run):
    assert not told or stage.length in told
    assert config.bucket(stage.length, run) in config.row_shapes(run)


def deepspeed(
  step: int, total: int, least: int, most: int, by: int, root: float
) -> int:
  """The rule of DeepSpeed's scheduler as its documentation gives it."""
  share = math.pow(step / total, 1 / root)
  whole_units = int(share * (most - least) + least) // by
  return min(most, max(by * whole_units, by * math.ceil(least / by)))


@pytest.mark.parametrize('root', [1.0, 2.0, 3.0])
@pytest.mark.parametrize(
  ('total', 'least', 'most', 'by'),
  [
    (15000, 8, 1024, 8),
    (3000, 64, 2048, 8),
    (777, 80, 1000, 16),
    (90, 8, 64, 16),
  ],
)
def test_deepspeed_root_and_linear_to_the_token(
  root: float, total: int, least: int, most: int, by: int
) -> None:
  run = run_of(total + 300, most)
  kind = 'linear' if root == 1 else 'root'
  config = GrowthConfig(
    kind, start=least, multiple=by, unit='steps', over=float(total), root=root
  )
  pace = config.pace(run)
  for step in range(run.steps):
    if step < total or most % by == 0:
      expected = deepspeed(step, total, least, most, by, root)
    else:
      expected = most  # where DeepSpeed still waits for a multiple
    assert pace.length(Clock(step, step * STEP_TOKENS)) == expected, step


def test_deepspeed_discrete_to_the_step() -> None:
  difficulty, max_step = [64, 128, 512], [5, 20]
  config = GrowthConfig(
    'discrete',
    tuple(difficulty),
    unit='steps',
    at=tuple(last + 1.0 for last in max_step),
  )
  for clock, stage in walk(config, run_of(40, 512)):
    at = sum(clock.step > last for last in max_step)
    assert stage.length == difficulty[at]


def test_a_late_discrete_schedule_does_not_lag() -> None:
  """One call catches up with any number of stages."""
  config = GrowthConfig(
    'discrete', (64, 128, 256, 512), unit='steps', at=(1.0, 2.0, 3.0)
  )
  schedule = schedule_of(config, run_of(40, 512))
  state = schedule.advance(schedule.start(), Clock(30, 30 * STEP_TOKENS), {})
  assert schedule.stage(state) == Stage(512, 64, 30)


@pytest.mark.parametrize(
  ('start', 'full', 'alpha'),
  [
    (32, 8192, Fraction(1, 8)),
    (8, 8192, Fraction(1, 4)),
    (32, 2048, Fraction(1, 2)),
  ],
)
@pytest.mark.parametrize('kind', ['linear', 'sine', 'exponential', 'step'])
def test_skyladder_windows(
  kind: str, start: int, full: int, alpha: Fraction
) -> None:
  """w(t) of its section 3 and appendix, at many steps."""
  over = (full - start) / alpha
  run = run_of(2 * int(over), full)
  config = GrowthConfig(
    kind, start=start, unit='steps', over=float(over), step=1024
  )
  pace, r = config.pace(run), 1024
  for t in [*range(400), *range(400, run.steps, 37)]:
    x = min(1.0, float(alpha * t / (full - start)))
    ramp = min(full, start + math.floor(alpha * t))
    exact = {
      'linear': ramp,
      'step': max(start, r * (ramp // r)),
      'sine': start + (full - start) * math.sin(math.pi / 2 * x),
      'exponential': start * (full / start) ** x,
    }[kind]
    # Where the formula lands on a whole number, floats may fall below it.
    near = {math.floor(exact + 1e-6), math.floor(exact - 1e-6)}
    allowed = near if kind in ('sine', 'exponential') else {exact}
    assert pace.length(Clock(t, t * STEP_TOKENS)) in allowed, t


@pytest.mark.parametrize(('start', 'full'), [(128, 4096), (64, 1024)])
def test_doubling_spends_what_a_straight_ramp_does(
  start: int, full: int
) -> None:
  """start 2^floor(log2(ramp // start)), in whole numbers only."""
  over = 2000
  config = GrowthConfig('doubling', start=start, unit='steps', over=float(over))
  stays: dict[int, int] = {}
  for clock, stage in walk(config, run_of(2 * over, full)):
    ramp = start + (full - start) * min(Fraction(clock.step, over), 1)
    expected = start * 2 ** ((ramp // start).bit_length() - 1)
    assert stage.length == expected, clock
    stays[stage.length] = stays.get(stage.length, 0) + 1
  if start == 128:
    assert list(stays.values())[:5] == [65, 129, 258, 516, 1032]


def test_tokens_count_as_they_are_read() -> None:
  """Rows constant: short rows read fewer tokens, and growth comes later."""
  run = Run(steps=100, step_tokens=800, epoch_tokens=4000, length=100)
  at: dict[str, Any] = {'unit': 'tokens', 'at': (1000.0, 3000.0)}
  even = GrowthConfig('discrete', (25, 50, 100), **at)
  rows = GrowthConfig('discrete', (25, 50, 100), **at, batch='rows')
  begun = [
    [clock.step for clock, stage in walk(c, run) if stage.begun == clock.step]
    for c in (even, rows)
  ]
  assert begun[0] == [0, 2, 4]  # 800 a step
  assert begun[1] == [0, 5, 10]  # 200 a step to 1000, then 400 to 3000
  clock, stage = walk(rows, run)[-1]
  assert (clock.tokens, stage.length) == (1000 + 2000 + 89 * 800, 100)


def test_a_window_inside_long_rows_reads_whole_steps() -> None:
  """One row shape: a step reads the same, whatever its sequences may see."""
  run = Run(steps=100, step_tokens=800, epoch_tokens=4000, length=100)
  config = GrowthConfig('linear', start=4, buckets=(100,), batch='rows')
  assert {c.tokens - 800 * c.step for c, _ in walk(config, run)} == {0}


@given(st.integers(1, 6), st.integers(30, 300), st.integers(0, 5))
@settings(max_examples=30, deadline=None, derandomize=True, database=None)
def test_grow_p2_uses_each_length_by_its_share(
  count: int, steps: int, seed: int
) -> None:
  lengths = tuple(32 * 2**k for k in range(count))
  run = run_of(steps, lengths[-1])
  config = GrowthConfig('grow_p2', lengths, over=0.8, cycles=2, seed=seed)
  seen = [stage.length for _, stage in walk(config, run)]
  cycling = math.ceil(0.8 * steps - 1e-9)
  uses = [seen[:cycling].count(length) for length in lengths]
  assert max(uses) - min(uses) <= 2  # at most one a cycle
  assert set(seen[cycling:]) <= {lengths[-1]}


def test_what_to_compile_ahead() -> None:
  run = run_of(100, 1024)
  stages = schedule_of(GrowthConfig('discrete', (256, 512, 1024)), run)
  state = {'length': 256, 'before': 256, 'begun': 0}
  assert stages.upcoming(state) == 512
  assert stages.upcoming(state | {'length': 1024}) is None
  ramp = schedule_of(GrowthConfig('linear', start=8, buckets=(256, 1024)), run)
  assert ramp.lengths() == ()
  assert [ramp.upcoming({'length': n}) for n in (8, 256, 257, 1024)] == [
    1024,
    1024,
    None,
    None,
  ]


@pytest.mark.parametrize('kind', ['keep', 'dip', 'rewarm'])
def test_the_learning_rate_comes_back(kind: str) -> None:
  config = GrowthConfig(boundary=kind, boundary_steps=20, boundary_scale=0.3)
  rates = [boundary_rate(config, since) for since in range(40)]
  assert rates == sorted(rates)
  assert rates[20:] == [1.0] * 20
  assert rates[0] == {'keep': 1.0, 'dip': 0.3, 'rewarm': 1 / 20}[kind]
  assert kind == 'keep' or rates[18] < 1
  steps = [b - a for a, b in zip(rates[:19], rates[1:20])]
  assert max(steps) - min(steps) < 1e-12


def test_the_first_stage_has_no_boundary() -> None:
  config = GrowthConfig(boundary='dip', boundary_steps=9, boundary_scale=0.3)
  assert stage_rate(config, Stage(64, 64, 0), 0) == 1.0
  assert stage_rate(config, Stage(64, 32, 50), 50) == 0.3
  assert stage_rate(config, Stage(64, 32, 50, rate=0.5), 70) == 0.5
