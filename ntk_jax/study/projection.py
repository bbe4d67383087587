"""How long a study takes, from a few timed steps of each row shape."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from ntk_jax.errors import ConfigError
from ntk_jax.study.arms import Arm
from ntk_jax.study.curves import Lines
from ntk_jax.study.settings import FEWEST_STEPS, StudyConfig

TIMED_STEPS = 5  # of each shape; the first waits for the compiler
_FORWARD = 1 / 3  # of a step's work: backward is twice as much
_OF_A_RUN = 3.0  # seconds: text read and packed, checkpoints
_OVERHEAD = 1.05  # what no step shows


@dataclasses.dataclass(frozen=True)
class Prices:
  """What things cost on this machine, in seconds on the clock.

  Attributes:
    step: a step of rows of each length.
    first: the first step of each length, which waits for the compiler.
  """

  step: dict[int, float]
  first: dict[int, float]

  def plain(self) -> dict[str, dict[str, float]]:
    """As a JSON-able mapping."""
    return {
      name: {str(k): round(v, 4) for k, v in getattr(self, name).items()}
      for name in ('step', 'first')
    }


def prices(lines: Lines) -> Prices:
  """Prices from the lines of a run that took some steps at each length.

  >>> lines = [
  ...   {'length': n, 'seconds': s}
  ...   for n, s in [(64, 3.0), (64, 3.25), (64, 3.5), (128, 6.5), (128, 7.0)]]
  >>> prices(lines)
  Prices(step={64: 0.25, 128: 0.5}, first={64: 3.0, 128: 3.0})
  """
  each = np.diff([line['seconds'] for line in lines], prepend=0.0)
  by_length: dict[int, list[float]] = {}
  for line, seconds in zip(lines, each):
    by_length.setdefault(int(line['length']), []).append(float(seconds))
  return Prices(
    {n: float(np.median(some[1:])) for n, some in by_length.items()},
    {n: some[0] for n, some in by_length.items()},
  )


@dataclasses.dataclass(frozen=True)
class Projection:
  """Seconds of a study of some number of steps: `fixed + steps * per_step`."""

  fixed: float
  per_step: float

  def minutes(self, steps: int) -> float:
    """Of a study whose arms take so many steps each."""
    return (self.fixed + steps * self.per_step) / 60

  def affordable(self, minutes: float) -> int:
    """The most steps that stay within so many minutes."""
    return math.floor((60 * minutes - self.fixed) / self.per_step)


def projection(
  config: StudyConfig, arms: Sequence[Arm], cost: Prices
) -> Projection:
  """What all arms and seeds cost together.

  >>> from ntk_jax.study.arms import arms_named
  >>> config = StudyConfig(lengths=(64, 128), tokens_per_step=512, seeds=1)
  >>> cost = Prices({64: 0.25, 128: 0.5}, {64: 3.0, 128: 3.0})
  >>> found = projection(config, arms_named(('constant',)), cost)
  >>> round(found.minutes(240), 3), found.affordable(2.0)
  (2.485, 190)
  """
  held_out = _FORWARD * cost.step[config.full] / config.tokens_per_step
  # A probe reads its rows twice: as text, and with questions in it.
  probe = 2 * held_out * config.probe_rows * config.full
  scoring = 2 * held_out * config.rows * config.full
  fixed = per_step = 0.0
  for arm in arms:
    shares = arm.shares(config)
    step = sum(share * cost.step[n] for n, share in shares.items())
    per_step += arm.work * step + probe / config.probe_every
    fixed += arm.programs * sum(cost.first[n] for n in shares)
    fixed += _OF_A_RUN + scoring
  scale = _OVERHEAD * config.seeds
  return Projection(scale * fixed, scale * per_step)


def steps_within(config: StudyConfig, found: Projection) -> int:
  """Steps of every arm: those asked for, or as many as there is time for.

  Raises:
    ConfigError: if the time is too short for any study.

  >>> config = StudyConfig(minutes=10.0)
  >>> steps_within(config, Projection(60.0, 1.0))
  240
  >>> steps_within(config, Projection(60.0, 4.0))
  132
  """
  steps = config.steps
  if found.minutes(steps) > config.minutes:
    steps = found.affordable(config.minutes)
    steps -= steps % config.probe_every  # the last step has a probe
  if steps < min(FEWEST_STEPS, config.steps) or steps < config.probe_every:
    least = found.minutes(max(FEWEST_STEPS, config.probe_every))
    raise ConfigError(
      f'minutes is {config.minutes:g}: the shortest study of these arms and '
      f'seeds takes {math.ceil(least)} here; give it more, or name fewer arms '
      'or seeds'
    )
  return steps
