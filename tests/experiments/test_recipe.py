"""A recipe holds every field of a config, and gives back the same config."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
# In a process of its own: here `experiments` is this folder of tests.
START = """
import dataclasses
from experiments.configs import bytes_small
from experiments.configs.recipe import recipe, values_of
from ntk_jax.config import from_dict
from ntk_jax.train import SchemeConfig, TrainConfig

def back(fields):
  return from_dict(TrainConfig, values_of(fields))

fields = bytes_small.get_config()
config = back(fields)
"""


@pytest.mark.parametrize(
  'check',
  [
    'assert back(recipe(config)) == config',
    # Twelve: as text, 10 stands before 2.
    'many = tuple(SchemeConfig(window=n) for n in range(1, 13))\n'
    'found = back(recipe(dataclasses.replace(config, schemes=many)))\n'
    'assert found.schemes == many',
    'fields.optimizer.clip_norm = None\n'
    'assert config.optimizer.clip_norm == 1.0\n'
    'assert back(fields).optimizer.clip_norm is None',
  ],
  ids=['the same config', 'schemes in order', 'none where it may be'],
)
def test_a_recipe(check: str) -> None:
  done = subprocess.run(
    [sys.executable, '-c', START + check],
    cwd=ROOT,
    env=os.environ | {'JAX_PLATFORMS': 'cpu'},
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert done.returncode == 0, done.stderr
