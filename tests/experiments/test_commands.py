"""What a user can get wrong: one message, exit code 2, nothing started."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ntk_jax.extend.workdir import Workdir
from ntk_jax.metrics.jsonl import read_lines

ROOT = Path(__file__).resolve().parent.parent.parent


def extend(*flags: str) -> subprocess.CompletedProcess[str]:
  """The main command in a process of its own."""
  return command('extend', *flags)


def command(name: str, *flags: str) -> subprocess.CompletedProcess[str]:
  """A command in a process of its own."""
  return subprocess.run(
    [sys.executable, '-m', f'experiments.{name}', *flags],
    cwd=ROOT,
    env=os.environ | {'JAX_PLATFORMS': 'cpu'},
    capture_output=True,
    text=True,
    timeout=300,
  )


def refused(done: subprocess.CompletedProcess[str], says: str) -> None:
  """One message with these words, code 2, no traceback, no work."""
  assert done.returncode == 2, done.stderr
  assert done.stderr.startswith('error: '), done.stderr
  assert says in done.stderr
  assert 'Traceback' not in done.stderr
  assert 'train at' not in done.stderr


@pytest.mark.parametrize(
  ('flag', 'says'),
  [
    ('--methods=yarm', "unknown method 'yarm': did you mean 'yarn'?"),
    ('--metods=yarn', 'Did you mean: methods'),
    ('--target_factor=0', 'target_factor is 0'),
    ('--target_factor=x', 'target_factor=x'),
    ('--seeds=0', 'seeds is 0, must be at least 1'),
    ('--config.train_steps=0', '0 steps'),
    ('--config.tune_steps=x', 'config.tune_steps=x'),
    ('--config.tune_step=1', 'Did you mean "tune_steps"'),
    ('--mesh_fsdp=2', 'takes 2 devices, there are 1'),
    ('--rows=33', 'multiple of 32'),
    ('yarn', 'stray arguments: yarn'),
    ('--corpus=no/such', "corpus 'no/such' is neither a file nor a folder"),
    ('--workdir=README.md', "workdir 'README.md' cannot be written"),
  ],
)
def test_refusals(flag: str, says: str) -> None:
  refused(extend(flag), says)


@pytest.mark.parametrize(
  ('flag', 'says'),
  [
    ('--config.modell.dim=1', 'Did you mean "model" instead of "modell"?'),
    ('--config.model.dimm=1', 'Did you mean "dim" instead of "dimm"?'),
    ('--config.model.dim=x', 'config.model.dim=x'),
    ('--config=nope.py', 'config cannot be read'),
    (
      '--config=experiments/configs/mistral.py:v0.9',
      'takes one variant (v0.1, v0.2, v0.3, window-yarn) and real, base and '
      "grow, not 'v0.9'",
    ),
    ('--mesh_data=3', 'takes 3 devices, there are 1'),
    ('--corpus=no/such', "corpus 'no/such' is neither a file nor a folder"),
    ('--config.schemes.at0.window=0', 'schemes[0]: window is 0'),
    ('--config.model.remat=ful', "unknown remat 'ful': did you mean 'full'?"),
    ('--steps=3', '3 steps with a warm-up of 100'),
  ],
)
def test_refusals_of_train(flag: str, says: str, tmp_path: Path) -> None:
  refused(command('train', flag, f'--workdir={tmp_path / "run"}'), says)
  assert not (tmp_path / 'run').exists()


def test_training_and_scoring_a_run(tmp_path: Path) -> None:
  small = (
    '--steps=4',
    '--length=64',
    '--batch_rows=4',
    '--config.optimizer.warmup=1',
    '--config.model.layers=1',
    '--config.model.dim=16',
    '--config.model.qk_norm=True',
    '--config.schemes.at0.theta=2e4',
    f'--corpus={ROOT / "ntk_jax"}',
    '--config.data.key_value=0.5',
    f'--workdir={tmp_path}',
  )
  done = command('train', *small)
  assert done.returncode == 0, done.stderr
  assert '4 steps in' in done.stdout
  config = json.loads((tmp_path / 'config.json').read_text())['config']
  assert config['model']['qk_norm'] is True
  assert config['schemes'][0]['theta'] == 2e4
  assert command('train', *small).stdout == done.stdout  # read, not trained
  done = command(
    'evaluate',
    f'--workdir={tmp_path}',
    '--methods=own,yarn',
    '--target_factor=4',
    '--rows=2',
  )
  assert done.returncode == 0, done.stderr
  found = json.loads((tmp_path / 'evaluation.json').read_text())
  assert found['lengths'] == [64, 128, 256]
  assert [row['name'] for row in found['rows']] == ['own', 'yarn']
  for row in found['rows']:
    assert len(row['loss']) == len(row['recall']) == 3
    assert all(4 < x['mean'] < 10 for x in row['loss'])
  lines = read_lines(tmp_path / 'metrics.jsonl')
  assert [line['tokens'] for line in lines] == [256, 512, 768, 1024]
  # A method in place of a scheme of the run's own is another model.
  note = json.loads((tmp_path / 'config.json').read_text())
  note['config']['schemes'][0]['window'] = 32
  (tmp_path / 'config.json').write_text(json.dumps(note))
  refused(command('evaluate', f'--workdir={tmp_path}'), "only 'own' applies")


def test_refusals_of_evaluate(tmp_path: Path) -> None:
  refused(command('evaluate', f'--workdir={tmp_path}'), 'holds no run')
  refused(command('evaluate', '--rows=0'), 'rows is 0')


def test_an_empty_corpus_is_refused(tmp_path: Path) -> None:
  refused(extend(f'--corpus={tmp_path}'), 'holds 0 usable documents')


def test_all_errors_come_at_once() -> None:
  done = extend('--seeds=0', '--rows=0', '--target_factor=1')
  refused(done, 'seeds is 0')
  assert 'rows is 0' in done.stderr
  assert 'target_factor is 1' in done.stderr


def test_a_workdir_in_use_names_the_process(tmp_path: Path) -> None:
  with Workdir(tmp_path, {}):
    done = extend('--fast', f'--workdir={tmp_path}')
  refused(done, f'is in use by process {os.getpid()}')


def test_help_teaches() -> None:
  done = extend('--help')
  assert done.returncode == 0
  for words in ('--methods', 'python -m experiments.extend', '+logn'):
    assert words in done.stdout
