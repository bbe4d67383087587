"""Growth by quality played through: what its tests share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ntk_jax.curriculum.clock import Clock, Run
from ntk_jax.curriculum.quality import (
  Quality,
  QualityConfig,
  quality_schedule,
)
from ntk_jax.curriculum.settings import GrowthConfig
from ntk_jax.curriculum.stage import Stage

LENGTHS = (64, 128, 256, 512)
STEPS = 240
ALL = QualityConfig(triggers=('threshold', 'plateau', 'gain', 'ahead'))
FLOOR = 640  # of `first_growth`, in steps
Measure = Callable[[int, Stage], dict[str, Any]]


def made(
  config: QualityConfig = ALL,
  kind: str = 'quality',
  steps: int = STEPS,
  lengths: tuple[int, ...] = LENGTHS,
) -> Quality:
  growth = GrowthConfig(kind, lengths, quality=config)
  return quality_schedule(growth, Run(steps, 4096, 10**6, lengths[-1]))


def played(
  schedule: Quality, measure: Measure, steps: int = STEPS
) -> list[Any]:
  """States before each step, and the last: `steps + 1` of them."""
  states = [schedule.start()]
  for step in range(steps):
    measured = measure(step, schedule.stage(states[-1]))
    clock = Clock(step + 1, 4096 * (step + 1))
    states.append(schedule.advance(states[-1], clock, measured))
  return states


def nothing(step: int, stage: Stage) -> dict[str, Any]:
  return {}


def growth_steps(schedule: Quality, states: list[Any]) -> list[int]:
  return sorted({schedule.stage(state).begun for state in states})[1:]


def first_growth(config: QualityConfig, measure: Measure) -> int:
  """Step of the first growth, in a run with a floor of 64 checks."""
  schedule = made(config, steps=2_000, lengths=(64, 128))
  states = played(schedule, measure, 2_000)
  return growth_steps(schedule, states)[0]
