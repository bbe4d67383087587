"""Small runs whose length grows: for tests, and a program that is killed.

python growing_runs.py WORKDIR
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

from ntk_jax.curriculum import GrowthConfig
from ntk_jax.data.settings import DataConfig
from ntk_jax.metrics.jsonl import read_lines
from ntk_jax.model import ModelConfig
from ntk_jax.optimizer import OptimizerConfig
from ntk_jax.train import TrainConfig, run

CORPUS = str(Path(__file__).resolve().parents[2] / 'ntk_jax')
CONFIG = TrainConfig(
  model=ModelConfig(
    vocab=408,
    dim=8,
    layers=3,
    heads=2,
    kv_heads=1,
    head_dim=4,
    mlp_dim=8,
  ),
  data=DataConfig(corpus=CORPUS, max_length=64, batch_rows=4, key_value=0.5),
  optimizer=OptimizerConfig(peak=1e-2, steps=16, warmup=2),
  growth=GrowthConfig('discrete', (32, 64), at=(0.5,)),
  save_every=5,
  log_every=2,
)


def changed(**fields: Any) -> TrainConfig:
  """The config with some fields of its own changed."""
  return dataclasses.replace(CONFIG, **fields)


def lines_of(folder: Path) -> list[dict[str, Any]]:
  """The lines of a run, without what time has a part in."""
  timed = 'compiles', 'compiling', 'tokens_per_second', 'mfu'
  return [
    {
      name: x
      for name, x in line.items()
      if name not in timed and not name.endswith('seconds')
    }
    for line in read_lines(folder / 'metrics.jsonl')
  ]


if __name__ == '__main__':
  run(CONFIG, sys.argv[1])
