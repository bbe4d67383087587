"""How long the stages of growth by quality may stay.

Everything counts in steps of the run, which read the same number of tokens
each unless rows per step are kept. Numbers of steps that hold at full size
(checks 10 steps apart, 200 steps at least, 100 to settle) shrink with a short
run, so that the same settings serve both.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import NamedTuple

from ntk_jax.curriculum.triggers import FEWEST, QualityConfig, rises
from ntk_jax.errors import unknown

_CHECK_STEPS = 10  # checks stand at least so far apart, at full size


class Stays(NamedTuple):
  """Bounds of every stage, in steps; those before the last have them all.

  Attributes:
    check_every: steps between checks; what follows in whole checks is so
      rounded up.
    floors: shortest stay, in whole checks.
    ceilings: longest stay; one check more, as checks fall.
    latest: step at which a stage ends at the latest, in whole checks.
    again: stay after a growth that was undone, in whole checks.
    strides: checks between those whose measurements are read.
    windows: measurements that a slope is taken over.
    settles: steps without tests after a stage has begun, of all stages.
    mixes: steps for which rows may be mixed, of all stages.
  """

  check_every: int
  floors: tuple[int, ...]
  ceilings: tuple[int, ...]
  latest: tuple[int, ...]
  again: tuple[int, ...]
  strides: tuple[int, ...]
  windows: tuple[int, ...]
  settles: tuple[int, ...]
  mixes: tuple[int, ...]


def stays_of(
  config: QualityConfig, kind: str, lengths: tuple[int, ...], steps: int
) -> Stays:
  """Bounds of the stages of a run.

  Args:
    config: settings without problems.
    kind: 'threshold' or 'quality'.
    lengths: of the stages, increasing.
    steps: of the run.

  >>> stays = stays_of(QualityConfig(), 'quality', (512, 1024, 2048), 30_000)
  >>> stays.check_every, stays.floors, stays.ceilings, stays.latest
  (50, (3200, 6400), (12800, 25600), (14600, 21000))
  >>> stays.windows, stays.strides, stays.settles
  ((64, 64), (1, 2), (100, 100, 100))
  """
  growing = lengths[:-1]
  nominal = [steps * config.growing * n / sum(growing) for n in growing]
  ceilings = [config.ceiling * stay for stay in nominal]
  floors = [config.floor * stay for stay in nominal]
  if kind == 'threshold':
    longest = 1.0 if config.max_stay is None else config.max_stay
    nominal = floors = [config.min_stay * steps] * len(growing)
    ceilings = [longest * steps] * len(growing)
  elif min(nominal, default=0.0) >= config.min_steps:
    floors = [max(stay, config.min_steps) for stay in floors]
  every = _check_every(config, min(nominal, default=0.0), steps)
  floors = [_whole(stay, every) for stay in floors]
  deadline = math.floor((1 - config.reserve) * steps / every + 1e-9) * every
  latest = [deadline - sum(floors[k + 1 :]) for k in range(len(floors))]
  strides = [max(1, int(s / (config.checks * every))) for s in nominal]
  full = (1 - config.growing) * steps
  settles = [
    max(1, int(min(config.settle, stay / 10, floor)))
    for stay, floor in zip([*nominal, full], [*floors, steps])
  ]
  return Stays(
    every,
    tuple(floors),
    tuple(math.ceil(stay - 1e-9) for stay in ceilings),
    tuple(latest),
    tuple(_whole(stay / 2, every) for stay in floors),
    tuple(strides),
    tuple(
      max(FEWEST, min(config.window, floor // (every * stride)))
      for floor, stride in zip(floors, strides)
    ),
    tuple(settles),
    tuple(int(config.mix_share * stay) for stay in [*nominal, full]),
  )


def stay_problems(
  config: QualityConfig,
  kind: str,
  lengths: tuple[int, ...],
  steps: int,
  known_metrics: Collection[str],
) -> list[str]:
  """Everything that is wrong with growth by quality in a run, in words.

  Args:
    config: settings.
    kind: 'threshold' or 'quality'.
    lengths: of the stages, increasing.
    steps: of the run.
    known_metrics: names that its steps and probes will measure.

  >>> stay_problems(QualityConfig(), 'threshold', (64, 128), 100, ['loss'])
  ["unknown watched metric 'answers': Allowed: loss"]
  >>> config = QualityConfig(threshold=-1.0, reserve=0.0)
  >>> stay_problems(config, 'threshold', (64, 128), 100, ['answers'])
  ['threshold is -1.0 for answers, which no loss is below, with neither \
max_stay nor reserve: the run would never grow; raise it, or set one of them']
  """
  own = config.problems()
  wrong = own + [
    str(unknown('watched metric', name, sorted(known_metrics)))
    for name in config.metrics(kind)
    if name not in known_metrics and name not in ('near', 'skipped')
  ]
  if own:
    return wrong
  unbounded = kind == 'threshold' and config.max_stay is None
  if unbounded and not config.reserve and not _reachable(config):
    wrong.append(
      f'threshold is {config.threshold} for {config.watch}, which no '
      f'{"accuracy is above" if rises(config.watch) else "loss is below"}, '
      'with neither max_stay nor reserve: the run would never grow; raise it, '
      'or set one of them'
    )
  if steps < 1 or min(lengths, default=0) < 1:
    return wrong
  stays = stays_of(config, kind, lengths, steps)
  if stays.latest and stays.latest[0] < stays.floors[0]:
    wrong.append(
      f'the shortest stays are {sum(stays.floors)} steps together, and the '
      f'full length has to be reached by step {stays.latest[-1]} of {steps}: '
      'lower min_stay, floor or reserve, or have fewer lengths or more steps'
    )
  return wrong


def _reachable(config: QualityConfig) -> bool:
  if rises(config.watch):
    return config.threshold < 1
  return config.threshold > 0


def _check_every(config: QualityConfig, shortest: float, steps: int) -> int:
  if config.check:
    return max(1, round(config.check * steps))
  few = min(_CHECK_STEPS, shortest / FEWEST)
  return max(1, int(max(few, shortest / config.checks)))


def _whole(stay: float, every: int) -> int:
  """Steps of a stay in whole checks, one at least."""
  return max(1, math.ceil(stay / every - 1e-9)) * every
