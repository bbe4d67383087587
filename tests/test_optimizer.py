"""The optimizer against AdamW written again, and its settings."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntk_jax.errors import ConfigError
from ntk_jax.model import ModelConfig, init_params
from ntk_jax.optimizer import (
  OptimizerConfig,
  Schedule,
  adamw,
  descend,
  global_norm,
  group_norms,
  round_at_random,
)


def as_float32(tree: dict[str, np.ndarray]) -> dict[str, jax.Array]:
  return {name: jnp.asarray(x, jnp.float32) for name, x in tree.items()}


def test_updates_equal_the_equations() -> None:
  rng = np.random.default_rng(0)
  shapes = {'embed': (3, 5), 'q': (2, 5, 4), 'mlp_norm': (2, 5)}
  decays = {'embed': 0.1, 'q': 0.1, 'mlp_norm': 0.0}
  params = {name: rng.normal(size=shape) for name, shape in shapes.items()}
  first = {name: np.zeros(shape) for name, shape in shapes.items()}
  second = {name: np.zeros(shape) for name, shape in shapes.items()}
  optimizer = adamw()
  update: Any = optimizer.update  # its trees may be anything
  state = optimizer.init(as_float32(params))
  # Small gradients are not clipped, large ones are.
  for t, size in enumerate((0.01, 3.0, 0.1), start=1):
    grads = {n: size * rng.normal(size=shape) for n, shape in shapes.items()}
    norm = np.sqrt(sum((g**2).sum() for g in grads.values()))
    np.testing.assert_allclose(global_norm(as_float32(grads)), norm, rtol=1e-6)
    updates, state = update(as_float32(grads), state, as_float32(params))
    for name, decay in decays.items():
      g = grads[name] * min(1.0, 1.0 / norm)
      first[name] = 0.9 * first[name] + 0.1 * g
      second[name] = 0.98 * second[name] + 0.02 * g**2
      m, v = first[name] / (1 - 0.9**t), second[name] / (1 - 0.98**t)
      expected = -m / (np.sqrt(v) + 1e-8) - decay * params[name]
      found = np.asarray(updates[name])
      np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-6)


def test_its_settings_reach_the_equations() -> None:
  """One step of Adam from zero moments, in float64."""
  config = OptimizerConfig(
    1.0, 10, 1, b1=0.5, b2=0.7, eps=1e-2, weight_decay=0.3, clip_norm=2.0
  )
  params, g = {'q': jnp.full(4, 2.0)}, np.array([3.0, 0.1, -0.2, 0.0])
  optimizer = config.transform()
  update: Any = optimizer.update
  updates, _ = update(as_float32({'q': g}), optimizer.init(params), params)
  g = g * 2 / np.sqrt((g**2).sum())
  # The bias corrections take the decays out of the first step.
  expected = -g / (np.abs(g) + 1e-2) - 0.3 * 2.0
  np.testing.assert_allclose(updates['q'], expected, rtol=1e-5)


def test_without_a_clip() -> None:
  params, grads = {'q': jnp.zeros(2)}, {'q': jnp.array([30.0, 40.0])}
  for clip, first in ((None, 3.0), (1.0, 0.06)):
    optimizer = adamw(clip_norm=clip)
    update: Any = optimizer.update
    _, state = update(grads, optimizer.init(params), params)
    np.testing.assert_allclose(state[1].mu['q'][0], first, rtol=1e-5)


def test_equal_settings_are_one_object() -> None:
  """So that a longer run of another learning rate compiles nothing."""
  one = OptimizerConfig(1e-3, 100, 10).transform()
  assert one is OptimizerConfig(5e-3, 200, 20, 'wsd').transform()
  assert one is not OptimizerConfig(1e-3, 100, 10, b2=0.95).transform()


def test_moments_of_bfloat16_parameters() -> None:
  params = {'q': jnp.full(3, 0.5, jnp.bfloat16)}
  grads = {'q': jnp.array([0.25, -1.0, 0.0], jnp.bfloat16)}
  for dtype in ('float32', 'bfloat16'):
    optimizer = adamw(mu_dtype=dtype)
    update: Any = optimizer.update
    updates, state = update(grads, optimizer.init(params), params)
    assert state[1].mu['q'].dtype == jnp.dtype(dtype)
    assert state[1].nu['q'].dtype == jnp.float32
    assert updates['q'].dtype == jnp.float32
    moved = descend(params, updates, 0.125)
    assert moved['q'].dtype == jnp.bfloat16
    expected = 0.5 - 0.125 * (np.array([1, -1, 0]) + 0.1 * 0.5)
    found = np.asarray(moved['q'].astype(jnp.float32))
    np.testing.assert_allclose(found, expected, rtol=2**-8)


def test_second_moments_in_bfloat16_are_right_on_average() -> None:
  """With b2 = 0.999 rounding to the nearest would stay where it began."""
  count, steps = 4096, 1000
  params = {'q': jnp.zeros(count)}
  optimizer = adamw(
    b2=0.999, clip_norm=None, mu_dtype='bfloat16', nu_dtype='bfloat16'
  )
  update: Any = jax.jit(optimizer.update)
  state: Any = optimizer.init(params)
  for step in range(steps):
    grads = {'q': jnp.full(count, 2.0 if step == 0 else 0.5)}
    _, state = update(grads, state, params)
  assert state[1].mu['q'].dtype == state[1].nu['q'].dtype == jnp.bfloat16
  first = 0.001 * 4.0
  expected = 0.25 + (first - 0.25) * 0.999 ** (steps - 1)
  found = np.asarray(state[1].nu['q'], np.float64)
  np.testing.assert_allclose(found.mean(), expected, rtol=2e-3)
  nearest = jnp.bfloat16(first)
  for _ in range(steps - 1):
    wide = 0.999 * nearest.astype(jnp.float32) + 0.001 * 0.25
    nearest = wide.astype(jnp.bfloat16)
  assert abs(float(nearest) - expected) > 0.2 * expected


def test_rounding_at_random_is_uniform_over_places_and_seeds() -> None:
  """Each share of the way rounds up as often, and no two arrays alike."""
  share = np.tile(np.arange(16) / 16, 4096).reshape(32, 2048)
  x = jnp.asarray(1 + share * 2**-7, jnp.float32)
  up = np.stack([round_at_random(s, x) > 1 for s in range(4)])
  for part in range(16):
    found = up[:, :, part::16].mean(axis=(1, 2))
    # Four standard deviations of 4096 draws.
    assert np.abs(found - part / 16).max() < 4 * 0.5 / 64
  half = up[:, :, 8::16].reshape(4, -1)
  assert np.abs(np.corrcoef(half) - np.eye(4)).max() < 0.07
  assert abs(np.corrcoef(half[0, 1:], half[0, :-1])[0, 1]) < 0.07


def test_rounding_at_random_keeps_what_bfloat16_holds() -> None:
  x = jnp.array([0.0, -0.0, 1.0, -2.5, 3e38, 1e-38], jnp.bfloat16)
  for seed in range(3):
    kept = round_at_random(seed, x.astype(jnp.float32))
    np.testing.assert_array_equal(kept, x)


def test_a_small_step_is_rounded_once() -> None:
  """A step that bfloat16 rounds to half a unit would then round up to one."""
  params = {'q': jnp.ones(1, jnp.bfloat16)}
  step = jnp.full(1, 1.5 * (1 - 1e-4))
  moved = descend(params, {'q': step}, np.float32(-(2.0**-8)))
  assert float(moved['q'][0]) == 255 / 256


def test_what_is_decayed() -> None:
  names = ('q', 'q_norm', 'bias', 'embed', 'final_norm', 'sink', 'scale')
  params = {name: jnp.ones(2) for name in names}
  zeros = {name: jnp.zeros(2) for name in names}
  optimizer = adamw()
  update: Any = optimizer.update
  updates, _ = update(zeros, optimizer.init(params), params)
  decayed = [name for name in names if (updates[name] != 0).any()]
  assert decayed == ['q', 'embed']


def test_group_norms_add_up_to_the_global_norm() -> None:
  params = init_params(
    jax.random.key(0),
    ModelConfig(13, dim=6, layers=3, heads=2, kv_heads=1, head_dim=4),
  )
  norms = jax.jit(group_norms)(params)
  kinds = 'down embed gate k norms out q up v'
  assert ' '.join(norms) == kinds
  q = np.asarray(params.layers['q'], np.float64)
  np.testing.assert_allclose(norms['q'], np.sqrt((q**2).sum()), rtol=1e-6)
  # Two norms in each of three layers and the last one, all ones of width 6.
  np.testing.assert_allclose(norms['norms'], np.sqrt(7 * 6), rtol=1e-6)
  total = np.sqrt(sum(float(n) ** 2 for n in norms.values()))
  np.testing.assert_allclose(total, global_norm(params), rtol=1e-6)


def test_group_norms_of_other_trees() -> None:
  found = group_norms({'blocks': [{'q': jnp.ones(1)}, {'q': jnp.ones(3)}]})
  assert {k: float(v) for k, v in found.items()} == {'q': 2.0}
  assert list(group_norms([jnp.ones(2)])) == ['other']
  # In bfloat16 the sum of 257 ones would be 256.
  short = group_norms({'q': jnp.ones(257, jnp.bfloat16)})['q']
  np.testing.assert_allclose(short, np.sqrt(257), rtol=1e-6)


GOOD = OptimizerConfig(1e-3, 100, 10)


def test_its_learning_rate_is_that_of_its_schedule() -> None:
  config = OptimizerConfig(1e-3, 100, 10, 'wsd', 0.3, 'linear', 0.05)
  config.validate()
  assert config.learning_rate == Schedule(
    1e-3, 100, 10, 'wsd', 0.3, 'linear', 0.05
  )


@pytest.mark.parametrize(
  ('change', 'says'),
  [
    ({'peak': 0.0}, 'learning rate is 0.0'),
    ({'schedule': 'wds'}, "'wds': did you mean 'wsd'?"),
    ({'b1': 1.0}, 'b1 is 1.0, must be in [0, 1)'),
    ({'b2': -0.1}, 'b2 is -0.1'),
    ({'b2': float('nan')}, 'b2 is nan'),
    ({'eps': 0.0}, 'eps is 0.0'),
    ({'weight_decay': -1.0}, 'weight_decay is -1.0'),
    ({'weight_decay': float('nan')}, 'weight_decay is nan'),
    ({'clip_norm': 0.0}, 'clip_norm is 0.0, must be above 0, or None'),
    ({'clip_norm': float('inf')}, 'clip_norm is inf'),
    ({'mu_dtype': 'float16'}, "unknown mu_dtype 'float16'"),
    ({'nu_dtype': 'float16'}, "unknown nu_dtype 'float16'"),
  ],
)
def test_settings_that_cannot_train_are_refused(
  change: dict[str, Any], says: str
) -> None:
  GOOD.validate()
  with pytest.raises(ConfigError) as error:
    dataclasses.replace(GOOD, **change).validate()
  assert says in str(error.value)


def test_all_problems_at_once() -> None:
  bad = dataclasses.replace(GOOD, peak=0.0, b1=2.0, clip_norm=-1.0)
  with pytest.raises(ConfigError, match='learning rate.*; b1 is.*; clip_norm'):
    bad.validate()
