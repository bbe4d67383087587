"""The whole study, tiny: finished runs are reused, killed ones go on."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ntk_jax.errors import WorkdirError
from ntk_jax.metrics.jsonl import read_lines
from ntk_jax.study import StudyConfig, study, tiny

ROOT = Path(__file__).resolve().parent.parent.parent
FEW = dataclasses.replace(tiny(StudyConfig()), arms=('threshold',))
FILES = {'study.md', 'study.json', 'study.csv', 'study.png', 'differences.png'}

# Runs the command, and dies by SIGKILL at the n-th step of an arm.
DYING = """
import os, runpy, signal, sys
from ntk_jax.metrics.jsonl import JsonLines
arm, count = sys.argv.pop(1), int(sys.argv.pop(1))
record = JsonLines.write
def write_line(self, step, scalars):
  if self._path.parent.name.startswith(arm) and step == count:
    os.kill(os.getpid(), signal.SIGKILL)
  record(self, step, scalars)
JsonLines.write = write_line
sys.argv[0] = 'experiments.study_curriculum'
runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)
"""


def command(*flags: str, die: tuple[str, ...] = ()) -> Any:
  """The command in a process of its own, killed if told."""
  start = ['-c', DYING, *die] if die else []
  start = start or ['-m', 'experiments.study_curriculum']
  return subprocess.run(
    [sys.executable, *start, *flags],
    cwd=ROOT,
    env=os.environ | {'JAX_PLATFORMS': 'cpu'},
    capture_output=True,
    text=True,
    timeout=300,
  )


def ends(result: dict[str, Any]) -> list[Any]:
  """What of a result does not depend on the machine's speed."""
  return [
    (row['name'], row['loss'], row['recall'], row['over'], row['lengths'])
    for row in result['arms']
  ]


def test_a_study_leaves_its_report_and_is_never_done_twice(
  tmp_path: Path,
) -> None:
  first = study(FEW, tmp_path)
  assert {path.name for path in tmp_path.iterdir()} >= FILES
  assert json.loads((tmp_path / 'study.json').read_text()) == first
  assert [row['name'] for row in first['arms']] == ['constant', 'threshold']
  for row in first['arms']:
    (found,) = row['curves']
    assert found['steps'] == [3, 6, 9, 12]
    assert all(2 < bits < 12 for bits in found['loss'])
    assert all(0 <= share <= 1 for share in found['recall'])
    assert found['cpu'] == sorted(found['cpu'])
    assert row['compiles']['median'] >= 1  # every run compiles its own
    assert row['lengths'][0][-1][1] == FEW.full
  written = {p: p.stat().st_mtime_ns for p in tmp_path.rglob('metrics.jsonl')}
  assert len(written) == 3  # the timed steps, and two arms
  more = study(dataclasses.replace(FEW, arms=('threshold', 'steps')), tmp_path)
  for path, when in written.items():
    assert path.stat().st_mtime_ns == when
  assert [row['name'] for row in more['arms']] == [
    'constant',
    'steps',
    'threshold',
  ]
  assert ends(more)[0] == ends(first)[0]
  assert ends(more)[2] == ends(first)[1]
  with pytest.raises(WorkdirError, match='a run with minutes'):
    study(dataclasses.replace(FEW, minutes=1.0), tmp_path)


def test_killed_in_an_arm_it_ends_as_if_never_killed(tmp_path: Path) -> None:
  flags = ('--fast', '--arms=steps')
  killed, whole = f'--workdir={tmp_path / "a"}', f'--workdir={tmp_path / "b"}'
  done = command(*flags, killed, die=('steps', '8'))
  assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
  (broken,) = (tmp_path / 'a' / 'seed0').glob('steps-*/metrics.jsonl')
  assert len(read_lines(broken)) == 8
  for workdir in (killed, whole):
    done = command(*flags, workdir)
    assert done.returncode == 0, done.stderr[-2000:]
  assert 'steps an arm, as planned in' not in done.stderr
  assert 'projected: ' in done.stderr
  one, two = (
    json.loads((tmp_path / name / 'study.json').read_text()) for name in 'ab'
  )
  assert ends(one) == ends(two)
  assert [c['loss'] for c in one['arms'][1]['curves']] == [
    c['loss'] for c in two['arms'][1]['curves']
  ]


@pytest.mark.parametrize(
  ('flag', 'says'),
  [
    ('--arms=stepz', "unknown arm 'stepz': did you mean 'steps'?"),
    ('--seeds=0', 'seeds is 0, must be at least 1'),
    ('--minutes=0', 'minutes is 0.0, must be above 0'),
    ('--steps=13', 'steps is 13: a multiple of probe_every'),
    ('--corpus=no/such', "corpus 'no/such' is neither a file nor a folder"),
    ('--workdir=README.md', "workdir 'README.md' cannot be written"),
    ('--seedz=1', 'Did you mean: seeds'),
  ],
)
def test_refusals(flag: str, says: str) -> None:
  done = command(flag)
  assert done.returncode == 2, done.stderr
  assert done.stderr.startswith('error: '), done.stderr
  assert says in done.stderr
  assert 'Traceback' not in done.stderr
  assert 'timing' not in done.stderr


def test_help_teaches() -> None:
  done = command('--help')
  assert done.returncode == 0
  for words in ('--minutes', 'python -m experiments.study_curriculum', 'pose'):
    assert words in done.stdout
