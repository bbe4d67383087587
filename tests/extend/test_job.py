"""The whole job, tiny: it goes on after a kill, reuses, and compiles once."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ntk_jax import step
from ntk_jax.diagnostics import measure
from ntk_jax.errors import WorkdirError
from ntk_jax.evaluation import score
from ntk_jax.extend import ExtendConfig, problem, run
from ntk_jax.extend.settings import fast
from ntk_jax.metrics.jsonl import read_lines
from ntk_jax.model.transformer import hidden_states
from ntk_jax.objective import losses

ROOT = Path(__file__).resolve().parent.parent.parent
TINY = dataclasses.replace(fast(ExtendConfig()), methods=('none', 'ntk'))

# Runs the command, and dies by SIGKILL at the n-th write of a file whose name
# has the given start, with half of it written, or at the n-th step of training
# in a folder whose name has it.
DYING = """
import os, runpy, signal, sys
from ntk_jax import checkpoint
start, count = sys.argv.pop(1), int(sys.argv.pop(1))
write = os.replace
seen = 0
def replace(source, target):
  global seen
  if os.path.basename(target).startswith(start):
    seen += 1
    if seen == count:
      with open(source, 'r+b') as file:
        file.truncate(os.path.getsize(source) // 2)
      os.kill(os.getpid(), signal.SIGKILL)
  write(source, target)
os.replace = replace
from ntk_jax.metrics.jsonl import JsonLines
record = JsonLines.write
def write_line(self, step, scalars):
  global seen
  if self._path.parent.name.startswith(start):
    seen += 1
    if seen == count:
      os.kill(os.getpid(), signal.SIGKILL)
  record(self, step, scalars)
JsonLines.write = write_line
sys.argv[0] = 'experiments.extend'
runpy.run_module('experiments.extend', run_name='__main__', alter_sys=True)
"""


def command(workdir: Path, *die: str) -> subprocess.CompletedProcess[str]:
  """The tiny command in a process of its own, killed at a write if told."""
  start = ['-c', DYING, *die] if die else ['-m', 'experiments.extend']
  return subprocess.run(
    [sys.executable, *start, '--fast', '--methods=none,ntk']
    + [f'--workdir={workdir}'],
    cwd=ROOT,
    env=os.environ | {'JAX_PLATFORMS': 'cpu'},
    capture_output=True,
    text=True,
    timeout=600,
  )


def timeless(workdir: Path) -> dict[str, Any]:
  """report.json without what was timed."""
  result = json.loads((workdir / 'report.json').read_text())
  del result['times']
  return result


def test_killed_in_every_stage_it_ends_as_if_never_killed(
  tmp_path: Path,
) -> None:
  killed, whole = tmp_path / 'killed', tmp_path / 'whole'
  seed = killed / 'seed0'

  def kill(start: str, count: int) -> None:
    done = command(killed, start, str(count))
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    assert not (killed / 'report.json').exists()

  kill('train', 6)
  assert len(read_lines(seed / 'train' / 'metrics.jsonl')) == 5
  assert (seed / 'train' / 'checkpoints' / '2').exists()  # 4 may be in flight
  kill('scores', 2)
  assert len(list(seed.glob('scores-*.safetensors'))) == 1
  kill('problem', 2)
  assert len(list(seed.glob('problem-none-*.safetensors'))) == 1
  kill('tune', 2)
  (tuning,) = seed.glob('tune-*')
  assert len(read_lines(tuning / 'metrics.jsonl')) == 1
  assert command(killed).returncode == 0
  assert command(whole).returncode == 0
  assert timeless(killed) == timeless(whole)


def test_one_trace_per_shape_for_all_methods(
  tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  """Training and tuning are two shapes; scoring has one per length."""
  traced: dict[str, list[tuple[int, ...]]] = {'step': [], 'score': []}

  def counting(where: str) -> Callable[..., Any]:
    def counted(params: Any, config: Any, tokens: Any, *rest: Any) -> Any:
      traced[where].append(tokens.shape)
      return hidden_states(params, config, tokens, *rest)

    return counted

  def counted_losses(
    params: Any, batch: Any, *rest: Any, **options: Any
  ) -> Any:
    traced['step'].append(batch.tokens.shape)
    return losses(params, batch, *rest, **options)

  monkeypatch.setattr(step, 'losses', counted_losses)
  monkeypatch.setattr(score, 'hidden_states', counting('score'))
  # A model that no other test has compiled.
  model = dataclasses.replace(TINY.model, mlp_dim=67)
  config = dataclasses.replace(TINY, model=model, methods=('all',))
  result = run(config, tmp_path)
  assert len(result['compared']['rows']) > 15
  assert sorted(length for _, length in traced['step']) == [32, 256]
  assert sorted(length for _, length in traced['score']) == [*config.lengths]


def test_a_workdir_grows_and_is_never_done_twice(tmp_path: Path) -> None:
  run(TINY, tmp_path)
  before = {
    path: path.stat().st_mtime_ns
    for path in [*tmp_path.rglob('*.safetensors'), *tmp_path.rglob('_METADATA')]
  }
  more = dataclasses.replace(TINY, methods=('none', 'ntk', 'yarn+logn'))
  result = run(more, tmp_path)
  assert {row['name'] for row in result['compared']['rows']} == {
    'none',
    'ntk',
    'yarn+logn',
  }
  for path, written in before.items():
    assert path.stat().st_mtime_ns == written
  new = set(tmp_path.rglob('*.safetensors')) - set(before)
  assert any('yarn+logn' in path.name for path in new)
  assert len(list(tmp_path.rglob('train'))) == 1


def test_the_problem_is_measured_once(
  tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  """A part that is there is read; one that is not is made again, alike."""
  asked = []

  def counting(*args: Any) -> Any:
    asked.append(args[-1])
    return measure(*args)

  monkeypatch.setattr(problem, 'measure', counting)
  first = run(TINY, tmp_path)
  assert sorted(asked) == sorted(3 * TINY.lengths)
  asked.clear()
  parts = sorted((tmp_path / 'seed0').glob('problem-none-*-64.safetensors'))
  parts[0].unlink()
  again = run(TINY, tmp_path)
  assert asked == [64]
  assert again['problem'] == first['problem']
  roles = [first['problem'][role] for role in ('untreated', 'treated', 'tuned')]
  assert [line['name'] for line in roles] == ['none', 'ntk', 'ntk']
  for line in roles:
    for name in ('entropy', 'far_loss', 'grad_norm'):
      assert len(set(line[name])) == len(TINY.lengths)
  assert len({tuple(line['grad_norm']) for line in roles}) == 3


def test_a_damaged_part_of_the_problem_is_named_not_used(
  tmp_path: Path,
) -> None:
  run(TINY, tmp_path)
  path, *_ = (tmp_path / 'seed0').glob('problem-ntk-*.safetensors')
  content = bytearray(path.read_bytes())
  content[-1] ^= 1
  path.write_bytes(content)
  with pytest.raises(WorkdirError, match=f'{path.name} is damaged'):
    run(TINY, tmp_path)


def test_more_rows_add_to_those_scored(tmp_path: Path) -> None:
  few = dataclasses.replace(TINY, methods=('none',), rows=32)
  run(few, tmp_path)
  parts = {p: p.stat().st_mtime_ns for p in tmp_path.rglob('scores-*')}
  more = run(dataclasses.replace(few, rows=64), tmp_path)
  assert all(p.stat().st_mtime_ns == t for p, t in parts.items())
  assert more['config']['rows'] == 64


@pytest.mark.parametrize(
  ('change', 'names'),
  [
    ({'train_steps': 6}, 'train_steps'),
    ({'learning_rate': 1e-3}, 'learning_rate'),
    ({'model': dataclasses.replace(TINY.model, layers=1)}, 'model'),
    ({'corpus': str(ROOT / 'ntk_jax')}, 'corpus'),
  ],
)
def test_another_base_is_refused(
  tmp_path: Path, change: dict[str, Any], names: str
) -> None:
  few = dataclasses.replace(
    TINY, methods=('none',), train_steps=2, tune_steps=1
  )
  run(few, tmp_path)
  report = (tmp_path / 'report.json').read_bytes()
  with pytest.raises(WorkdirError) as caught:
    run(dataclasses.replace(few, **change), tmp_path)
  assert f'a run with {names}' in str(caught.value)
  assert (tmp_path / 'report.json').read_bytes() == report


def test_damaged_scores_are_named_not_used(tmp_path: Path) -> None:
  few = dataclasses.replace(
    TINY, methods=('none',), train_steps=2, tune_steps=1
  )
  run(few, tmp_path)
  path = min((tmp_path / 'seed0').glob('scores-*'))
  content = bytearray(path.read_bytes())
  content[-5] ^= 1
  path.write_bytes(content)
  with pytest.raises(WorkdirError, match='safetensors is damaged'):
    run(few, tmp_path)


def test_a_damaged_checkpoint_is_trained_again(tmp_path: Path) -> None:
  few = dataclasses.replace(
    TINY, methods=('none',), train_steps=6, tune_steps=1
  )
  run(few, tmp_path)
  before = timeless(tmp_path)
  steps = tmp_path / 'seed0' / 'train' / 'checkpoints'
  shutil.rmtree(steps / '6' / 'arrays')
  run(few, tmp_path)
  assert (steps / 'bad-6').exists()
  assert timeless(tmp_path) == before


def test_several_seeds_train_several_models(tmp_path: Path) -> None:
  few = dataclasses.replace(
    TINY, methods=('none',), train_steps=2, tune_steps=1, seeds=2
  )
  result = run(few, tmp_path)
  first, second = (
    read_lines(tmp_path / f'seed{i}' / 'train' / 'metrics.jsonl')
    for i in (0, 1)
  )
  assert first[0]['text'] != second[0]['text']
  assert result['seeds'] == [0, 1]
