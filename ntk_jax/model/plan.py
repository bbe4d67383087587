"""Layer plans compressed to segments, so that compile time knows no depth."""

from __future__ import annotations

import functools
from collections.abc import Hashable
from typing import NamedTuple


class Segment(NamedTuple):
  """Layers from `start` on: a pattern of kinds, repeated."""

  start: int
  pattern: tuple[Hashable, ...]
  repeats: int

  @property
  def stop(self) -> int:
    """One past the last layer."""
    return self.start + len(self.pattern) * self.repeats


# A pattern longer than this is compiled as pieces.
_LONGEST = 16


@functools.lru_cache(maxsize=256)
def segments(kinds: tuple[Hashable, ...]) -> tuple[Segment, ...]:
  """The segments whose patterns are shortest in all: that is what compiles.

  Args:
    kinds: what each layer is; equal kinds compile alike.

  Returns:
    Segments in order that cover all layers once.

  >>> [(s.pattern, s.repeats) for s in segments(('w', 'w', 'g') * 4 + ('w',))]
  [(('w', 'w', 'g'), 4), (('w',), 1)]
  """
  count = len(kinds)
  # best[i]: least (cost, segments) for the layers from i on.
  best: list[tuple[int, tuple[Segment, ...]]] = [(0, ())] * (count + 1)
  for start in range(count - 1, -1, -1):
    options = []
    for size in range(1, min(_LONGEST, count - start) + 1):
      pattern = kinds[start : start + size]
      stop = start
      while kinds[stop : stop + size] == pattern and stop + size <= count:
        stop += size
        segment = Segment(start, pattern, (stop - start) // size)
        cost, rest = best[stop]
        # Ties go to fewer segments, then to the longer first one.
        options.append((cost + size, 1 + len(rest), -stop, (segment, *rest)))
    cost, _, _, chosen = min(options)
    best[start] = cost, chosen
  return best[0][1]
