"""Metrics as JSON lines: one object per step, whole however a run ends."""

from __future__ import annotations

import json
import math
import operator
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ntk_jax.errors import WorkdirError


class JsonLines:
  """A file with one line per step, `{"step": 7, "loss": 2.5, ...}`.

  Every line is written at once and flushed: a process that is killed loses
  none, and at most leaves half of its last one, which the next opening takes
  off. `sync` before a checkpoint makes the lines survive a power cut too, so
  that a checkpoint never knows of steps that the file lacks. A number that is
  not finite becomes null, which every JSON reader takes.
  """

  def __init__(self, path: Path) -> None:
    """Opens a file to go on with it; it and its folder need not exist.

    Raises:
      WorkdirError: if the file cannot be written or is not one of these.
    """
    self._path = path
    try:
      path.parent.mkdir(parents=True, exist_ok=True)
      self._last, end = _before(path, math.inf)
      self._file = path.open('ab')
    except OSError as error:
      raise _refused(path, error) from error
    self._cut(end)

  @property
  def last_step(self) -> int | None:
    """The step of the last line, None if there is none."""
    return self._last

  def write(self, step: int, scalars: Mapping[str, Any]) -> None:
    """Adds the line of a step.

    Args:
      step: above that of the line before.
      scalars: numbers by name; anything that `float` takes, ints stay ints.

    Raises:
      ValueError: if the step is not above the last one: `truncate_to` first.
      WorkdirError: if the disk refuses.
    """
    if self._last is not None and step <= self._last:
      raise ValueError(
        f'step {step} after step {self._last} in {self._path}: steps go '
        'upwards; truncate_to the step that a resumed run starts with'
      )
    line = {'step': int(step)} | {k: _number(v) for k, v in scalars.items()}
    try:
      self._file.write(json.dumps(line, allow_nan=False).encode() + b'\n')
      self._file.flush()
    except OSError as error:
      raise _refused(self._path, error) from error
    self._last = step

  def truncate_to(self, step: int) -> None:
    """Takes off the lines of `step` and later: a run resumes with that step.

    Raises:
      WorkdirError: if the disk refuses.
    """
    self._last, end = _before(self._path, step)
    self._cut(end)

  def sync(self) -> None:
    """Waits until the lines are on the disk."""
    os.fsync(self._file.fileno())

  def close(self) -> None:
    """Ends the writing."""
    self._file.close()

  def _cut(self, end: int) -> None:
    try:
      self._file.truncate(end)
      self.sync()
    except OSError as error:
      raise _refused(self._path, error) from error


def read_lines(path: Path) -> list[dict[str, Any]]:
  """The lines of a file that are whole; one that is being written is not.

  Raises:
    WorkdirError: if a line is not what `JsonLines` writes, naming it.
  """
  return [line for line, _ in _lines(path)]


def _lines(path: Path) -> Iterator[tuple[dict[str, Any], int]]:
  """Whole lines, and where each ends."""
  end = 0
  for number, text in enumerate(path.read_bytes().split(b'\n')[:-1], start=1):
    end += len(text) + 1
    try:
      line = json.loads(text)
      whole = isinstance(line, dict) and isinstance(line['step'], int)
    except (ValueError, KeyError):
      line, whole = {}, False
    if not whole:
      raise WorkdirError(
        f'{path} is damaged: line {number} is not an object with a step; '
        'move the file away to start a new one'
      )
    yield line, end


def _before(path: Path, step: float) -> tuple[int | None, int]:
  """The last step before `step` in a file, and where its line ends."""
  last, end = None, 0
  for line, after in _lines(path) if path.exists() else ():
    if line['step'] >= step:
      break
    last, end = line['step'], after
  return last, end


def _number(value: Any) -> int | float | None:
  try:
    return operator.index(value)
  except TypeError:
    number = float(value)
  return number if math.isfinite(number) else None


def _refused(path: Path, error: OSError) -> WorkdirError:
  return WorkdirError(
    f'cannot write {path}: {error.strerror}; free space or choose another '
    'working directory, then run the same command to go on'
  )
