"""What is trained changes, what is frozen does not, adapters merge exactly."""

from __future__ import annotations

import dataclasses
from typing import Any

import devices
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntk_jax.data.batch import Batch
from ntk_jax.errors import ConfigError
from ntk_jax.model import ModelConfig, forward, init_params
from ntk_jax.model.params import Params
from ntk_jax.model.precision import Precision
from ntk_jax.objective import Objective
from ntk_jax.optimizer import adamw
from ntk_jax.rope.spec import RopeSpec
from ntk_jax.scheme import Scheme
from ntk_jax.step import StepConfig, TrainState, init_state, train_step
from ntk_jax.trainable import (
  TRAINABLE,
  Trainable,
  combine,
  merge,
  split,
  trained_shapes,
)

T, VOCAB = 12, 24
MODEL = ModelConfig(
  vocab=VOCAB,
  dim=16,
  layers=3,
  heads=4,
  kv_heads=2,
  head_dim=6,
  mlp_dim=20,
  qkv_bias=True,
  out_bias=True,
  mlp_bias=True,
  qk_norm=True,
  post_norms=True,
  tied=False,
)
SCHEME = Scheme(RopeSpec('default', 6)).arrays(T, np.arange(T))
KEY = jax.random.key(1)
ATTENTION = {'q', 'k', 'v', 'out', 'q_bias', 'k_bias', 'v_bias', 'out_bias'}
ATTENTION |= {'attention_norm', 'attention_post_norm', 'q_norm', 'k_norm'}
NORMS = {'attention_norm', 'attention_post_norm', 'mlp_norm', 'mlp_post_norm'}
NORMS |= {'q_norm', 'k_norm', 'final_norm', 'embed'}
FACTORS = {f'{name}_lora_{f}' for name in ('q', 'k', 'v', 'out') for f in 'ab'}


def batch() -> Batch:
  rng = np.random.default_rng(0)
  tokens = rng.integers(0, VOCAB, (4, T)).astype(np.int32)
  targets = rng.integers(0, VOCAB, (4, T)).astype(np.int32)
  return Batch(tokens, targets, np.ones((4, T), np.float32), tokens < 0)


def leaves(tree: Params) -> dict[str, Any]:
  outside = {n: getattr(tree, n) for n in ('embed', 'final_norm', 'unembed')}
  return {n: a for n, a in outside.items() if a is not None} | tree.layers


def trained_on(
  trainable: Trainable, params: Params, steps: int = 3, model: Any = MODEL
) -> tuple[Params, Params, TrainState]:
  """Both parts of a model after some steps, and the state."""
  config = StepConfig(Objective(model), adamw(), trainable=trainable)
  trained, frozen = split(params, trainable, KEY)
  state = init_state(jax.tree.map(jnp.copy, trained), config)
  for _ in range(steps):
    state, metrics = train_step(
      state, batch(), SCHEME, np.float32(0.03), frozen=frozen, config=config
    )
    assert metrics.good
  return state.params, frozen, state


def test_what_is_trained_is_named() -> None:
  params = init_params(jax.random.key(0), MODEL)
  every = set(leaves(params))
  expected = {
    'all': every,
    'attention': ATTENTION,
    'norms_embeddings': NORMS,
    'lora': FACTORS,
    'longlora': NORMS | FACTORS,
  }
  assert set(expected) == set(TRAINABLE)
  for kind, names in expected.items():
    trained, frozen = split(params, Trainable(kind), KEY)
    assert set(leaves(trained)) == names
    assert set(leaves(frozen)) == every - names


@pytest.mark.parametrize('kind', ['attention', 'longlora'])
def test_at_the_start_the_model_is_as_it_was(kind: str) -> None:
  params = init_params(jax.random.key(0), MODEL)
  trainable = Trainable(kind)
  whole = combine(*split(params, trainable, KEY), trainable)
  run = jax.jit(lambda p: forward(p, MODEL, batch().tokens, None, None, SCHEME))
  np.testing.assert_array_equal(run(whole), run(params))


@pytest.mark.parametrize('kind', ['attention', 'longlora'])
def test_the_trained_part_moves_and_the_frozen_part_does_not(kind: str) -> None:
  params = jax.device_get(init_params(jax.random.key(0), MODEL))
  after, frozen, _ = trained_on(Trainable(kind), params)
  start, _ = split(params, Trainable(kind), KEY)
  for name, leaf in leaves(after).items():
    assert not np.array_equal(leaf, leaves(start)[name]), name
  for name, leaf in leaves(frozen).items():
    np.testing.assert_array_equal(leaf, leaves(params)[name])


def test_merged_equals_adapted() -> None:
  trainable = Trainable('lora', rank=3, alpha=7.0)
  params = init_params(jax.random.key(0), MODEL)
  after, frozen, _ = trained_on(trainable, params)
  merged = merge(after, frozen, trainable)
  assert jax.tree.structure(merged) == jax.tree.structure(params)
  logits = [
    forward(p, MODEL, batch().tokens, None, None, SCHEME)
    for p in (params, combine(after, frozen, trainable), merged)
  ]
  assert np.abs(logits[1] - logits[0]).max() > 0.1  # adapters did something
  np.testing.assert_allclose(logits[2], logits[1], rtol=0, atol=5e-6)
  a, b = (np.asarray(after.layers[f'q_lora_{f}'], np.float64) for f in 'ab')
  expected = np.asarray(params.layers['q'], np.float64) + 7 / 3 * a @ b
  np.testing.assert_allclose(merged.layers['q'], expected, rtol=0, atol=1e-6)


def test_a_merged_model_has_the_dtypes_it_came_with() -> None:
  model = dataclasses.replace(MODEL, precision=Precision(params='bfloat16'))
  params = init_params(jax.random.key(0), model)
  for kind in TRAINABLE:
    trained, frozen = split(params, Trainable(kind), KEY)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(trained))
    kept = merge(trained, frozen, Trainable(kind), params)
    for found, given in zip(*map(jax.tree.leaves, (kept, params))):
      assert found.dtype == given.dtype == jnp.bfloat16
      np.testing.assert_array_equal(found, given)


def test_moments_exist_for_the_trained_part_alone() -> None:
  params = init_params(jax.random.key(0), MODEL)
  L, D, N, K, r = 3, 16, 24, 12, 5
  factors = (D * r + r * N) + 2 * (D * r + r * K) + (N * r + r * D)
  _, _, state = trained_on(Trainable('lora', rank=r), params, steps=1)
  counted = sum(
    leaf.nbytes for leaf in jax.tree.leaves(state.optimizer) if leaf.ndim
  )
  assert counted == 2 * 4 * L * factors
  assert sum(a.nbytes for a in jax.tree.leaves(state.params)) == counted // 2


def test_gradients_exist_for_the_trained_part_alone() -> None:
  """The compiled step of adapters needs less than one copy of the model."""
  model = dataclasses.replace(
    MODEL, dim=64, mlp_dim=1024, layers=6, remat='full'
  )

  def temporary(kind: str) -> int:
    trainable = Trainable(kind)
    config = StepConfig(Objective(model), adamw(), trainable=trainable)
    trained, frozen = trained_shapes(model, trainable)
    state = jax.eval_shape(lambda part: init_state(part, config), trained)
    lowered = train_step.lower(
      state, batch(), SCHEME, np.float32(0), frozen=frozen, config=config
    )
    analysis: Any = lowered.compile().memory_analysis()
    return analysis.temp_size_in_bytes

  size = 4 * sum(
    a.size for a in jax.tree.leaves(trained_shapes(model, Trainable()))
  )
  assert temporary('all') > size
  assert temporary('lora') < size / 2


def test_what_a_user_types() -> None:
  for text in ('all', 'attention', 'norms_embeddings', 'lora:4', 'longlora:16'):
    assert str(Trainable.parse(text)) == text
  assert Trainable.parse('lora') == Trainable('lora', 8)
  assert Trainable('lora').scale == 2
  for wrong in ('lora:0', 'lora:x', 'all:8', 'lora:'):
    with pytest.raises(ConfigError, match='a rank from 1 up'):
      Trainable.parse(wrong)
  with pytest.raises(ConfigError, match="did you mean 'lora'"):
    Trainable.parse('lorra')
  with pytest.raises(ConfigError, match='rank is 0.*; alpha is -1'):
    Trainable('lora', 0, -1.0).validate()


ON_A_MESH = """
import sys, jax, numpy as np
from jax.sharding import PartitionSpec
sys.path.insert(0, 'tests')
import test_trainable as t
from ntk_jax.sharding import MeshConfig, batch_spec, make_mesh, param_specs
from ntk_jax.sharding import place_local
from ntk_jax.step import state_shardings
for mesh_config in (MeshConfig(1, 2, 1, 4),):  # kv heads are shared
  for kind in ('longlora',):
    trainable = t.Trainable(kind, 4)
    config = t.StepConfig(t.Objective(t.MODEL), t.adamw(), trainable=trainable)
    seen = []
    for mesh in (None, make_mesh(mesh_config)):
      params = t.init_params(jax.random.key(0), t.MODEL)
      parts = t.split(params, trainable, t.KEY)
      batch = t.batch()
      if mesh is not None:
        specs = param_specs(parts, mesh, t.MODEL.kv_heads)
        parts = place_local(parts, specs, mesh)
        batch = place_local(batch, jax.tree.map(batch_spec, batch), mesh)
      state = t.init_state(parts[0], config)
      for _ in range(3):
        state, metrics = t.train_step(state, batch, t.SCHEME,
          np.float32(0.03), frozen=parts[1], config=config, mesh=mesh)
        seen.append((float(metrics.loss), float(metrics.grad_norm)))
    np.testing.assert_allclose(seen[:3], seen[3:], rtol=2e-5)
    assert seen[2][0] < seen[0][0] - 1e-3
print('alike')
"""


def test_a_mesh_trains_adapters_as_one_device() -> None:
  process = devices.start('-c', ON_A_MESH, devices=8)
  assert devices.output(process) == 'alike\n'
