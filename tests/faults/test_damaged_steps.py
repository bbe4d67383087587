"""Damage on the disk: found, named, set aside, the step before it taken."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntk_jax.checkpoint import Checkpoints, manager
from ntk_jax.errors import CheckpointError

ROOT = Path(__file__).resolve().parents[2]
SHAPE = (64, 64)


def state(step: int) -> dict[str, Any]:
  """Arrays that cannot be compressed, so that any byte on disk is data."""
  rng = np.random.default_rng(step)
  bits = rng.integers(0, 2**32, SHAPE, np.uint32)
  return {
    'model': {'w': jnp.asarray(bits), 'b': jnp.float32(step)},
    'host': rng.normal(size=100),
  }


@pytest.fixture(scope='module')
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
  """A folder with the steps 1 and 2."""
  folder = tmp_path_factory.mktemp('made') / 'run'
  with Checkpoints(folder) as checkpoints:
    for step in (1, 2):
      checkpoints.save(step, state(step), {'losses': list(range(step))})
  return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
  return Path(shutil.copytree(made, tmp_path / 'run'))


def fallen_back(folder: Path) -> str:
  """Restores and sees step 1; what was said of step 2."""
  with Checkpoints(folder) as checkpoints:
    found = checkpoints.restore(state(0))
    assert found is not None
    assert found.step == 1
    assert found.about == {'losses': [0]}
    for x, y in zip(jax.tree.leaves(found.tree), jax.tree.leaves(state(1))):
      assert np.array_equal(x, y)
    assert (folder / 'bad-2').is_dir()
    assert checkpoints.steps() == [1]
    checkpoints.save(2, state(2), {})  # its number is free again
    checkpoints.wait()
    again = checkpoints.restore(state(0))
    assert again is not None
    assert (again.step, again.set_aside) == (2, ())
  (said,) = found.set_aside
  assert said.startswith(f'step 2 in {folder} is damaged, now bad-2: ')
  return said


def flip(path: Path, bit: int) -> None:
  content = bytearray(path.read_bytes())
  content[bit // 8] ^= 1 << bit % 8
  path.write_bytes(bytes(content))


def biggest(folder: Path) -> Path:
  """The file that holds the data of `model/w`."""
  files = [path for path in folder.rglob('*') if path.is_file()]
  return max(files, key=lambda path: path.stat().st_size)


@pytest.mark.parametrize('seed', range(6))
def test_a_flipped_bit_in_an_array(folder: Path, seed: int) -> None:
  path = biggest(folder / '2' / 'arrays')
  assert path.stat().st_size > 4 * np.prod(SHAPE)
  words = np.asarray(state(2)['model']['w']).tobytes()
  start = path.read_bytes().find(words[:64])
  if start < 0:  # compressed in chunks of its own: any byte of the middle
    start = path.stat().st_size // 4
  rng = np.random.default_rng(seed)
  flip(path, 8 * start + int(rng.integers(8 * len(words) // 2)))
  assert fallen_back(folder).endswith('digest mismatch in model/w')


def test_orbax_alone_would_not_notice(folder: Path) -> None:
  """If this fails, orbax has a checksum, and ours costs time for nothing."""
  path = biggest(folder / '2' / 'arrays')
  flip(path, 4 * path.stat().st_size)
  opened = manager.open_manager(folder, 3)
  found = manager.read_arrays(opened, 2, {'host': state(0)['host'], **flat()})
  opened.close()
  assert not np.array_equal(found['model/w'], state(2)['model']['w'])


def flat() -> dict[str, Any]:
  model = state(0)['model']
  return {'model/w': model['w'], 'model/b': model['b']}


def emptied(path: Path) -> None:
  path.write_bytes(b'')


def truncated(path: Path) -> None:
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def zeroed(path: Path) -> None:
  path.write_bytes(bytes(path.stat().st_size))


def hurt_each_file(made: Path, work: Path) -> None:
  """Hurts each file of step 2 in each way; prints where step 1 was taken."""
  paths = (path for path in (made / '2').rglob('*') if path.is_file())
  for name in sorted(str(path.relative_to(made / '2')) for path in paths):
    for damage in (emptied, truncated, zeroed, os.remove):
      folder = Path(shutil.copytree(made, work / 'run'))
      damage(folder / '2' / name)
      with Checkpoints(folder) as checkpoints:
        found = checkpoints.restore(state(0))
      assert found is not None
      wanted = state(found.step)
      for x, y in zip(jax.tree.leaves(found.tree), jax.tree.leaves(wanted)):
        assert np.array_equal(x, y)
      assert found.about == {'losses': list(range(found.step))}
      if found.step == 1:
        print(damage.__name__, name)
      shutil.rmtree(folder)


HURT = """
import sys
from pathlib import Path
from tests.faults.test_damaged_steps import hurt_each_file
hurt_each_file(*map(Path, sys.argv[1:]))
"""


def test_any_file_may_be_hurt(made: Path, tmp_path: Path) -> None:
  """A step is used whole or not at all, whichever file is hurt.

  In a process of its own: after one array could not be read, orbax abandons
  what reads the others, which pytest would take for errors of later tests.
  """
  done = subprocess.run(
    [sys.executable, '-c', HURT, made, tmp_path],
    env={**os.environ, 'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu'},
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert done.returncode == 0, done.stderr
  fell = done.stdout.splitlines()
  for how in ('emptied', 'truncated', 'zeroed', 'remove'):
    assert f'{how} note/metadata' in fell
    assert any(f'{how} arrays/' in line and '/d/' in line for line in fell)


def test_a_changed_note(folder: Path) -> None:
  path = folder / '2' / 'note' / 'metadata'
  note = json.loads(path.read_text())
  note['about']['losses'][0] = 7
  path.write_text(json.dumps(note))
  assert 'its note does not match the seal' in fallen_back(folder)
  path.parent.mkdir(exist_ok=True)


@pytest.mark.parametrize('content', ['[]', 'null', '3'])
def test_a_note_of_another_kind(folder: Path, content: str) -> None:
  (folder / '2' / 'note' / 'metadata').write_text(content)
  assert 'its note is not a note' in fallen_back(folder)


def test_an_array_that_is_gone(folder: Path) -> None:
  """The note promises an array that the files do not have."""
  other = folder.parent / 'other'
  with Checkpoints(other) as checkpoints:
    checkpoints.save(2, {'host': state(2)['host']}, {})
  shutil.rmtree(folder / '2' / 'arrays')
  shutil.copytree(other / '2' / 'arrays', folder / '2' / 'arrays')
  assert 'model' in fallen_back(folder)


def test_arrays_of_another_step(folder: Path) -> None:
  shutil.rmtree(folder / '2' / 'arrays')
  shutil.copytree(folder / '1' / 'arrays', folder / '2' / 'arrays')
  said = fallen_back(folder)
  assert said.endswith('digest mismatch in host, model/b, model/w')


def test_an_empty_step_and_what_is_no_step(folder: Path) -> None:
  for name in ('99', 'bad-7', '007', 'notes', '12.txt'):
    (folder / name).mkdir()
  (folder / '123').touch()
  with Checkpoints(folder) as checkpoints:
    found = checkpoints.restore(state(0))
  assert found is not None
  assert found.step == 2
  assert [said.partition(' in ')[0] for said in found.set_aside] == ['step 99']
  assert (folder / 'bad-99').is_dir()


def test_two_bad_steps_of_one_number(folder: Path) -> None:
  for _ in range(2):
    (folder / '99').mkdir()
    with Checkpoints(folder) as checkpoints:
      checkpoints.restore(state(0))
  assert (folder / 'bad-99-1').is_dir()


def test_no_step_is_whole(folder: Path) -> None:
  for step in ('1', '2'):
    emptied(folder / step / 'note' / 'metadata')
  for _ in range(2):  # the second run must not start from nothing either
    with pytest.raises(CheckpointError) as error, Checkpoints(folder) as opened:
      opened.restore(state(0))
    assert 'no step to restore' in str(error.value)
    assert 'step 2: JSONDecodeError' in str(error.value)
    assert 'step 1: JSONDecodeError' in str(error.value)
    assert opened.steps() == [1, 2]
  for step in (1, 2):
    os.rename(folder / str(step), folder / f'bad-{step}')
  with (
    pytest.raises(CheckpointError, match='damaged steps only: bad-1, bad-2'),
    Checkpoints(folder) as opened,
  ):
    opened.restore(state(0))


def test_an_asked_step_that_is_damaged(folder: Path) -> None:
  emptied(folder / '1' / 'note' / 'metadata')
  with Checkpoints(folder) as opened:
    with pytest.raises(CheckpointError, match='step 1: JSONDecodeError'):
      opened.restore(state(0), step=1)
    found = opened.restore(state(0))
  assert found is not None
  assert found.step == 2


@pytest.mark.parametrize(
  'error',
  [
    PermissionError(errno.EACCES, 'Permission denied'),
    ValueError('RESOURCE_EXHAUSTED: Too many open files'),
    jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory'),
    MemoryError(),
  ],
)
def test_trouble_that_passes_moves_nothing(
  folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
  with Checkpoints(folder) as checkpoints:

    def refuse(*args: Any, **options: Any) -> None:
      raise error

    monkeypatch.setattr(checkpoints._manager, 'restore', refuse)
    with pytest.raises(CheckpointError, match='step 2 .* cannot be read now'):
      checkpoints.restore(state(0))
    monkeypatch.undo()
    found = checkpoints.restore(state(0))
  assert found is not None
  assert found.step == 2
