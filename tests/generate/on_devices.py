"""Generation on one device and on meshes of eight virtual ones.

A program, not a test: `test_meshes.py` runs it and reads what it prints.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import Any

import jax
import numpy as np

from ntk_jax.generate import generate, step
from ntk_jax.model import ModelConfig, init_params
from ntk_jax.model.shell import with_params
from ntk_jax.rope.spec import RopeSpec
from ntk_jax.scheme import Scheme
from ntk_jax.sharding import MeshConfig, make_mesh, param_specs, shardings

CONFIG = ModelConfig(
  vocab=32,
  dim=16,
  layers=2,
  heads=8,
  kv_heads=4,
  head_dim=4,
  mlp_dim=16,
  layer_plan=(0, 1),
)
MESHES = {
  'tensor': (MeshConfig(data=2, tensor=4), 4),
  'fsdp': (MeshConfig(fsdp=8), 4),
  'kv heads shared': (MeshConfig(tensor=8), 2),
}
SCHEMES = (
  Scheme(RopeSpec('default', 4), window=5),
  Scheme(RopeSpec('dynamic', 4, factor=2.0, original_length=14)),
)


def sizes() -> list[int]:
  """Executables of reading and of writing."""
  programs: list[Any] = [step.read, step.write]
  return [program._cache_size() for program in programs]


def main() -> None:
  """Prints the largest difference and the compiles of each mesh."""
  rng = np.random.default_rng(0)
  prompt = rng.integers(0, 32, (8, 10)).astype(np.int32)
  forced = rng.integers(0, 32, (8, 6)).astype(np.int32)
  mask = np.arange(10) >= np.arange(8)[:, None]
  found = {}
  for name, (mesh_config, kv_heads) in MESHES.items():
    config = dataclasses.replace(CONFIG, kv_heads=kv_heads)
    params = init_params(jax.random.key(0), config)
    logits = []
    mesh = make_mesh(mesh_config)
    specs = param_specs(params, mesh, kv_heads)
    for held in (params, jax.device_put(params, shardings(specs, mesh))):
      before = sizes()
      model = with_params(config, held, SCHEMES)
      _, out = generate(
        model,
        prompt,
        prompt_mask=mask,
        max_new_tokens=6,
        force_tokens=forced,
        return_logits=True,
        chunk=8,
        stride=2,
      )
      logits.append(out)
    compiled = [now - then for now, then in zip(sizes(), before)]
    error = float(np.abs(logits[0] - logits[1]).max())
    found[name] = {'error': error, 'compiled': compiled}
  json.dump(found, sys.stdout)


if __name__ == '__main__':
  main()
