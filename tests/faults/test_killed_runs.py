"""Stopped and killed runs go on to the same bits as one that never was."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import small_run

ROOT = Path(__file__).resolve().parents[2]
STEPS, SAVE_EVERY = 36, 3
# The same for all sessions, so that they compile fast, and once.
QUICK = {
  'JAX_PLATFORMS': 'cpu',
  'JAX_DISABLE_MOST_OPTIMIZATIONS': '1',
  'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
}


class Run:
  """A session of the small run in a process of its own."""

  def __init__(self, folder: Path) -> None:
    command = [sys.executable, small_run.__file__, str(folder)]
    self.command = [*command, str(STEPS), str(SAVE_EVERY)]
    self.process = subprocess.Popen(
      self.command,
      env={**os.environ, 'PYTHONPATH': str(ROOT), **QUICK},
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    self.said: list[str] = []

  def until(self, start: str, count: int = 1) -> None:
    """Reads lines until `count` begin so, or there are no more."""
    assert self.process.stdout is not None
    for line in self.process.stdout:
      self.said.append(line.rstrip('\n'))
      count -= line.startswith(start)
      if count == 0:
        return

  def end(self, code: int = 0) -> None:
    """Reads the rest and checks the exit code."""
    out, err = self.process.communicate(timeout=120)
    self.said += out.splitlines()
    assert self.process.returncode == code, err


def losses(folder: Path) -> dict[str, str]:
  """Loss by step, and the digests at the end; sessions that overlap agree."""
  found: dict[str, str] = {}
  lines = (folder / 'losses').read_text().splitlines(keepends=True)
  for line in lines:
    if line.endswith('\n'):  # else it was cut off by a kill
      step, _, loss = line.partition(' ')
      assert found.setdefault(step, loss) == loss, step
  return found


@pytest.fixture(scope='module')
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
  """Sessions find what earlier ones compiled."""
  with pytest.MonkeyPatch.context() as patch:
    cache = str(tmp_path_factory.mktemp('cache'))
    patch.setenv('JAX_COMPILATION_CACHE_DIR', cache)
    yield


@pytest.fixture(scope='module')
def straight(
  tmp_path_factory: pytest.TempPathFactory, compiled: None
) -> dict[str, str]:
  """What a run that is left alone logs."""
  folder = tmp_path_factory.mktemp('straight')
  Run(folder).end()
  found = losses(folder)
  assert list(found) == [*map(str, range(STEPS)), 'end']
  assert len(set(found.values())) == STEPS + 1  # it learns
  return found


def killed(folder: Path, rng: random.Random) -> bool:
  """A session, killed at a random moment, often while it saves."""
  run = Run(folder)
  run.until('save', rng.randint(3, 5))  # the first is on the disk by then
  time.sleep(rng.uniform(0, 0.05))
  run.process.send_signal(signal.SIGKILL)
  run.process.communicate(timeout=120)
  return run.process.returncode == -signal.SIGKILL


def flip_newest(folder: Path) -> int:
  """Flips a bit in the biggest file of the newest step."""
  newest = max((p for p in folder.iterdir() if p.name.isdecimal()), key=number)
  files = [p for p in (newest / 'arrays').rglob('*') if p.is_file()]
  path = max(files, key=lambda p: p.stat().st_size)
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 16
  path.write_bytes(bytes(content))
  return number(newest)


def number(path: Path) -> int:
  return int(path.name)


def finish(folder: Path, straight: dict[str, str]) -> Run:
  run = Run(folder)
  run.end()
  assert losses(folder) == straight
  leftovers = [p.name for p in folder.iterdir() if 'tmp' in p.name]
  assert leftovers == []
  return run


def test_killed_at_random_moments(
  tmp_path: Path, straight: dict[str, str]
) -> None:
  rng = random.Random(os.environ.get('KILL_SEED', '0'))
  kills = [killed(tmp_path, rng) for _ in range(3)]
  assert sum(kills) >= 2  # it may have been at its end
  bad = flip_newest(tmp_path)
  run = finish(tmp_path, straight)
  assert run.said[0].startswith(f'step {bad} in {tmp_path} is damaged, now bad')
  assert 'digest mismatch in ' in run.said[0]
  assert run.said[1] == f'start {bad - SAVE_EVERY}'


@pytest.mark.slow
@pytest.mark.parametrize('seed', range(4))
def test_killed_often(
  tmp_path: Path, straight: dict[str, str], seed: int
) -> None:
  """Twenty kills in four runs, bits flipped between them."""
  rng = random.Random(seed)
  for kill in range(5):
    killed(tmp_path, rng)
    if kill in (1, 3):
      flip_newest(tmp_path)
  finish(tmp_path, straight)


def test_stopped_by_signals(tmp_path: Path, straight: dict[str, str]) -> None:
  for number, code in ((signal.SIGTERM, 0), (signal.SIGINT, 130)):
    run = Run(tmp_path)
    run.until('save')
    run.process.send_signal(number)
    run.end(code)
    first, last = run.said[-2:]
    done = len(losses(tmp_path))
    assert first.startswith(f'stopped and saved after step {done}; to go on')
    assert last.split()[-4:] == [*run.command[-4:-2], str(STEPS), '3']
    assert str(done) in [p.name for p in tmp_path.iterdir()]
    assert done < STEPS
  assert finish(tmp_path, straight).said[-1] == f'save {STEPS}'
