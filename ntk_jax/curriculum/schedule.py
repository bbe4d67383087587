"""Length schedules: state machines that say what holds for the next step."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from ntk_jax.curriculum.clock import Clock, Run
from ntk_jax.curriculum.pace import Pace
from ntk_jax.curriculum.quality import quality_schedule
from ntk_jax.curriculum.settings import BY_QUALITY, GrowthConfig
from ntk_jax.curriculum.stage import LengthSchedule, Stage, State

__all__ = [
  'ByClock',
  'LengthSchedule',
  'Stage',
  'State',
  'boundary_rate',
  'schedule_of',
  'stage_rate',
]


@dataclasses.dataclass(frozen=True)
class ByClock:
  """Length as a pure function of the clock; the state only recalls the last.

  A new stage begins whenever the length changes. Grow-P2 is one stage: its
  lengths come and go, and none of them is a boundary.

  Attributes:
    pace: the length of every moment.
    row_shapes: lengths that rows can have, increasing.
    watches: no metric.
    check_every: 0: the length may change at any step.
    backs_off: never.

  >>> run = Run(steps=70, step_tokens=4096, epoch_tokens=8192, length=1024)
  >>> pace = Pace(run, 'stages', 'steps', lengths=(512, 1024), at=(3.0,))
  >>> schedule = ByClock(pace, (512, 1024))
  >>> state = schedule.start()
  >>> for step in range(4):
  ...   print(step, *schedule.stage(state)[:3], schedule.upcoming(state))
  ...   state = schedule.advance(state, Clock(step + 1, 4096 * (step + 1)), {})
  0 512 512 0 1024
  1 512 512 0 1024
  2 512 512 0 1024
  3 1024 512 3 None
  """

  pace: Pace
  row_shapes: tuple[int, ...]
  watches: tuple[str, ...] = dataclasses.field(default=(), init=False)
  check_every: int = dataclasses.field(default=0, init=False)
  backs_off: bool = dataclasses.field(default=False, init=False)

  def start(self) -> State:
    """The state before step 0."""
    length = self.pace.length(Clock(0, 0))
    return {'length': length, 'before': length, 'begun': 0}

  def advance(
    self, state: State, clock: Clock, measured: Mapping[str, float]
  ) -> State:
    """The state after a step; metrics are not read."""
    del measured
    length = self.pace.length(clock)
    if self.pace.kind == 'grow_p2':
      return {'length': length, 'before': length, 'begun': 0}
    if length <= state['length']:  # a ramp rounds, and must not fall by that
      return state
    return {'length': length, 'before': state['length'], 'begun': clock.step}

  def stage(self, state: State) -> Stage:
    """What holds for the next step."""
    return Stage(state['length'], state['before'], state['begun'])

  def lengths(self) -> tuple[int, ...]:
    """Every length that can occur, increasing; () for a shape, with many."""
    return self.pace.lengths

  def upcoming(self, state: State) -> int | None:
    """The next larger length; of a shape, the next larger row shape.

    A ramp reaches a longer length at almost every step, and what there is to
    compile ahead is a row shape.
    """
    length = state['length']
    if not self.pace.lengths:
      held = next((n for n in self.row_shapes if n >= length), length)
      return next((n for n in self.row_shapes if n > held), None)
    return next((n for n in self.pace.lengths if n > length), None)


def schedule_of(config: GrowthConfig, run: Run) -> LengthSchedule:
  """The schedule that checked settings describe.

  >>> run = Run(steps=70, step_tokens=4096, epoch_tokens=8192, length=1024)
  >>> schedule = schedule_of(GrowthConfig('doubling', start=256), run)
  >>> schedule.lengths(), schedule.watches
  ((256, 512, 1024), ())
  """
  if config.kind in BY_QUALITY:
    return quality_schedule(config, run)
  return ByClock(config.pace(run), config.row_shapes(run))


def boundary_rate(config: GrowthConfig, steps_since_begun: int) -> float:
  """Multiplier of the learning rate in the steps after a growth.

  With u = steps_since_begun / boundary_steps, at most 1:

      keep: 1    dip: scale + (1 - scale) u    rewarm: u + 1 / boundary_steps

  A rewarm begins as the warm-up of a run does, at its first step above 0.
  Optimizer moments are kept by all of them: Adam with b2 <= 0.95 follows a
  jump of the gradients within 30 steps, and needs no dip; with b2 near 0.999
  a dip of 1 / (1 - b2) steps bridges its lag.

  >>> dip = GrowthConfig(boundary='dip', boundary_steps=4, boundary_scale=0.5)
  >>> [boundary_rate(dip, since) for since in range(6)]
  [0.5, 0.625, 0.75, 0.875, 1.0, 1.0]
  >>> warm = GrowthConfig(boundary='rewarm', boundary_steps=4)
  >>> [boundary_rate(warm, since) for since in range(6)]
  [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
  """
  if config.boundary == 'keep' or steps_since_begun >= config.boundary_steps:
    return 1.0
  if config.boundary == 'rewarm':
    return (steps_since_begun + 1) / config.boundary_steps
  u = steps_since_begun / config.boundary_steps
  return config.boundary_scale + (1 - config.boundary_scale) * u


def stage_rate(config: GrowthConfig, stage: Stage, step: int) -> float:
  """Multiplier of the learning rate at a step of a stage.

  The first stage begins with the run's own warm-up, and has no boundary.

  >>> warm = GrowthConfig(boundary='rewarm', boundary_steps=4)
  >>> stage_rate(warm, Stage(512, 512, begun=0), 0)
  1.0
  >>> stage_rate(warm, Stage(1024, 512, begun=30, rate=0.5), 31)
  0.25
  """
  if stage.begun == 0:
    return stage.rate
  return stage.rate * boundary_rate(config, step - stage.begun)
