"""JSON lines of a run that is killed, resumed and damaged."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from ntk_jax.errors import WorkdirError
from ntk_jax.metrics import JsonLines, read_lines

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
  return tmp_path / 'run' / 'metrics.jsonl'


def write(path: Path, steps: range) -> None:
  lines = JsonLines(path)
  for step in steps:
    lines.write(step, {'loss': 1 / (step + 1)})
  lines.close()


def steps(path: Path) -> list[int]:
  return [line['step'] for line in read_lines(path)]


def test_a_line_per_step_at_once(path: Path) -> None:
  lines = JsonLines(path)
  assert lines.last_step is None
  lines.write(0, {'loss': jnp.float32(0.1), 'skipped': np.int32(3)})
  # Read while the file is still open: nothing waits in a buffer.
  assert path.read_text() == (
    '{"step": 0, "loss": 0.10000000149011612, "skipped": 3}\n'
  )
  lines.write(5, {'loss': 2})
  assert lines.last_step == 5
  lines.close()
  assert steps(path) == [0, 5]


def test_numbers_come_back_to_the_bit(path: Path) -> None:
  values = np.random.default_rng(0).lognormal(size=50).astype(np.float32)
  lines = JsonLines(path)
  for step, value in enumerate(values):
    lines.write(step, {'loss': value})
  lines.close()
  found = [np.float32(line['loss']) for line in read_lines(path)]
  assert found == values.tolist()


def test_what_is_not_finite_is_null(path: Path) -> None:
  lines = JsonLines(path)
  lines.write(0, {'a': float('nan'), 'b': jnp.float32('inf'), 'c': True})
  lines.close()
  assert json.loads(path.read_text()) == {
    'step': 0,
    'a': None,
    'b': None,
    'c': 1,
  }


@pytest.mark.parametrize(
  ('resume_at', 'kept'), [(0, 0), (3, 3), (9, 9), (10, 10), (50, 10)]
)
def test_a_resumed_run_neither_repeats_nor_lacks_a_step(
  path: Path, resume_at: int, kept: int
) -> None:
  write(path, range(10))
  whole = path.read_bytes()
  lines = JsonLines(path)
  lines.truncate_to(resume_at)
  assert lines.last_step == (kept - 1 if kept else None)
  assert steps(path) == list(range(kept))
  for step in range(kept, 12):
    lines.write(step, {'loss': 1 / (step + 1)})
  lines.close()
  assert steps(path) == list(range(12))
  assert path.read_bytes().startswith(whole)


def test_lines_that_skip_steps(path: Path) -> None:
  write(path, range(0, 50, 10))
  lines = JsonLines(path)
  lines.truncate_to(25)
  lines.close()
  assert steps(path) == [0, 10, 20]


@pytest.mark.parametrize('cut', [1, 2, 10, 20])
def test_half_a_line_is_taken_off(path: Path, cut: int) -> None:
  write(path, range(4))
  path.write_bytes(path.read_bytes()[:-cut])
  # A reader beside a running process sees whole lines only.
  assert steps(path) == [0, 1, 2]
  lines = JsonLines(path)
  assert lines.last_step == 2
  lines.write(3, {'loss': 0.25})
  lines.close()
  assert [line['loss'] for line in read_lines(path)] == [1, 0.5, 1 / 3, 0.25]


KILLED = """
import os, sys
from pathlib import Path
from ntk_jax.metrics import JsonLines
lines = JsonLines(Path(sys.argv[1]))
for step in range(7):
  lines.write(step, {'loss': 1.0})
os._exit(9)
"""


def test_a_killed_process_loses_no_line(path: Path) -> None:
  done = subprocess.run([sys.executable, '-c', KILLED, str(path)], cwd=ROOT)
  assert done.returncode == 9
  assert steps(path) == list(range(7))


@pytest.mark.parametrize('step', [2, 1, -1])
def test_a_step_that_is_there_is_refused(path: Path, step: int) -> None:
  write(path, range(3))
  lines = JsonLines(path)
  with pytest.raises(ValueError, match=f'step {step} after step 2 in .*jsonl'):
    lines.write(step, {})
  lines.close()
  assert steps(path) == [0, 1, 2]


@pytest.mark.parametrize(
  'damage', [b'{"step": 1', b'', b'[1]', b'{"loss": 1}', b'{"step": "1"}']
)
def test_a_damaged_line_is_named(path: Path, damage: bytes) -> None:
  write(path, range(3))
  lines = path.read_bytes().split(b'\n')
  lines[1] = damage
  path.write_bytes(b'\n'.join(lines))
  for use in (read_lines, JsonLines):
    with pytest.raises(WorkdirError, match=r'jsonl is damaged: line 2 is not'):
      use(path)
  assert path.read_bytes() == b'\n'.join(lines)


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
  (tmp_path / 'file').write_text('')
  with pytest.raises(WorkdirError, match='cannot write .*: File exists'):
    JsonLines(tmp_path / 'file' / 'metrics.jsonl')
  with pytest.raises(WorkdirError, match='cannot write .*: Is a directory'):
    JsonLines(tmp_path)


def test_a_full_disk() -> None:
  full = Path('/dev/full')
  if not full.exists():
    pytest.skip('no /dev/full here')
  lines = JsonLines.__new__(JsonLines)
  lines._path, lines._last, lines._file = full, None, full.open('ab')
  with pytest.raises(WorkdirError, match='No space left on device; free'):
    lines.write(0, {'loss': 1.0})
  with pytest.raises(OSError):
    lines._file.close()
