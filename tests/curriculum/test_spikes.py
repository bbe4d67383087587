"""Spikes after a growth: what is one, and how it is undone."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from curriculum.playing import (
  FLOOR,
  LENGTHS,
  STEPS,
  Measure,
  first_growth,
  made,
  played,
)
from ntk_jax.curriculum.quality import QualityConfig
from ntk_jax.curriculum.stage import Stage


def spiking(times: int) -> Measure:
  """Text at 2 nats; `near` jumps after each of so many first growths."""
  grown: list[tuple[int, int]] = []

  def measure(step: int, stage: Stage) -> dict[str, float]:
    new = (stage.length, stage.begun)
    if stage.length > 64 and new not in grown:
      grown.append(new)
    spike = stage.length > 64 and grown.index(new) < times
    return {'text': 2.0, 'near': 2.5 if spike else 2.05}

  return measure


@pytest.mark.parametrize('times', [0, 1, 2, 3])
def test_a_spike_undoes_a_growth_at_most_twice(times: int) -> None:
  schedule = made(QualityConfig(ceiling=1.0))
  states = played(schedule, spiking(times))
  stages = [schedule.stage(state) for state in states]
  runs = [next(run) for _, run in itertools.groupby(stages, lambda s: s.begun)]
  found = [(s.length, s.attempt, s.rate) for s in runs]
  undone = min(times, 2)
  back = [(64, n + 1, 1.0) for n in range(undone)]
  again = [(128, n + 1, 0.5 if n == 1 else 1.0) for n in range(undone)]
  rate = 0.5 if undone == 2 else 1.0
  assert found == [
    (64, 0, 1.0),
    (128, 0, 1.0),
    *(x for pair in zip(back, again) for x in pair),
    (256, 0, rate),
    (512, 0, rate),
  ]


def test_rows_are_mixed_after_a_growth_was_undone() -> None:
  """A quarter, then half of the rows, over a fifth of the nominal stay."""
  config = QualityConfig(ceiling=1.0, mix_share=0.5)
  schedule = made(config)
  stages = [schedule.stage(s) for s in played(schedule, spiking(1))]
  shares = [s.full_share for s in stages if (s.length, s.attempt) == (128, 1)]
  nominal = 0.64 * STEPS * 2 / 7
  every = schedule.check_every
  assert shares == sorted(shares)
  assert abs(shares.count(0.25) - nominal / 4) <= every
  assert abs(shares.count(0.5) - nominal / 4) <= every
  assert {s.full_share for s in stages if s.attempt == 0} == {1.0}
  mixed = made(QualityConfig(ceiling=1.0, mix=True))
  stages = [mixed.stage(s) for s in played(mixed, spiking(0))]
  for length, part in zip(LENGTHS[:-1], (0, 2 / 7, 4 / 7)):
    half = sum(s.full_share == 0.5 for s in stages if s.length == length)
    assert abs(half - 0.2 * 0.64 * STEPS * part) <= every


@pytest.mark.parametrize(
  ('near', 'undone'),
  [
    (math.nan, False),
    (2.09, False),  # the slack is a tenth of a nat
    (2.2, True),
    (math.inf, True),
    (None, False),
  ],
)
def test_what_makes_a_spike(near: float | None, undone: bool) -> None:
  schedule = made(QualityConfig(ceiling=1.0))
  states = played(schedule, lambda s, stage: {'text': 2.0, 'near': near})
  attempts = {schedule.stage(state).attempt for state in states}
  assert (max(attempts) > 0) == undone


def test_the_level_before_a_growth_outlives_its_undoing() -> None:
  schedule = made(QualityConfig(ceiling=1.0))
  spikes = spiking(2)

  def measure(step: int, stage: Stage) -> dict[str, float]:
    found = spikes(step, stage)
    return found if stage.length > 64 or not stage.begun else {}

  stages = [schedule.stage(s) for s in played(schedule, measure)]
  assert max(stage.attempt for stage in stages) == 2


def test_noise_before_a_growth_widens_what_is_no_spike() -> None:
  rng = np.random.default_rng(0)
  noise = 0.3 * rng.standard_normal(STEPS)
  schedule = made(QualityConfig(ceiling=1.0))
  states = played(
    schedule, lambda s, stage: {'text': 2.0 + noise[s], 'near': 2.4}
  )
  assert {schedule.stage(state).attempt for state in states} == {0}


def test_skipped_steps_count_as_a_spike_and_their_values_as_nothing() -> None:
  schedule = made(QualityConfig(ceiling=1.0))

  def measure(step: int, stage: Stage) -> dict[str, float]:
    skipped = float(stage.length > 64)
    return {'text': 90.0 if skipped else 2.0, 'skipped': skipped}

  states = played(schedule, measure)
  assert max(schedule.stage(state).attempt for state in states) == 2
  config = QualityConfig(triggers=('threshold',), back_offs=0)
  assert (
    first_growth(config, lambda step, stage: {'answers': 0.1, 'skipped': 1.0})
    > FLOOR
  )


def test_without_room_before_the_reserve_nothing_is_undone() -> None:
  """By the clock alone the full length comes as late as it may."""
  schedule = made()

  def measure(step: int, stage: Stage) -> dict[str, float]:
    spike = stage.length == LENGTHS[-1]
    return {'text': 2.0, 'near': 9.0 if spike else 2.0}

  stages = [schedule.stage(s) for s in played(schedule, measure)]
  assert {s.attempt for s in stages} == {0}
  early = made(QualityConfig(ceiling=1.0, reserve=0.1))
  stages = [early.stage(s) for s in played(early, measure)]
  assert max(s.attempt for s in stages) >= 1
