"""Scores of the same rows on one device and on meshes of four virtual ones.

A program, not a test: `test_meshes.py` runs it and reads what it prints.
"""

from __future__ import annotations

import json
import sys

import jax
import numpy as np

from ntk_jax.data.retrieval import Pairs
from ntk_jax.evaluation.score import score_rows
from ntk_jax.model import ModelConfig, init_params
from ntk_jax.rope.spec import RopeSpec
from ntk_jax.scheme import Scheme
from ntk_jax.sharding import MeshConfig, make_mesh

CONFIG = ModelConfig(
  vocab=48, dim=16, layers=2, heads=4, kv_heads=2, head_dim=8, mlp_dim=16
)
MESHES = {
  'data': MeshConfig(data=4),
  'both': MeshConfig(fsdp=2, tensor=2),
  'tensor': MeshConfig(tensor=4),
}
# Values in every quarter of the vocabulary.
PAIRS = Pairs(tuple(range(1, 17, 2)), tuple(range(0, 48, 3)))


def main() -> None:
  """Prints differences of every mesh, and how often one device hits."""
  rng = np.random.default_rng(0)
  tokens = rng.integers(0, 48, (4, 64)).astype(np.int32)
  targets = rng.choice(PAIRS.values, (4, 64)).astype(np.int32)
  params = init_params(jax.random.key(0), CONFIG)
  arrays = (Scheme(RopeSpec('default', 8)).arrays(64, np.arange(64)),)
  scores = {
    name: jax.device_get(
      score_rows(
        params,
        tokens,
        targets,
        arrays,
        config=CONFIG,
        symbols=PAIRS,
        mesh=None if mesh is None else make_mesh(mesh),
      )
    )
    for name, mesh in (('one', None), *MESHES.items())
  }
  bits, hits = scores.pop('one')
  found = {
    name: {
      'bits': float(np.abs(other - bits).max()),
      'hits': int((own != hits).sum()),
    }
    for name, (other, own) in scores.items()
  }
  json.dump({'hits': float(hits.sum()), 'meshes': found}, sys.stdout)


if __name__ == '__main__':
  main()
