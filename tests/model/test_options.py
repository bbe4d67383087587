"""Every option of the decoder against the one written again in float64."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.oracle import OraclePlan, decoder
from ntk_jax.errors import ConfigError
from ntk_jax.model import (
  Cache,
  Controls,
  ModelConfig,
  Params,
  Precision,
  empty_cache,
  forward,
  init_params,
  parameter_count,
)
from ntk_jax.rope.spec import RopeSpec
from ntk_jax.scheme import Scheme, SchemeArrays

CONFIG = ModelConfig(
  vocab=13, dim=10, layers=5, heads=4, kv_heads=2, head_dim=4, mlp_dim=7
)
TOLERANCE = 3e-5  # logits are of order one; five layers of float32
FREQUENCIES = np.array([1.0, 1e-2])  # theta**(-2 i / H), H = 4
FORWARD = jax.jit(forward, static_argnums=1)


def drawn(config: ModelConfig, seed: int = 0) -> Params:
  """Parameters of which no norm is plain and no bias is zero."""
  params = init_params(jax.random.key(seed), config)
  leaves, structure = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
  moved = [
    leaf + 0.2 * jax.random.normal(key, leaf.shape, leaf.dtype)
    for leaf, key in zip(leaves, keys)
  ]
  return jax.tree.unflatten(structure, moved)


def ids(rows: int, length: int, seed: int = 0) -> np.ndarray:
  rng = np.random.default_rng(seed)
  return rng.integers(0, CONFIG.vocab, (rows, length)).astype(np.int32)


def plain(length: int) -> SchemeArrays:
  return Scheme(RopeSpec('default', 4)).arrays(None, np.arange(length))


OPTIONS: dict[str, dict[str, Any]] = {
  'mqa': {'kv_heads': 1},
  'mha': {'kv_heads': 4},
  'offset norms': {'norm_offset': True},
  'norm eps': {'norm_eps': 0.1},
  'geglu': {'activation': 'gelu'},
  'exact geglu': {'activation': 'gelu_exact'},
  'qkv bias': {'qkv_bias': True},
  'out bias': {'out_bias': True},
  'mlp bias': {'mlp_bias': True},
  'qk norm': {'qk_norm': True},
  'post norms': {'post_norms': True},
  'head norm': {'head_norm': True},
  'head norm, offset': {'head_norm': True, 'norm_offset': True},
  'divisor d': {'divisor': 'linear'},
  'scale': {'attention_scale': 0.9},
  'attention cap': {'attention_soft_cap': 0.5},
  'logit cap': {'logit_soft_cap': 0.7},
  'free embedding': {'tied': False},
  'unscaled embedding': {'scale_embed': False},
  'gemma 2': {
    'norm_offset': True,
    'activation': 'gelu',
    'post_norms': True,
    'attention_soft_cap': 2.0,
    'logit_soft_cap': 3.0,
    'attention_scale': 0.6,
  },
}


@pytest.mark.parametrize('name', OPTIONS)
def test_an_option_is_its_equation(name: str) -> None:
  config = dataclasses.replace(CONFIG, **OPTIONS[name])
  params, row = drawn(config), ids(1, 17)
  found = FORWARD(params, config, row, None, None, plain(17))
  assert found.dtype == jnp.float32
  plan = [OraclePlan(FREQUENCIES)]
  wanted = decoder(params, config, row[0], plan)
  size = max(1, np.abs(wanted).max())
  np.testing.assert_allclose(found[0], wanted, rtol=0, atol=TOLERANCE * size)
  # The option matters: the oracle without it says something else.
  if name not in ('mqa', 'mha', 'free embedding'):
    without = CONFIG
    kept = set(init_shapes(without).layers)
    layers = {k: v for k, v in params.layers.items() if k in kept}
    other = decoder(params._replace(layers=layers), without, row[0], plan)
    assert np.abs(other - wanted).max() > 30 * TOLERANCE * size


def init_shapes(config: ModelConfig) -> Params:
  return jax.eval_shape(lambda: init_params(jax.random.key(0), config))


@pytest.mark.parametrize(
  'plan',
  [(0, 0, 1, 0, 0), (0, 1, 0, 1, 2), (2, 1, 1, 1, 0), (1, 1, 1, 1, 1)],
  ids=str,
)
def test_each_layer_has_the_scheme_of_its_number(plan: tuple[int, ...]) -> None:
  config = dataclasses.replace(CONFIG, layer_plan=plan)
  schemes = (
    Scheme(RopeSpec('default', 4)),
    Scheme(RopeSpec('linear', 4, factor=4.0), window=5),
    # NoPE: no pair turns.
    Scheme(RopeSpec('proportional', 4, partial_rotary_factor=0.0)),
  )
  params, row = drawn(config), ids(1, 17)
  arrays = tuple(s.arrays(None, np.arange(17)) for s in schemes)
  found = FORWARD(params, config, row, None, None, arrays)
  plans = [
    OraclePlan(FREQUENCIES),
    OraclePlan(FREQUENCIES / 4, window=5),
    OraclePlan(0 * FREQUENCIES),
  ]
  wanted = decoder(params, config, row[0], plans)
  np.testing.assert_allclose(found[0], wanted, rtol=0, atol=5 * TOLERANCE)


PACKED = (
  np.array([0, 1, 2, 3, 4, 0, 1, 2, 3, 0, 1, 0, 0]),
  np.array([1, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 0, 0]),
)


def test_packed_documents_are_alone_in_logits_and_gradients() -> None:
  params, row = drawn(CONFIG), ids(1, 13)
  positions, segments = PACKED
  arrays = plain(13)

  def run(params: Params, row: np.ndarray) -> jax.Array:
    return FORWARD(params, CONFIG, row, positions[None], segments[None], arrays)

  found = run(params, row)
  wanted = decoder(
    params, CONFIG, row[0], [OraclePlan(FREQUENCIES)], positions, segments
  )
  real = segments > 0
  np.testing.assert_allclose(
    found[0][real], wanted[real], rtol=0, atol=5 * TOLERANCE
  )
  other = row.copy()
  other[0, 5:9] = (other[0, 5:9] + 1) % CONFIG.vocab
  changed = run(params, other)
  same = real & (segments != 2)
  assert np.array_equal(found[0][same], changed[0][same])
  assert (found[0][segments == 2] != changed[0][segments == 2]).any()

  def loss_of(document: int) -> Any:
    def loss(params: Params, row: np.ndarray) -> jax.Array:
      return (run(params, row)[0] * (segments == document)[:, None]).sum()

    return loss

  first, second = (jax.grad(loss_of(1))(params, r) for r in (row, other))
  for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second)):
    np.testing.assert_array_equal(a, b)


def test_a_window_per_layer_is_a_run_time_choice() -> None:
  params, row = drawn(CONFIG), ids(1, 17)
  traced = []

  @jax.jit
  def run(windows: Any) -> jax.Array:
    traced.append(1)
    return forward(
      params, CONFIG, row, None, None, plain(17), controls=Controls(windows)
    )

  for windows in ([3, 20, 2, 20, 5], [20] * 5):
    found = run(np.array(windows, np.int32))
    config = dataclasses.replace(CONFIG, layer_plan=tuple(range(5)))
    plans = [OraclePlan(FREQUENCIES, window=w) for w in windows]
    wanted = decoder(params, config, row[0], plans)
    np.testing.assert_allclose(found[0], wanted, rtol=0, atol=TOLERANCE)
  assert len(traced) == 1


def test_kept_tokens_alone_reach_the_middle_layers() -> None:
  params, row = drawn(CONFIG), ids(2, 12)
  everything = np.tile(np.arange(12), (2, 1))
  plain_run = FORWARD(params, CONFIG, row, None, None, plain(12))
  found = FORWARD(
    params,
    CONFIG,
    row,
    None,
    None,
    plain(12),
    controls=Controls(kept=everything),
  )
  np.testing.assert_allclose(found, plain_run, rtol=0, atol=TOLERANCE)
  # By hand: layer 0 on all, layers 1-3 on the kept, layer 4 on all.
  kept = np.array([[0, 2, 3, 7, 11], [1, 4, 5, 6, 9]])
  found = FORWARD(
    params, CONFIG, row, None, None, plain(12), controls=Controls(kept=kept)
  )
  dropped = np.setdiff1d(np.arange(12), kept[0])
  assert (np.abs(found - plain_run)[0] > 1e-4).any()
  # A token that is dropped and comes before no other is moved by none but
  # its own two layers: what the kept tokens are there does not matter to it.
  other = row.copy()
  other[0, dropped[-1]] = (other[0, dropped[-1]] + 1) % CONFIG.vocab
  changed = FORWARD(
    params, CONFIG, other, None, None, plain(12), controls=Controls(kept=kept)
  )
  before = np.arange(12) < dropped[-1]
  assert np.array_equal(found[0][before], changed[0][before])


def test_kept_tokens_need_two_layers_and_no_cache() -> None:
  one = dataclasses.replace(CONFIG, layers=1)
  kept = Controls(kept=np.array([[0, 1]]))
  row = ids(1, 4)
  with pytest.raises(ConfigError, match='kept tokens with 1 layers'):
    forward(drawn(one), one, row, None, None, plain(4), controls=kept)
  with pytest.raises(ConfigError, match='and a cache'):
    forward(
      drawn(CONFIG),
      CONFIG,
      row,
      None,
      None,
      plain(4),
      cache=empty_cache(CONFIG, 1, 4),
      controls=kept,
    )


def test_every_token_may_have_its_own_rope() -> None:
  """Short documents keep the frequencies, long ones are rescaled."""
  params, row = drawn(CONFIG), ids(1, 13)
  positions, segments = PACKED
  both = [
    Scheme(RopeSpec('default', 4)).arrays(None, positions),
    Scheme(RopeSpec('linear', 4, factor=4.0)).arrays(None, positions),
  ]
  arrays = SchemeArrays(*(np.stack(a) for a in zip(*both)))
  arrays = arrays._replace(window=both[0].window)
  choice = (segments == 1).astype(np.int32)
  found = FORWARD(
    params,
    CONFIG,
    row,
    positions[None],
    segments[None],
    arrays,
    controls=Controls(plan=choice[None]),
  )
  for document, w in ((1, FREQUENCIES / 4), (2, FREQUENCIES)):
    mine = segments == document
    wanted = decoder(params, CONFIG, row[0, mine], [OraclePlan(w)])
    np.testing.assert_allclose(
      found[0][mine], wanted, rtol=0, atol=5 * TOLERANCE
    )


@pytest.mark.parametrize('parts', [(11,), (7, 1, 1, 2), (1,) * 11], ids=str)
def test_a_cache_gives_the_logits_of_one_forward(
  parts: tuple[int, ...],
) -> None:
  config = dataclasses.replace(CONFIG, layer_plan=(0, 1, 0, 1, 1))
  schemes = (
    Scheme(RopeSpec('default', 4)),
    Scheme(RopeSpec('default', 4), window=4),
  )

  def arrays(start: int, stop: int) -> tuple[SchemeArrays, ...]:
    return tuple(s.arrays(None, np.arange(start, stop)) for s in schemes)

  params, rows = drawn(config), ids(2, 11)
  whole = FORWARD(params, config, rows, None, None, arrays(0, 11))
  cache: Cache = empty_cache(config, rows=2, slots=16)
  start = 0
  for size in parts:
    few = rows[:, start : start + size]
    logits, cache = forward(
      params, config, few, None, None, arrays(start, start + size), cache=cache
    )
    np.testing.assert_allclose(
      logits, whole[:, start : start + size], rtol=0, atol=TOLERANCE
    )
    start += size
  assert int(cache.used) == 11


@pytest.mark.parametrize('remat', ['dots', 'attention', 'full', 'offload'])
def test_remat_changes_no_gradient(remat: str) -> None:
  params, row = drawn(CONFIG), ids(2, 9)

  def gradient(config: ModelConfig) -> Params:
    def loss(params: Params) -> jax.Array:
      logits = forward(params, config, row, None, None, plain(9))
      return jnp.square(logits).mean()

    return jax.jit(jax.grad(loss))(params)

  wanted = gradient(CONFIG)
  found = gradient(dataclasses.replace(CONFIG, remat=remat))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
    found,
    wanted,
  )


def test_remat_attends_once_where_its_result_is_kept() -> None:
  """Exponentials of a step: forward, backward, and a second forward."""
  params, row = drawn(CONFIG), ids(1, 9)

  def count(remat: str) -> int:
    # GeGLU: its gate has a tanh, no exponential.
    config = dataclasses.replace(
      CONFIG, layers=1, remat=remat, activation='gelu'
    )
    one = params._replace(layers={k: v[:1] for k, v in params.layers.items()})

    def loss(params: Params) -> jax.Array:
      return forward(params, config, row, None, None, plain(9)).sum()

    text = jax.jit(jax.grad(loss)).lower(one).as_text()
    return text.count('stablehlo.exponential')

  assert count('full') > count('attention') == count('none')


def test_bfloat16_computes_near_float32_and_holds_float32_logits() -> None:
  params, row = drawn(CONFIG), ids(2, 17)
  precise = FORWARD(params, CONFIG, row, None, None, plain(17))
  config = dataclasses.replace(CONFIG, precision=Precision(compute='bfloat16'))
  found = FORWARD(params, config, row, None, None, plain(17))
  assert found.dtype == jnp.float32
  error = np.abs(found - precise).max() / np.abs(precise).max()
  assert 1e-4 < error < 5e-2  # eight bits, through five layers

  def loss(params: Params) -> jax.Array:
    return jnp.square(
      forward(params, config, row, None, None, plain(17))
    ).mean()

  grads = jax.grad(loss)(params)
  assert all(g.dtype == jnp.float32 for g in jax.tree.leaves(grads))


def test_the_output_gain_is_of_the_output_projection_alone() -> None:
  plain_start = init_params(jax.random.key(0), CONFIG)
  config = dataclasses.replace(CONFIG, out_gain=1.5)
  found = init_params(jax.random.key(0), config)
  for name, leaf in found.layers.items():
    gain = 1.5 if name == 'out' else 1.0
    np.testing.assert_allclose(leaf, gain * plain_start.layers[name], rtol=1e-6)


def test_an_option_more_changes_no_other_start() -> None:
  config = dataclasses.replace(CONFIG, qkv_bias=True, qk_norm=True, tied=False)
  more = init_params(jax.random.key(0), config)
  for name, leaf in init_params(jax.random.key(0), CONFIG).layers.items():
    assert np.array_equal(leaf, more.layers[name])


COUNTS = {
  # Llama 2 7B, as its card's checkpoint holds it.
  'llama2': (
    ModelConfig(
      32000, 4096, 32, 32, 32, 128, 11008, tied=False, scale_embed=False
    ),
    6_738_415_616,
  ),
  # Mistral 7B v0.1.
  'mistral': (
    ModelConfig(
      32000, 4096, 32, 32, 8, 128, 14336, tied=False, scale_embed=False
    ),
    7_241_732_096,
  ),
  # Qwen 2 0.5B: tied, biases on q, k and v.
  'qwen2': (
    ModelConfig(151936, 896, 24, 14, 2, 64, 4864, qkv_bias=True),
    494_032_768,
  ),
  # Qwen 3 0.6B: tied, norms on q and k, heads wider than dim / heads.
  'qwen3': (
    ModelConfig(151936, 1024, 28, 16, 8, 128, 3072, qk_norm=True),
    596_049_920,
  ),
  # Gemma 2 2B: post-norms.
  'gemma2': (
    ModelConfig(256000, 2304, 26, 8, 4, 256, 9216, post_norms=True),
    2_614_341_888,
  ),
}


@pytest.mark.parametrize('name', COUNTS)
def test_parameters_are_counted_exactly(name: str) -> None:
  config, count = COUNTS[name]
  assert parameter_count(config) == count
  assert parameter_count(init_shapes(config)) == count


@pytest.mark.parametrize(
  ('changes', 'says'),
  [
    ({'remat': 'fulll'}, "did you mean 'full'?"),
    ({'activation': 'relu'}, 'Allowed: silu, gelu, gelu_exact'),
    ({'divisor': 'cube'}, 'Allowed: sqrt, linear'),
    ({'layer_plan': (0, 1)}, 'layer_plan names the schemes of 2 layers'),
    ({'layer_plan': (0, 0, 0, 0, -1)}, 'numbers from 0 up'),
    ({'attention_soft_cap': 0.0}, 'attention_soft_cap is 0.0'),
    ({'logit_soft_cap': float('nan')}, 'logit_soft_cap is nan'),
    ({'precision': Precision(params='f32')}, "unknown params dtype 'f32'"),
  ],
)
def test_a_wrong_option_is_named(changes: dict[str, Any], says: str) -> None:
  with pytest.raises(ConfigError, match=None) as error:
    dataclasses.replace(CONFIG, **changes).validate()
  assert says in str(error.value)
