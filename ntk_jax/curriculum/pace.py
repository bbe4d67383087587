"""Length by the clock: which length a step has, and when each begins."""

from __future__ import annotations

import bisect
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ntk_jax.curriculum import shapes
from ntk_jax.curriculum.clock import Clock, Run, done
from ntk_jax.curriculum.cycles import cycled

SHAPES = ('linear', 'root', 'exponential', 'cosine', 'sine', 'step')


@dataclasses.dataclass(frozen=True)
class Pace:
  """A length for every moment of a run, with all settings resolved.

  A shape has the full length from `over` on, whatever multiples there are;
  DeepSpeed's rule waits until a multiple above the full length is due. Its
  steps count from 1, these from 0.

  Attributes:
    run: that it is for.
    kind: one of SHAPES, 'stages' (each of `lengths` from its time on) or
      'grow_p2' (cycles through `lengths`, then the longest).
    unit: of `over` and `at`.
    over: when the full length is reached; not read by 'stages'.
    start: the first length of a shape.
    multiple: lengths of a shape are multiples of it, but for the full one.
    root: of 'root'.
    step: height of a stair of 'step'.
    lengths: of 'stages' and 'grow_p2', increasing, the last the full one.
    at: when each of them after the first begins ('stages').
    cycles: of 'grow_p2'.
    seed: of 'grow_p2'.

  >>> run = Run(steps=100, step_tokens=4096, epoch_tokens=8192, length=1024)
  >>> ramp = Pace(run, 'linear', over=0.5, start=64, multiple=64)
  >>> [ramp.length(Clock(step, step * 4096)) for step in (0, 10, 25, 49, 50)]
  [64, 256, 512, 960, 1024]
  """

  run: Run
  kind: str
  unit: str = 'fraction'
  over: float = 1.0
  start: int = 1
  multiple: int = 1
  root: float = 2.0
  step: int = 1
  lengths: tuple[int, ...] = ()
  at: tuple[float, ...] = ()
  cycles: int = 1
  seed: int = 0

  def length(self, clock: Clock) -> int:
    """The length of the next step, a pure function of the clock before it."""
    if self.kind == 'grow_p2':
      return self._cycled(clock.step)
    far = done(clock, self.run, self.unit)
    if self.kind == 'stages':
      return self.lengths[bisect.bisect_right(self.at, far)]
    x, full = far / self.over, self.run.length
    if x >= 1:
      return full
    return shapes.snapped(self._raw(x), self.start, full, self.multiple)

  def _raw(self, x: float) -> float:
    start, full = self.start, self.run.length
    match self.kind:
      case 'root':
        return shapes.root_length(x, start, full, self.root)
      case 'exponential':
        return shapes.exponential_length(x, start, full)
      case 'cosine':
        return shapes.cosine_length(x, start, full)
      case 'sine':
        return shapes.sine_length(x, start, full)
      case 'step':
        return shapes.stepwise_length(x, start, full, self.step)
    return shapes.linear_length(x, start, full)

  def _cycled(self, step: int) -> int:
    count, steps = len(self.lengths), self.growing_steps
    if step >= steps:
      return self.lengths[-1]
    return self.lengths[cycled(step, steps, self.cycles, count, self.seed)]

  @functools.cached_property
  def growing_steps(self) -> int:
    """Steps before `over`, each of them as long as the longest."""
    run = self.run

    def far(step: int) -> float:
      return done(Clock(step, step * run.step_tokens), run, self.unit)

    return bisect.bisect_left(range(run.steps + 1), self.over, key=far)


class Planned(NamedTuple):
  """One length of a plan.

  Attributes:
    step: at which it begins.
    tokens: read by then.
    length: the length.
  """

  step: int
  tokens: int
  length: int


def planned(
  pace: Pace, step_tokens: Callable[[int], int]
) -> tuple[Planned, ...]:
  """Every length that a run will have, with the step at which it begins.

  Args:
    pace: one that never shrinks (every kind but 'grow_p2').
    step_tokens: what a step of a length reads.

  >>> run = Run(steps=10, step_tokens=4096, epoch_tokens=8192, length=1024)
  >>> pace = Pace(run, 'stages', 'tokens', lengths=(512, 1024), at=(6e3,))
  >>> [tuple(one) for one in planned(pace, lambda length: 4 * length)]
  [(0, 0, 512), (3, 6144, 1024)]
  """
  found, clock = [], Clock(0, 0)
  while clock.step < pace.run.steps:
    length = pace.length(clock)
    found.append(Planned(*clock, length))
    each = step_tokens(length)
    stay = _stay(pace, clock, each)
    clock = Clock(clock.step + stay, clock.tokens + stay * each)
  return tuple(found)


def plan_problems(
  plan: Sequence[Planned],
  run: Run,
  lengths: Sequence[int],
  boundary_steps: int = 0,
) -> list[str]:
  """What is wrong with a plan, which shows only once every step is laid out.

  Args:
    plan: of `planned`.
    run: that it is for.
    lengths: that it should have; () for a shape, which need only arrive.
    boundary_steps: that each stage after the first should last at least.

  >>> run = Run(steps=10, step_tokens=4096, epoch_tokens=8192, length=1024)
  >>> plan = (Planned(0, 0, 512), Planned(3, 6144, 1024))
  >>> plan_problems(plan, run, (512, 1024), boundary_steps=7)
  []
  >>> print(*plan_problems(plan, run, (512, 768, 1024)))
  768 of the lengths would get no step of the 10: let growth take longer, or \
begin them earlier or further apart
  """
  reached = {one.length for one in plan}
  if run.length not in reached:
    return [
      f'the run ends at length {plan[-1].length}, before the full one, '
      f'{run.length}, is trained: let growth end earlier (over, at)'
    ]
  if missed := [n for n in lengths if n not in reached]:
    return [
      f'{", ".join(map(str, missed))} of the lengths would get no step of the '
      f'{run.steps}: let growth take longer, or begin them earlier or further '
      'apart'
    ]
  ends = [*(one.step for one in plan[1:]), run.steps]
  stays = [(end - one.step, one.length) for end, one in zip(ends, plan)]
  stay, length = min(stays[1:], default=(boundary_steps, 0))
  if stay < boundary_steps:
    return [
      f'boundary_steps is {boundary_steps}, longer than the {stay} steps at '
      f'length {length}: lower it, or make fewer stages (a larger multiple)'
    ]
  return []


def _stay(pace: Pace, clock: Clock, each: int) -> int:
  """Steps from here to the next length, or to the end of the run."""
  length, left = pace.length(clock), pace.run.steps - clock.step

  def longer(n: int) -> bool:
    after = Clock(clock.step + n, clock.tokens + n * each)
    return pace.length(after) > length

  high = 1  # the next length is near on a ramp, far in a stage
  while high < left and not longer(high):
    high *= 2
  near = range(high // 2 + 1, min(high, left))
  return near.start + bisect.bisect_left(near, True, key=longer)
