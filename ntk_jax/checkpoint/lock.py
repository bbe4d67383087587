"""One writer per folder."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import IO

from ntk_jax.errors import WorkdirError


class FolderLock:
  """A folder that one process at a time may write.

  The lock is the operating system's, so a killed process leaves none behind.
  """

  def __init__(
    self,
    folder: Path,
    *,
    what: str = 'workdir',
    remedy: str = 'choose another with --workdir',
  ) -> None:
    """Names the folder, and what messages call it and say to do."""
    self._folder = folder
    self._name = f'{what} {str(folder)!r}'
    self._remedy = remedy
    self._file: IO[str] | None = None

  def acquire(self) -> None:
    """Creates the folder and locks it.

    Raises:
      WorkdirError: if it cannot be written, or another process has it.
    """
    file = self._opened()
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      file.seek(0)
      owner = file.read().strip() or 'unknown'
      file.close()
      raise WorkdirError(
        f'{self._name} is in use by process {owner}; wait for it, or '
        f'{self._remedy}'
      ) from error
    except OSError as error:
      file.close()
      raise WorkdirError(
        f'{self._name} cannot be locked ({error.strerror}); {self._remedy}, '
        'on a local disk'
      ) from error
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    self._file = file

  def release(self) -> None:
    """Unlocks, if it was locked."""
    if self._file is not None:
      self._file.close()
      self._file = None

  def _opened(self) -> IO[str]:
    try:
      self._folder.mkdir(parents=True, exist_ok=True)
      return (self._folder / '.lock').open('a+')
    except OSError as error:
      raise WorkdirError(
        f'{self._name} cannot be written ({error.strerror}); {self._remedy}'
      ) from error
