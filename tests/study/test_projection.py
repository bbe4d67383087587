"""Minutes before they pass: prices of steps, and what fits into a limit."""

from __future__ import annotations

import dataclasses

import pytest

from ntk_jax.errors import ConfigError
from ntk_jax.study.arms import ARMS, arms_named
from ntk_jax.study.projection import (
  Prices,
  Projection,
  prices,
  projection,
  steps_within,
)
from ntk_jax.study.settings import StudyConfig

CONFIG = StudyConfig(lengths=(64, 128, 256, 512))
COST = Prices(
  {64: 0.2, 128: 0.25, 256: 0.3, 512: 0.4}, dict.fromkeys(CONFIG.lengths, 3.0)
)


def test_prices_are_medians_without_the_first_step() -> None:
  each = [(64, 5.0), (64, 1.0), (64, 9.0), (64, 1.0), (128, 4.0), (128, 2.0)]
  lines, clock = [], 0.0
  for length, seconds in each:
    clock += seconds
    lines.append({'length': length, 'seconds': clock})
  found = prices(lines)
  assert found.step == {64: 1.0, 128: 2.0}
  assert found.first == {64: 5.0, 128: 4.0}


def test_shares_of_every_arm_are_of_its_lengths() -> None:
  for arm in ARMS:
    shares = arm.shares(CONFIG)
    assert sum(shares.values()) == pytest.approx(1)
    assert set(shares) <= set(CONFIG.lengths)


def test_more_of_everything_takes_longer() -> None:
  arms = arms_named(('steps',))
  found = projection(CONFIG, arms, COST)
  constant, steps = (projection(CONFIG, (arm,), COST) for arm in arms)
  assert found.minutes(240) == pytest.approx(
    constant.minutes(240) + steps.minutes(240)
  )
  assert constant.per_step > steps.per_step
  assert steps.fixed > constant.fixed  # four compiles, not one
  twice = dataclasses.replace(CONFIG, seeds=6)
  assert projection(twice, arms, COST).minutes(240) == pytest.approx(
    2 * found.minutes(240)
  )


def test_steps_fit_into_the_minutes() -> None:
  """The most multiples of the probe's interval that do."""
  found = Projection(fixed=120.0, per_step=3.0)
  config = dataclasses.replace(CONFIG, minutes=10.0)
  steps = steps_within(config, found)
  assert steps == 156
  assert found.minutes(steps) <= 10 < found.minutes(steps + config.probe_every)
  assert steps_within(dataclasses.replace(CONFIG, minutes=14.0), found) == 240


def test_too_little_time_is_refused_with_what_it_takes() -> None:
  config = dataclasses.replace(CONFIG, minutes=1.0)
  with pytest.raises(ConfigError, match='minutes is 1: the shortest .* 3 here'):
    steps_within(config, Projection(fixed=120.0, per_step=3.0))
