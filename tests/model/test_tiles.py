"""A tiled MLP is the MLP, and its hidden channels exist a tile at a time."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from ntk_jax.errors import ConfigError
from ntk_jax.model import REMAT, ModelConfig, Params, forward, init_params
from ntk_jax.model.tiles import by_tiles
from ntk_jax.rope.spec import RopeSpec
from ntk_jax.scheme import Scheme

ROWS, LENGTH = 2, 17  # 34 tokens: no tile below divides them
TOKENS = ROWS * LENGTH
# A width that nothing else has, so that shapes tell what is what.
CONFIG = ModelConfig(
  vocab=13,
  dim=10,
  layers=2,
  heads=2,
  kv_heads=1,
  head_dim=4,
  mlp_dim=23,
  tied=False,
)
BIASED = dataclasses.replace(CONFIG, mlp_bias=True, post_norms=True)
SPARSE = dataclasses.replace(CONFIG, experts=5)
SCHEME = Scheme(RopeSpec('default', 4)).arrays(LENGTH, np.arange(LENGTH))


def drawn(config: ModelConfig) -> Params:
  """Parameters without zeros: biases are drawn too."""
  rng = np.random.default_rng(1)
  shapes = jax.eval_shape(lambda: init_params(jax.random.key(0), config))
  return jax.tree.map(
    lambda x: np.float32(0.3 * rng.normal(size=x.shape)), shapes
  )


def loss(params: Params, config: ModelConfig) -> jax.Array:
  rows = np.random.default_rng(0).integers(0, 13, (ROWS, LENGTH))
  logits = forward(params, config, rows, None, None, SCHEME)
  return jnp.square(jax.nn.log_softmax(logits)).mean()


GRADED = jax.jit(jax.value_and_grad(loss), static_argnums=1)


def same(found: Any, wanted: Any) -> None:
  """Equal within 1e-5 of each array's largest number."""

  def check(path: Any, a: Any, b: Any) -> None:
    error = np.abs(np.asarray(a, np.float64) - b).max()
    assert error <= 1e-5 * np.abs(b).max(), (path, error)

  jax.tree_util.tree_map_with_path(check, found, wanted)


@pytest.mark.parametrize('tile', [1, 4, 7, 13, 50])
def test_tiles_are_the_whole_in_both_directions(tile: int) -> None:
  rng = np.random.default_rng(0)
  x = rng.normal(size=(13, 3)).astype(np.float32)
  w = {'a': rng.normal(size=(3, 5)), 'b': rng.normal(size=5)}
  w = jax.tree.map(np.float32, w)
  up = rng.normal(size=(13, 5)).astype(np.float32)

  def function(x: jax.Array, w: Any) -> jax.Array:
    return jnp.tanh(x @ w['a'] + w['b'])

  # By hand, in float64.
  y = np.tanh(x.astype(float) @ w['a'] + w['b'])
  dz = up * (1 - y**2)
  wanted = dz @ w['a'].T, {'a': x.T.astype(float) @ dz, 'b': dz.sum(0)}
  found, back = jax.vjp(lambda *a: by_tiles(function, tile, *a), x, w)
  same(found, y)
  same(back(jnp.asarray(up)), wanted)


def test_no_tile_has_more_tokens_than_it_may() -> None:
  seen = []

  def function(x: jax.Array, w: jax.Array) -> jax.Array:
    seen.append(x.shape[0])
    return x * w

  x, w = jnp.ones((10, 2)), jnp.ones(2)
  jax.grad(lambda x: by_tiles(function, 4, x, w).sum())(x)
  assert set(seen) == {4}  # 3 tiles of 4, 2 tokens of zeros
  seen.clear()
  by_tiles(function, 6, x, w)
  assert set(seen) == {5}


@pytest.fixture(scope='module')
def wanted() -> dict[ModelConfig, Any]:
  """Loss and gradient of all tokens at once, and their parameters."""
  drawn_once = {config: drawn(config) for config in (BIASED, SPARSE)}
  return {c: (GRADED(p, c), p) for c, p in drawn_once.items()}


@pytest.mark.parametrize(
  ('config', 'remat', 'tile'),
  [
    (BIASED, 'none', 8),
    (BIASED, 'attention', 99),  # a tile that holds them all is a tile
    (BIASED, 'offload', 8),
    (SPARSE, 'none', 8),
    # Other tests hold those of dense models over a mesh and in a step.
    *(
      pytest.param(config, remat, 8, marks=pytest.mark.slow)
      for config in (BIASED, SPARSE)
      for remat in ('dots', 'attention', 'full')
    ),
  ],
  ids=lambda x: 'experts' if x is SPARSE else '' if x is BIASED else str(x),
)
def test_a_tiled_model_has_the_same_loss_and_gradient(
  config: ModelConfig, remat: str, tile: int, wanted: Any
) -> None:
  whole, params = wanted[config]
  tiled = dataclasses.replace(config, remat=remat, mlp_chunk=tile)
  same(GRADED(params, tiled), whole)


def shapes(jaxpr: Any) -> Iterator[tuple[int, ...]]:
  """Of every value that a program makes, inner programs included."""
  for equation in jaxpr.eqns:
    yield from (v.aval.shape for v in equation.outvars)
    for inner in jaxprs_in_params(equation.params):
      yield from shapes(inner)


@pytest.mark.parametrize('remat', REMAT)
def test_hidden_channels_exist_a_tile_at_a_time(remat: str) -> None:
  def wide(tile: int | None) -> int:
    """Most numbers of a hidden channel in the gradient's program."""
    config = dataclasses.replace(CONFIG, remat=remat, mlp_chunk=tile)
    params = jax.eval_shape(lambda: init_params(jax.random.key(0), config))
    program = jax.make_jaxpr(jax.grad(loss), static_argnums=1)(params, config)
    F = config.mlp_dim
    matrices = {(F, config.dim), (config.dim, F)}
    return max(
      math.prod(shape) // F
      for shape in shapes(program.jaxpr)
      if F in shape and shape[-2:] not in matrices
    )

  assert wide(8) == 7  # 5 tiles of 7 tokens
  assert wide(None) >= TOKENS


@pytest.mark.parametrize('wrong', [0, -3, True, 2.5])
def test_a_tile_without_tokens_is_refused(wrong: Any) -> None:
  with pytest.raises(ConfigError, match='mlp_chunk is .*at least 1 token'):
    dataclasses.replace(CONFIG, mlp_chunk=wrong).validate()
