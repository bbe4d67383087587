"""The forecast against compiled steps, and what a device is said to have."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import devices
import jax
import numpy as np
import optax
import pytest

from ntk_jax.data.batch import Batch
from ntk_jax.memory import WITHIN, device_memory, host_memory, step_need
from ntk_jax.model import ModelConfig, init_params
from ntk_jax.model.precision import Precision
from ntk_jax.objective import Objective
from ntk_jax.optimizer import adamw
from ntk_jax.rope.spec import RopeSpec
from ntk_jax.scheme import Scheme
from ntk_jax.sharding import (
  MeshConfig,
  batch_spec,
  make_mesh,
  param_specs,
  shardings,
)
from ntk_jax.step import StepConfig, init_state, train_step
from ntk_jax.trainable import Trainable, trained_shapes

BASE = ModelConfig(
  vocab=1024,
  dim=256,
  layers=4,
  heads=8,
  kv_heads=4,
  head_dim=32,
  mlp_dim=704,
  tied=False,
)
IDENTITY = optax.identity()
HALF = Precision('bfloat16', 'float32')
# Trainable, changes of the model, tokens of a row, moments.
CASES: dict[str, tuple[str, dict[str, Any], int, str]] = {
  'all': ('all', {'remat': 'full'}, 512, 'float32'),
  'short moments': ('all', {'remat': 'full'}, 64, 'bfloat16'),
  'adapters, all kept': (
    'lora',
    {'remat': 'none', 'layers': 8},
    512,
    'float32',
  ),
  'attention': ('attention', {'remat': 'attention'}, 1024, 'float32'),
  'dots': ('lora', {'remat': 'dots'}, 1024, 'float32'),
  'half weights': (
    'lora',
    {'remat': 'full', 'precision': HALF},
    128,
    'float32',
  ),
  'tiled, all kept': (
    'all',
    {'remat': 'none', 'mlp_chunk': 128},
    1024,
    'float32',
  ),
  'tiled': ('all', {'remat': 'full', 'mlp_chunk': 128}, 1024, 'float32'),
}


def compiled(
  kind: str,
  model: ModelConfig,
  length: int,
  moments: str,
  rows: int = 2,
  over: MeshConfig = MeshConfig(),  # noqa: B008 (frozen)
) -> int:
  """Bytes of a device's arguments and temporaries of the compiled step."""
  trainable = Trainable.parse(kind)
  transform = adamw(mu_dtype=moments, nu_dtype=moments)
  config = StepConfig(Objective(model), transform, trainable=trainable)
  trained, frozen = trained_shapes(model, trainable)
  state = jax.eval_shape(lambda part: init_state(part, config), trained)

  def array(dtype: Any) -> Any:
    return jax.ShapeDtypeStruct((rows, length), dtype)

  batch: Any = Batch(
    array(np.int32), array(np.int32), array(np.float32), array(bool)
  )
  spec = RopeSpec('default', model.head_dim)
  arrays = Scheme(spec).arrays(length, np.arange(length))
  rate: Any = jax.ShapeDtypeStruct((), np.float32)
  mesh = None
  if over.size > 1:
    mesh = make_mesh(over)
    state, frozen = (
      placed(part, param_specs(part, mesh, model.kv_heads), mesh)
      for part in (state, frozen)
    )
    batch = placed(batch, jax.tree.map(batch_spec, batch), mesh)
  lowered = train_step.lower(
    state, batch, arrays, rate, frozen=frozen, config=config, mesh=mesh
  )
  found: Any = lowered.compile().memory_analysis()
  return found.argument_size_in_bytes + found.temp_size_in_bytes


def placed(tree: Any, specs: Any, mesh: Any) -> Any:
  """Shapes with their places."""
  return jax.tree.map(
    lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
    tree,
    shardings(specs, mesh),
  )


def ratio_over(mesh: MeshConfig, name: str) -> float:
  """Forecast / compiled step of a case over all devices, 8 rows."""
  kind, changes, length, moments = CASES[name]
  model = dataclasses.replace(BASE, **changes)
  need = step_need(
    model,
    8,
    length,
    trainable=Trainable.parse(kind),
    moments=(moments, moments),
    mesh=mesh,
  )
  return need.total / compiled(kind, model, length, moments, 8, mesh)


@pytest.mark.parametrize('case', CASES)
def test_the_forecast_is_near_the_compiled_step(case: str) -> None:
  kind, change, length, moments = CASES[case]
  model = dataclasses.replace(BASE, **change)
  need = step_need(
    model,
    2,
    length,
    trainable=Trainable.parse(kind),
    moments=(moments, moments),
  )
  ratio = need.total / compiled(kind, model, length, moments)
  print(case, round(ratio, 3))
  assert 1 / WITHIN < ratio < WITHIN


def test_what_each_setting_saves() -> None:
  model = dataclasses.replace(BASE, remat='none')
  whole = step_need(model, 2, 512)
  assert step_need(model, 1, 512).activations < whole.activations
  full = dataclasses.replace(model, remat='full')
  assert step_need(full, 2, 512).activations < whole.activations / 2
  lora = step_need(model, 2, 512, trainable=Trainable('lora'))
  assert lora.moments + lora.gradients < whole.moments / 20
  half = step_need(model, 2, 512, moments=('bfloat16', 'bfloat16'))
  assert 2 * half.moments == whole.moments
  parts = step_need(model, 2, 512, microbatches=2)
  assert parts.activations < whole.activations
  tiled = step_need(dataclasses.replace(model, mlp_chunk=64), 2, 512)
  assert tiled.activations < 0.7 * whole.activations
  large = dataclasses.replace(full, vocab=2**17)
  logits = [
    step_need(large, 2, 512, loss_chunk=n).activations for n in (512, 1024)
  ]
  assert logits[1] - logits[0] == 512 * 2**17 * 3 * 4


def test_what_saves_memory_changes_no_step() -> None:
  """Microbatches, chunked loss, tiled MLP and remat, all together."""
  model = dataclasses.replace(
    BASE, vocab=40, dim=16, layers=2, heads=2, kv_heads=1, mlp_dim=24
  )
  rng = np.random.default_rng(0)
  rows, length = 6, 15
  tokens, targets = rng.integers(0, 40, (2, rows, length)).astype(np.int32)
  weights = rng.random((rows, length)).astype(np.float32)
  targets[0, :9] = -1  # microbatches of unequal weight
  batch = Batch(tokens, targets, weights, rng.random((rows, length)) < 0.3)
  scheme = Scheme(RopeSpec('default', 32)).arrays(length, np.arange(length))
  saving = dataclasses.replace(model, remat='full', mlp_chunk=7)
  after = []
  for shape, chunk, microbatches in (
    (model, rows * length, 1),
    (saving, 8, 3),
  ):
    objective = Objective(shape, z_loss=1e-3, chunk=chunk)
    # The gradient itself is the update: a moment would hide its size.
    config = StepConfig(objective, IDENTITY, microbatches=microbatches)
    state = init_state(init_params(jax.random.key(0), model), config)
    state, metrics = train_step(
      state, batch, scheme, np.float32(-1.0), config=config
    )
    assert metrics.good
    after.append(jax.device_get((state.params, metrics)))
  plain, saved = after
  moved = jax.tree.map(
    lambda a, b: np.abs(a - b).max(),
    init_params(jax.random.key(0), model),
    plain[0],
  )
  assert min(jax.tree.leaves(moved)) > 1e-4
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
    saved,
    plain,
  )


def tree(root: Path, files: dict[str, str]) -> Path:
  for name, content in files.items():
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
  return root


MEMINFO = 'MemTotal: 9000 kB\nMemFree: 10 kB\nMemAvailable: 8000 kB\n'


@pytest.mark.parametrize(
  ('files', 'expected'),
  [
    ({}, None),
    ({'proc/meminfo': MEMINFO}, 8000 * 1024),
    (
      {
        'proc/meminfo': MEMINFO,
        'proc/self/cgroup': '0::/a/b\n',
        'sys/fs/cgroup/a/b/memory.max': 'max\n',
        'sys/fs/cgroup/a/memory.max': '5000\n',
      },
      5000,
    ),
    (
      {
        'proc/meminfo': MEMINFO,
        'proc/self/cgroup': '0::/\n',
        'sys/fs/cgroup/memory.max': '99999999\n',
      },
      8000 * 1024,
    ),
    (
      {
        'proc/meminfo': MEMINFO,
        'proc/self/cgroup': '5:cpu,cpuacct:/x\n4:memory:/x\n',
        'sys/fs/cgroup/memory/x/memory.limit_in_bytes': '7000\n',
        'sys/fs/cgroup/memory/memory.limit_in_bytes': f'{2**63 - 4096}\n',
      },
      7000,
    ),
  ],
)
def test_memory_of_a_host(
  tmp_path: Path, files: dict[str, str], expected: int | None
) -> None:
  assert host_memory(tree(tmp_path, files)) == expected


def test_memory_of_this_machine() -> None:
  found = device_memory()
  assert found is None or found > 2**26


def test_the_forecast_of_a_device_of_a_mesh() -> None:
  program = (
    'from test_memory import *; '
    'print(ratio_over(MeshConfig(fsdp=2, tensor=2), "all"), '
    'ratio_over(MeshConfig(tensor=4), "attention"))'
  )
  ratios = devices.output(devices.start('-c', program, devices=4)).split()
  for ratio in map(float, ratios):
    assert 1 / WITHIN < ratio < WITHIN
