"""What a user can get wrong: one message, exit code 2, nothing started."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ntk_jax.extend.workdir import Workdir

ROOT = Path(__file__).resolve().parent.parent.parent


def extend(*flags: str) -> subprocess.CompletedProcess[str]:
  """The command in a process of its own."""
  return subprocess.run(
    [sys.executable, '-m', 'experiments.extend', *flags],
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
    ('--train_steps=0', '0 steps'),
    ('--rows=33', 'multiple of 32'),
    ('yarn', 'stray arguments: yarn'),
    ('--corpus=no/such', "corpus 'no/such' is neither a file nor a folder"),
    ('--workdir=README.md', "workdir 'README.md' cannot be written"),
  ],
)
def test_refusals(flag: str, says: str) -> None:
  refused(extend(flag), says)


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
