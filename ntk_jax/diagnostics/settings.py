"""The settings of a diagnosis, all checked at once."""

from __future__ import annotations

import dataclasses

from ntk_jax.errors import ConfigError

_SHORTEST = 16  # more than the queries that are looked at
_LEAST = {'rows': 1, 'texts': 1, 'contexts': 2, 'seeds': 1, 'steps': 0}


@dataclasses.dataclass(frozen=True)
class DiagnoseConfig:
  """What to measure.

  Attributes:
    lengths: n, increasing.
    reference: n0, one of them, where variants change nothing; None is the
      first at the start of training, the trained length after it.
    rows: whose last queries are looked at, at every length; half as many of
      independent inputs.
    texts: of the longest length, for gradients.
    contexts: samples of the kernel.
    kernel_longest: the longest length of the kernel.
    seeds: draws of parameters at the start.
    steps: of training after which variants of the start are measured again;
      0 leaves that out.
  """

  lengths: tuple[int, ...] = (128, 256, 512, 1024, 2048, 4096)
  reference: int | None = None
  rows: int = 8
  texts: int = 1
  contexts: int = 8
  kernel_longest: int = 2048
  seeds: int = 2
  steps: int = 30

  def validate(self) -> None:
    """Raises ConfigError, all problems in one message."""
    wrong = [
      f'{name} is {getattr(self, name)}, must be at least {least}'
      for name, least in _LEAST.items()
      if getattr(self, name) < least
    ]
    lengths = self.lengths
    rising = all(a < b for a, b in zip(lengths, lengths[1:]))
    if len(lengths) < 2 or not rising or lengths[0] < _SHORTEST:
      wrong.append(
        f'lengths are {",".join(map(str, lengths)) or "none"}: give at least '
        f'two, increasing, from {_SHORTEST} tokens on'
      )
    if self.reference is not None and self.reference not in lengths:
      wrong.append(
        f'reference is {self.reference}, must be one of the lengths, '
        f'{",".join(map(str, lengths))}'
      )
    if self.kernel_longest < min(lengths, default=0):
      wrong.append(
        f'kernel_longest is {self.kernel_longest}, must be at least the '
        f'shortest length, {lengths[0]}'
      )
    if wrong:
      raise ConfigError('; '.join(wrong))

  @property
  def kernel_lengths(self) -> tuple[int, ...]:
    """The lengths of the kernel."""
    return tuple(n for n in self.lengths if n <= self.kernel_longest)

  @property
  def row_tokens(self) -> int:
    """Tokens of a row and its last target."""
    return self.lengths[-1] + 1

  @property
  def rows_needed(self) -> int:
    """Rows of text that are read."""
    return max(self.rows, self.texts, self.contexts)


def lengths_around(trained: int) -> tuple[int, ...]:
  """A quarter of a trained length to four times it.

  >>> lengths_around(512)
  (128, 256, 512, 1024, 2048)
  """
  around = (trained // 4, trained // 2, trained, 2 * trained, 4 * trained)
  return tuple(n for n in around if n >= _SHORTEST)


def fast_diagnosis(config: DiagnoseConfig) -> DiagnoseConfig:
  """The same in seconds: short rows, one draw, no training.

  >>> fast_diagnosis(DiagnoseConfig()).lengths
  (64, 128, 256)
  """
  return dataclasses.replace(
    config,
    lengths=(64, 128, 256),
    rows=2,
    contexts=4,
    kernel_longest=256,
    seeds=1,
    steps=0,
  )
