"""What a schedule counts in: steps, tokens, epochs, shares of the run."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

UNITS = ('fraction', 'steps', 'tokens', 'epochs')


@dataclasses.dataclass(frozen=True)
class Run:
  """How long a run is, in everything that a schedule may count.

  Attributes:
    steps: of the whole run.
    step_tokens: that a step reads at the full length, padding included.
    epoch_tokens: of one pass over the packed training rows.
    length: the full one, that of a packed row.
  """

  steps: int
  step_tokens: int
  epoch_tokens: int
  length: int


class Clock(NamedTuple):
  """How far a run is.

  Attributes:
    step: steps done.
    tokens: that they have read, padding included. Not always
      step * step_tokens: a step of fewer tokens counts what it read.
  """

  step: int
  tokens: int


def done(clock: Clock, run: Run, unit: str) -> float:
  """How far a run is, in a unit.

      fraction: step / steps    steps: step
      tokens:   tokens          epochs: tokens / epoch_tokens

  >>> run = Run(steps=100, step_tokens=4096, epoch_tokens=8192, length=512)
  >>> [done(Clock(25, 25 * 4096), run, unit) for unit in UNITS]
  [0.25, 25.0, 102400.0, 12.5]
  """
  if unit == 'fraction':
    return clock.step / run.steps
  if unit == 'steps':
    return float(clock.step)
  if unit == 'tokens':
    return float(clock.tokens)
  return clock.tokens / run.epoch_tokens


def whole(run: Run, unit: str) -> float:
  """A whole run in a unit, when all its steps read as much as the longest.

  >>> run = Run(steps=100, step_tokens=4096, epoch_tokens=8192, length=512)
  >>> [whole(run, unit) for unit in UNITS]
  [1.0, 100.0, 409600.0, 50.0]
  """
  return done(Clock(run.steps, run.steps * run.step_tokens), run, unit)
