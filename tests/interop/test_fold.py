"""Constants folded into weights leave the logits as they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from ntk_jax import interop
from ntk_jax.interop.fields import written
from ntk_jax.interop.fold import Folds, folded
from ntk_jax.interop.tensors import Part
from ntk_jax.scheme import Scheme
from ntk_jax.temperature import Temperature
from tests.interop.made import GEMMA3, QWEN3, made, rope, shape, spec, tokens

WARM = Scheme(spec(), Temperature('constant', scale=1.3))
HOT = Scheme(spec(), Temperature('constant', scale=2.0))


@pytest.mark.parametrize(
  ('fields', 'schemes'),
  [
    ({'attention_scale': 0.3}, [rope()]),
    ({'divisor': 'linear'}, [rope()]),
    ({'attention_scale': 0.3, 'qkv_bias': True, 'out_bias': True}, [rope()]),
    (QWEN3 | {'attention_scale': 0.3}, [rope()]),
    (GEMMA3 | {'attention_scale': 0.3}, [rope()]),
    ({'scale_embed': True}, [rope()]),
    ({'scale_embed': True, 'tied': True}, [rope()]),
    ({'layer_plan': (0, 1)}, [rope(), WARM]),
    (GEMMA3 | {'layer_plan': (0, 1)}, [rope(), WARM]),
    (GEMMA3 | {'scale_embed': False}, [rope()]),
  ],
)
def test_logits_stay(
  tmp_path: Path, fields: dict[str, Any], schemes: list[Scheme]
) -> None:
  model = made(schemes, **fields)
  folds = written(model.config, schemes).folds
  assert (folds.queries != 1).any() or folds.embed != 1
  interop.save(model, tmp_path / 'out')
  read = interop.load(tmp_path / 'out')
  assert all(scheme.temperature is None for scheme in read.schemes)
  np.testing.assert_allclose(read(tokens()), model(tokens()), atol=2e-5)


@pytest.mark.parametrize(
  ('fields', 'schemes'),
  [
    ({'head_dim': 16, 'divisor': 'linear'}, None),
    ({}, [HOT]),
    (QWEN3, [HOT]),
    ({'dim': 16, 'scale_embed': True}, [rope()]),
  ],
)
def test_a_power_of_two_is_exact(
  tmp_path: Path, fields: dict[str, Any], schemes: Any
) -> None:
  model = made(schemes or (), **fields)
  assert written(model.config, model.schemes).folds.exact
  interop.save(model, tmp_path / 'out')
  read = interop.load(tmp_path / 'out')
  np.testing.assert_array_equal(read(tokens()), model(tokens()))


def test_another_number_is_not_exact() -> None:
  assert not written(shape(attention_scale=0.3), [rope()]).folds.exact
  assert not written(shape(scale_embed=True), [rope()]).folds.exact


def test_nothing_folded_is_the_same_array() -> None:
  rows = np.ones((32, 4), np.float32)
  folds = Folds(np.ones((2, 8)))
  for leaf in ('q', 'embed', 'q_bias', 'k'):
    part = Part(leaf, (1,), 0, 32, True)
    assert folded(rows, part, folds, shape()) is rows
  twice = Folds(np.full((2, 8), 2.0), 3.0)
  for leaf in ('k', 'v', 'out', 'gate', 'final_norm', 'unembed', 'k_norm'):
    part = Part(leaf, (1,), 0, 32, True)
    assert folded(rows, part, twice, shape(qk_norm=True)) is rows


def test_a_fold_is_by_layer_and_channel() -> None:
  queries = np.arange(16.0).reshape(2, 8)
  rows = np.ones((32, 3), np.float32)
  got = folded(rows, Part('q', (1,), 0, 32, True), Folds(queries), shape())
  for head in range(4):
    for channel in range(8):
      assert (got[8 * head + channel] == queries[1, channel]).all()


def test_gemma_folds_one_plus_the_weight() -> None:
  config = shape(**GEMMA3)
  w = np.array([0.0, -1.0, 0.5, 1.0] * 2, np.float32)
  folds = Folds(np.full((2, 8), 3.0))
  got = folded(w, Part('q_norm', (0,), 0, 8, False), folds, config)
  np.testing.assert_array_equal(1 + got, 3 * (1 + w))
  q = np.ones((32, 3), np.float32)
  assert folded(q, Part('q', (0,), 0, 32, True), folds, config) is q


def test_a_fold_rounds_once_in_the_stored_dtype() -> None:
  config, factor = shape(), 1 / 3
  rng = np.random.default_rng(0)
  for dtype in (np.float32, np.float16, ml_dtypes.bfloat16):
    rows = rng.normal(size=(32, 5)).astype(dtype)
    part = Part('q', (0,), 0, 32, True)
    got = folded(rows, part, Folds(np.full((2, 8), factor)), config)
    assert got.dtype == dtype
    wanted = (rows.astype(np.float64) * factor).astype(dtype)
    np.testing.assert_array_equal(got, wanted)


def test_gemma_takes_a_whole_scalar_without_a_fold() -> None:
  found = written(shape(**GEMMA3, attention_scale=24**-0.5), [rope()])
  assert found.config['query_pre_attn_scalar'] == 24
  assert (found.folds.queries == 1).all()
  # 0.3 ** -2 = 11.1: the nearest whole number, and the rest is folded.
  found = written(shape(**GEMMA3, attention_scale=0.3), [rope()])
  assert found.config['query_pre_attn_scalar'] == 11
  np.testing.assert_allclose(found.folds.queries, 0.3 * 11**0.5, rtol=1e-15)


def test_bfloat16_weights_stay_bfloat16(tmp_path: Path) -> None:
  model = made([WARM], dtype=jnp.bfloat16)
  interop.save(model, tmp_path / 'out')
  read = interop.load(tmp_path / 'out')
  assert {str(x.dtype) for x in jax.tree.leaves(read.params)} == {'bfloat16'}
  wanted = (np.asarray(model.params.layers['q'], np.float64) * 1.3).astype(
    ml_dtypes.bfloat16
  )
  np.testing.assert_array_equal(np.asarray(read.params.layers['q']), wanted)
