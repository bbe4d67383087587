"""Checkpoints: exact, whole or absent, and refused when damaged."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from ntk_jax.checkpoint import load_tree, read_note, save_tree, write_atomic
from ntk_jax.errors import WorkdirError


class State(NamedTuple):
  params: dict[str, Any]
  count: Any
  extra: tuple[Any, ...] = ()


def tree() -> State:
  rng = np.random.default_rng(0)
  return State(
    {
      'w': jnp.asarray(rng.normal(size=(3, 5)), jnp.float32),
      'narrow': jnp.asarray(rng.normal(size=7), jnp.bfloat16),
      'transposed': rng.normal(size=(2, 3)).astype(np.float32).T,
      'empty': np.zeros((0, 4), np.float32),
    },
    jnp.int32(41),
    (np.array([True, False]), np.array([1, 2**32 - 1], np.uint32)),
  )


def like(tree: Any) -> Any:
  return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), tree)


ABOUT = {'loss': [1.5, 0.1 + 0.2], 'name': 'größe', 'none': None}


@pytest.fixture
def path(tmp_path: Path) -> Path:
  path = tmp_path / 'inner' / 'a.safetensors'
  save_tree(path, tree(), ABOUT)
  return path


def test_all_comes_back_to_the_bit(path: Path) -> None:
  found, about = load_tree(path, like(tree()))
  assert about == ABOUT
  assert jax.tree.structure(found) == jax.tree.structure(tree())
  for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(tree())):
    assert (x.shape, x.dtype) == (y.shape, y.dtype)
    assert x.tobytes() == np.asarray(y).tobytes()


def test_the_note_is_read_alone(path: Path, tmp_path: Path) -> None:
  assert read_note(path) == ABOUT
  foreign = tmp_path / 'foreign'
  save_file({'x': np.ones(3, np.float32)}, foreign)
  for other in (foreign, tmp_path / 'absent'):
    with pytest.raises(WorkdirError, match='not a whole checkpoint'):
      read_note(other)


def test_values_that_are_not_finite_come_back(tmp_path: Path) -> None:
  array = np.array([np.nan, -np.inf, -0.0], np.float32)
  save_tree(tmp_path / 'a', {'x': array}, {})
  found, _ = load_tree(tmp_path / 'a', {'x': array})
  assert found['x'].tobytes() == array.tobytes()


def refused(path: Path, wanted: Any = None) -> str:
  with pytest.raises(WorkdirError) as error:
    load_tree(path, like(tree()) if wanted is None else wanted)
  assert str(path) in str(error.value)
  return str(error.value)


@pytest.mark.parametrize('kept', [0, 1, 7, 8, 60, 300, -1])
def test_a_truncated_file_is_refused(path: Path, kept: int) -> None:
  content = path.read_bytes()
  path.write_bytes(content[:kept])
  assert 'not a whole checkpoint' in refused(path)


def test_any_flipped_byte_is_refused(path: Path) -> None:
  content = path.read_bytes()
  header = int.from_bytes(content[:8], 'little')
  for place in (3, 20, 8 + header // 2, *range(8 + header, len(content))):
    damaged = bytearray(content)
    damaged[place] ^= 1
    path.write_bytes(bytes(damaged))
    refused(path)


def test_a_changed_note_is_refused(path: Path) -> None:
  content = path.read_bytes()
  assert content.count(b'1.5') == 1
  path.write_bytes(content.replace(b'1.5', b'1.4'))
  assert 'damaged: its digest' in refused(path)


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
  path = tmp_path / 'model.safetensors'
  save_file({'x': np.ones(3, np.float32)}, path)
  assert 'digest' in refused(path)
  save_file({'x': np.ones(3, np.float32)}, path, metadata={'about': '{}'})
  assert 'digest' in refused(path)
  path.write_text('{"not": "tensors"}')
  refused(path)


def test_a_folder_or_nothing_is_refused(tmp_path: Path) -> None:
  refused(tmp_path)
  refused(tmp_path / 'absent')


@pytest.mark.parametrize(
  ('changed', 'says'),
  [
    ({'count': np.zeros(1, np.int32)}, '.count is int32[], not int32[1]'),
    ({'count': np.zeros((), np.int64)}, '.count is int32[], not int64[]'),
    ({'params': {}}, 'is float32[0, 4], not absent'),
    ({'extra': (*range(0),)}, '.extra[0] is bool[2], not absent'),
  ],
)
def test_another_tree_is_refused(
  path: Path, changed: dict[str, Any], says: str
) -> None:
  message = refused(path, like(tree())._replace(**changed))
  assert 'holds another tree' in message
  assert says in message


def test_a_missing_array_is_named(tmp_path: Path) -> None:
  save_tree(tmp_path / 'a', {'x': np.ones(2)}, {})
  message = refused(tmp_path / 'a', {'x': np.ones(2), 'y': np.ones(3)})
  assert "['y'] is absent, not float64[3]" in message


def test_a_write_that_fails_leaves_the_old_file(
  path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  before = path.read_bytes()

  def full(descriptor: int) -> None:
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(os, 'fsync', full)
  with pytest.raises(WorkdirError) as error:
    save_tree(path, tree(), {'new': 1})
  assert str(path) in str(error.value)
  assert 'No space left on device; free space' in str(error.value)
  assert path.read_bytes() == before
  assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_killed_write_leaves_the_old_file(
  path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  class Killed(BaseException):
    pass

  def killed(source: Path, target: Path) -> None:
    raise Killed

  monkeypatch.setattr(os, 'replace', killed)
  with pytest.raises(Killed):
    save_tree(path, tree(), {'new': 1})
  monkeypatch.undo()
  assert load_tree(path, like(tree()))[1] == ABOUT
  save_tree(path, tree(), {'new': 1})  # over what was left behind
  assert load_tree(path, like(tree()))[1] == {'new': 1}
  assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
  (tmp_path / 'file').touch()
  with pytest.raises(WorkdirError, match=r'file/a: .*; free space or choose'):
    write_atomic(tmp_path / 'file' / 'a', b'')
