"""The decoder against one written again in float64, and its causality."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.oracle import OraclePlan, decoder
from ntk_jax.data import retrieval
from ntk_jax.errors import ConfigError
from ntk_jax.model import (
  ModelConfig,
  Params,
  forward,
  init_params,
  parameter_count,
)
from ntk_jax.rope.spec import RopeSpec
from ntk_jax.scheme import Scheme, SchemeArrays
from ntk_jax.temperature import Temperature

CONFIG = ModelConfig(
  vocab=13, dim=10, layers=3, heads=6, kv_heads=2, head_dim=4, mlp_dim=7
)
# Logits are of order one; three layers of float32.
TOLERANCE = 2e-5


@pytest.fixture(scope='module')
def params() -> Params:
  """Parameters with norms that are not all one."""
  params = init_params(jax.random.key(0), CONFIG)
  keys = iter(jax.random.split(jax.random.key(1), 3))
  layers = dict(params.layers)
  for name in ('attention_norm', 'mlp_norm'):
    layers[name] += 0.3 * jax.random.normal(next(keys), layers[name].shape)
  final = params.final_norm
  final += 0.3 * jax.random.normal(next(keys), final.shape)
  return params._replace(layers=layers, final_norm=final)


def tokens(rows: int, length: int, seed: int = 0) -> np.ndarray:
  rng = np.random.default_rng(seed)
  return rng.integers(0, CONFIG.vocab, (rows, length)).astype(np.int32)


def expected(
  params: Params,
  row: np.ndarray,
  inv_freq: np.ndarray,
  **options: Any,
) -> np.ndarray:
  """Logits of one row under one scheme, in float64."""
  return decoder(params, CONFIG, row, [OraclePlan(inv_freq, **options)])


def logits(
  params: Params, ids: np.ndarray, scheme: Scheme, length: Any = None
) -> np.ndarray:
  positions = np.arange(ids.shape[1], dtype=np.int32)
  arrays = scheme.arrays(length, positions)
  return np.asarray(
    jax.jit(forward, static_argnums=1)(
      params, CONFIG, ids, positions, None, arrays
    )
  )


FREQUENCIES = np.array([1.0, 1e-2])  # theta**(-2 i / H), H = 4


def test_logits_equal_the_float64_decoder(params: Params) -> None:
  ids = tokens(3, 17)
  found = logits(params, ids, Scheme(RopeSpec('default', 4)))
  assert found.shape == (3, 17, 13)
  assert found.dtype == np.float32
  wanted = np.stack([expected(params, row, FREQUENCIES) for row in ids])
  np.testing.assert_allclose(found, wanted, rtol=0, atol=TOLERANCE)
  assert wanted.std() > 0.5  # the tolerance means something


def test_method_temperature_and_window_enter(params: Params) -> None:
  ids = tokens(2, 19, seed=1)
  scheme = Scheme(
    RopeSpec('linear', 4, factor=4.0, attention_factor=1.2),
    Temperature('logn', length=5),
    window=7,
  )
  found = logits(params, ids, scheme, length=19)
  q_scale = np.maximum(np.log(np.arange(19) + 1) / np.log(5), 1)
  options: dict[str, Any] = {'factor': 1.2, 'q_scale': q_scale, 'window': 7}
  wanted = [expected(params, row, FREQUENCIES / 4, **options) for row in ids]
  np.testing.assert_allclose(found, wanted, rtol=0, atol=TOLERANCE)
  # Each of them matters.
  for name, neutral in (('factor', 1.0), ('q_scale', 1.0), ('window', 99)):
    changed: dict[str, Any] = {**options, name: neutral}
    other = expected(params, ids[0], FREQUENCIES / 4, **changed)
    assert np.abs(other - wanted[0]).max() > 100 * TOLERANCE


def test_every_row_has_its_own_length(params: Params) -> None:
  spec = RopeSpec('dynamic_yarn', 4, original_length=4)
  lengths = np.array([4, 9, 17])
  inv_freq, factor = spec.frequencies(lengths)
  assert len(np.unique(factor)) == 3  # the attention factor differs too
  ids = tokens(3, 17)
  found = logits(params, ids, Scheme(spec), length=lengths)
  wanted = [
    expected(params, row, w, factor=a)
    for row, w, a in zip(ids, inv_freq, factor)
  ]
  np.testing.assert_allclose(found, wanted, rtol=0, atol=TOLERANCE)


def test_positions_and_temperature_per_row(params: Params) -> None:
  ids = tokens(2, 11)
  positions = np.stack([np.arange(11), np.arange(11) + 40]).astype(np.int32)
  scheme = Scheme(RopeSpec('default', 4), Temperature('logn', length=5))
  arrays = scheme.arrays(None, positions)
  both = forward(params, CONFIG, ids, positions, None, arrays)
  for row in range(2):
    arrays = scheme.arrays(None, positions[row])
    alone = forward(
      params, CONFIG, ids[row : row + 1], positions[row], None, arrays
    )
    np.testing.assert_allclose(both[row], alone[0], rtol=0, atol=TOLERANCE)


def test_a_shift_of_all_positions_changes_nothing(params: Params) -> None:
  ids = tokens(1, 11)
  arrays = Scheme(RopeSpec('default', 4)).arrays(None, np.arange(11))
  here, there = (
    forward(
      params, CONFIG, ids, np.arange(11, dtype=np.int32) + n, None, arrays
    )
    for n in (0, 100_003)
  )
  np.testing.assert_allclose(here, there, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize('window', [None, 4])
def test_no_logit_depends_on_a_later_token(
  params: Params, window: int | None
) -> None:
  """By gradients: of the sum of logits at i with respect to embedding j."""
  T = 150  # more than one tile of attention
  arrays = Scheme(RopeSpec('default', 4), window=window).arrays(
    None, np.arange(T)
  )
  positions = np.arange(T, dtype=np.int32)
  # A vocabulary of T ids, each used once: its row is that token's input. The
  # output embedding is tied, so weights of the sum are held constant in it.
  config = dataclasses.replace(CONFIG, vocab=T)
  embed = jax.random.normal(jax.random.key(2), (T, CONFIG.dim))

  @jax.jit
  def reach(i: jax.Array) -> jax.Array:
    def at(embed: jax.Array) -> jax.Array:
      out = forward(
        params._replace(embed=embed),
        config,
        positions[None],
        None,
        None,
        arrays,
      )
      return out[0, i, 0]

    return jnp.abs(jax.grad(at)(embed)).sum(axis=1)

  for i in (0, 3, 127, 128, 140):
    touched = np.flatnonzero(reach(jnp.int32(i)))
    # Id 0 is the output's own row.
    assert touched.max() == i
    oldest = 0 if window is None else max(0, i - CONFIG.layers * (window - 1))
    assert set(touched) == {0, *range(oldest, i + 1)}


def test_a_later_token_changes_no_earlier_logit(params: Params) -> None:
  ids = tokens(1, 23)
  other = ids.copy()
  other[0, 14] = (other[0, 14] + 1) % CONFIG.vocab
  scheme = Scheme(RopeSpec('default', 4))
  first, second = logits(params, ids, scheme), logits(params, other, scheme)
  assert np.array_equal(first[0, :14], second[0, :14])
  assert (np.abs(first - second)[0, 14:].max(axis=-1) > 1e-4).all()


def test_one_executable_for_every_scheme(params: Params) -> None:
  traced = []

  @jax.jit
  def run(params: Params, ids: jax.Array, arrays: SchemeArrays) -> jax.Array:
    traced.append(ids.shape)
    positions = jnp.arange(ids.shape[1])
    return forward(params, CONFIG, ids, positions, None, arrays)

  schemes = (
    Scheme(RopeSpec('default', 4)),
    Scheme(RopeSpec('default', 4), window=3),
    Scheme(RopeSpec('yarn', 4, factor=8.0, original_length=32)),
    Scheme(RopeSpec('dynamic', 4, factor=1.0, original_length=8)),
    Scheme(RopeSpec('default', 4), Temperature('logn', length=5)),
  )
  outs = [
    run(params, tokens(2, 16), scheme.arrays(16, np.arange(16)))
    for scheme in schemes
  ]
  assert traced == [(2, 16)]
  assert all(not np.array_equal(outs[0], out) for out in outs[1:])


def test_default_has_0_8_million_parameters() -> None:
  config = ModelConfig(vocab=retrieval.VOCAB)
  params = jax.eval_shape(lambda: init_params(jax.random.key(0), config))
  # embed + 4 * (4 * 128 * 128 + 3 * 128 * 344 + 2 norms) + norm
  assert parameter_count(params) == 408 * 128 + 4 * 197_888 + 128 == 843_904


def test_initial_scales() -> None:
  config = ModelConfig(vocab=retrieval.VOCAB)
  params = jax.jit(init_params, static_argnums=1)(jax.random.key(0), config)
  fan_in = dict.fromkeys(('q', 'k', 'v', 'gate', 'up'), 128)
  # What writes to the residual stream is smaller by sqrt(2 L).
  fan_in |= {'out': 128 * 8, 'down': 344 * 8}
  for name, fan in fan_in.items():
    stds = np.asarray(params.layers[name]).std(axis=(1, 2))
    np.testing.assert_allclose(stds, fan**-0.5, rtol=0.03)
  np.testing.assert_allclose(params.embed.std(), 128**-0.5, rtol=0.03)
  for name in ('attention_norm', 'mlp_norm'):
    assert (params.layers[name] == 1).all()
  layers = params.layers['q']
  assert not np.allclose(layers[0], layers[1])  # no two layers alike


def test_initial_logits_are_of_order_one() -> None:
  config = ModelConfig(vocab=retrieval.VOCAB)
  params = init_params(jax.random.key(0), config)
  ids = np.arange(128, dtype=np.int32)[None]
  arrays = Scheme(RopeSpec('default', 32)).arrays(None, ids[0])
  out = np.array(forward(params, config, ids, None, None, arrays))
  # Without the token's own row, which its own embedding lights up.
  out[0, ids[0], ids[0]] = np.nan
  assert 0.8 < np.nanstd(out) < 1.2


@pytest.mark.parametrize(
  ('changes', 'says'),
  [
    ({'vocab': 0}, ['vocab is 0, must be at least 1']),
    ({'head_dim': 5}, ['head_dim is 5, must be even']),
    ({'kv_heads': 4}, ['kv_heads 4 must divide heads 6']),
    ({'rope_theta': 0.5}, ['rope_theta is 0.5']),
    ({'dim': -1, 'layers': 0}, ['dim is -1', 'layers is 0']),
    ({'kv_heads': 0}, ['kv_heads is 0']),
  ],
)
def test_every_wrong_field_is_named(
  changes: dict[str, Any], says: list[str]
) -> None:
  CONFIG.validate()
  with pytest.raises(ConfigError) as error:
    dataclasses.replace(CONFIG, **changes).validate()
  assert all(words in str(error.value) for words in says)
