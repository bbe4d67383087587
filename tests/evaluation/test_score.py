"""Scores: the lengths that are seen, rows that stay themselves, memory."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest

from ntk_jax.data import retrieval
from ntk_jax.data.text import Corpus, spread_rows
from ntk_jax.evaluation import score
from ntk_jax.evaluation.score import Scores, TestRows, evaluate, score_rows
from ntk_jax.model import (
  ModelConfig,
  Params,
  forward,
  init_params,
)
from ntk_jax.model.transformer import hidden_states
from ntk_jax.rope.spec import RopeSpec
from ntk_jax.scheme import Scheme
from ntk_jax.temperature import Temperature

CONFIG = ModelConfig(
  vocab=retrieval.VOCAB,
  dim=12,
  layers=2,
  heads=2,
  kv_heads=1,
  head_dim=4,
  mlp_dim=8,
)
LENGTHS = (32, 64, 96)
FIXED = {
  'none': Scheme(RopeSpec('default', 4)),
  'window': Scheme(RopeSpec('default', 4), window=32),
  'yarn': Scheme(RopeSpec('yarn', 4, factor=4.0, original_length=32)),
  'log-n': Scheme(RopeSpec('default', 4), Temperature('logn', length=32)),
}
DYNAMIC = Scheme(RopeSpec('dynamic', 4, factor=1.0, original_length=32))
# Of another batch of rows, and another length of the same rows.
TOLERANCE = 2e-5


@pytest.fixture(scope='module')
def params() -> Params:
  params = init_params(jax.random.key(0), CONFIG)
  # Sharper than at the start, so that positions matter.
  layers = {**params.layers}
  layers['q'], layers['k'] = 3 * layers['q'], 3 * layers['k']
  return params._replace(layers=layers)


@pytest.fixture(scope='module')
def rows() -> TestRows:
  rng = np.random.default_rng(0)
  text = rng.integers(97, 123, size=(6, 97)).astype(np.int32)
  return TestRows(text, 0, LENGTHS)


compiled = jax.jit(forward, static_argnums=1)


def values(params: Params, tokens: Any, scheme: Scheme) -> np.ndarray:
  """Logits of rows in one forward of exactly their length, in float64."""
  length = tokens.shape[1]
  arrays = scheme.arrays(length, np.arange(length))
  positions = np.arange(length, dtype=np.int32)
  return np.asarray(
    compiled(params, CONFIG, tokens, positions, None, arrays), np.float64
  )


def bits(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
  p = np.exp(logits)
  p /= p.sum(-1, keepdims=True)
  return -np.log2(np.take_along_axis(p, targets[..., None], -1)[..., 0])


@pytest.mark.parametrize('scheme', [*FIXED.values(), DYNAMIC])
def test_scores_are_those_of_a_forward_of_every_length(
  params: Params, rows: TestRows, scheme: Scheme
) -> None:
  """For fixed methods that is what one long forward gives, by causality."""
  found = evaluate(params, CONFIG, scheme, rows)
  assert found.loss.shape == (6, 3)
  assert found.hits.shape == (6, 3, 8)
  assert found.position_loss.shape == (6, 96)
  assert {array.dtype.name for array in found} == {'float32'}
  lost = np.zeros(0)
  for i, length in enumerate(LENGTHS):
    text = rows.text[:, : length + 1]
    lost = bits(values(params, text[:, :-1], scheme), text[:, 1:])
    np.testing.assert_allclose(
      found.loss[:, i], lost[:, length // 2 :].mean(1), atol=TOLERANCE
    )
    tokens, targets, asked = rows.questions(length)
    logits = values(params, tokens, scheme)
    for row in range(6):
      for depth in range(8):
        place = asked[row, depth]
        best = logits[row, place, 392:408].argmax() + 392
        assert found.hits[row, i, depth] == (best == targets[row, place])
  # The last one is the longest.
  np.testing.assert_allclose(found.position_loss, lost, atol=TOLERANCE)


def test_a_per_length_method_sees_the_real_length(
  params: Params, rows: TestRows, monkeypatch: pytest.MonkeyPatch
) -> None:
  seen = []
  arrays = Scheme.arrays

  def spy(scheme: Scheme, length: Any, positions: Any) -> Any:
    seen.append((length, len(positions)))
    return arrays(scheme, length, positions)

  monkeypatch.setattr(Scheme, 'arrays', spy)
  evaluate(params, CONFIG, DYNAMIC, rows)
  assert sorted(seen) == sorted(2 * [(n, n) for n in LENGTHS])
  seen.clear()
  evaluate(params, CONFIG, FIXED['yarn'], rows)
  assert sorted(seen) == sorted([(96, 96), *((n, n) for n in LENGTHS)])


def test_dynamic_is_the_unextended_model_up_to_its_length(
  params: Params, rows: TestRows
) -> None:
  plain, dynamic = (
    evaluate(params, CONFIG, s, rows) for s in (FIXED['none'], DYNAMIC)
  )
  np.testing.assert_allclose(
    plain.loss[:, 0], dynamic.loss[:, 0], atol=TOLERANCE
  )
  assert np.abs(plain.loss[:, 1:] - dynamic.loss[:, 1:]).min() > 1e-4


def assert_alike(found: Scores, expected: Scores) -> None:
  assert np.array_equal(found.hits, expected.hits)
  for x, y in zip(found, expected, strict=True):
    np.testing.assert_allclose(x, y, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize('scheme', [FIXED['none'], DYNAMIC])
def test_parts_put_together_are_the_whole(
  params: Params, rows: TestRows, scheme: Scheme
) -> None:
  whole = evaluate(params, CONFIG, scheme, rows)
  parts = [
    evaluate(params, CONFIG, scheme, rows.part(start, stop))
    for start, stop in ((0, 3), (3, 6))
  ]
  joined = Scores(*(np.concatenate(arrays) for arrays in zip(*parts)))
  assert_alike(joined, whole)
  # A part of a part keeps its numbers.
  part = rows.part(1, 6).part(2, 5)
  assert_alike(
    evaluate(params, CONFIG, scheme, part),
    Scores(*(array[3:] for array in whole)),
  )


def test_rows_differ_in_their_questions(rows: TestRows) -> None:
  same_text = dataclasses.replace(rows, text=rows.text[[0, 0, 0]])
  tokens, _, asked = same_text.questions(64)
  assert len(np.unique(tokens, axis=0)) == 3
  assert len(np.unique(asked, axis=0)) == 3
  again, _, _ = rows.questions(64)
  assert np.array_equal(tokens[0], again[0])


def test_rows_come_from_the_held_out_documents() -> None:
  documents = tuple(
    np.arange(i, i + 200, dtype=np.uint8) for i in range(0, 50, 10)
  )
  corpus = Corpus('made up', (), documents, 'none')
  rows = TestRows.from_corpus(corpus, LENGTHS, 7)
  assert np.array_equal(rows.text, spread_rows(documents, 97, 7))
  assert (rows.first, rows.lengths) == (0, LENGTHS)


@pytest.mark.parametrize('scheme', [FIXED['window'], DYNAMIC])
def test_work_is_what_is_counted(
  params: Params, rows: TestRows, scheme: Scheme
) -> None:
  counted: list[int] = []
  evaluate(params, CONFIG, scheme, rows, counted.append)
  assert sum(counted) == rows.work(scheme)


def test_empty_scores_have_the_shapes_of_scores(
  params: Params, rows: TestRows
) -> None:
  empty = rows.empty_scores()
  for x, y in zip(empty, evaluate(params, CONFIG, DYNAMIC, rows), strict=True):
    assert (x.shape, x.dtype) == (y.shape, y.dtype)


@pytest.mark.parametrize(
  ('at_once', 'shapes'),
  [
    (96 * 6, {(6, 32), (6, 64), (6, 96)}),
    (96 * 2, {(6, 32), (3, 64), (2, 96)}),
    (96 * 4, {(6, 32), (6, 64), (3, 96)}),  # 4 would fit, does not divide 6
    (64, {(2, 32), (1, 64), (1, 96)}),  # at least one row
  ],
)
def test_few_tokens_at_once_and_one_shape_per_length(
  params: Params,
  rows: TestRows,
  monkeypatch: pytest.MonkeyPatch,
  at_once: int,
  shapes: set[tuple[int, int]],
) -> None:
  expected = evaluate(params, CONFIG, FIXED['none'], rows)
  seen = set()

  def spy(params: Any, tokens: Any, *rest: Any, **options: Any) -> Any:
    seen.add(tokens.shape)
    return score_rows(params, tokens, *rest, **options)

  monkeypatch.setattr(score, 'score_rows', spy)
  monkeypatch.setattr(score, '_TOKENS_AT_ONCE', at_once)
  found = evaluate(params, CONFIG, FIXED['none'], rows)
  assert seen == shapes
  assert_alike(found, expected)


def test_one_trace_per_length_for_all_schemes(
  params: Params, rows: TestRows, monkeypatch: pytest.MonkeyPatch
) -> None:
  traced = []

  def counting(*args: Any) -> Any:
    traced.append(args[2].shape)
    return hidden_states(*args)

  monkeypatch.setattr(score, 'hidden_states', counting)
  # A config that no other test has compiled.
  config = dataclasses.replace(CONFIG, rope_theta=9999.0)
  results = [
    evaluate(start, config, scheme, rows)
    for start in (params, jax.device_get(params))
    for scheme in (*FIXED.values(), DYNAMIC)
  ]
  assert sorted(traced) == [(6, n) for n in LENGTHS]
  assert len({float(r.loss.sum()) for r in results[:5]}) == 5
