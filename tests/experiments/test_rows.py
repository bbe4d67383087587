"""Every row is a recipe, tiny and at real size, before and after extension."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
# In a process of its own: here `experiments` is this folder of tests.
CHECK = """
import importlib
from experiments.configs.recipe import values_of
from experiments.configs.rows import variants
from ntk_jax.config import from_dict
from ntk_jax.model.presets import PRESETS
from ntk_jax.train import TrainConfig

def config(system, words):
  module = importlib.import_module(f'experiments.configs.{system}')
  found = module.get_config(words) if words else module.get_config()
  found = from_dict(TrainConfig, values_of(found))
  found.validate(1)
  return found

seen = set()
for system in {row.system for row in PRESETS.values()}:
  for variant in variants(system):
    name = f'{system}-{variant}' if variant else system
    row = PRESETS[name]
    seen.add(name)
    real = config(system, f'{variant},real')
    assert real.build_schemes() == row.training_schemes, name
    assert real.data.max_length == row.training_length, name
    assert real.model.vocab == row.model.vocab, name
    assert real.data.batch_rows * real.data.max_length >= 4e6, name
    base = config(system, f'base,{variant},real')
    assert base.build_schemes() == row.base_schemes, name
    assert base.data.max_length == row.original_length, name
    tiny = config(system, variant)
    small = row.tiny(408)
    assert tiny.model == small.model, name
    assert tiny.build_schemes() == small.training_schemes, name
    assert tiny.data.max_length == small.training_length, name
    base = config(system, f'{variant},base')
    assert base.build_schemes() == small.base_schemes, name
    assert base.data.max_length == 128, name
assert seen == set(PRESETS)
assert config('mistral', None) == config('mistral', 'v0.1')
"""


def python(*words: str) -> subprocess.CompletedProcess[str]:
  return subprocess.run(
    [sys.executable, *words],
    cwd=ROOT,
    env=os.environ | {'JAX_PLATFORMS': 'cpu'},
    capture_output=True,
    text=True,
    timeout=300,
  )


def test_words_name_every_row() -> None:
  done = python('-c', CHECK)
  assert done.returncode == 0, done.stderr


def test_a_row_trains_by_its_words(tmp_path: Path) -> None:
  done = python(
    '-m',
    'experiments.train',
    '--config=experiments/configs/best_known.py:base',
    '--steps=3',
    '--warmup=1',
    '--batch_rows=4',
    f'--corpus={ROOT / "ntk_jax"}',
    f'--workdir={tmp_path}',
  )
  assert done.returncode == 0, done.stderr
  assert '3 steps in' in done.stdout
  schemes = json.loads((tmp_path / 'config.json').read_text())['config'][
    'schemes'
  ]
  assert [s['method'] for s in schemes] == ['default', 'proportional']
  assert schemes[1]['temperature'] == 'llama4'
