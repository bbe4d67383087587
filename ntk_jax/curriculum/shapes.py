"""How length may follow progress: pure functions of numbers, no state.

Each takes the share x of the way that is done, in [0, 1], and gives a length
that is not rounded yet; `snapped` rounds it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def linear_length(x: float, start: int, full: int) -> float:
  """A straight ramp: x (full - start) + start.

  Source: 'fixed_linear' of DeepSpeed's curriculum scheduler; SkyLadder
  (arXiv 2503.15450), with x = alpha t / (full - start) at its step t.

  >>> [linear_length(x, 32, 1024) for x in (0.0, 0.25, 0.5, 1.0)]
  [32.0, 280.0, 528.0, 1024.0]
  """
  return root_length(x, start, full, 1.0)


def root_length(x: float, start: int, full: int, root: float) -> float:
  """Fast first, slow later: x^(1/root) (full - start) + start.

  Source: 'fixed_root' of DeepSpeed's curriculum scheduler.

  >>> [root_length(x, 32, 1024, 2.0) for x in (0.0, 0.25, 0.5625, 1.0)]
  [32.0, 528.0, 776.0, 1024.0]
  """
  return x ** (1.0 / root) * (full - start) + start


def exponential_length(x: float, start: int, full: int) -> float:
  """Equal shares for equal ratios: start (full / start)^x.

  Source: SkyLadder (arXiv 2503.15450), its 'exp' shape.

  >>> [round(exponential_length(x, 32, 1024), 6) for x in (0.0, 0.2, 0.6, 1.0)]
  [32.0, 64.0, 256.0, 1024.0]
  """
  return start * (full / start) ** x


def cosine_length(x: float, start: int, full: int) -> float:
  """Slow at both ends: start + (full - start) (1 - cos(pi x)) / 2.

  >>> [round(cosine_length(x, 32, 1024)) for x in (0.0, 0.25, 0.5, 1.0)]
  [32, 177, 528, 1024]
  """
  return start + (full - start) * (1 - math.cos(math.pi * x)) / 2


def sine_length(x: float, start: int, full: int) -> float:
  """Fast first, level at the end: start + (full - start) sin(pi x / 2).

  Source: SkyLadder (arXiv 2503.15450), its 'sin' shape.

  >>> [round(sine_length(x, 32, 1024)) for x in (0.0, 0.25, 0.5, 1.0)]
  [32, 412, 733, 1024]
  """
  return start + (full - start) * math.sin(math.pi / 2 * x)


def stepwise_length(x: float, start: int, full: int, step: int) -> float:
  """The straight ramp in stairs: max(start, step floor(linear / step)).

  Source: SkyLadder (arXiv 2503.15450), its stepwise shape, r = step.

  >>> [stepwise_length(x, 32, 1024, 256) for x in (0.0, 0.25, 0.5, 1.0)]
  [32.0, 256.0, 512.0, 1024.0]
  """
  ramp = linear_length(x, start, full)
  return float(max(start, step * math.floor(ramp / step)))


def snapped(raw: float, start: int, full: int, multiple: int) -> int:
  """A length rounded down to a multiple, but never below what a run starts at.

      min(full, max(multiple floor(raw / multiple),
                    multiple ceil(start / multiple)))

  Rounding alone would make a start of 8 with multiples of 16 rows of no token.

  Source: DeepSpeed's curriculum scheduler, multiple = difficulty_step.

  >>> [snapped(raw, 8, 100, 16) for raw in (8.0, 31.9, 32.0, 99.0, 112.0)]
  [16, 16, 32, 96, 100]
  """
  down = math.floor(raw)
  down -= down % multiple
  least = -(-start // multiple) * multiple
  return min(full, max(down, least))


def doublings(start: int, full: int) -> tuple[int, ...]:
  """Lengths start 2^k up to the full one, the last whatever it takes.

  A row of the full length cuts into whole rows of each only if the last step
  is a doubling too.

  Source: the power-of-two schedule of OLMo-core, which spends on each length
  the steps in which a straight ramp lies between it and its double: the shares
  that `stage_starts` gives.

  >>> doublings(128, 1024)
  (128, 256, 512, 1024)
  >>> doublings(96, 256)
  (96, 192, 256)
  """
  found = []
  while start < full:
    found.append(start)
    start *= 2
  return (*found, full)


def stage_starts(lengths: Sequence[int], over: float) -> tuple[float, ...]:
  """When each length after the first begins, if the last one does at `over`.

  A stage takes a share in proportion to its length, as a straight ramp does:
  over * (sum of the lengths before) / (sum of all but the last).

  >>> [round(at, 4) for at in stage_starts((128, 256, 512, 1024), 0.7)]
  [0.1, 0.3, 0.7]
  """
  total, so_far, starts = sum(lengths[:-1]), 0, []
  for length in lengths[:-1]:
    so_far += length
    starts.append(over * so_far / total)
  return tuple(starts)
