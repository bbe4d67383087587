"""A job on a tiny checkpoint, on one device and over a mesh of four.

A program, not a test: `test_meshes.py` runs it and reads what it prints.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import jax
import make_checkpoint
import numpy as np

from ntk_jax.extend import ExtendConfig, run, stages
from ntk_jax.interop import load
from ntk_jax.sharding import MeshConfig

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ExtendConfig(
  target_length=256,
  corpus=str(ROOT / 'ntk_jax'),
  methods=('none', 'yarn'),
  rows=3,  # fsdp does not divide them
  tokens_per_step=512,
  tune_steps=3,
  tune_learning_rate=0.003,
  trainable='lora:4',
)


def share(x: jax.Array) -> float:
  """How much of an array its first device holds."""
  return x.addressable_shards[0].data.size / x.size


def watch(held: dict[str, float]) -> None:
  """Notes what a device holds of the models that are scored and trained."""

  def scored(params: Any, *rest: Any) -> Any:
    held['scored'] = max(share(x) for x in matrices(params))
    return evaluate(params, *rest)

  def trained(*rest: Any, **options: Any) -> Any:
    result = fit(*rest, **options)
    held['trained'] = max(share(x) for x in matrices(result.params))
    return result

  module: Any = stages
  module.evaluate, module.fit = scored, trained


evaluate, fit = stages.evaluate, stages.fit


def matrices(params: Any) -> list[jax.Array]:
  return [x for x in jax.tree.leaves(params.layers) if x.ndim == 3]


def difference(first: Path, second: Path) -> float:
  """The largest one of the weights of two folders."""
  both = (jax.tree.leaves(load(folder).params) for folder in (first, second))
  return max(float(np.abs(np.subtract(a, b)).max()) for a, b in zip(*both))


def main(base: str) -> None:
  """Prints what the jobs found, and what the devices held."""
  folder, mesh = Path(base), MeshConfig(fsdp=2, tensor=2)
  tiny = folder / 'tiny'
  make_checkpoint.make(tiny)
  found: dict[str, Any] = {'held': {}}
  for name, devices, workdir in (
    ('one', MeshConfig(), 'one'),
    ('mesh', mesh, 'mesh'),
    ('again', mesh, 'one'),
  ):
    watch(found['held'].setdefault(name, {}))
    config = dataclasses.replace(
      CONFIG,
      checkpoint=str(tiny),
      mesh=devices,
      export=str(folder / f'out-{name}'),
    )
    found[name] = run(config, folder / workdir)
  one = folder / 'out-one'
  found['moved'] = difference(tiny, one)
  found['difference'] = difference(one, folder / 'out-mesh')
  found['difference_again'] = difference(one, folder / 'out-again')
  json.dump(found, sys.stdout)


if __name__ == '__main__':
  main(*sys.argv[1:])
