"""Losses of mixed rope on one device and on meshes of four virtual ones.

A program, not a test: `test_alternatives.py` runs it and reads what it prints.
"""

from __future__ import annotations

import functools
import json
import sys
from typing import Any

import jax
import numpy as np

from ntk_jax.data.batch import Batch
from ntk_jax.model import Controls, ModelConfig, Params, init_params
from ntk_jax.objective import (
  Objective,
  control_specs,
  losses,
  scheme_specs,
)
from ntk_jax.rope.spec import RopeSpec
from ntk_jax.scheme import Scheme
from ntk_jax.sharding import (
  MeshConfig,
  batch_spec,
  make_mesh,
  param_specs,
  place_local,
)
from ntk_jax.temperature import Temperature
from ntk_jax.train.alternatives import MixedRope

MODEL = ModelConfig(
  vocab=24,
  dim=16,
  layers=2,
  heads=4,
  kv_heads=2,
  head_dim=8,
  mlp_dim=16,
  layer_plan=(0, 1),
)
L0, LENGTH, T = 6, 48, 16
PLAIN = Scheme(RopeSpec('default', 8))
LOCAL = Scheme(RopeSpec('default', 8), window=4)
YARN = Scheme(
  RopeSpec('yarn', 8, factor=8.0, original_length=L0),
  Temperature('logn', length=L0),
)
DYNAMIC = Scheme(
  RopeSpec('dynamic', 8, factor=1.0, original_length=L0), window=4
)
MESHES = {
  'one': None,
  'data': MeshConfig(data=4),
  'mixed': MeshConfig(fsdp=2, tensor=2),
}


def drawn() -> Params:
  """Parameters of size 0.4, without a compiled initializer."""
  shapes = jax.eval_shape(lambda: init_params(jax.random.key(0), MODEL))
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda x: rng.normal(0, 0.4, x.shape).astype(np.float32), shapes
  )


def rows_of(lengths: list[list[int]], seed: int = 0) -> Batch:
  """Random tokens in documents of these lengths, T tokens a row."""
  rng = np.random.default_rng(seed)
  shape = len(lengths), T
  tokens, targets = rng.integers(0, MODEL.vocab, (2, *shape)).astype(np.int32)
  positions, segments = np.zeros((2, *shape), np.int32)
  for b, row in enumerate(lengths):
    at = 0
    for number, size in enumerate(row, start=1):
      positions[b, at : at + size] = np.arange(size)
      segments[b, at : at + size] = number
      at += size
  weights = (segments > 0).astype(np.float32)
  none = np.zeros(shape, np.bool_)
  return Batch(tokens, targets, weights, none, positions, segments)


MIXED = [[16], [6, 7], [3, 2, 5, 6], [7, 9], [4, 12], [6, 6, 4], [8], [1, 15]]


def sums(mesh_config: MeshConfig | None) -> list[list[float]]:
  """The losses of two batches."""
  mixed = MixedRope((YARN, DYNAMIC), (PLAIN, LOCAL), L0, LENGTH)
  params: Any = drawn()
  mesh = None if mesh_config is None else make_mesh(mesh_config)
  if mesh is not None:
    specs = param_specs(params, mesh, MODEL.kv_heads)
    params = place_local(params, specs, mesh)
  objective, found = Objective(MODEL), []
  summed = jax.jit(functools.partial(losses, objective=objective, mesh=mesh))
  for seed in range(2):
    batch: Any = rows_of(MIXED, seed)
    arrays, plan = mixed(batch)
    controls: Any = Controls(plan=plan)
    if mesh is not None:
      arrays, controls, batch = (
        place_local(tree, specs, mesh)
        for tree, specs in (
          (arrays, scheme_specs(arrays, alternatives=True)),
          (controls, control_specs(controls)),
          (batch, jax.tree.map(batch_spec, batch)),
        )
      )
    found.append([float(x) for x in summed(params, batch, arrays, controls)])
  return found


def main() -> None:
  """Prints the numbers of every mesh."""
  json.dump({name: sums(mesh) for name, mesh in MESHES.items()}, sys.stdout)


if __name__ == '__main__':
  main()
