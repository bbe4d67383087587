"""A tiny run of training on some devices: a program for tests, not a test.

  python run_tiny.py WORKDIR STEPS MESH [RANK PORT]

MESH is data,fsdp,tensor. With a rank and a port it is one of two processes.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import jax

from ntk_jax.data.settings import DataConfig
from ntk_jax.model import ModelConfig
from ntk_jax.optimizer import OptimizerConfig
from ntk_jax.sharding import MeshConfig
from ntk_jax.train import SchemeConfig, TrainConfig, run

CORPUS = str(Path(__file__).resolve().parents[2] / 'ntk_jax')
CONFIG = TrainConfig(
  model=ModelConfig(
    vocab=408,
    dim=16,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=8,
    mlp_dim=24,
  ),
  data=DataConfig(
    corpus=CORPUS, max_length=64, batch_rows=8, key_value=0.5, seed=3
  ),
  optimizer=OptimizerConfig(peak=1e-2, steps=6, warmup=2),
  schemes=(SchemeConfig('yarn', original_length=32, factor=4.0),),
  save_every=3,
  log_every=2,
)


def main(folder: str, steps: str, mesh: str, *process: str) -> None:
  """Trains to the given step."""
  if process:
    rank, port = process
    jax.distributed.initialize(f'localhost:{port}', 2, int(rank))
  data, fsdp, tensor = map(int, mesh.split(','))
  config = dataclasses.replace(
    CONFIG,
    mesh=MeshConfig(data=data, fsdp=fsdp, tensor=tensor),
    optimizer=dataclasses.replace(CONFIG.optimizer, steps=int(steps)),
  )
  run(config, folder)


if __name__ == '__main__':
  main(*sys.argv[1:])
