"""How much of the machine other programs use while something is timed.

Two programs that share two cores with a third do not suffer alike: threads
that wait for each other at every operation lose more. So a benchmark may wait
for a quiet machine, and says how quiet it was.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

_STAT = Path('/proc/stat')
_PAUSE = 5.0  # seconds between two looks at a busy machine


class Timed(NamedTuple):
  """A time, and what cores did meanwhile.

  Attributes:
    seconds: of the wall.
    cpu: seconds on all cores of what was timed.
    others: cores that other programs used; NaN where it is not known.
  """

  seconds: float
  cpu: float
  others: float


def busy_seconds(stat: str) -> float:
  """CPU seconds of all programs since the start, of the text of /proc/stat.

  >>> ticks = os.sysconf('SC_CLK_TCK')
  >>> busy_seconds(f'cpu {ticks} 0 {2 * ticks} 7 7 0 0 0 0 0')
  3.0
  """
  user, nice, system, _, _, *rest = map(int, stat.split('\n')[0].split()[1:9])
  return (user + nice + system + sum(rest)) / os.sysconf('SC_CLK_TCK')


def _busy() -> float:
  return busy_seconds(_STAT.read_text()) if _STAT.exists() else float('nan')


def timed(run: Callable[[], tuple[float, float]]) -> Timed:
  """Runs once.

  Args:
    run: returns its seconds and its own CPU seconds.
  """
  busy, start = _busy(), time.perf_counter()
  seconds, own = run()
  wall = time.perf_counter() - start
  return Timed(seconds, own, np.maximum(0.0, _busy() - busy - own) / wall)


class Patience:
  """Seconds that may be spent on waiting for a quiet machine."""

  def __init__(self, seconds: float, limit: float) -> None:
    """With no seconds, everything is taken as it comes.

    Args:
      seconds: of waiting and of times thrown away, in all.
      limit: cores that others may use.
    """
    self.left, self.limit = seconds, limit

  def timed(self, run: Callable[[], tuple[float, float]]) -> Timed:
    """Runs until others are quiet meanwhile, or patience is at its end."""
    while True:
      start = time.perf_counter()
      self._wait()
      found = timed(run)
      if self.left <= 0 or not found.others > self.limit:
        return found
      self.left -= time.perf_counter() - start

  def _wait(self) -> None:
    """Until a second is quiet."""
    while self.left > 0:
      others = timed(lambda: (time.sleep(1.0) or 1.0, 0.0)).others
      if not others > self.limit:
        return
      time.sleep(_PAUSE)
      self.left -= 1.0 + _PAUSE
