"""Files of one host: whole or absent, and checked when read.

A tree of arrays goes to one safetensors file beside a digest of its bytes,
written under another name and renamed: a killed process leaves the old file
or the new one, and a damaged file is refused by name, never used.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
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
    with contextlib.suppress(OSError):
      partial.unlink()
    raise WorkdirError(
      f'cannot write {path}: {error.strerror}; free space or choose another '
      'working directory, then run the same command to go on'
    ) from error


def save_tree(path: Path, tree: Any, about: dict[str, Any]) -> None:
  """Saves a tree of arrays with a JSON-able note about it.

  Raises:
    WorkdirError: if the disk refuses, naming the file and the reason.
  """
  # Without order='C' a transposed array would be saved as it lies in memory.
  arrays = {n: np.asarray(a, order='C') for n, a in _by_name(tree).items()}
  note = json.dumps(about)
  metadata = {'about': note, 'digest': _digest(note, arrays)}
  write_atomic(path, save(arrays, metadata=metadata))


def read_note(path: Path) -> dict[str, Any]:
  """The note saved with a tree, without reading its arrays.

  Raises:
    WorkdirError: if the file is damaged or holds no note.
  """
  with _opened(path) as file:
    return json.loads((file.metadata() or {})['about'])


def load_tree(path: Path, like: Tree) -> tuple[Tree, dict[str, Any]]:
  """Reads a tree of the structure, shapes and dtypes of `like`.

  Returns:
    The tree (host arrays) and the note saved with it.

  Raises:
    WorkdirError: if the file is damaged, unreadable or holds another tree.
  """
  about, arrays = _read(path)
  expected = {n: kind(leaf) for n, leaf in _by_name(like).items()}
  found = {name: kind(array) for name, array in arrays.items()}
  if found != expected:
    odd = min(n for n, _ in found.items() ^ expected.items())
    raise WorkdirError(
      f'{path} holds another tree of arrays: {odd} is '
      f'{found.get(odd, "absent")}, not {expected.get(odd, "absent")}; it was '
      'written by a run of other settings, so use another working directory'
    )
  leaves = [arrays[name] for name in expected]
  return jax.tree.unflatten(jax.tree.structure(like), leaves), about


def _read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
  """The note and the arrays of a file, their digest checked."""
  with _opened(path) as file:
    metadata, names = file.metadata() or {}, file.keys()
    arrays = {name: file.get_tensor(name) for name in names}
  if metadata.get('digest') != _digest(metadata.get('about', ''), arrays):
    raise WorkdirError(
      f'{path} is damaged: its digest does not match; delete it and run again '
      'to redo this stage'
    )
  return json.loads(metadata['about']), arrays


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
  """A safetensors file; what is wrong with it becomes a WorkdirError."""
  try:
    with safe_open(path, framework='numpy') as file:
      yield file
  except (SafetensorError, OSError, KeyError, ValueError) as error:
    raise WorkdirError(
      f'{path} is not a whole checkpoint ({error}); delete it and run again '
      'to redo this stage'
    ) from error


def _by_name(tree: Any) -> dict[str, Any]:
  leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
  return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def kind(array: Any) -> str:
  """Dtype and shape in words.

  >>> kind(np.zeros((2, 3), np.float32))
  'float32[2, 3]'
  """
  return f'{array.dtype}{list(array.shape)}'


def _digest(note: str, arrays: dict[str, np.ndarray]) -> str:
  digest = hashlib.sha256(note.encode())
  for name in sorted(arrays):
    array = arrays[name]
    digest.update(f'{name} {array.dtype} {array.shape}'.encode())
    digest.update(array.tobytes())
  return digest.hexdigest()
