"""The checkpoints of a training run: orbax, with its silences made loud.

Orbax writes a step under another name and renames it, in the background, from
every host its own shards. What it lets pass is caught here: flipped bits, a
save that did nothing, a save that failed unnoticed, a second writer, changed
dtypes, and the leftovers of killed saves.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Collection
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import jax

from ntk_jax.checkpoint import folder as disk
from ntk_jax.checkpoint import hosts, note
from ntk_jax.checkpoint.lock import FolderLock
from ntk_jax.checkpoint.manager import (
  brief,
  open_manager,
  read_arrays,
  read_note,
  start_save,
)
from ntk_jax.errors import CheckpointError, ConfigError


class Restored(NamedTuple):
  """A step that was read and checked.

  Attributes:
    step: its number.
    tree: its arrays, in the structure that was asked for.
    about: what was saved with it.
    set_aside: what was found damaged before, in words.
  """

  step: int
  tree: Any
  about: dict[str, Any]
  set_aside: tuple[str, ...] = ()


class Checkpoints:
  """The steps of one run in one folder; a context manager, the only writer.

  A step that is found damaged is renamed `bad-<step>`, steps after one that
  is gone back to `rewound-<step>`; neither is ever read or deleted again.
  """

  def __init__(
    self,
    folder: str | Path,
    *,
    keep: int = 3,
    run: dict[str, Any] | None = None,
    allow: Collection[str] = (),
  ) -> None:
    """Names a folder; nothing is opened yet.

    Args:
      folder: where the steps are, on a disk that all hosts see.
      keep: newest steps that stay; older ones are deleted after a save. With
        one alone, a step that is damaged ends the run.
      run: what the run is, in sections such as model and data; stored with
        each step, and a step of another run is refused.
      allow: sections that may differ from those stored.

    Raises:
      ConfigError: for a folder that is a URL, or keep below 1.
    """
    if '://' in str(folder):
      raise ConfigError(
        f'checkpoint folder is {str(folder)!r}: mount it and give its path; '
        'the writer lock needs a file system'
      )
    if keep < 1:
      raise ConfigError(f'checkpoints to keep is {keep}, must be at least 1')
    self.folder = Path(folder).absolute()
    self._keep, self._run, self._allow = keep, run or {}, allow
    self._lock = FolderLock(
      self.folder, what='checkpoint folder', remedy='choose another'
    )
    self._manager: Any = None
    self._saving: int | None = None

  def __enter__(self) -> Checkpoints:
    """Locks the folder and clears what killed saves left.

    Raises:
      WorkdirError: if it cannot be written or another process has it.
    """
    hosts.on_leader(self._take)
    try:
      self._manager = open_manager(self.folder, self._keep)
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
    """Finishes the save in flight and unlocks.

    Raises:
      CheckpointError: if that save failed; after another error, a note on it.
    """
    try:
      self.close()
    except CheckpointError as failure:
      if error is None:
        raise
      error.add_note(str(failure))

  def save(self, step: int, tree: Any, about: dict[str, Any]) -> None:
    """Starts to save; the tree may be donated or changed at once.

    After an error the object is as good as before: training may go on and
    the same or a later step be saved.

    Args:
      step: after all steps in the folder.
      tree: arrays of jax or numpy.
      about: JSON-able values to keep with it.

    Raises:
      CheckpointError: if this save cannot start, or the one before failed.
    """
    self._check_open()
    self.wait()
    leaves = note.named_leaves(tree)
    self._check_step(step)
    size = note.size_in_bytes(leaves)
    hosts.on_leader(lambda: disk.check_space(self.folder, size))
    sealed = note.sealed_note(leaves, about, self._run)
    try:
      started = start_save(self._manager, step, leaves, sealed)
    except Exception as error:
      raise self._failed(step, error) from error
    if not started:
      raise CheckpointError(
        f'saving step {step} to {self.folder}: nothing was saved, and no '
        'reason given'
      )
    self._saving = step

  def wait(self) -> None:
    """Returns when the save in flight is on the disk.

    Raises:
      CheckpointError: if it failed.
    """
    step, self._saving = self._saving, None
    if step is None:
      return
    try:
      self._manager.wait_until_finished()
    except Exception as error:
      raise self._failed(step, error) from error

  def restore(self, like: Any, *, step: int | None = None) -> Restored | None:
    """Reads the newest step that is whole, or the one asked for.

    Past a damaged step the one before is taken, and the damaged one set aside.
    Going back to an asked step sets newer ones aside, so that they do not
    block later saves. If no step is whole nothing is moved.

    Args:
      like: a tree of arrays or `jax.ShapeDtypeStruct` with shardings: the
        structure, shapes, dtypes and places to restore to, on any mesh.
      step: the step to go back to.

    Returns:
      What was read; None if the folder has no steps.

    Raises:
      CheckpointError: if no step is whole, the asked one is absent or
        damaged, or a step is of another tree or run.
    """
    self._check_open()
    self.wait()
    leaves = note.named_leaves(like)
    # Listed before anything is renamed, so that all hosts see the same.
    steps, damaged = self.steps(), dict[int, note.DamagedError]()
    for candidate in self._candidates(steps, step):
      try:
        found, about = self._read(candidate, leaves)
      except note.DamagedError as error:
        damaged[candidate] = error
        continue
      set_aside = tuple(self._quarantine(n, e) for n, e in damaged.items())
      for newer in steps:
        if newer > candidate and newer not in damaged:
          self._set_aside(newer, 'rewound')
      tree = jax.tree.unflatten(jax.tree.structure(like), found)
      return Restored(candidate, tree, about, set_aside)
    if damaged:
      raise CheckpointError(
        f'no step to restore in {self.folder} is whole, all were left as they '
        f'are: {"; ".join(f"step {n}: {e}" for n, e in damaged.items())}; '
        'delete them or use another folder to start from step 0'
      )
    return None

  def steps(self) -> list[int]:
    """The steps in the folder, oldest first; one in flight is not there yet."""
    return disk.steps_in(self.folder)

  def close(self) -> None:
    """Finishes the save in flight and unlocks.

    Raises:
      CheckpointError: if that save failed.
    """
    try:
      self.wait()
    finally:
      if self._manager is not None:
        self._manager.close()
        self._manager = None
      self._lock.release()

  def _take(self) -> None:
    self._lock.acquire()
    try:
      disk.remove_unfinished(self.folder)
    except BaseException:
      self._lock.release()
      raise

  def _check_open(self) -> None:
    if self._manager is None:
      raise CheckpointError(f'{self.folder} is not open: use `with`')

  def _check_step(self, step: int) -> None:
    newest = max(self.steps(), default=-1)
    if step <= newest:
      raise CheckpointError(
        f'step {step} cannot be saved: {self.folder} has step {newest}; '
        'restore the step to go on from, which sets newer ones aside'
      )
    if step < 0:
      raise CheckpointError(f'step {step} cannot be saved: below 0')

  def _failed(self, step: int, error: Exception) -> CheckpointError:
    """Makes the folder and the manager good again after a failed save."""
    with contextlib.suppress(Exception):
      self._manager.close()
    with contextlib.suppress(CheckpointError):
      hosts.on_leader(lambda: disk.remove_unfinished(self.folder))
    self._manager = open_manager(self.folder, self._keep)
    return CheckpointError(
      f'saving step {step} to {self.folder} failed: {brief(error)}; steps '
      f'there: {self.steps() or "none"}; free space or choose another folder, '
      'then run the same command to go on'
    )

  def _candidates(self, steps: list[int], step: int | None) -> list[int]:
    """The steps to try, in order; empty if none was ever saved."""
    if step is not None and step not in steps:
      raise CheckpointError(
        f'no step {step} in {self.folder}; there are: {steps or "none"}'
      )
    bad = disk.damaged_in(self.folder)
    if bad and not steps:
      raise CheckpointError(
        f'{self.folder} has damaged steps only: {", ".join(bad)}; delete them '
        'or use another folder to start from step 0'
      )
    return steps[::-1] if step is None else [step]

  def _read(
    self, step: int, leaves: dict[str, Any]
  ) -> tuple[list[Any], dict[str, Any]]:
    """The arrays of a step in order, and what was kept with them."""
    try:
      checked = note.checked_note(read_note(self._manager, step))
      note.check_run(checked, self._run, self._allow)
      note.check_arrays(checked, leaves)
      found = read_arrays(self._manager, step, leaves)
    except CheckpointError as error:
      raise CheckpointError(f'step {step} in {self.folder} {error}') from error
    note.check_digests(checked, found)
    return [found[name] for name in leaves], checked['about']

  def _quarantine(self, step: int, error: note.DamagedError) -> str:
    name = self._set_aside(step, 'bad')
    message = f'step {step} in {self.folder} is damaged, now {name}: {error}'
    logging.getLogger(__name__).warning(message)
    return message

  def _set_aside(self, step: int, why: str) -> str:
    """Renames a step out of the way; returns its new name."""
    name = disk.free_name(self.folder, f'{why}-{step}')
    hosts.on_leader(
      lambda: os.rename(self.folder / str(step), self.folder / name)
    )
    self._manager.reload()
    return name
