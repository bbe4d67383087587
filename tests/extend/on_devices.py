"""A job on a tiny checkpoint, on one device and over a mesh of four.

A program, not a test: `test_meshes.py` runs it and reads what it prints.

  python on_devices.py FOLDER TRAINABLE
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

from ntk_jax.extend import ExtendConfig, run
from ntk_jax.interop import load
from ntk_jax.sharding import MeshConfig

ROOT = Path(__file__).resolve().parents[2]
MESH = MeshConfig(fsdp=2, tensor=2)


def main(base: str, trainable: str) -> None:
  """Prints what both jobs found, and where the parameters were."""
  folder = Path(base)
  make_checkpoint.make(folder / 'tiny')
  config = ExtendConfig(
    checkpoint=str(folder / 'tiny'),
    target_length=256,
    corpus=str(ROOT / 'ntk_jax'),
    methods=('none', 'yarn', 'dynamic'),
    rows=3,  # not a multiple of fsdp
    tokens_per_step=512,
    tune_steps=3,
    tune_learning_rate=0.003,
    trainable=trainable,
  )
  found: dict[str, Any] = {'devices': jax.device_count()}
  for name, mesh in (('one', MeshConfig()), ('mesh', MESH)):
    out = str(folder / f'out-{name}')
    changed = dataclasses.replace(config, mesh=mesh, export=out)
    found[name] = run(changed, folder / name)
  first, second = (
    jax.tree.leaves(load(folder / f'out-{name}').params)
    for name in ('one', 'mesh')
  )
  found['weights'] = max(
    float(np.abs(np.asarray(a) - b).max()) for a, b in zip(first, second)
  )
  json.dump(found, sys.stdout)


if __name__ == '__main__':
  main(*sys.argv[1:])
