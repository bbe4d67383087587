"""How long each row of a step is: long and short ones in set shares.

A row of a step is as long as the step's bucket; what its tokens see is a
window. So all rows have as many tokens, and a share of rows is one of tokens.
Which row gets which window is a function of (seed, step) alone.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ntk_jax.curriculum.stage import Stage
from ntk_jax.errors import ConfigError
from ntk_jax.typing import Float64, Int32, NDArray

# 2**64 * (sqrt(2) - 1), odd. Retrieval rows are chosen by the golden ratio: of
# long rows, too, the same share is turned into them.
_SILVER = 0x6A09E667F3BCC909


class RowPlan(NamedTuple):
  """The rows of one step, on all hosts together.

  Attributes:
    length: tokens of a row.
    windows: the block window of each row; None is whole rows.
    rows: how many rows, where that is constant; None is as many as hold the
      tokens of a step.
  """

  length: int
  windows: Int32[NDArray, 'rows'] | None = None
  rows: int | None = None


@dataclasses.dataclass(frozen=True)
class LengthMix:
  """Lengths of rows, from some stage on.

  Attributes:
    from_length: of the first stage that is mixed so.
    lengths: of the rows. The longest is from_length, and stands for the
      length of the stage, whatever it grows to before the next mix begins.
    shares: of the tokens that each length gets; they sum to 1.
  """

  from_length: int
  lengths: tuple[int, ...]
  shares: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
  """Long and short rows, side by side or in turns.

  Attributes:
    long_share: share of the tokens of a step in rows of the stage's length.
    long_probability: that a step has such rows at all, where there are others
      too; without them it is as fast as those.
    short: length of the other rows, where the stage is longer; None is the
      length of the stage before.
    mixtures: shares of lengths by stage, in place of long_share and short.
    seed: of the draws.
  """

  long_share: float = 1.0
  long_probability: float = 1.0
  short: int | None = None
  mixtures: tuple[LengthMix, ...] = ()
  seed: int = 0

  def problems(self, max_length: int) -> list[str]:
    """Everything that is wrong, in words.

    Args:
      max_length: tokens of the longest row.
    """
    wrong = [
      f'{name} is {value!r}: it lies in [0, 1]'
      for name, value in (
        ('long_share', self.long_share),
        ('long_probability', self.long_probability),
      )
      if not _is_share(value)
    ]
    if self.short is not None and not 2 <= self.short <= max_length:
      wrong.append(f'short is {self.short}: rows have 2 to {max_length} tokens')
    if self.mixtures and (self.long_share != 1 or self.short is not None):
      wrong.append(
        'mixtures say all lengths: leave out long_share and short with them'
      )
    if self.seed < 0:
      wrong.append(f'seed is {self.seed}, must be at least 0')
    begun = [mix.from_length for mix in self.mixtures]
    if begun != sorted(set(begun)):
      wrong.append(f'mixtures begin at {begun}: give them in increasing order')
    for i, mix in enumerate(self.mixtures):
      wrong += [f'mixtures[{i}]: {p}' for p in _mix_problems(mix, max_length)]
    return wrong


def _is_share(value: object) -> bool:
  number = isinstance(value, int | float) and not isinstance(value, bool)
  return number and 0 <= value <= 1


def _mix_problems(mix: LengthMix, max_length: int) -> list[str]:
  wrong = []
  if len(mix.lengths) != len(mix.shares) or not mix.lengths:
    return [
      f'{len(mix.lengths)} lengths and {len(mix.shares)} shares: one share '
      'for each length'
    ]
  if len(set(mix.lengths)) < len(mix.lengths):
    wrong.append(f'lengths are {mix.lengths}: each stands once')
  if min(mix.lengths) < 2 or max(mix.lengths) > max_length:
    wrong.append(
      f'lengths are {mix.lengths}: rows have 2 to {max_length} tokens'
    )
  if max(mix.lengths) != mix.from_length:
    wrong.append(
      f'the longest of {mix.lengths} is not from_length, {mix.from_length}: '
      'it stands for the length of the stage'
    )
  if not all(map(_is_share, mix.shares)) or not math.isclose(
    sum(mix.shares), 1, abs_tol=1e-6
  ):
    wrong.append(f'shares are {mix.shares}: each in [0, 1], together 1')
  return wrong


def length_shares(
  config: SamplingConfig, stage: Stage, *, long: bool = True
) -> tuple[tuple[int, float], ...]:
  """Lengths of the rows of a step, longest first, with their shares.

  Where the stage itself mixes (full_share below 1), what is left of its
  length's share goes to the length before.

  Args:
    config: what is mixed.
    stage: what holds for the step.
    long: whether the step has rows of the stage's length. One that has none
      has the others in proportion, or the longest of them where they have no
      share; where there are no others it is as any.

  >>> config, stage = SamplingConfig(long_share=0.25), Stage(4096, 1024, 0)
  >>> length_shares(config, stage)
  ((4096, 0.25), (1024, 0.75))
  >>> length_shares(config, stage, long=False)
  ((1024, 1.0),)
  >>> length_shares(config, stage._replace(full_share=0.5))
  ((4096, 0.125), (1024, 0.875))
  """
  shares = _shares(config, stage.length, stage.before)
  full = shares[stage.length]
  if stage.full_share < 1 and stage.before < stage.length:
    shares[stage.length] = full * stage.full_share
    rest = full * (1 - stage.full_share)
    shares[stage.before] = shares.get(stage.before, 0.0) + rest
  ordered = sorted(shares.items(), reverse=True)
  if not long and len(ordered) > 1:
    ordered = ordered[1:]
    total = sum(share for _, share in ordered)
    if total == 0:
      return ((ordered[0][0], 1.0),)
    ordered = [(length, share / total) for length, share in ordered]
  return tuple((length, share) for length, share in ordered if share > 0)


def _shares(
  config: SamplingConfig, length: int, before: int
) -> dict[int, float]:
  """What the settings say of a stage of some length."""
  mixes = [mix for mix in config.mixtures if mix.from_length <= length]
  if mixes:
    mix = mixes[-1]
    lengths = [length if n == mix.from_length else n for n in mix.lengths]
    return dict(zip(lengths, mix.shares))
  short = before if config.short is None else config.short
  if short >= length:
    return {length: 1.0}
  return {length: config.long_share, short: 1 - config.long_share}


def row_plan(
  config: SamplingConfig,
  stage: Stage,
  bucket: Callable[[int], int],
  tokens: int,
  step: int,
  rows: int | None = None,
) -> RowPlan:
  """The rows of a step: their length, and what each of them sees.

  Over any stretch of steps of a stage each length has its share of the rows to
  within a few: a row's place in [0, 1) is the fractional part of its number
  times sqrt(2). By chance, as long_probability says, a step has no rows of the
  stage's length.

  Args:
    config: what is mixed.
    stage: what holds for the step.
    bucket: tokens of the rows that hold a length.
    tokens: of a step.
    step: its number.
    rows: how many a step has, where that is constant; None keeps the tokens
      of a step constant.

  Raises:
    ConfigError: a bucket that is too short, or does not divide the tokens.

  >>> config = SamplingConfig(long_share=0.34, short=512)
  >>> plan = row_plan(config, Stage(2048, 2048, 0), lambda n: n, 12288, step=3)
  >>> plan.length, plan.windows.tolist()
  (2048, [2048, 512, 512, 2048, 512, 2048])
  """
  chance = np.random.default_rng([config.seed, step]).random()
  shares = length_shares(config, stage, long=chance < config.long_probability)
  longest = shares[0][0]
  length = bucket(longest)
  if length < longest or (rows is None and tokens % length):
    raise ConfigError(
      f'rows of {longest} tokens are put into rows of {length}: these must be '
      f'as long, and divide the {tokens} tokens of a step'
    )
  count = tokens // length if rows is None else rows
  if len(shares) == 1 and length == longest:
    return RowPlan(length, None, rows)
  ends = np.cumsum([share for _, share in shares])
  chosen = np.searchsorted(
    ends[:-1] / ends[-1], _places(config.seed, step * count, count), 'right'
  )
  windows = np.array([n for n, _ in shares], np.int32)[chosen]
  return RowPlan(length, windows, rows)


def _places(seed: int, first: int, count: int) -> Float64[NDArray, 'count']:
  """Numbers in [0, 1), evenly spread over any stretch."""
  start = np.random.default_rng(seed).integers(2**64, dtype=np.uint64)
  numbers = np.arange(first, first + count, dtype=np.uint64)
  return ((numbers * np.uint64(_SILVER) + start) >> np.uint64(11)) / 2.0**53
