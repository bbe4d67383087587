"""The MLP of experts against a loop over tokens and experts in float64."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.oracle import OraclePlan, decoder, mixture
from ntk_jax.data.batch import Batch
from ntk_jax.errors import ConfigError
from ntk_jax.model import (
  ModelConfig,
  Precision,
  active_parameter_count,
  empty_cache,
  forward,
  init_params,
  parameter_count,
)
from ntk_jax.model.experts import block_size, blocks_of, experts, route
from ntk_jax.model.params import param_shapes
from ntk_jax.model.remat import rematerialised
from ntk_jax.objective import Objective
from ntk_jax.optimizer import OptimizerConfig
from ntk_jax.rope.spec import RopeSpec
from ntk_jax.scheme import Scheme, SchemeArrays
from ntk_jax.step import StepConfig, init_state, train_step

CONFIG = ModelConfig(
  vocab=13,
  dim=10,
  layers=3,
  heads=4,
  kv_heads=2,
  head_dim=4,
  mlp_dim=7,
  experts=5,
  experts_per_token=2,
)


def layer_of(config: ModelConfig = CONFIG, seed: int = 0) -> dict[str, Any]:
  """One layer's router and matrices."""
  rng = np.random.default_rng(seed)
  shapes = param_shapes(config).layers
  return {
    name: rng.normal(size=shapes[name][1:]).astype(np.float32) / 2
    for name in ('router', 'gate', 'up', 'down')
  }


def tokens_of(count: int, seed: int = 1) -> Any:
  rng = np.random.default_rng(seed)
  return rng.normal(size=(count, CONFIG.dim)).astype(np.float32)


def applied(
  x: Any, layer: dict[str, Any], config: ModelConfig = CONFIG
) -> jax.Array:
  """What is tested, as a block calls it."""
  routes = route(x, layer['router'], config.experts_per_token)
  gate, up, down = (layer[name] for name in ('gate', 'up', 'down'))
  return experts(x, routes, gate, up, down, config.activation)


def wide(layer: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  return {name: leaf.astype(np.float64) for name, leaf in layer.items()}


def assert_near(found: Any, wanted: np.ndarray) -> None:
  size = max(1, np.abs(wanted).max())
  np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-6 * size)


# One token, the last count that is not sorted, the first that is, and more.
@pytest.mark.parametrize('count', [1, 4, 5, 17, 300])
@pytest.mark.parametrize('activation', ['silu', 'gelu'])
def test_it_is_the_loop_over_tokens(count: int, activation: str) -> None:
  config = dataclasses.replace(CONFIG, activation=activation)
  x, layer = tokens_of(count), layer_of()
  found = jax.jit(lambda x, w: applied(x, w, config))(x, layer)
  wanted = mixture(x.astype(np.float64), wide(layer), config)
  assert_near(found, wanted)


@pytest.mark.parametrize('chosen', [1, 3, 5])
@pytest.mark.parametrize('count', [2, 40])
def test_any_number_of_experts_per_token(chosen: int, count: int) -> None:
  config = dataclasses.replace(CONFIG, experts_per_token=chosen)
  x, layer = tokens_of(count), layer_of()
  found = applied(x, layer, config)
  wanted = mixture(x.astype(np.float64), wide(layer), config)
  assert_near(found, wanted)


@pytest.mark.parametrize('favourite', [0, 3, 4])
def test_no_token_is_dropped_when_all_choose_alike(favourite: int) -> None:
  x, layer = np.abs(tokens_of(64)), layer_of()
  layer['router'][:, favourite] = 9
  routes = route(x, layer['router'], 2)
  assert (routes.numbers[:, 0] == favourite).all()
  wanted = mixture(x.astype(np.float64), wide(layer), CONFIG)
  assert_near(applied(x, layer), wanted)


def test_of_equal_experts_the_lower_numbers_are_chosen() -> None:
  x = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]], np.float32)
  router = np.array([[0, 2, 2, 2, 1], [3, 1, 3, 0, 3]], np.float32)
  routes = route(jnp.asarray(x), jnp.asarray(router), 2)
  assert routes.numbers.tolist() == [[1, 2], [0, 2], [0, 1]]
  np.testing.assert_allclose(routes.weights, np.full((3, 2), 0.5), rtol=1e-6)


def test_the_softmax_is_over_all_experts_before_any_is_dropped() -> None:
  """Probabilities that vanish beside the largest are equal: index decides."""
  router = np.array([[-300.0, 0.0, -200.0]], np.float32)
  routes = route(jnp.ones((1, 1)), jnp.asarray(router), 2)
  assert routes.numbers.tolist() == [[1, 0]]
  assert routes.weights.tolist() == [[1.0, 0.0]]


def test_logits_are_float32_of_bfloat16_tokens() -> None:
  """1 and 1 + 2^-10 differ in float32 alone."""
  router = np.array([[1.0, 1.0 + 2.0**-10]], np.float32)
  routes = route(jnp.ones((1, 1), jnp.bfloat16), jnp.asarray(router), 1)
  assert routes.weights.dtype == jnp.float32
  assert routes.numbers.tolist() == [[1]]


@pytest.mark.parametrize('count', [3, 40])
def test_bfloat16_weighs_and_sums_in_float32(count: int) -> None:
  """As near to float64 as one rounding of each product allows."""
  x, layer = tokens_of(count), layer_of()
  rounded = {
    name: leaf.astype(jnp.bfloat16)
    for name, leaf in layer.items()
    if name != 'router'
  }
  short = jnp.asarray(x, jnp.bfloat16)
  routes = route(short, layer['router'], 2)
  gate, up, down = (rounded[name] for name in ('gate', 'up', 'down'))
  found = experts(short, routes, gate, up, down)
  assert found.dtype == jnp.bfloat16
  held = wide(rounded) | {'router': layer['router'].astype(np.float64)}
  wanted = mixture(np.asarray(short, np.float64), held, CONFIG)
  error = np.abs(np.asarray(found, np.float64) - wanted).max()
  assert error / np.abs(wanted).max() < 8e-3  # two roundings of 2^-9 and more


def naive(x: Any, layer: dict[str, Any]) -> jax.Array:
  """All experts on all tokens; autodiff of it is the other derivation."""
  p = jax.nn.softmax(x @ layer['router'], axis=-1)
  least = jnp.sort(p, axis=-1)[:, -CONFIG.experts_per_token, None]
  p = jnp.where(p >= least, p, 0)
  p = p / p.sum(axis=-1, keepdims=True)
  gate, up = (
    jnp.einsum('td,edf->etf', x, layer[name]) for name in ('gate', 'up')
  )
  y = jnp.einsum('etf,efd->etd', jax.nn.silu(gate) * up, layer['down'])
  return jnp.einsum('te,etd->td', p, y)


@pytest.mark.parametrize('count', [3, 50])
def test_gradients_are_those_of_all_experts_masked(count: int) -> None:
  x, layer, pull = tokens_of(count), layer_of(), tokens_of(count, seed=2)

  def gradient(function: Any) -> Any:
    return jax.jit(
      jax.grad(lambda x, w: jnp.sum(pull * function(x, w)), (0, 1))
    )(x, layer)

  found, wanted = gradient(applied), gradient(naive)
  assert all(np.abs(leaf).max() > 0.1 for leaf in jax.tree.leaves(wanted))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=2e-5),
    found,
    wanted,
  )


def test_gradients_are_the_slopes_of_the_oracle() -> None:
  """Central differences in float64, where no other expert is near."""
  x, layer, pull = tokens_of(20), layer_of(), tokens_of(20, seed=2)
  grads = jax.grad(lambda w: jnp.sum(pull * applied(x, w)))(layer)
  rng = np.random.default_rng(3)
  for name, leaf in layer.items():
    way, held = rng.normal(size=leaf.shape), wide(layer)
    ends = [
      np.sum(
        pull
        * mixture(
          x.astype(np.float64), held | {name: held[name] + h * way}, CONFIG
        )
      )
      for h in (1e-6, -1e-6)
    ]
    slope = (ends[0] - ends[1]) / 2e-6
    found = np.sum(np.asarray(grads[name], np.float64) * way)
    np.testing.assert_allclose(found, slope, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('size', [1, 2, 8])
@pytest.mark.parametrize('load', ['even', 'random', 'one', 'last'])
def test_every_block_has_one_expert(load: str, size: int) -> None:
  rng, E, M = np.random.default_rng(0), 6, 50
  numbers = {
    'even': np.arange(M) % E,
    'random': rng.integers(0, E, M),
    'one': np.zeros(M, int),
    'last': np.full(M, E - 1),
  }[load]
  place, owner = (
    np.asarray(a) for a in blocks_of(jnp.asarray(numbers), E, size)
  )
  assert len(set(place)) == M
  assert (owner[place // size] == numbers).all()
  assert len(owner) == (M + E * (size - 1)) // size
  used = sum(-(-np.sum(numbers == e) // size) for e in range(E))
  assert (owner < E).sum() == used
  assert size > 1 or len(owner) == M


def test_blocks_hold_at_most_an_even_share() -> None:
  for rows in (1, 7, 16, 1000, 10**6):
    for number in (2, 8, 60):
      size = block_size(rows, number)
      assert size == 1 or size * number <= rows
      assert size & (size - 1) == 0


def scheme(start: int, stop: int) -> SchemeArrays:
  return Scheme(RopeSpec('default', 4)).arrays(None, np.arange(start, stop))


@pytest.mark.parametrize('changes', [{}, {'post_norms': True, 'tied': False}])
def test_a_decoder_with_experts_is_the_oracle(changes: dict[str, Any]) -> None:
  config = dataclasses.replace(CONFIG, **changes)
  params = init_params(jax.random.key(0), config)
  row = np.random.default_rng(0).integers(0, 13, (1, 17)).astype(np.int32)
  run = jax.jit(forward, static_argnums=1)
  found = run(params, config, row, None, None, scheme(0, 17))
  plan = [OraclePlan(np.array([1.0, 1e-2]))]
  wanted = decoder(params, config, row[0], plan)
  np.testing.assert_allclose(found[0], wanted, rtol=0, atol=3e-5)
  # Token by token through a cache: where matrices are read one by one.
  cache = empty_cache(config, rows=1, slots=17)
  for i in range(17):
    logits, cache = run(
      params,
      config,
      row[:, i : i + 1],
      None,
      None,
      scheme(i, i + 1),
      cache=cache,
    )
    np.testing.assert_allclose(logits[0, 0], wanted[i], rtol=0, atol=3e-5)


BLOCKS = (64 + 5 * 7) // 8  # of 32 tokens, 8 rows each


def kept_by(function: Any, *arguments: Any) -> set[tuple[int, ...]]:
  """The last three dims of every array that a backward pass is left with."""
  backward = jax.vjp(function, *arguments)[1]
  return {leaf.shape[-3:] for leaf in jax.tree.leaves(backward)}


def holds_no_matrix_per_block(kept: set[tuple[int, ...]]) -> bool:
  D, F = CONFIG.dim, CONFIG.mlp_dim
  assert (5, D, F) in kept  # those of all experts, once
  return not kept & {(BLOCKS, D, F), (BLOCKS, F, D)}


@pytest.mark.parametrize('remat', ['none', 'dots', 'attention', 'full'])
def test_no_policy_keeps_the_matrices_of_every_block(remat: str) -> None:
  config = dataclasses.replace(CONFIG, remat=remat)
  params = init_params(jax.random.key(0), config)
  row = np.zeros((1, 32), np.int32)

  def loss(params: Any) -> jax.Array:
    return forward(params, config, row, None, None, scheme(0, 32)).sum()

  kept = kept_by(loss, params)
  assert holds_no_matrix_per_block(kept)
  products = (BLOCKS, 8, CONFIG.mlp_dim)
  assert (products in kept) == (remat in ('none', 'dots'))


def test_nor_does_the_policy_of_gathered_matrices() -> None:
  run = rematerialised(applied, 'none', gathers=True)
  kept = kept_by(run, jnp.asarray(tokens_of(32)), layer_of())
  assert holds_no_matrix_per_block(kept)
  assert (BLOCKS, 8, CONFIG.mlp_dim) in kept


def test_a_step_trains_every_matrix_and_lowers_the_loss() -> None:
  optimizer = OptimizerConfig(peak=0.01, steps=30, warmup=1)
  config = StepConfig(Objective(CONFIG), optimizer.transform())
  start = init_params(jax.random.key(0), CONFIG)
  state = init_state(jax.tree.map(jnp.copy, start), config)
  rng = np.random.default_rng(0)
  ids = rng.integers(0, 13, (4, 17)).astype(np.int32)
  batch = Batch(
    ids[:, :-1],
    ids[:, 1:],
    np.ones((4, 16), np.float32),
    np.zeros((4, 16), bool),
  )
  found = []
  for _ in range(30):
    state, metrics = train_step(
      state, batch, scheme(0, 16), jnp.float32(0.01), config=config
    )
    found.append(float(metrics.loss))
    assert bool(metrics.good)
    assert float(metrics.groups['router']) > 0
  assert found[-1] < 0.6 * found[0]
  moved = jax.tree.map(
    lambda a, b: np.abs(a - b).max(axis=(-2, -1)),
    {k: state.params.layers[k] for k in ('router', 'gate', 'up', 'down')},
    {k: start.layers[k] for k in ('router', 'gate', 'up', 'down')},
  )
  # [L] and [L, E]: no expert of any layer was left out.
  assert all((leaf > 1e-3).all() for leaf in moved.values())


def test_shapes_starts_and_counts() -> None:
  config = dataclasses.replace(CONFIG, dim=64, mlp_dim=96, experts=4)
  layers = init_params(jax.random.key(0), config).layers
  assert layers['router'].shape == (3, 64, 4)
  assert layers['gate'].shape == layers['up'].shape == (3, 4, 64, 96)
  assert layers['down'].shape == (3, 4, 96, 64)
  # What writes to the residual stream is smaller by sqrt(2 L).
  for name, fan_in in {'gate': 64, 'up': 64, 'down': 96 * 6}.items():
    stds = np.asarray(layers[name]).std(axis=(2, 3))
    np.testing.assert_allclose(stds, fan_in**-0.5, rtol=0.04)
  np.testing.assert_allclose(layers['router'].std(), 1 / 8, rtol=0.1)
  assert not np.allclose(layers['gate'][0, 0], layers['gate'][0, 1])


def test_mixtral_is_counted_exactly() -> None:
  """Mixtral 8x7B v0.1 holds 46.7 billion and uses 12.9 of them a token."""
  config = ModelConfig(
    32000,
    4096,
    32,
    32,
    8,
    128,
    14336,
    experts=8,
    tied=False,
    scale_embed=False,
  )
  assert parameter_count(config) == 46_702_792_704
  assert active_parameter_count(config) == 12_879_925_248
  dense = dataclasses.replace(config, experts=0)
  assert active_parameter_count(dense) == parameter_count(dense)


@pytest.mark.parametrize(
  ('changes', 'says'),
  [
    ({'experts': 1}, 'experts is 1, must be 0 (one MLP, no router) or at'),
    ({'experts': -2}, 'experts is -2, must be 0'),
    ({'experts_per_token': 6}, 'experts_per_token is 6, must be 1 to exp'),
    ({'experts_per_token': 0}, 'experts_per_token is 0, must be at least 1'),
    ({'mlp_bias': True}, 'mlp_bias with experts: experts have no biases'),
  ],
)
def test_a_wrong_option_is_named(changes: dict[str, Any], says: str) -> None:
  with pytest.raises(ConfigError) as error:
    dataclasses.replace(CONFIG, **changes).validate()
  assert says in str(error.value)


def test_bfloat16_parameters_route_in_float32() -> None:
  """The router's matrix is not rounded to the compute dtype."""
  precise = init_params(jax.random.key(0), CONFIG)
  config = dataclasses.replace(CONFIG, precision=Precision(compute='bfloat16'))
  row = np.zeros((1, 6), np.int32)
  grads = jax.grad(
    lambda p: forward(p, config, row, None, None, scheme(0, 6)).sum()
  )(precise)
  router = np.asarray(grads.layers['router'])
  assert router.dtype == np.float32
  rounded = np.asarray(jnp.asarray(router).astype(jnp.bfloat16), np.float32)
  assert (router != rounded).any()
