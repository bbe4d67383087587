"""Probes of a model on one device, and on a mesh of two processes.

A program, not a test: `test_probes.py` runs it twice and reads what it prints.
"""

from __future__ import annotations

import dataclasses
import json
import sys

import jax
import numpy as np

from ntk_jax.data.retrieval import VOCAB
from ntk_jax.evaluation.probes import Probes
from ntk_jax.model import ModelConfig, Params, init_params
from ntk_jax.rope.spec import RopeSpec
from ntk_jax.scheme import Scheme
from ntk_jax.sharding import MeshConfig, make_mesh, param_specs, shardings

MODEL = ModelConfig(
  vocab=VOCAB, dim=16, layers=2, heads=4, kv_heads=2, head_dim=8, mlp_dim=16
)
NAMES = ('probe/loss', 'probe/gain', 'probe/recall')


def main(rank: str, port: str) -> None:
  """Prints both."""
  jax.distributed.initialize(f'localhost:{port}', 2, int(rank))
  mesh = make_mesh(MeshConfig(fsdp=2, tensor=2))
  text = np.random.default_rng(0).integers(0, 256, (3, 33)).astype(np.int32)
  schemes = (Scheme(RopeSpec('default', 8)),)

  def make() -> Params:
    return init_params(jax.random.key(0), MODEL)

  specs = param_specs(jax.eval_shape(make), mesh, MODEL.kv_heads)
  spread = jax.jit(make, out_shardings=shardings(specs, mesh))()
  alone = make()
  probes = Probes(MODEL, text, 16, 256, NAMES, mesh=mesh)
  single = dataclasses.replace(probes, mesh=None)
  found = {
    'mesh': probes(spread, schemes, 32),
    'one': single(alone, schemes, 32),
  }
  sys.stdout.write(f'\n{json.dumps(found)}\n')  # the backend prints lines too


if __name__ == '__main__':
  main(*sys.argv[1:])
