"""The note beside the arrays of a step: what they are, and whose.

It holds each array's kind and digest, what the run is, and what the caller
wants to keep; a digest of all that seals it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from typing import Any

import jax
import numpy as np

from ntk_jax.checkpoint.digest import digests
from ntk_jax.checkpoint.files import kind
from ntk_jax.config import differences, to_plain
from ntk_jax.errors import CheckpointError

_Struct = jax.ShapeDtypeStruct


class DamagedError(Exception):
  """What is read is not what was saved."""


def named_leaves(tree: Any) -> dict[str, Any]:
  """The arrays of a tree by path, as `params/layers/q`.

  Raises:
    CheckpointError: for a leaf that cannot be saved, by name.
  """
  leaves: dict[str, Any] = {}
  for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
    name = jax.tree_util.keystr(path, simple=True, separator='/') or 'array'
    if not isinstance(leaf, jax.Array | np.ndarray | np.generic | _Struct):
      raise CheckpointError(
        f'{name} is {leaf!r}: only arrays are saved in a tree; keep other '
        'values in `about`'
      )
    if 0 in leaf.shape:
      raise CheckpointError(
        f'{name} has the shape {leaf.shape}: an array without elements cannot '
        'be saved; leave it out of the tree'
      )
    if name in leaves:
      raise CheckpointError(
        f'two arrays are called {name}: rename a key that contains "/"'
      )
    leaves[name] = np.asarray(leaf) if isinstance(leaf, np.generic) else leaf
  if not leaves:
    raise CheckpointError('the tree to save or restore has no arrays')
  return leaves


def size_in_bytes(leaves: Mapping[str, Any]) -> int:
  """What the arrays take on disk at most, whole, however they are spread."""
  return sum(leaf.nbytes for leaf in leaves.values())


def sealed_note(
  leaves: Mapping[str, Any], about: dict[str, Any], run: dict[str, Any]
) -> dict[str, Any]:
  """The note of a tree, JSON-able."""
  made = digests(leaves)
  arrays = {n: [kind(leaf), made[n]] for n, leaf in leaves.items()}
  note = {'arrays': arrays, 'about': to_plain(about), 'run': to_plain(run)}
  return note | {'seal': _seal(note)}


def checked_note(stored: Any) -> dict[str, Any]:
  """A note as it was sealed.

  Raises:
    DamagedError: if it is not.
  """
  if not isinstance(stored, dict):
    raise DamagedError('its note is not a note')
  note = {name: value for name, value in stored.items() if name != 'seal'}
  if stored.get('seal') != _seal(note):
    raise DamagedError('its note does not match the seal')
  return note


def check_arrays(note: dict[str, Any], leaves: Mapping[str, Any]) -> None:
  """Compares what was saved with what is wanted, before arrays are read.

  Raises:
    CheckpointError: naming the arrays that are absent, extra or of another
      shape or dtype.
  """
  found = {name: array[0] for name, array in note['arrays'].items()}
  wanted = {name: kind(leaf) for name, leaf in leaves.items()}
  wrong = [
    f'{name} is {found.get(name, "absent")}, not {wanted.get(name, "absent")}'
    for name in sorted({*found, *wanted})
    if found.get(name) != wanted.get(name)
  ]
  if wrong:
    raise CheckpointError(
      f'holds another tree of arrays: {"; ".join(wrong)}; it is of another '
      'model or optimizer, so use another folder'
    )


def check_run(
  note: dict[str, Any], run: dict[str, Any], allow: Collection[str]
) -> None:
  """Compares whose the step is, section by section.

  Raises:
    CheckpointError: naming what differs, before and now.
  """
  sections = {*note['run'], *run} - {*allow}
  if not run or not note['run']:
    return
  before, now = (
    {name: side.get(name) for name in sections}
    for side in (note['run'], to_plain(run))
  )
  wrong = differences(before, now)
  if wrong:
    changed = sorted({name.partition('.')[0] for name, _, _ in wrong})
    said = '; '.join(f'{n} was {x!r}, is {y!r}' for n, x, y in wrong)
    raise CheckpointError(
      f'is of another run: {said}; use another folder, or allow a change of '
      f'{", ".join(changed)}'
    )


def check_digests(note: dict[str, Any], leaves: Mapping[str, Any]) -> None:
  """Compares the digests of restored arrays with those that were stored.

  Raises:
    DamagedError: naming the arrays that are not what was saved.
  """
  made = digests(leaves)
  wrong = [n for n in sorted(made) if made[n] != note['arrays'][n][1]]
  if wrong:
    raise DamagedError(f'digest mismatch in {", ".join(wrong)}')


def _seal(note: dict[str, Any]) -> str:
  text = json.dumps(note, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()
