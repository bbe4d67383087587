"""Metrics for TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

_SECONDS_BETWEEN_WRITES = 10


class TensorBoard:
  """Event files of scalars: a view of what the JSON lines record.

  A thread writes them, so a process that is killed loses the last ten seconds
  of them; what counts is in the lines.
  """

  def __init__(self, folder: Path, *, resume_at: int | None = None) -> None:
    """Starts a new event file in a folder.

    Args:
      folder: where TensorBoard looks; made if absent.
      resume_at: first step of a run that is gone on with: what earlier files
        hold of it and later is not shown.
    """
    # Here and not above: most runs of tests and tools write no events.
    from tensorboardX import SummaryWriter

    self._writer = SummaryWriter(
      str(folder), purge_step=resume_at, flush_secs=_SECONDS_BETWEEN_WRITES
    )

  def write(self, step: int, scalars: Mapping[str, Any]) -> None:
    """Adds numbers by name; TensorBoard groups them by what is before a '/'."""
    for name, value in scalars.items():
      self._writer.add_scalar(name, float(value), step)

  def close(self) -> None:
    """Writes what is left."""
    self._writer.close()
