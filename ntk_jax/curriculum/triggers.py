"""What lets growth by quality grow: its settings, and when a trigger holds."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from ntk_jax.curriculum.plateau import flattened
from ntk_jax.errors import unknown

TRIGGERS = ('threshold', 'plateau', 'gain', 'ahead')
FEWEST = 8  # values of a slope, and checks of the shortest stay
_MEASURED = 0.75  # of the values of a window, for a slope


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
  ('window', FEWEST),
  ('min_steps', 0),
  ('settle', 1),
  ('back_offs', 0),
)


Row = Sequence[float | None]  # tokens, what flattens, gain


def trigger_holds(
  name: str,
  config: QualityConfig,
  now: Mapping[str, float | None],
  series: Sequence[Row],
  window: int,
) -> bool:
  """Whether a trigger holds at a check; one without its measurements does not.

      threshold  watched < threshold, or above it where more is better
      plateau    flat(what flattens, plateau)
      gain       gain >= config.gain and flat(-gain, gain_plateau)
      ahead      ahead <= 0 and recall >= config.recall

  Args:
    name: of the trigger.
    config: limits.
    now: watched, flattens, gain, ahead and recall as just measured.
    series: tokens, what flattens and gain of the last checks, now's last.
    window: checks that a slope is taken over; three quarters of them measured.

  >>> now = {'watched': 0.1, 'ahead': -0.01, 'recall': None}
  >>> [
  ...   trigger_holds(name, QualityConfig(), now, [], 8)
  ...   for name in ('threshold', 'ahead')
  ... ]
  [True, False]
  """
  if name == 'threshold':
    rising = rises(config.watch)
    return _passed(now.get('watched'), config.threshold, rising)
  if name == 'plateau':
    return now.get('flattens') is not None and _flat(series, 1, window, config)
  if name == 'gain':
    enough = _passed(now.get('gain'), config.gain, True)
    return enough and _flat(series, 2, window, config)
  ready = _passed(now.get('recall'), config.recall, True)
  return ready and _passed(now.get('ahead'), 0.0, False)


def rises(metric: str) -> bool:
  """Whether a metric is the better the larger it is.

  >>> rises('probe/recall'), rises('answers')
  (True, False)
  """
  return metric.endswith('recall')


def _flat(
  series: Sequence[Row], column: int, window: int, config: QualityConfig
) -> bool:
  """Whether a column of the series is flat; a gain rises, a loss falls."""
  rows = [row for row in series if row[column] is not None]
  if len(rows) < _MEASURED * window:
    return False
  tokens, values = (
    np.array([row[i] for row in rows], np.float64) for i in (0, column)
  )
  if column == 1:
    return bool(flattened(tokens, values, config.plateau, config.doubt))
  doubt = config.doubt * config.gain_plateau / config.plateau
  return bool(flattened(tokens, -values, config.gain_plateau, doubt))


def _passed(value: float | None, limit: float, rising: bool) -> bool:
  """Whether a value has come to its limit; one that is missing has not."""
  if value is None:
    return False
  return value >= limit if rising else value <= limit
