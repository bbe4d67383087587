"""What holds for a step of a run whose length grows."""

from __future__ import annotations

from typing import NamedTuple


class Stage(NamedTuple):
  """What holds for the next step."""

  length: int
  before: int
  begun: int
  full_share: float = 1.0
  rate: float = 1.0
  attempt: int = 0
