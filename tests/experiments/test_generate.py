"""The command that goes on from a text: what it prints and what it refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import make_checkpoint
import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


def run(*flags: str, stdin: str = '') -> subprocess.CompletedProcess[str]:
  """The command in a process of its own."""
  return subprocess.run(
    [sys.executable, '-m', 'experiments.generate', *flags],
    cwd=ROOT,
    env=os.environ | {'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT)},
    input=stdin,
    capture_output=True,
    text=True,
    timeout=300,
  )


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
  folder = tmp_path_factory.mktemp('made') / 'checkpoint'
  make_checkpoint.make(folder)
  return f'--checkpoint={folder}'


def test_ids_go_on_and_numbers_go_to_stderr(checkpoint: str) -> None:
  flags = checkpoint, '--prompt_ids=1,2,3'
  done = run(*flags, '--max_new_tokens=5', '--stop=345')
  assert done.returncode == 0, done.stderr
  ids = [int(each) for each in done.stdout.split()]
  assert len(ids) == 5
  assert 'prompt: 3 tokens in' in done.stderr
  assert 'written after the first: 4 tokens in' in done.stderr
  stopped = run(*flags, '--max_new_tokens=5', f'--stop={ids[2]}')
  first = ids.index(ids[2])
  assert [int(each) for each in stopped.stdout.split()] == ids[:first]


def test_text_comes_from_a_flag_or_stdin(checkpoint: str) -> None:
  flags = checkpoint, '--temperature=1', '--max_new_tokens=6'
  one = run(*flags, '--prompt=abc')
  assert one.returncode == 0, one.stderr
  assert 'prompt: 3 tokens' in one.stderr
  assert run(*flags, '--prompt_file=-', stdin='abc').stdout == one.stdout
  assert run(*flags, '--prompt=abc', '--bos=5').stdout != one.stdout


@pytest.mark.parametrize(
  ('flags', 'says'),
  [
    (['--prompt=x'], 'checkpoint is missing'),
    (['--checkpoint=.'], 'the prompt is one of'),
    (['--checkpoint=.', '--prompt=x', '--prompt_ids=1'], '2 are given'),
    (['--checkpoint=.', '--prompt=x'], "'tokenizer.json' is not there"),
    (['--checkpoint=.', '--prompt_ids=1,a'], 'prompt_ids is 1,a: give ids'),
    (
      ['--checkpoint=.', '--prompt_ids=1', '--top_p=2'],
      'top_p is 2.0: above 0, at most 1',
    ),
    (
      ['--checkpoint=.', '--prompt_ids=1', f'--seed={10**30}'],
      'flag --seed',
    ),
    (['--chekpoint=.'], 'Did you mean: checkpoint'),
  ],
)
def test_refusals(flags: list[str], says: str) -> None:
  done = run(*flags)
  assert done.returncode == 2, done.stderr
  assert done.stderr.startswith('error: '), done.stderr
  assert says in done.stderr
  assert 'Traceback' not in done.stderr
