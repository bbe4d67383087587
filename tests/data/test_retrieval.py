"""Needles and questions: where they stand, and what is never fed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntk_jax.data import retrieval
from ntk_jax.data.retrieval import (
  KEYS,
  NO_TARGET,
  SHORTEST_ROW,
  VALUE,
  VALUES,
  VOCAB,
  next_byte_targets,
  questions_by_depth,
  random_questions,
)

# The symbols as the issue counts them: bytes, 8 x 16 needles, 8 questions,
# 16 values.
NEEDLE, QUESTION = 256, 256 + 128


def text_rows(seed: int, rows: int, length: int) -> np.ndarray:
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, size=(rows, length + 1)).astype(np.int32)


def test_ids_are_above_the_bytes() -> None:
  assert (KEYS, VALUES) == (8, 16)
  assert (VALUE, VOCAB) == (QUESTION + 8, QUESTION + 24)


def test_text_rows_predict_the_next_byte() -> None:
  rows = text_rows(0, 2, 5)
  tokens, targets = next_byte_targets(rows)
  assert np.array_equal(tokens, rows[:, :5])
  assert np.array_equal(targets, rows[:, 1:])


def check_row(
  row: np.ndarray, tokens: np.ndarray, targets: np.ndarray
) -> dict[int, tuple[int, int]]:
  """Checks all symbols of a row; places of (needle, question) by key."""
  needles = {}
  questions = {}
  for place, token in enumerate(tokens):
    if NEEDLE <= token < QUESTION:
      key, value = divmod(token - NEEDLE, 16)
      assert key not in needles
      needles[key] = (place, value)
    elif token >= QUESTION:
      assert token < VALUE  # a value is never fed
      assert token - QUESTION not in questions
      questions[token - QUESTION] = place
    else:
      assert token == row[place]
  assert sorted(needles) == sorted(questions) == list(range(8))
  for key, (place, value) in needles.items():
    assert place < questions[key]
    assert targets[questions[key]] == VALUE + value
  asked = set(questions.values())
  for place in set(range(len(tokens))) - asked:
    follows = tokens[place + 1] if place + 1 < len(tokens) else row[place + 1]
    assert targets[place] == (follows if follows < 256 else NO_TARGET)
  return {key: (needles[key][0], questions[key]) for key in needles}


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(seed=st.integers(0, 999), length=st.integers(16, 150))
def test_random_questions(seed: int, length: int) -> None:
  rows = text_rows(seed, 3, length)
  before = rows.copy()
  tokens, targets = random_questions(np.random.default_rng(seed), rows)
  assert tokens.shape == targets.shape == (3, length)
  assert tokens.dtype == targets.dtype == np.int32
  assert np.array_equal(rows, before)
  for row in zip(rows, tokens, targets):
    check_row(*row)


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(seed=st.integers(0, 999), length=st.integers(16, 300))
def test_questions_by_depth(seed: int, length: int) -> None:
  rows = text_rows(seed, 3, length)
  tokens, targets, asked = questions_by_depth(np.random.default_rng(seed), rows)
  assert asked.shape == (3, 8)
  tail = max(8, length // 8)
  for b in range(3):
    places = check_row(rows[b], tokens[b], targets[b])
    by_depth = sorted(places.values())
    assert [question for _, question in by_depth] == asked[b].tolist()
    assert min(asked[b]) >= length - tail
    for depth, (needle, _) in enumerate(by_depth):
      low, high = np.array([depth, depth + 1]) * (length - tail) / 8
      assert np.floor(low) <= needle < np.floor(high)


def test_places_keys_and_values_are_spread() -> None:
  rows = text_rows(0, 2000, 64)
  tokens, targets = random_questions(np.random.default_rng(0), rows)
  symbols = (tokens >= NEEDLE).mean(axis=0)  # 16 of 64 places
  assert np.abs(symbols - 0.25).max() < 0.05
  values = np.bincount(targets[targets >= VALUE] - VALUE, minlength=16)
  assert np.abs(values / 1000 - 1).max() < 0.16  # five deviations
  first = np.array([t[(t >= NEEDLE) & (t < QUESTION)][0] for t in tokens])
  keys = np.bincount((first - NEEDLE) // 16, minlength=8)
  assert np.abs(keys / 250 - 1).max() < 0.32


def test_depths_are_asked_in_any_order() -> None:
  rows = text_rows(0, 400, 128)
  tokens, _, asked = questions_by_depth(np.random.default_rng(0), rows)
  order = np.argsort(np.argsort(asked, axis=1), axis=1)
  assert np.abs(order.mean(axis=0) - 3.5).max() < 0.6
  keys = np.take_along_axis(tokens, asked, axis=1) - QUESTION
  assert np.abs(keys.mean(axis=0) - 3.5).max() < 0.6


@pytest.mark.parametrize('make', [random_questions, questions_by_depth])
def test_the_generator_decides(make: object) -> None:
  assert callable(make)
  rows = text_rows(0, 4, SHORTEST_ROW)
  first, again, other = (
    make(np.random.default_rng(seed), rows)[0] for seed in (1, 1, 2)
  )
  assert np.array_equal(first, again)
  assert not np.array_equal(first, other)


def test_pairs_are_found_by_reading_on() -> None:
  """What stood after the key's first place is the answer, in every bin."""
  pairs = retrieval.Pairs(tuple(range(100, 108)), tuple(range(200, 216)))
  rng = np.random.default_rng(0)
  for length in (32, 33, 200):
    text = rng.integers(0, 50, (3, length + 1)).astype(np.int32)
    tokens, targets, asked = retrieval.pairs_by_depth(rng, text, pairs)
    assert tokens.shape == targets.shape == (3, length)
    for row in range(3):
      seen = []
      for place in asked[row]:
        key = tokens[row, place]
        first = int(np.flatnonzero(tokens[row] == key)[0])
        assert first < place
        assert targets[row, place] == tokens[row, first + 1]
        assert targets[row, place] in pairs.values
        seen.append(first)
      assert seen == sorted(seen)
      assert len(set(tokens[row, asked[row]])) == retrieval.KEYS
    plain = (targets < 50) & (tokens < 50)
    np.testing.assert_array_equal(tokens[plain], text[:, :-1][plain])
