"""Checkpoints: whole or absent, checked when read, one writer.

`Checkpoints` keeps the steps of a training run in a folder, `save_tree` one
tree in one file; `StopSignals` ends a run between steps.
"""

from ntk_jax.checkpoint.digest import array_digest, digests
from ntk_jax.checkpoint.files import (
  load_tree,
  read_note,
  save_tree,
  write_atomic,
)
from ntk_jax.checkpoint.interrupt import StopSignals
from ntk_jax.checkpoint.lock import FolderLock
from ntk_jax.checkpoint.steps import Checkpoints, Restored

__all__ = [
  'Checkpoints',
  'FolderLock',
  'Restored',
  'StopSignals',
  'array_digest',
  'digests',
  'load_tree',
  'read_note',
  'save_tree',
  'write_atomic',
]
