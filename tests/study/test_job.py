"""The whole study, tiny: finished runs are reused, interrupted ones go on."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import jax
import pytest

from ntk_jax.errors import WorkdirError
from ntk_jax.metrics.jsonl import JsonLines, read_lines
from ntk_jax.study import StudyConfig, job, study, tiny
from ntk_jax.train import Trained

ROOT = Path(__file__).resolve().parent.parent.parent
FEW = dataclasses.replace(tiny(StudyConfig()), arms=('steps',))
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


def ends(result: dict[str, Any]) -> dict[str, Any]:
  """What of a result does not depend on the machine's speed, by arm."""
  return {
    row['name']: [row[name] for name in ('loss', 'recall', 'over', 'lengths')]
    + [[found['loss'] for found in row['curves']]]
    for row in result['arms']
  }


def test_an_interrupted_study_goes_on_and_grows(
  tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  record = JsonLines.write

  def interrupted(
    self: JsonLines, step: int, scalars: Mapping[str, Any]
  ) -> None:
    if self._path.parent.name.startswith('steps') and step == 8:
      raise KeyboardInterrupt
    record(self, step, scalars)

  monkeypatch.setattr(JsonLines, 'write', interrupted)
  broken, whole = tmp_path / 'broken', tmp_path / 'whole'
  with pytest.raises(KeyboardInterrupt):
    study(FEW, broken)
  monkeypatch.undo()
  (path,) = broken.glob('seed0/steps-*/metrics.jsonl')
  assert len(read_lines(path)) == 8
  assert not (broken / 'study.md').exists()

  first, other = study(FEW, broken), study(FEW, whole)
  assert ends(first) == ends(other)
  assert {each.name for each in broken.iterdir()} >= FILES
  assert json.loads((broken / 'study.json').read_text()) == first
  for row in first['arms']:
    (found,) = row['curves']
    assert found['steps'] == [3, 6, 9, 12]
    assert all(2 < bits < 12 for bits in found['loss'])
    assert all(0 <= share <= 1 for share in found['recall'])
    assert found['cpu'] == sorted(found['cpu'])
    assert row['lengths'][0][-1][1] == FEW.full
  assert [n for _, n in first['arms'][1]['lengths'][0]] == [*FEW.lengths]

  written = {p: p.stat().st_mtime_ns for p in broken.rglob('metrics.jsonl')}
  assert len(written) == 3  # the timed steps, and two arms
  more = study(dataclasses.replace(FEW, arms=('threshold', 'steps')), broken)
  for path, when in written.items():
    assert path.stat().st_mtime_ns == when
  assert list(ends(more)) == ['constant', 'steps', 'threshold']
  for name, found in ends(first).items():
    assert ends(more)[name] == found
  with pytest.raises(WorkdirError, match='a run with minutes'):
    study(dataclasses.replace(FEW, minutes=1.0), broken)


def test_a_fresh_run_compiles_its_own_programs(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  events: list[str] = []
  trained = Trained(cast(Any, None), 0.0, [], [])
  monkeypatch.setattr(jax, 'clear_caches', lambda: events.append('clear'))
  monkeypatch.setattr(job, 'run', lambda *_: events.append('run') or trained)
  settings = FEW.train(12, 0)
  job._trained(settings, Path('nowhere'), fresh=True)
  job._trained(settings, Path('nowhere'), fresh=False)
  assert events == ['clear', 'run', 'run']
  assert StudyConfig().fresh


def test_a_damaged_plan_is_named(tmp_path: Path) -> None:
  path = tmp_path / 'plan.json'
  path.write_text('{"steps": "many"}')
  with pytest.raises(WorkdirError, match=r'plan\.json is damaged'):
    job._read_plan(path)


@pytest.mark.slow
def test_killed_in_an_arm_it_ends_as_if_never_killed(tmp_path: Path) -> None:
  flags = ('--fast', '--arms=steps')
  done = command(*flags, f'--workdir={tmp_path / "a"}', die=('steps', '8'))
  assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
  for name in 'ab':
    done = command(*flags, f'--workdir={tmp_path / name}')
    assert done.returncode == 0, done.stderr[-2000:]
  assert 'projected: ' in done.stderr
  one, two = (
    json.loads((tmp_path / name / 'study.json').read_text()) for name in 'ab'
  )
  assert ends(one) == ends(two)


def test_a_wrong_arm_is_refused_before_any_work() -> None:
  done = command('--arms=stepz')
  assert done.returncode == 2, done.stderr
  assert done.stderr.startswith("error: unknown arm 'stepz': did you mean")
  assert 'Traceback' not in done.stderr
  assert 'timing' not in done.stderr


def test_help_teaches() -> None:
  done = command('--help')
  assert done.returncode == 0
  for words in ('--minutes', 'python -m experiments.study_curriculum', 'pose'):
    assert words in done.stdout
