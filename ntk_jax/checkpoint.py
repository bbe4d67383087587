"""Checkpoints of one host: whole or absent, and checked when read.

A tree of arrays goes to one safetensors file beside a digest of its bytes,
written under another name and renamed: a killed process leaves the old file
or the new one, and a damaged file is refused by name, never used.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ntk_jax.errors import WorkdirError

Tree = TypeVar('Tree')


def write_atomic(path: Path, content: bytes) -> None:
  """Writes a file so that it is there whole or not at all.

  Raises:
    WorkdirError: if the disk refuses, naming the file and the reason.
  """
  partial = path.with_name(path.name + '.partial')
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    with partial.open('wb') as file:
      file.write(content)
      file.flush()
      os.fsync(file.fileno())
    os.replace(partial, path)
  except OSError as error:
    raise WorkdirError(
      f'cannot write {path}: {error.strerror}; free space or choose another '
      'working directory, then run the same command to go on'
    ) from error


def save_tree(path: Path, tree: Any, about: dict[str, Any]) -> None:
  """Saves a tree of arrays with a JSON-able note about it."""
  arrays = _by_name(tree)
  note = {'about': about, 'digest': _digest(arrays)}
  write_atomic(path, save(arrays, metadata={'ntk_jax': json.dumps(note)}))


def read_note(path: Path) -> dict[str, Any]:
  """The note saved with a tree, without reading its arrays."""
  return _open(path)[0]['about']


def load_tree(path: Path, like: Tree) -> tuple[Tree, dict[str, Any]]:
  """Reads a tree of the structure, shapes and dtypes of `like`.

  Returns:
    The tree (host arrays) and the note saved with it.

  Raises:
    WorkdirError: if the file is damaged or holds another tree.
  """
  note, arrays = _open(path)
  expected = _by_name(like, shapes_only=True)
  found = {name: (a.shape, a.dtype) for name, a in arrays.items()}
  if found != expected:
    odd = sorted(set(found.items()) ^ set(expected.items()))[0][0]
    raise WorkdirError(
      f'{path} holds another tree of arrays (see {odd!r}); it was written by '
      'a run of other settings: use another working directory'
    )
  if _digest(arrays) != note['digest']:
    raise WorkdirError(
      f'{path} is damaged: its digest does not match; delete it and run again '
      'to redo this stage'
    )
  leaves = [arrays[name] for name in expected]
  return jax.tree.unflatten(jax.tree.structure(like), leaves), note['about']


def _open(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
  try:
    with safe_open(path, framework='numpy') as file:
      note = json.loads(file.metadata()['ntk_jax'])
      return note, {name: file.get_tensor(name) for name in file.keys()}
  except (SafetensorError, KeyError, TypeError, ValueError) as error:
    raise WorkdirError(
      f'{path} is not a whole checkpoint ({error}); delete it and run again '
      'to redo this stage'
    ) from error


def _by_name(tree: Any, *, shapes_only: bool = False) -> dict[str, Any]:
  leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
  if shapes_only:
    return {
      jax.tree_util.keystr(path): (leaf.shape, leaf.dtype)
      for path, leaf in leaves
    }
  return {
    jax.tree_util.keystr(path): np.ascontiguousarray(leaf)
    for path, leaf in leaves
  }


def _digest(arrays: dict[str, np.ndarray]) -> str:
  digest = hashlib.sha256()
  for name in sorted(arrays):
    array = arrays[name]
    digest.update(f'{name} {array.dtype} {array.shape}'.encode())
    digest.update(array.tobytes())
  return digest.hexdigest()
