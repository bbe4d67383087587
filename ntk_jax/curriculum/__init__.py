"""Growing length: schedules, what they count in, and their settings."""

from ntk_jax.curriculum.clock import Clock, Run
from ntk_jax.curriculum.schedule import (
  LengthSchedule,
  Stage,
  boundary_rate,
  schedule_of,
  stage_rate,
)
from ntk_jax.curriculum.settings import GrowthConfig

__all__ = [
  'Clock',
  'GrowthConfig',
  'LengthSchedule',
  'Run',
  'Stage',
  'boundary_rate',
  'schedule_of',
  'stage_rate',
]
