"""The working directory of a job: one writer, one base, stages kept.

Stages are files named by what they depend on, so running again reuses what
is finished. A directory belongs to one base (model, corpus, training).
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from ntk_jax.checkpoint import write_atomic
from ntk_jax.config import to_plain
from ntk_jax.errors import WorkdirError


class Workdir:
  """A locked working directory; use as a context manager.

  The lock is the operating system's, so a killed process leaves none behind.
  """

  def __init__(self, path: Path, base: dict[str, Any]) -> None:
    """Names the directory and what its stages depend on."""
    self.path = path
    self._base = to_plain(base)
    self._lock: IO[str] | None = None

  def __enter__(self) -> Workdir:
    """Creates and locks the directory, and checks whose it is.

    Raises:
      WorkdirError: if it cannot be written, is in use, or holds another base.
    """
    try:
      self.path.mkdir(parents=True, exist_ok=True)
      self._lock = (self.path / '.lock').open('a+')
    except OSError as error:
      raise WorkdirError(
        f'workdir {str(self.path)!r} cannot be written ({error.strerror}); '
        'choose another with --workdir'
      ) from error
    try:
      fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      self._lock.seek(0)
      owner = self._lock.read().strip() or 'unknown'
      self._lock.close()
      raise WorkdirError(
        f'workdir {str(self.path)!r} is in use by process {owner}; wait for '
        'it, or choose another with --workdir'
      ) from error
    except OSError as error:
      self._lock.close()
      raise WorkdirError(
        f'workdir {str(self.path)!r} cannot be locked ({error.strerror}); '
        'choose another with --workdir, on a local disk'
      ) from error
    self._lock.truncate(0)
    self._lock.write(str(os.getpid()))
    self._lock.flush()
    try:
      self._check_base()
    except BaseException:
      self._lock.close()
      raise
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    """Unlocks."""
    if self._lock is not None:
      self._lock.close()

  def _check_base(self) -> None:
    file = self.path / 'base.json'
    if not file.exists():
      write_atomic(file, json.dumps(self._base, indent=1).encode())
      return
    try:
      stored = _flat(dict(json.loads(file.read_text())))
    except (OSError, TypeError, ValueError) as error:
      raise WorkdirError(
        f'{file} is damaged ({error}); choose another with --workdir'
      ) from error
    wanted = _flat(self._base)
    for name in sorted({*stored, *wanted}):
      before, now = stored.get(name), wanted.get(name)
      if before != now:
        raise WorkdirError(
          f'workdir {str(self.path)!r} belongs to a run with {name} '
          f'{before!r}, this one has {now!r}; another model, corpus or '
          'training needs another --workdir'
        )


def _flat(value: Any, name: str = '') -> dict[str, Any]:
  """Leaves of nested mappings by dotted name."""
  if not isinstance(value, dict):
    return {name: value}
  inner = {f'{name}.{k}' if name else k: v for k, v in value.items()}
  return {n: leaf for k, v in inner.items() for n, leaf in _flat(v, k).items()}
