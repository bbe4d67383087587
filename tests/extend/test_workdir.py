"""A working directory has one writer and one base."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ntk_jax.errors import WorkdirError
from ntk_jax.extend.workdir import Workdir

BASE = {'model': {'dim': 8, 'theta': 1e4}, 'steps': 240, 'corpus': 'abc'}


def refused(path: Path, base: dict[str, Any] = BASE) -> str:
  with pytest.raises(WorkdirError) as error, Workdir(path, base):
    raise AssertionError('it was opened')
  assert str(path) in str(error.value)
  return str(error.value)


def test_it_is_made_and_used_again(tmp_path: Path) -> None:
  path = tmp_path / 'a' / 'b'
  for _ in range(2):
    with Workdir(path, BASE) as workdir:
      assert workdir.path == path
      assert json.loads((path / 'base.json').read_text()) == BASE


def test_it_is_free_after_an_error(tmp_path: Path) -> None:
  with pytest.raises(KeyError), Workdir(tmp_path, BASE):
    raise KeyError
  refused(tmp_path, {**BASE, 'steps': 1})  # does not keep the lock either
  with Workdir(tmp_path, BASE):
    pass


HOLD = """
import sys, time
from pathlib import Path
from ntk_jax.extend.workdir import Workdir
with Workdir(Path(sys.argv[1]), {base!r}):
  print('held', flush=True)
  time.sleep(60)
"""


def test_a_second_process_is_told_who_has_it(tmp_path: Path) -> None:
  root = Path(__file__).resolve().parents[2]
  with subprocess.Popen(
    [sys.executable, '-c', HOLD.format(base=BASE), str(tmp_path)],
    stdout=subprocess.PIPE,
    env={**os.environ, 'PYTHONPATH': str(root)},
  ) as other:
    try:
      assert other.stdout is not None
      assert other.stdout.readline() == b'held\n'
      message = refused(tmp_path)
      assert f'in use by process {other.pid};' in message
      assert '--workdir' in message
    finally:
      other.send_signal(signal.SIGKILL)
  with Workdir(tmp_path, BASE):  # a killed process holds nothing
    assert (tmp_path / '.lock').read_text() == str(os.getpid())


@pytest.mark.parametrize(
  ('base', 'says'),
  [
    ({**BASE, 'steps': 120}, 'with steps 240, this one has 120'),
    (
      {**BASE, 'model': {'dim': 16, 'theta': 1e4}},
      'with model.dim 8, this one has 16',
    ),
    ({**BASE, 'corpus': 'xyz'}, "with corpus 'abc', this one has 'xyz'"),
    ({**BASE, 'new': 1}, 'with new None, this one has 1'),
    ({'model': BASE['model'], 'steps': 240}, "with corpus 'abc', this one has"),
  ],
)
def test_another_base_is_refused_by_field(
  tmp_path: Path, base: dict[str, Any], says: str
) -> None:
  with Workdir(tmp_path, BASE):
    pass
  before = (tmp_path / 'base.json').read_text()
  message = refused(tmp_path, base)
  assert says in message
  assert 'another model, corpus or training needs another --workdir' in message
  assert (tmp_path / 'base.json').read_text() == before


@pytest.mark.parametrize('content', [b'', b'{"steps": 2', b'\xff\xfe', b'[1]'])
def test_a_damaged_base_is_refused(tmp_path: Path, content: bytes) -> None:
  (tmp_path / 'base.json').write_bytes(content)
  message = refused(tmp_path)
  assert 'base.json is damaged' in message
  assert '--workdir' in message


def test_a_file_is_no_workdir(tmp_path: Path) -> None:
  path = tmp_path / 'file'
  path.touch()
  assert 'cannot be written (File exists); choose another' in refused(path)
  assert 'cannot be written (Not a directory)' in refused(path / 'inner')


def test_a_folder_that_cannot_be_written(
  tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  def refuse(path: Path, *args: Any, **options: Any) -> None:
    raise PermissionError(errno.EACCES, 'Permission denied', str(path))

  monkeypatch.setattr(Path, 'open', refuse)
  message = refused(tmp_path)
  assert 'cannot be written (Permission denied); choose another' in message


def test_a_disk_without_locks(
  tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  def refuse(file: Any, flags: int) -> None:
    raise OSError(errno.ENOLCK, 'No locks available')

  monkeypatch.setattr(fcntl, 'flock', refuse)
  message = refused(tmp_path)
  assert 'cannot be locked (No locks available)' in message
