"""Orbax, and nothing else: the one file that knows it.

It writes a step under another name and renames it, in the background, from
every host its own shards. A step is two items: the arrays by name, and a note.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ntk_jax.checkpoint import hosts
from ntk_jax.checkpoint.note import DamagedError
from ntk_jax.errors import CheckpointError

# Errors that speak of the machine, not of the files.
_PASSING = re.compile(
  'RESOURCE_EXHAUSTED|PERMISSION_DENIED|UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED'
  '|Permission denied|Too many open files|Input/output error'
)

# What tensorstore adds to a message: pages of its own settings.
_DETAILS = re.compile(r'\[tensorstore_spec=|See full TensorStore details')
_SIDE = 250  # characters of a long message that are kept on either side


def open_manager(folder: Path, keep: int) -> Any:
  """Orbax's manager of a folder that exists."""
  ocp = _orbax()
  options = ocp.CheckpointManagerOptions(
    max_to_keep=keep,
    create=False,
    save_root_metadata=False,
    lightweight_initialize=True,
    # Otherwise, where a directory cannot be made, threads that wait for it
    # keep the process from ending for many minutes.
    async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
  )
  return ocp.CheckpointManager(folder, options=options)


def start_save(
  manager: Any, step: int, arrays: Mapping[str, Any], note: dict[str, Any]
) -> bool:
  """Starts to write a step; False if orbax would rather not, it says no why."""
  args = _orbax().args
  return manager.save(
    step,
    args=args.Composite(
      arrays=args.StandardSave(arrays), note=args.JsonSave(note)
    ),
  )


def read_note(manager: Any, step: int) -> Any:
  """The note of a step.

  Raises:
    DamagedError: if its files are.
    CheckpointError: if they cannot be read now.
  """
  return _read(manager, step, note=_orbax().args.JsonRestore()).note


def read_arrays(
  manager: Any, step: int, like: Mapping[str, Any]
) -> dict[str, Any]:
  """The arrays of a step, in the places that `like` has them.

  Raises:
    DamagedError: if its files are.
    CheckpointError: if they cannot be read now.
  """
  targets = {name: _target(leaf) for name, leaf in like.items()}
  restore = _orbax().args.StandardRestore(targets)
  return _read(manager, step, arrays=restore).arrays


def brief(error: Exception) -> str:
  """An error in one line."""
  words = ' '.join(_DETAILS.split(str(error))[0].split())
  if len(words) > 2 * _SIDE:  # what failed, then files, then why
    words = f'{words[:_SIDE]} ... {words[-_SIDE:]}'
  return f'{type(error).__name__}: {words}'


def _read(manager: Any, step: int, **items: Any) -> Any:
  """Reads items of a step; the processes agree on how that went."""
  found, failure = None, None
  try:
    found = manager.restore(step, args=_orbax().args.Composite(**items))
  except Exception as error:
    failure = error
  reason = brief(failure) if failure else 'another process cannot read it'
  if hosts.on_any(failure is not None and _may_pass(failure)):
    raise CheckpointError(
      f'cannot be read now: {reason}; it was left as it is'
    ) from failure
  if hosts.on_any(failure is not None):
    raise DamagedError(reason) from failure
  return found


def _target(leaf: Any) -> Any:
  """Numpy for numpy; a shape without a sharding goes to the first device."""
  if isinstance(leaf, np.ndarray):
    return leaf
  where = getattr(leaf, 'sharding', None)
  if where is None:
    where = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)


def _may_pass(error: Exception) -> bool:
  """Whether an error speaks of the machine rather than of the files."""
  machine = isinstance(error, jax.errors.JaxRuntimeError | MemoryError)
  return machine or bool(_PASSING.search(f'{error}'))


def _orbax() -> Any:
  """Orbax, imported when a folder is opened: not all who import us need it."""
  import orbax.checkpoint as ocp

  return ocp
