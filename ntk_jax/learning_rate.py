"""The learning rate of every step: host numbers, an argument of the step."""

from __future__ import annotations

import dataclasses
import math

from ntk_jax.errors import ConfigError, unknown

SHAPES = ('cosine', 'wsd')
CURVES = ('linear', '1-sqrt')


@dataclasses.dataclass(frozen=True)
class Schedule:
  """A linear warm-up, then one of two shapes that end at `final * peak`.

  After the warm-up, with u the share of the way that is done:

      cosine:  (1 + f) / 2 + (1 - f) / 2 * cos(pi u)
      wsd:     1, then over the last `decay` of the run
               1 - (1 - f) u         ('linear')
               1 - (1 - f) sqrt(u)   ('1-sqrt')

  The cosine starts at the peak (u = 0) and ends at the last step (u = 1); the
  decay of wsd is a fall at each of its steps, u = 1/n .. 1. Up to the decay a
  wsd run does not depend on its length: it can be gone on with.

  Attributes:
    peak: learning rate after the warm-up.
    steps: length of the run.
    warmup: steps of the warm-up.
    shape: 'cosine' or 'wsd' (warm-up, stable, decay).
    decay: share of all steps that the decay of wsd takes.
    curve: of that decay, 'linear' or '1-sqrt'.
    final: share of the peak that the last step has.

  Source: cosine: Loshchilov and Hutter 2017 (arXiv 1608.03983), eq. 5; wsd:
  Hu et al. 2024 (arXiv 2404.06395), section 4; '1-sqrt': Hägele et al. 2024
  (arXiv 2405.18392), section 4.

  >>> schedule = Schedule(peak=1e-2, steps=100, warmup=10)
  >>> [round(schedule(step), 5) for step in (0, 9, 55, 99)]
  [0.001, 0.01, 0.00542, 0.001]
  >>> schedule = Schedule(1e-2, 100, 10, shape='wsd', decay=0.2, final=0.0)
  >>> [round(schedule(step), 5) for step in (9, 79, 80, 89, 99)]
  [0.01, 0.01, 0.00776, 0.00293, 0.0]
  """

  peak: float
  steps: int
  warmup: int
  shape: str = 'cosine'
  decay: float = 0.2
  curve: str = '1-sqrt'
  final: float = 0.1

  def problems(self) -> list[str]:
    """What of it cannot train, in words."""
    wrong = []
    if not (math.isfinite(self.peak) and self.peak > 0):
      wrong.append(f'learning rate is {self.peak}, must be above 0')
    if self.steps < 1 or not 0 <= self.warmup < self.steps:
      wrong.append(
        f'{self.steps} steps with a warm-up of {self.warmup}: it takes at '
        'least one step, and a warm-up shorter than the run'
      )
    for what, value, allowed in (
      ('shape', self.shape, SHAPES),
      ('curve', self.curve, CURVES),
    ):
      if value not in allowed:
        wrong.append(str(unknown(f'{what} of the schedule', value, allowed)))
    if not 0 <= self.final <= 1:
      wrong.append(f'final share is {self.final}, must be in [0, 1]')
    if self.shape == 'wsd':
      wrong += self._decay_problems()
    return wrong

  def _decay_problems(self) -> list[str]:
    if not 0 < self.decay <= 1:
      return [f'decay share is {self.decay}, must be in (0, 1]']
    if self.warmup + self.decay_steps > max(self.steps, 1):
      return [
        f'a warm-up of {self.warmup} and a decay of {self.decay_steps} steps '
        f'do not fit into {self.steps}: lower the warm-up or the decay share'
      ]
    return []

  def validate(self) -> None:
    """Raises ConfigError for values that cannot train, all at once."""
    if wrong := self.problems():
      raise ConfigError('; '.join(wrong))

  @property
  def decay_steps(self) -> int:
    """Steps of the decay of wsd, at least one."""
    return max(1, round(self.decay * self.steps))

  def __call__(self, step: int) -> float:
    """The learning rate of a 0-based step."""
    if step < self.warmup:
      return self.peak * (step + 1) / self.warmup
    if self.shape == 'wsd':
      return self.peak * self._stable_then_decay(step)
    done = (step - self.warmup) / max(1, self.steps - 1 - self.warmup)
    middle, swing = (1 + self.final) / 2, (1 - self.final) / 2
    return self.peak * (middle + swing * math.cos(math.pi * done))

  def _stable_then_decay(self, step: int) -> float:
    into = step + 1 - (self.steps - self.decay_steps)
    if into <= 0:
      return 1.0
    done = min(1.0, into / self.decay_steps)
    if self.curve == '1-sqrt':
      done = math.sqrt(done)
    return 1 - (1 - self.final) * done
