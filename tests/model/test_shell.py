"""The NNX module: the same maths, held parameters, checked calls."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ntk_jax.errors import ConfigError
from ntk_jax.model import (
  ModelConfig,
  Transformer,
  empty_cache,
  forward,
  init_params,
  parameter_count,
)
from ntk_jax.model.shell import with_params
from ntk_jax.rope.spec import RopeSpec
from ntk_jax.scheme import Scheme
from ntk_jax.temperature import Temperature

CONFIG = ModelConfig(
  vocab=13, dim=8, layers=2, heads=2, kv_heads=1, head_dim=4, mlp_dim=7
)
DYNAMIC = Scheme(RopeSpec('dynamic', 4, factor=1.0, original_length=4))


@pytest.fixture(scope='module')
def model() -> Transformer:
  return Transformer(CONFIG, rngs=nnx.Rngs(0))


def ids(rows: int = 2, length: int = 9) -> np.ndarray:
  rng = np.random.default_rng(0)
  return rng.integers(0, CONFIG.vocab, (rows, length))


def arrays(scheme: Scheme, length: Any, tokens: int) -> Any:
  return scheme.arrays(length, np.arange(tokens))


def test_a_call_is_the_pure_forward(model: Transformer) -> None:
  tokens = ids()
  scheme = arrays(Scheme(RopeSpec('default', 4)), None, 9)
  pure = jax.jit(forward, static_argnums=1)
  wanted = pure(model.params, CONFIG, tokens, None, None, scheme)
  found = model(tokens)
  assert found.dtype == jnp.float32
  np.testing.assert_array_equal(found, wanted)
  np.testing.assert_allclose(
    nnx.jit(lambda m, t: m(t))(model, tokens), wanted, rtol=0, atol=1e-5
  )


def test_its_parameters_are_nnx_params(model: Transformer) -> None:
  _, state = nnx.split(model, nnx.Param)
  assert sum(x.size for x in jax.tree.leaves(state)) == parameter_count(CONFIG)
  free = dataclasses.replace(CONFIG, tied=False)
  bigger = Transformer(free, rngs=nnx.Rngs(0))
  count = parameter_count(bigger.params)
  assert count == parameter_count(CONFIG) + 8 * 13


def test_gradients_reach_every_parameter(model: Transformer) -> None:
  grads = nnx.grad(lambda m: jnp.square(m(ids())).mean())(model)
  leaves = jax.tree.leaves(grads)
  assert len(leaves) == len(jax.tree.leaves(model.params))
  assert all(np.abs(leaf).max() > 0 for leaf in leaves)


def test_given_parameters_are_held(model: Transformer) -> None:
  params = init_params(jax.random.key(7), CONFIG)
  held = with_params(CONFIG, params)
  assert (np.asarray(held(ids())) != model(ids())).any()
  same = jax.tree.map(np.array_equal, held.params, params)
  assert all(jax.tree.leaves(same))


def test_a_length_is_asked_for_and_used(model: Transformer) -> None:
  with pytest.raises(ConfigError, match='length is None'):
    model(ids(), schemes=[DYNAMIC])
  for length in (9, np.array([9, 20])):
    wanted = forward(
      model.params, CONFIG, ids(), None, None, arrays(DYNAMIC, length, 9)
    )
    found = model(ids(), schemes=[DYNAMIC], length=length)
    np.testing.assert_array_equal(found, wanted)
  assert (np.asarray(found) != model(ids())).any()


def test_a_cache_goes_on_where_it_stopped(model: Transformer) -> None:
  scheme = Scheme(RopeSpec('default', 4), Temperature('logn', length=4))
  whole = model(ids(), schemes=[scheme])
  cache, outs = empty_cache(CONFIG, rows=2, slots=9), []
  for start, stop in ((0, 4), (4, 5), (5, 9)):
    out, cache = model(ids()[:, start:stop], schemes=[scheme], cache=cache)
    outs.append(out)
  np.testing.assert_allclose(np.concatenate(outs, 1), whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
  ('tokens', 'says'),
  [
    ([[0, 13]], 'token id 13 is outside the vocabulary: ids are 0 to 12'),
    ([[-1, 3]], 'token id -1'),
    ([0, 1], r'shape \(2,\)'),
    ([[0.0, 1.0]], 'tokens are float'),
  ],
)
def test_what_is_no_token_is_refused(
  model: Transformer, tokens: Any, says: str
) -> None:
  with pytest.raises(ConfigError, match=says):
    model(np.array(tokens))


def test_arguments_that_do_not_belong_together(model: Transformer) -> None:
  wrong: list[tuple[dict[str, Any], str]] = [
    ({'positions': np.arange(18)}, r'positions have shape \(18,\)'),
    ({'positions': np.arange(3)}, r'positions have shape \(3,\)'),
    ({'segments': np.ones((3, 9), np.int32)}, 'segments have shape'),
    ({'schemes': []}, 'names scheme 0, 0 are given'),
    ({'cache': empty_cache(CONFIG, 2, 4)}, '9 tokens for a cache of 4'),
  ]
  for options, says in wrong:
    with pytest.raises(ConfigError, match=says):
      model(ids(), **options)
  with pytest.raises(ConfigError, match='nothing to read'):
    model(ids(length=0))


def test_a_plan_without_its_scheme_is_refused() -> None:
  config = dataclasses.replace(CONFIG, layer_plan=(0, 1))
  with pytest.raises(ConfigError, match='names scheme 1, there are 1'):
    Transformer(config, rngs=nnx.Rngs(0), schemes=[DYNAMIC])
  with pytest.raises(ConfigError, match='heads'):
    Transformer(dataclasses.replace(CONFIG, kv_heads=3), rngs=nnx.Rngs(0))
