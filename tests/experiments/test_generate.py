"""The command that goes on from a text: what it prints and what it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
# The command with a model of random parameters in place of a checkpoint's.
PROGRAM = """
import sys, types
from flax import nnx
from ntk_jax.model import ModelConfig, Transformer

config = ModelConfig(
  vocab=256, dim=8, layers=1, heads=2, kv_heads=1, head_dim=4, mlp_dim=8
)
sys.modules['ntk_jax.interop'] = interop = types.ModuleType('interop')
interop.load = lambda folder: Transformer(config, rngs=nnx.Rngs(0))
import ntk_jax
ntk_jax.interop = interop
import experiments.generate as command
from experiments import launch
launch.run(command.main)
"""


def run(
  *flags: str, stdin: str = '', random: bool = True
) -> subprocess.CompletedProcess[str]:
  """The command in a process of its own."""
  start = ['-c', PROGRAM] if random else ['-m', 'experiments.generate']
  return subprocess.run(
    [sys.executable, *start, *flags],
    cwd=ROOT,
    env=os.environ | {'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT)},
    input=stdin,
    capture_output=True,
    text=True,
    timeout=300,
  )


def tokenizer_json(folder: Path) -> Path:
  """A tokenizer of 256 letters, ids by code point."""
  import tokenizers

  vocab = {chr(i): i for i in range(255)} | {'<unk>': 255}
  model = tokenizers.models.WordLevel(vocab, unk_token='<unk>')
  tokenizer = tokenizers.Tokenizer(model)
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Split(
    tokenizers.Regex('.'), 'isolated'
  )
  tokenizer.decoder = tokenizers.decoders.Fuse()
  path = folder / 'tokenizer.json'
  tokenizer.save(str(path))
  return path


def test_ids_go_on_and_numbers_go_to_stderr(tmp_path: Path) -> None:
  flags = f'--checkpoint={tmp_path}', '--prompt_ids=1,2,3'
  done = run(*flags, '--max_new_tokens=5')
  assert done.returncode == 0, done.stderr
  ids = [int(each) for each in done.stdout.split()]
  assert len(ids) == 5
  assert 'prompt: 3 tokens in' in done.stderr
  assert 'written after the first: 4 tokens in' in done.stderr
  stopped = run(*flags, '--max_new_tokens=5', f'--stop={ids[2]}')
  first = ids.index(ids[2])
  assert [int(each) for each in stopped.stdout.split()] == ids[:first]


def test_text_comes_from_a_flag_or_stdin(tmp_path: Path) -> None:
  tokenizer_json(tmp_path)
  (tmp_path / 'config.json').write_text(json.dumps({'eos_token_id': [7]}))
  flags = f'--checkpoint={tmp_path}', '--temperature=1', '--max_new_tokens=6'
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
  done = run(*flags, random=False)
  assert done.returncode == 2, done.stderr
  assert done.stderr.startswith('error: '), done.stderr
  assert says in done.stderr
  assert 'Traceback' not in done.stderr
