"""The working directory of a job: one writer, one base, stages kept.

Stages are files named by what they depend on, so running again reuses what
is finished. A directory belongs to one base (model, corpus, training).
"""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any

from ntk_jax.checkpoint import FolderLock, write_atomic
from ntk_jax.config import differences, to_plain
from ntk_jax.errors import WorkdirError


class Workdir:
  """A locked working directory; use as a context manager."""

  def __init__(self, path: Path, base: dict[str, Any]) -> None:
    """Names the directory and what its stages depend on."""
    self.path = path
    self._base = to_plain(base)
    self._lock = FolderLock(path)

  def __enter__(self) -> Workdir:
    """Creates and locks the directory, and checks whose it is.

    Raises:
      WorkdirError: if it cannot be written, is in use, or holds another base.
    """
    self._lock.acquire()
    try:
      self._check_base()
    except BaseException:
      self._lock.release()
      raise
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    """Unlocks."""
    self._lock.release()

  def _check_base(self) -> None:
    file = self.path / 'base.json'
    if not file.exists():
      write_atomic(file, json.dumps(self._base, indent=1).encode())
      return
    try:
      stored = dict(json.loads(file.read_text()))
    except (OSError, TypeError, ValueError) as error:
      raise WorkdirError(
        f'{file} is damaged ({error}); choose another with --workdir'
      ) from error
    for name, before, now in differences(stored, self._base):
      raise WorkdirError(
        f'workdir {str(self.path)!r} belongs to a run with {name} '
        f'{before!r}, this one has {now!r}; another model, corpus or '
        'training needs another --workdir'
      )
