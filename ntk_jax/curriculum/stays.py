"""How long the stages of growth by quality may stay, and its settings.

Everything counts in steps of the run, which read the same number of tokens
each unless rows per step are kept. Numbers of steps that hold at full size
(checks 10 steps apart, 200 steps at least, 100 to settle) shrink with a short
run, so that the same settings serve both.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection
from typing import NamedTuple

from ntk_jax.errors import unknown

KINDS = ('threshold', 'quality')
TRIGGERS = ('threshold', 'plateau', 'gain', 'ahead')
_CHECK_STEPS = 10  # checks stand at least so far apart, at full size
_FEWEST = 8  # checks of the shortest stay, and values of a slope


@dataclasses.dataclass(frozen=True)
class QualityConfig:
  """When growth by quality grows; kinds 'threshold' and 'quality'.

  Kind 'threshold' grows as soon as the smoothed watched metric is below its
  threshold and a stage has stayed `min_stay`. Kind 'quality' has a schedule as
  its prior: `growing` of the run is shared out to all stages but the last in
  proportion to their lengths, and what is measured may only bend a stay
  between `floor` and `ceiling` times its share. Both reach the full length
  before the last `reserve` of the run, whatever is measured.

  Attributes:
    watch: metric of the trigger 'threshold', in nats where it is a loss; one
      whose name ends in 'recall' has to rise above it.
    threshold: of the watched metric.
    smoothing: share that the average of it keeps at a step.
    triggers: what lets 'quality' grow: 'threshold'; 'plateau' of
      `flattens`; 'gain', the model gains `gain` nats by more context and no
      more than before; 'ahead', the next length costs nothing and recall at
      this one is `recall` or better.
    flattens: metric whose plateau is looked for.
    plateau: nats per e-fold of tokens below which it is flat.
    doubt: 1.645 standard errors above which a slope says nothing.
    gain: nats that the second half of the context has to bring.
    gain_plateau: rise of the gain per e-fold below which it is flat.
    recall: accuracy at this length that 'ahead' asks for.
    hysteresis: checks in a row at which a trigger of 'quality' has to hold.
    min_stay: least share of the run of each stage, of kind 'threshold'.
    max_stay: most of it, of that kind; None leaves it to the reserve.
    growing: share of the run that nominal stays take, of kind 'quality'.
    floor: shortest stay, in nominal stays.
    ceiling: longest.
    reserve: share of the run that is spent at the full length at least.
    checks: in a nominal stay, where they are 10 steps apart or more.
    check: share of the run between checks; 0 chooses by `checks`.
    window: checks that a slope is taken over; fewer if a floor has fewer.
    min_steps: least stay where every nominal stay is as long.
    settle: steps after a growth without tests, at most a tenth of the nominal
      stay; 1 / (1 - beta2) of Adam or more.
    spike: nats above the level before a growth that make a spike, if
    spike_sigmas: standard deviations of that level are less.
    back_offs: growths that are undone in each stage; 0 undoes none.
    mix: whether every growth begins with half of the rows at the length
      before.
    mix_share: part of the nominal stay for which rows are mixed.
  """

  watch: str = 'answers'
  threshold: float = 0.2
  smoothing: float = 0.8
  triggers: tuple[str, ...] = ('threshold', 'plateau')
  flattens: str = 'probe/loss'
  plateau: float = 0.05
  doubt: float = 0.1
  gain: float = 0.02
  gain_plateau: float = 0.01
  recall: float = 0.9
  hysteresis: int = 2
  min_stay: float = 0.0625
  max_stay: float | None = None
  growing: float = 0.64
  floor: float = 0.5
  ceiling: float = 2.0
  reserve: float = 0.3
  checks: int = 128
  check: float = 0.0
  window: int = 64
  min_steps: int = 200
  settle: int = 100
  spike: float = 0.1
  spike_sigmas: float = 6.0
  back_offs: int = 2
  mix: bool = False
  mix_share: float = 0.2

  def problems(self) -> list[str]:
    """What of it no run can use, in words.

    >>> QualityConfig(threshold=float('nan'), reserve=1.0).problems()
    ['threshold is nan, must be finite', 'reserve is 1.0, must be in [0, 1)']
    """
    wrong = []
    if not math.isfinite(self.threshold):
      wrong.append(f'threshold is {self.threshold}, must be finite')
    for name, least, most, ends in _RANGES:
      value = getattr(self, name)
      inside = least <= value <= most and math.isfinite(value)
      if ends[0] == '(':
        inside = inside and value > least
      if ends[1] == ')':
        inside = inside and value < most
      if not inside:
        wrong.append(
          f'{name} is {value}, must be in {ends[0]}{least:g}, {most:g}{ends[1]}'
        )
    for name, fewest in _COUNTS:
      if getattr(self, name) < fewest:
        wrong.append(f'{name} is {getattr(self, name)}, at least {fewest}')
    return wrong + self._stay_problems() + self._trigger_problems()

  def _stay_problems(self) -> list[str]:
    wrong = []
    if not self.floor <= 1 <= self.ceiling < math.inf:
      wrong.append(
        f'floor is {self.floor} and ceiling {self.ceiling}: a nominal stay, 1, '
        'lies between them'
      )
    if self.max_stay is not None and not self.min_stay <= self.max_stay <= 1:
      wrong.append(
        f'max_stay is {self.max_stay} with min_stay {self.min_stay}: at least '
        'min_stay, at most 1, or None'
      )
    return wrong

  def _trigger_problems(self) -> list[str]:
    wrong = [
      str(unknown('trigger', name, TRIGGERS))
      for name in self.triggers
      if name not in TRIGGERS
    ]
    return wrong or ([] if self.triggers else ['triggers is empty: name one'])

  def metrics(self, kind: str) -> tuple[str, ...]:
    """Names of the metrics that decisions read, each once.

    >>> QualityConfig().metrics('threshold')
    ('answers',)
    >>> QualityConfig(triggers=('ahead',), back_offs=0).metrics('quality')
    ('probe/ahead', 'probe/recall')
    """
    if kind == 'threshold':
      return (self.watch,)
    named = {
      'threshold': (self.watch,),
      'plateau': (self.flattens,),
      'gain': ('probe/gain',),
      'ahead': ('probe/ahead', 'probe/recall'),
    }
    names = [
      name for trigger in self.triggers for name in named.get(trigger, ())
    ]
    names += ['text', 'near', 'skipped'] if self.back_offs else []
    return tuple(dict.fromkeys(names))


_RANGES = (
  ('smoothing', 0, 1, '[)'),
  ('plateau', 0, math.inf, '()'),
  ('doubt', 0, math.inf, '()'),
  ('gain', 0, math.inf, '[)'),
  ('gain_plateau', 0, math.inf, '()'),
  ('recall', 0, 1, '[]'),
  ('min_stay', 0, 1, '[)'),
  ('growing', 0, 1, '()'),
  ('floor', 0, 1, '(]'),
  ('reserve', 0, 1, '[)'),
  ('check', 0, 1, '[)'),
  ('spike', 0, math.inf, '()'),
  ('spike_sigmas', 0, math.inf, '[)'),
  ('mix_share', 0, 1, '[]'),
)
_COUNTS = (
  ('hysteresis', 1),
  ('checks', 1),
  ('window', _FEWEST),
  ('min_steps', 0),
  ('settle', 1),
  ('back_offs', 0),
)


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
      max(_FEWEST, min(config.window, floor // (every * stride)))
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


def rises(metric: str) -> bool:
  """Whether a metric is the better the larger it is.

  >>> rises('probe/recall'), rises('answers')
  (True, False)
  """
  return metric.endswith('recall')


def _reachable(config: QualityConfig) -> bool:
  if rises(config.watch):
    return config.threshold < 1
  return config.threshold > 0


def _check_every(config: QualityConfig, shortest: float, steps: int) -> int:
  if config.check:
    return max(1, round(config.check * steps))
  few = min(_CHECK_STEPS, shortest / _FEWEST)
  return max(1, int(max(few, shortest / config.checks)))


def _whole(stay: float, every: int) -> int:
  """Steps of a stay in whole checks, one at least."""
  return max(1, math.ceil(stay / every - 1e-9)) * every
