"""Losses, gradients and traffic of small models on eight virtual devices.

A program, not a test: `test_objective.py` runs it and reads what it prints.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import Any

import jax
import numpy as np

from ntk_jax.data.batch import Batch
from ntk_jax.long_ce import LongCE
from ntk_jax.model import Controls, ModelConfig, init_params
from ntk_jax.objective import Objective, losses
from ntk_jax.rope.spec import RopeSpec
from ntk_jax.scheme import Scheme
from ntk_jax.sharding import (
  MeshConfig,
  batch_spec,
  make_mesh,
  param_specs,
  place_local,
)
from ntk_jax.traffic import ledger, step_traffic

B, T, VOCAB = 8, 12, 24
PLAIN = ModelConfig(
  vocab=VOCAB, dim=16, layers=3, heads=8, kv_heads=4, head_dim=4, mlp_dim=16
)
EVERYTHING = dataclasses.replace(
  PLAIN,
  qkv_bias=True,
  out_bias=True,
  mlp_bias=True,
  qk_norm=True,
  head_norm=True,
  post_norms=True,
  tied=False,
  layer_plan=(0, 1, 0),
  logit_soft_cap=5.0,
)
# Name: model, mesh, whether rows are packed and told at run time.
CASES: dict[str, tuple[ModelConfig, MeshConfig, bool]] = {
  'data': (PLAIN, MeshConfig(data=8), False),
  'fsdp': (dataclasses.replace(PLAIN, remat='dots'), MeshConfig(fsdp=8), False),
  'tensor, kv heads shared': (PLAIN, MeshConfig(tensor=8), False),
  'mixed': (PLAIN, MeshConfig(data=2, fsdp=2, tensor=2), False),
  'mixed, full remat': (
    dataclasses.replace(PLAIN, remat='full', kv_heads=2),
    MeshConfig(data=2, tensor=4),
    False,
  ),
  'everything': (
    dataclasses.replace(EVERYTHING, remat='attention'),
    MeshConfig(data=2, fsdp=2, tensor=2),
    True,
  ),
  'tiled': (
    dataclasses.replace(EVERYTHING, layer_plan=(), remat='dots', mlp_chunk=5),
    MeshConfig(data=2, fsdp=2, tensor=2),
    False,
  ),
  'experts': (
    dataclasses.replace(PLAIN, experts=4, tied=False),
    MeshConfig(data=2, fsdp=2, tensor=2),
    False,
  ),
  'experts, dots kept': (
    dataclasses.replace(PLAIN, experts=6, experts_per_token=3, remat='dots'),
    MeshConfig(fsdp=2, tensor=4),
    False,
  ),
  'experts, everything': (
    dataclasses.replace(
      EVERYTHING, mlp_bias=False, experts=4, remat='full', mlp_chunk=9
    ),
    MeshConfig(data=2, fsdp=2, tensor=2),
    True,
  ),
  'LongCE': (
    dataclasses.replace(PLAIN, logit_soft_cap=5.0),
    MeshConfig(data=2, fsdp=2, tensor=2),
    True,
  ),
}
# Windows of 5 tokens, that a tensor axis of 2 fills up to 6.
LONG_CE = LongCE(short=3, stride=2, gamma=2.0)


def batch_of(packed: bool) -> Batch:
  """Random rows; packed ones hold two documents and padding."""
  rng = np.random.default_rng(0)
  tokens = rng.integers(0, VOCAB, (B, T)).astype(np.int32)
  targets = rng.integers(-1, VOCAB, (B, T)).astype(np.int32)
  weights = rng.random((B, T)).astype(np.float32)
  answers = rng.random((B, T)) < 0.2
  if not packed:
    return Batch(tokens, targets, weights, answers)
  segments = np.tile([1] * 5 + [2] * 6 + [0], (B, 1)).astype(np.int32)
  positions = np.tile([*range(5), *range(6), 0], (B, 1)).astype(np.int32)
  weights = weights * (segments > 0)
  return Batch(tokens, targets, weights, answers, positions, segments)


def run(
  model: ModelConfig,
  mesh_config: MeshConfig | None,
  packed: bool,
  long_ce: LongCE | None = None,
) -> Any:
  """(loss, gradients, sums), and the compiled program."""
  batch, params = batch_of(packed), init_params(jax.random.key(0), model)
  positions = np.arange(T) if batch.positions is None else batch.positions
  schemes: Any = tuple(
    Scheme(RopeSpec('default', 4), window=window).arrays(None, positions)
    for window in (None, 3)
  )
  controls = None
  if packed:
    rng = np.random.default_rng(1)
    kept = np.sort(rng.permuted(np.tile(np.arange(T), (B, 1)), axis=1)[:, :8])
    controls = Controls(
      window=np.array([9, 2, 9], np.int32),
      kv_keep=rng.random((B, T)) < 0.7,
      kept=kept.astype(np.int32),
    )
    if long_ce is not None:
      controls = controls._replace(
        kept=None,
        emphasis=rng.random((B, T)).astype(np.float32),
        long_ce=np.bool_(True),
      )
  mesh = None
  if mesh_config is not None:
    mesh = make_mesh(mesh_config)
    params = place_local(
      params, param_specs(params, mesh, model.kv_heads), mesh
    )
    batch = place_local(batch, jax.tree.map(batch_spec, batch), mesh)
  objective = Objective(model, z_loss=1e-3, chunk=8, long_ce=long_ce)

  def loss(params: Any, batch: Batch) -> Any:
    sums = losses(
      params, batch, schemes, controls, objective=objective, mesh=mesh
    )
    return sums.loss / sums.weight, sums

  graded = jax.jit(jax.value_and_grad(loss, has_aux=True))
  compiled = graded.lower(params, batch).compile()
  (value, sums), grads = jax.device_get(compiled(params, batch))
  return value, grads, sums, compiled.as_text(), mesh


def main() -> None:
  """Prints one JSON object, a key per case."""
  found: dict[str, Any] = {}
  for name, (model, mesh_config, packed) in CASES.items():
    long_ce = LONG_CE if name == 'LongCE' else None
    value, grads, sums, text, mesh = run(model, mesh_config, packed, long_ce)
    wanted, wanted_grads, wanted_sums, *_ = run(model, None, packed, long_ce)
    errors = jax.tree.map(
      lambda a, b: float(np.abs(a - b).max() / np.abs(b).max()),
      grads,
      wanted_grads,
    )
    leaves = jax.tree_util.tree_leaves_with_path(errors)
    found[name] = {
      'loss': [float(value), float(wanted)],
      'sums': [
        [float(x) for x in sums],
        [float(x) for x in wanted_sums],
      ],
      'gradients': {jax.tree_util.keystr(p): e for p, e in leaves},
    }
    if not packed:  # the formula is of whole rows
      formula = step_traffic(model, mesh_config, B, T)
      found[name]['traffic'] = [
        {'+'.join(k): v for k, v in sorted(each.items())}
        for each in (ledger(text, mesh), formula)
      ]
  json.dump(found, sys.stdout)


if __name__ == '__main__':
  main()
