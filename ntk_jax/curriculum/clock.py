"""What a schedule counts in."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple


@dataclasses.dataclass(frozen=True)
class Run:
  """How long a run is: steps, tokens of a step and an epoch, full length."""

  steps: int
  step_tokens: int
  epoch_tokens: int
  length: int


class Clock(NamedTuple):
  """Steps done and tokens read before the next step."""

  step: int
  tokens: int
