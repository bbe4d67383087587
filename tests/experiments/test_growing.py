"""Recipes of growing length: whole plans, small and at real size."""

from __future__ import annotations

from pathlib import Path

import devices

# In a process of its own: here `experiments` is this folder of tests.
CHECK = """
import importlib
from experiments.configs.growing import _8B
from experiments.configs.recipe import values_of
from ntk_jax.config import from_dict
from ntk_jax.errors import ConfigError
from ntk_jax.model import parameter_count
from ntk_jax.train import TrainConfig

def config(name, words):
  module = importlib.import_module(f'experiments.configs.{name}')
  found = from_dict(TrainConfig, values_of(module.get_config(words)))
  found.validate(1)
  return found

assert parameter_count(_8B) == 8_030_261_248  # Llama 3 8B
for name, lengths, smaller in (
  ('grow_512_to_32k', (512, 2048, 4096, 8192, 16384, 32768), 16),
  ('yarn_64k', (4096, 16384, 65536), 32),
):
  real, small = config(name, 'real'), config(name, None)
  assert real.growth.lengths == lengths
  assert small.growth.lengths == tuple(n // smaller for n in lengths)
  assert small.growth.at == real.growth.at
  for one, tokens in ((real, 2**22), (small, 2**12)):
    assert one.data.max_length == one.growth.lengths[-1]
    assert one.data.batch_rows * one.data.max_length == tokens
  window = config(name, 'real,window')
  assert window.growth.row_shapes(window.run_of(1)) == lengths[-1:]
  assert real.growth.row_shapes(real.run_of(1)) == lengths
specs = [s.spec for n in lengths for s in real.schemes_at(n)]
assert [s.method for s in specs] == ['default', 'yarn', 'yarn']
assert [s.factor for s in specs[1:]] == [4.0, 16.0]
assert specs[2].original_length == 4096

grown = config('best_known', None).growth.lengths
assert grown == (128, 256, 512, 1024)
grown = config('best_known', 'real').growth.lengths
assert grown == (8192, 16384, 32768, 65536)
assert config('best_known', 'base').growth.kind == 'constant'
assert config('longchat', 'grow').growth.lengths == (128, 256, 512, 1024)
assert config('longchat', None).growth.kind == 'constant'
long = config('yi', '200k,grow,real').growth.lengths
assert long == (6250, 12500, 25000, 50000, 100000, 200000)
for name, words, said in (
  ('yi', 'grow', 'no shorter one to grow from'),
  ('yarn_64k', 'huge', "not 'huge'"),
):
  try:
    config(name, words)
  except ConfigError as error:
    assert said in str(error), error
  else:
    raise AssertionError(words)
print('all')
"""


def test_plans_are_whole(tmp_path: Path) -> None:
  assert devices.output(devices.start('-c', CHECK, devices=1)) == 'all\n'
