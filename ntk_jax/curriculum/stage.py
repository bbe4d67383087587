"""What every length schedule answers, whatever makes it grow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

from ntk_jax.curriculum.clock import Clock

# Plain values that come back from JSON as they went in.
State = dict[str, Any]


class Stage(NamedTuple):
  """What holds for the next step.

  Attributes:
    length: tokens that a sequence may see.
    before: length of the stage before this one, equal to `length` in the
      first: the short side of a mix.
    begun: step at which the stage began.
    full_share: share of the rows that have `length`; the others have `before`.
    rate: multiplier of the learning rate, not 1 only after back-offs.
    attempt: back-offs so far within this stage; when it rises, parameters and
      optimizer go back to what they were at the growth that it undoes.
  """

  length: int
  before: int
  begun: int
  full_share: float = 1.0
  rate: float = 1.0
  attempt: int = 0


@runtime_checkable
class LengthSchedule(Protocol):
  """A pure state machine: frozen, with nothing of a run but its state."""

  @property
  def watches(self) -> tuple[str, ...]:
    """Names of the metrics that it reads; none for schedules by clock."""
    ...

  @property
  def check_every(self) -> int:
    """Steps between its decisions; 0 for schedules by clock, at every step."""
    ...

  @property
  def backs_off(self) -> bool:
    """Whether it may undo a growth."""
    ...

  def start(self) -> State:
    """The state before step 0."""
    ...

  def advance(
    self, state: State, clock: Clock, measured: Mapping[str, float]
  ) -> State:
    """The state after a step, once per step and in order.

    Args:
      state: after the step before; it is not changed.
      clock: after this step.
      measured: metrics of this step; may be empty for schedules by clock.
    """
    ...

  def stage(self, state: State) -> Stage:
    """What holds for the next step."""
    ...

  def lengths(self) -> tuple[int, ...]:
    """Every length that can occur, increasing, or () if they are many."""
    ...

  def upcoming(self, state: State) -> int | None:
    """The next larger length to compile ahead for, if there is one."""
    ...
