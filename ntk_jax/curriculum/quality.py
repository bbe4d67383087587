"""Growth by quality: a schedule is the prior, measurements may only bend it.

The phases of a run: `warm` (the start, nothing is tested), `track` (stay until
something says grow), `settle` (just grown, only a spike is looked for), `back`
(a growth was undone, stay a little more) and `final` (the full length, and
settled). Growing is the passage from track or back to settle.

All of it is a pure function of what was measured, so that replaying a log
gives the same stages, and every host decides alike.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from ntk_jax.curriculum.clock import Clock, Run
from ntk_jax.curriculum.stage import Stage, State
from ntk_jax.curriculum.stays import Stays, stay_problems, stays_of
from ntk_jax.curriculum.triggers import QualityConfig, trigger_holds
from ntk_jax.errors import ConfigError

__all__ = [
  'Quality',
  'QualityConfig',
  'quality_problems',
  'quality_schedule',
]

_MIXED = 0.5  # share of rows at the new length, where a growth is mixed
_GENTLE = 0.25  # of those first, after a growth was undone
_SLOWER = 0.5  # learning rate, where it has been undone often enough
_SPIKED = 20  # steps above its limit that make a spike, of 100 that settle
_NEAR = 10  # steps that the mean of `near` forgets over, of the same


@runtime_checkable
class Growth(Protocol):
  """What a `GrowthConfig` says of growth by quality."""

  @property
  def kind(self) -> str:
    """'threshold' or 'quality'."""
    ...

  @property
  def lengths(self) -> tuple[int, ...]:
    """Of the stages, increasing; the last is the full length."""
    ...

  @property
  def quality(self) -> QualityConfig:
    """When to grow."""
    ...


class _Held(NamedTuple):
  """A state by its fields; every value is what JSON gives back unchanged.

  Attributes:
    number: of the stage.
    begun: step at which it began.
    phase: of the controller.
    attempt: growths out of this stage, or into it, that were undone.
    full_share: share of rows at the stage's length.
    rate: multiplier of the learning rate.
    watched: smoothed watched metric at this length, None for none yet.
    seen: whether it was measured since the last check that was read.
    mean: running mean of the text loss, None for none yet.
    variance: of the same.
    limit: what `near` must not exceed while it settles, None for no limit.
    near: its running mean, None for none yet.
    over: steps in a row above the limit.
    spiked: whether that was long enough.
    sums: of `flattens` and of the gain since they were last read: sum, count,
      sum, count.
    series: tokens, mean of `flattens`, mean of the gain (None where nothing
      was measured) of the last checks that were read.
    held: checks in a row at which each trigger held.
  """

  number: int = 0
  begun: int = 0
  phase: str = 'track'
  attempt: int = 0
  full_share: float = 1.0
  rate: float = 1.0
  watched: float | None = None
  seen: bool = False
  mean: float | None = None
  variance: float = 0.0
  limit: float | None = None
  near: float | None = None
  over: int = 0
  spiked: bool = False
  sums: list[float] = [0.0, 0.0, 0.0, 0.0]
  series: list[list[float | None]] = []
  held: dict[str, int] = {}


@dataclasses.dataclass(frozen=True)
class Quality:
  """Length as a function of what was measured, within bounds.

  Make it with `quality_schedule`. A stage ends at a check, when it has stayed
  its floor and a trigger holds, or at its ceiling, or where a later stage
  would lack its floor before the reserve. After a growth the running mean of
  `near` (the text loss at positions that the stage before had) is compared
  with the text loss before: if it stays above

      mean + max(spike, spike_sigmas * standard deviation)

  the growth is undone, unless that has happened `back_offs` times or the
  reserve leaves no time. After the last time the learning rate is halved for
  good: to raise it again at a growth would invite the next spike.

  Attributes:
    kind: 'threshold' or 'quality'.
    sizes: lengths of the stages, increasing.
    config: when to grow.
    stays: bounds of the stages.

  Source: none published that the authors know of; the prior is that of Zhu et
  al. 2025 (arXiv 2503.15450), a ramp over 64 % of the tokens.
  """

  kind: str
  sizes: tuple[int, ...]
  config: QualityConfig
  stays: Stays

  @property
  def watches(self) -> tuple[str, ...]:
    """Metrics that decisions read; a missing one never triggers."""
    return self.config.metrics(self.kind)

  @property
  def check_every(self) -> int:
    """Steps between which stages do not change."""
    return self.stays.check_every

  @property
  def backs_off(self) -> bool:
    """Whether a growth may be undone."""
    return self._checked and self.config.back_offs > 0

  @property
  def _checked(self) -> bool:
    return self.kind == 'quality'

  @property
  def _last(self) -> int:
    return len(self.sizes) - 1

  def start(self) -> State:
    """The state before the first step."""
    if not self._last:
      return _Held(phase='final')._asdict()
    return _Held(phase='warm' if self._checked else 'track')._asdict()

  def stage(self, state: State) -> Stage:
    """What holds for the next step."""
    held = _Held(**state)
    return Stage(
      self.sizes[held.number],
      self.sizes[max(0, held.number - 1)],
      held.begun,
      held.full_share,
      held.rate,
      held.attempt,
    )

  def lengths(self) -> tuple[int, ...]:
    """Every length that can occur, increasing."""
    return self.sizes

  def upcoming(self, state: State) -> int | None:
    """The next larger length, None at the full one."""
    number = state['number'] + 1
    return self.sizes[number] if number <= self._last else None

  def due(self, state: State, step: int) -> bool:
    """Whether probes made after a number of steps will be read.

    Probes at other checks do no harm; leaving them out saves their time.
    """
    held = _Held(**state)
    return held.phase == 'track' and self._read_at(held, step)

  def advance(
    self, state: State, clock: Clock, measured: Mapping[str, float | None]
  ) -> State:
    """The state after a step.

    Args:
      state: before it.
      clock: after it.
      measured: what the step measured, by name. What is missing, None or not
        finite triggers nothing; `near` at plus infinity and a skipped step
        count as above the limit.
    """
    held = _Held(**state)
    found = {
      name: float(value)
      for name, value in measured.items()
      if isinstance(value, float | int | np.number) and math.isfinite(value)
    }
    if found.get('skipped', 0.0) < 0.5:
      held = self._follow(held, found)
    if held.phase == 'settle':
      held = self._look_out(held, measured)
    if clock.step % self.check_every == 0:
      held = self._check(held, clock, found)
    return held._asdict()

  def _follow(self, held: _Held, found: dict[str, float]) -> _Held:
    """Takes a good step into the running means."""
    config = self.config
    value, old = found.get(config.watch), held.watched
    if value is not None:
      kept = 0.0 if old is None else config.smoothing
      value = kept * (old or 0.0) + (1 - kept) * value
      held = held._replace(watched=value, seen=True)
    if held.phase in ('warm', 'track', 'back') and 'text' in found:
      held = _level(held, found['text'], self.stays.settles[held.number])
    if held.phase == 'track' and self._checked:
      sums = list(held.sums)
      for place, name in ((0, config.flattens), (2, 'probe/gain')):
        if name in found:
          sums[place] += found[name]
          sums[place + 1] += 1.0
      held = held._replace(sums=sums)
    return held

  def _look_out(
    self, held: _Held, measured: Mapping[str, float | None]
  ) -> _Held:
    """Follows `near` after a growth."""
    settle, limit = self.stays.settles[held.number], held.limit
    near, skipped = (measured.get(name) for name in ('near', 'skipped'))
    bad = skipped == 1 or near == math.inf
    if not bad:
      if near is None or limit is None or not math.isfinite(near):
        return held
      kept = 0.0 if held.near is None else 1 - 1 / _scaled(_NEAR, settle)
      mean = kept * (held.near or 0.0) + (1 - kept) * float(near)
      held = held._replace(near=mean)
      bad = mean > limit
    over = held.over + 1 if bad else 0
    spiked = held.spiked or over >= max(2, _scaled(_SPIKED, settle))
    return held._replace(over=over, spiked=spiked)

  def _check(self, held: _Held, clock: Clock, found: dict[str, float]) -> _Held:
    """What changes at a check."""
    step, stays = clock.step, self.stays
    stay, last = step - held.begun, held.number == self._last
    if held.phase == 'settle' and held.spiked and self._may_undo(held, step):
      return self._undone(held, step)
    if held.phase == 'back' and stay >= stays.again[held.number]:
      return self._grown(held, step)
    if held.phase == 'track':
      if self._read_at(held, step):
        held = self._judge(held, clock, found)
      if self._ends(held, step):
        return self._grown(held, step)
    settled = stay >= stays.settles[held.number]
    if settled and held.phase in ('warm', 'settle'):
      held = held._replace(phase='final' if last else 'track')
    return held._replace(full_share=self._share(held, stay))

  def _read_at(self, held: _Held, step: int) -> bool:
    """Whether the stage reads measurements at a step."""
    stay = step - held.begun
    apart = self.check_every * self.stays.strides[held.number]
    return stay > 0 and stay % apart == 0

  def _ends(self, held: _Held, step: int) -> bool:
    """Whether the stage is over, by a trigger or by the clock."""
    stay, k = step - held.begun, held.number
    if stay >= self.stays.ceilings[k] or step >= self.stays.latest[k]:
      return stay >= self.stays.floors[k]
    enough = self.config.hysteresis if self._checked else 1
    holds = any(count >= enough for count in held.held.values())
    return holds and stay >= self.stays.floors[k]

  def _judge(self, held: _Held, clock: Clock, found: dict[str, float]) -> _Held:
    """Reads the measurements of a check: for how long each trigger holds."""
    flattens, gain = (_mean(*held.sums[i : i + 2]) for i in (0, 2))
    series, window = held.series, self.stays.windows[held.number]
    if flattens is not None or gain is not None:
      row = [float(clock.tokens), flattens, gain]
      series = [*series, row][-window:]
    now = {'watched': held.watched if held.seen else None}
    now |= {'flattens': flattens, 'gain': gain}
    now |= {n: found.get(f'probe/{n}') for n in ('ahead', 'recall')}
    held = held._replace(sums=[0.0] * 4, series=series, seen=False)
    triggers = self.config.triggers if self._checked else ('threshold',)
    counts = {
      name: held.held.get(name, 0) + 1
      if trigger_holds(name, self.config, now, series, window)
      else 0
      for name in triggers
    }
    return held._replace(held=counts)

  def _may_undo(self, held: _Held, step: int) -> bool:
    """Whether the growth just made may be undone, and made again in time."""
    k = held.number - 1
    room = step + self.stays.again[k] <= self.stays.latest[k]
    return room and held.attempt < self.config.back_offs

  def _undone(self, held: _Held, step: int) -> _Held:
    """The stage before, once more; its level stays what it was."""
    return _Held(
      number=held.number - 1,
      begun=step,
      phase='back',
      attempt=held.attempt + 1,
      rate=held.rate,
      mean=held.mean,
      variance=held.variance,
    )

  def _grown(self, held: _Held, step: int) -> _Held:
    """The next stage."""
    again = held.phase == 'back'
    number = held.number + 1
    spent = again and held.attempt >= self.config.back_offs
    phase = 'settle' if self._checked else 'track'
    if phase == 'track' and number == self._last:
      phase = 'final'
    grown = _Held(
      number=number,
      begun=step,
      phase=phase,
      attempt=held.attempt if again else 0,
      rate=held.rate * _SLOWER if spent else held.rate,
      mean=held.mean,
      variance=held.variance,
      limit=self._limit(held),
    )
    return grown._replace(full_share=self._share(grown, 0))

  def _limit(self, held: _Held) -> float | None:
    """What `near` must not exceed after a growth."""
    if held.mean is None:
      return None
    deviation = math.sqrt(held.variance)
    slack = max(self.config.spike, self.config.spike_sigmas * deviation)
    return held.mean + slack

  def _share(self, held: _Held, stay: int) -> float:
    """Share of rows at the full length of a stage that has stayed so long."""
    mixed = self.stays.mixes[held.number]
    if not held.number or held.phase == 'back' or not self._checked:
      return 1.0
    if held.attempt and 2 * stay < mixed:
      return _GENTLE
    if (held.attempt or self.config.mix) and stay < mixed:
      return _MIXED
    return 1.0


def quality_schedule(config: Growth, run: Run) -> Quality:
  """The schedule of a `GrowthConfig` of kind 'threshold' or 'quality'.

  Raises:
    ConfigError: stays that do not fit into the run.

  >>> from ntk_jax.curriculum.settings import GrowthConfig
  >>> config = GrowthConfig('threshold', (64, 128, 256))
  >>> schedule = quality_schedule(config, Run(240, 4096, 10**6, 256))
  >>> state = schedule.start()
  >>> for step in range(1, 41):
  ...   clock = Clock(step, 4096 * step)
  ...   state = schedule.advance(state, clock, {'answers': 2 / step})
  >>> schedule.stage(state)
  Stage(length=256, before=128, begun=34, full_share=1.0, rate=1.0, attempt=0)
  """
  quality = config.quality
  wrong = stay_problems(
    quality,
    config.kind,
    config.lengths,
    run.steps,
    quality.metrics(config.kind),
  )
  if wrong:
    raise ConfigError('; '.join(wrong))
  stays = stays_of(quality, config.kind, config.lengths, run.steps)
  return Quality(config.kind, config.lengths, quality, stays)


def quality_problems(
  config: Growth, run: Run, known_metrics: Collection[str]
) -> list[str]:
  """Everything that is wrong with growth by quality, in words.

  Args:
    config: a `GrowthConfig` of kind 'threshold' or 'quality', its lengths
      checked.
    run: how long it is.
    known_metrics: names that its steps and probes will measure.

  >>> from ntk_jax.curriculum.settings import GrowthConfig
  >>> config = GrowthConfig(
  ...   'threshold', (64, 128), quality=QualityConfig(checks=0)
  ... )
  >>> quality_problems(config, Run(240, 4096, 10**6, 128), ['answers'])
  ['checks is 0, at least 1']
  """
  return stay_problems(
    config.quality, config.kind, config.lengths, run.steps, known_metrics
  )


def _level(held: _Held, value: float, horizon: int) -> _Held:
  """The running mean and variance of the text loss."""
  if held.mean is None:
    return held._replace(mean=value, variance=0.0)
  share = 1 / max(2, horizon)
  off = value - held.mean
  return held._replace(
    mean=held.mean + share * off,
    variance=(1 - share) * (held.variance + share * off * off),
  )


def _scaled(steps: int, settle: int) -> int:
  """Steps of 100 that settle, where fewer do."""
  return max(1, min(steps, steps * settle // 100))


def _mean(total: float, count: float) -> float | None:
  return total / count if count else None
