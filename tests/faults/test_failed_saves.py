"""A save that fails is an error, and what was there before stays good."""

from __future__ import annotations

import collections
import errno
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntk_jax.checkpoint import Checkpoints
from ntk_jax.errors import CheckpointError, WorkdirError

ROOT = Path(__file__).resolve().parents[2]


def state(step: int) -> dict[str, Any]:
  bits = np.random.default_rng(step).integers(0, 2**32, 2**16, np.uint32)
  return {'w': jnp.asarray(bits)}


def check(folder: Path, step: int) -> None:
  """The newest step is this one, whole, and nothing unfinished is there."""
  with Checkpoints(folder) as checkpoints:
    assert not list(folder.glob('*tmp*'))
    found = checkpoints.restore(state(0))
  assert found is not None
  assert found.step == step
  assert np.array_equal(found.tree['w'], state(step)['w'])


def python(source: str, *args: object) -> str:
  """Runs a script with ours on its path; what it printed."""
  done = subprocess.run(
    [sys.executable, '-c', source, *map(str, args)],
    env={**os.environ, 'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu'},
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert done.returncode == 0, done.stderr
  return done.stdout


FULL = """
import resource, sys
from pathlib import Path
from ntk_jax.checkpoint import Checkpoints
from ntk_jax.errors import CheckpointError
from tests.faults.test_failed_saves import state

folder = Path(sys.argv[1])
unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
with Checkpoints(folder) as checkpoints:
  checkpoints.save(1, state(1), {})
  checkpoints.wait()
  resource.setrlimit(resource.RLIMIT_FSIZE, (2**14, unlimited[1]))
  for then in (lambda: checkpoints.save(3, state(3), {}), checkpoints.wait):
    try:
      checkpoints.save(2, state(2), {})
      then()
      print('no error')
    except CheckpointError as error:
      print(error)
    print(checkpoints.steps(), sorted(p.name for p in folder.glob('*tmp*')))
  resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
  checkpoints.save(2, state(2), {})
resource.setrlimit(resource.RLIMIT_FSIZE, (2**14, unlimited[1]))
try:
  with Checkpoints(folder) as checkpoints:
    checkpoints.save(4, state(4), {})
  print('no error')
except CheckpointError as error:
  print(error)
try:
  with Checkpoints(folder) as checkpoints:
    checkpoints.save(4, state(4), {})
    raise KeyError('of the run')
except KeyError as error:
  print(error, *error.__notes__)
"""


def test_a_file_that_cannot_grow(tmp_path: Path) -> None:
  first, there, second, again, close, other = python(
    FULL, tmp_path
  ).splitlines()
  for said, step in ((first, 2), (second, 2), (close, 4)):
    assert said.startswith(f'saving step {step} to {tmp_path} failed: ')
    assert 'File too large' in said
    assert said.endswith('then run the same command to go on')
  assert there == again == '[1] []'  # nothing is left to fill the disk
  assert 'steps there: [1];' in first
  assert other.startswith(f"'of the run' saving step 4 to {tmp_path} failed")
  check(tmp_path, 2)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
  """Two MiB of file system."""
  folder = tmp_path / 'disk'
  folder.mkdir()
  mount = ['mount', '-t', 'tmpfs', '-o', 'size=2m', 'tmpfs', str(folder)]
  if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
    pytest.skip('only root can mount a file system')
  yield folder
  subprocess.run(['umount', '-l', str(folder)], check=True)


FULL_DISK = """
import sys
from pathlib import Path
from ntk_jax.checkpoint import Checkpoints, folder as disk
from ntk_jax.errors import CheckpointError
from tests.faults.test_failed_saves import state

folder = Path(sys.argv[1])
with Checkpoints(folder) as checkpoints:
  checkpoints.save(1, state(1), {})
  checkpoints.wait()
  (folder / 'other').write_bytes(bytes(1600 * 2**10))
  for guess in (disk.check_space, lambda *args: None):  # others write too
    disk.check_space = guess
    try:
      checkpoints.save(2, state(2), {})
      checkpoints.wait()
      print('no error')
    except CheckpointError as error:
      print(error)
  (folder / 'other').unlink()
  checkpoints.save(2, state(2), {})
"""


def test_a_full_disk(small_disk: Path) -> None:
  foreseen, surprise = python(FULL_DISK, small_disk).splitlines()
  assert foreseen.startswith(f'{small_disk} has ')
  assert 'a save needs 314,572; free space or keep fewer' in foreseen
  assert surprise.startswith(f'saving step 2 to {small_disk} failed: ')
  assert 'No space left on device' in surprise
  check(small_disk, 2)


def test_too_little_space_is_foreseen(
  tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  needed = int(1.2 * state(1)['w'].nbytes)
  usage = collections.namedtuple('usage', 'total used free')
  with Checkpoints(tmp_path) as checkpoints:
    for free in (0, needed - 1):
      disk = usage(10**9, 0, free)
      monkeypatch.setattr(shutil, 'disk_usage', lambda path, disk=disk: disk)
      with pytest.raises(CheckpointError, match=f'has {free:,} bytes free, a'):
        checkpoints.save(1, state(1), {})
    disk = usage(10**9, 0, needed)
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: disk)
    checkpoints.save(1, state(1), {})
  monkeypatch.undo()
  check(tmp_path, 1)


def test_a_save_that_does_nothing(
  tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  with Checkpoints(tmp_path) as checkpoints:
    monkeypatch.setattr(checkpoints._manager, 'save', lambda step, args: False)
    with pytest.raises(CheckpointError, match='step 1 .*: nothing was saved'):
      checkpoints.save(1, state(1), {})
    monkeypatch.undo()
    checkpoints.save(1, state(1), {})
  check(tmp_path, 1)


READ_ONLY = """
import os, sys
from pathlib import Path
import orbax.checkpoint
from ntk_jax.checkpoint import Checkpoints
from ntk_jax.errors import WorkdirError
from tests.faults.test_failed_saves import state

folder = Path(sys.argv[1])
first, second = state(1), state(2)
if os.geteuid() == 0:
  os.chmod(folder, 0o755)
  os.chown(folder, 65534, 65534)
  os.setuid(65534)
with Checkpoints(folder / 'run') as checkpoints:
  checkpoints.save(1, first, {})
  checkpoints.wait()
  os.chmod(folder / 'run', 0o555)
  try:
    checkpoints.save(2, second, {})
    checkpoints.wait()
    print('no error')
  except WorkdirError as error:
    print(error)
os.chmod(folder, 0o555)
for name in ('run', 'new'):
  (folder / 'run' / '.lock').chmod(0o444)
  try:
    with Checkpoints(folder / name):
      print('opened')
  except WorkdirError as error:
    print(error)
os.chmod(folder, 0o755)
os.chmod(folder / 'run', 0o755)
(folder / 'run' / '.lock').chmod(0o644)
"""


@pytest.fixture
def open_folder() -> Iterator[Path]:
  """A folder that another user can reach, as those of pytest are not."""
  with tempfile.TemporaryDirectory() as folder:
    yield Path(folder)


def test_a_folder_that_is_read_only(open_folder: Path) -> None:
  saved, old, new = python(READ_ONLY, open_folder).splitlines()
  assert saved.startswith(f'saving step 2 to {open_folder}/run failed: Perm')
  for said, name in ((old, 'run'), (new, 'new')):
    assert said == (
      f"checkpoint folder '{open_folder}/{name}' cannot be written (Permission "
      'denied); choose another'
    )
  check(open_folder / 'run', 1)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
  path = tmp_path / 'file'
  path.touch()
  with (
    pytest.raises(WorkdirError, match=r'cannot be written \(File exists\)'),
    Checkpoints(path),
  ):
    raise AssertionError('it was opened')


def test_leftovers_that_stay(
  tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  (tmp_path / '3.orbax-checkpoint-tmp').mkdir()

  def refuse(path: Path) -> None:
    raise OSError(errno.EBUSY, 'Device or resource busy')

  monkeypatch.setattr(shutil, 'rmtree', refuse)
  for _ in range(2):  # the lock is not kept
    with (
      pytest.raises(CheckpointError, match=r'cannot remove .*3\.orbax.*busy'),
      Checkpoints(tmp_path),
    ):
      raise AssertionError('it was opened')


def test_a_step_that_cannot_start(
  tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  def refuse(*args: Any, **options: Any) -> None:
    raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: host memory')

  with Checkpoints(tmp_path) as checkpoints:
    monkeypatch.setattr(checkpoints._manager, 'save', refuse)
    with pytest.raises(CheckpointError, match='step 1 to .* failed: .*host'):
      checkpoints.save(1, state(1), {})
    checkpoints.save(1, state(1), {})  # with a manager that is new
  check(tmp_path, 1)
