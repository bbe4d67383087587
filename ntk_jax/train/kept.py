"""States that a run keeps at its growths, to go back to if one goes wrong."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

from ntk_jax.checkpoint import Checkpoints
from ntk_jax.errors import CheckpointError
from ntk_jax.step import TrainState

_TWO = 2  # a run that is killed while it keeps one may need the one before


class Kept:
  """The states of one run in one folder, which is made when one is kept."""

  def __init__(self, folder: Path, run: dict[str, Any] | None) -> None:
    """Opens nothing.

    Args:
      folder: where they are kept.
      run: what the run is; a state of another is refused.
    """
    self._checkpoints = Checkpoints(folder, keep=_TWO, run=run)
    self._open = False

  def keep(self, step: int, state: TrainState) -> None:
    """Returns when the state before a step is on the disk.

    A run that goes on from before a state that it has kept already comes to
    the same bits, and keeps what there is.
    """
    if step not in self._opened().steps():
      self._opened().save(step, state, {})
      self._opened().wait()

  def back(self, step: int, like: TrainState) -> TrainState:
    """The state that was kept last, at a step or before.

    Raises:
      CheckpointError: if there is none, or it is damaged.
    """
    before = [n for n in self._opened().steps() if n <= step]
    found = None
    if before:
      found = self._opened().restore(like, step=before[-1])
    if found is None:
      raise CheckpointError(
        f'{self._checkpoints.folder} has no state from before step {step} to '
        'go back to: it was removed; start the run anew in another folder'
      )
    return found.tree

  def _opened(self) -> Checkpoints:
    if not self._open:
      self._checkpoints.__enter__()
      self._open = True
    return self._checkpoints

  def __enter__(self) -> Kept:
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    """Unlocks the folder."""
    if self._open:
      self._checkpoints.__exit__(kind, error, trace)
