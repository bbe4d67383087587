"""Stand-in."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from ntk_jax.curriculum.clock import Run
from ntk_jax.curriculum.stage import LengthSchedule


@dataclasses.dataclass(frozen=True)
class QualityConfig:
  """Stand-in."""

  watch: str = 'answers'

  def problems(self, run: Run, known_metrics: Collection[str]) -> list[str]:
    """Stand-in."""
    del run
    if self.watch in known_metrics:
      return []
    return [f'unknown metric {self.watch!r}']


def quality_schedule(config: object, run: Run) -> LengthSchedule:
  """Stand-in.

  >>> 1
  1
  """
  raise NotImplementedError
