"""Retrieval rows out of packed rows: shares, answers, one document."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntk_jax.data.batch import Batch
from ntk_jax.data.pack import blocks, pack_row
from ntk_jax.data.retrieval import Passkey
from ntk_jax.data.settings import DataConfig
from ntk_jax.data.sources import Sources
from ntk_jax.data.tokenize import ByteTokenizer
from ntk_jax.errors import ConfigError

NEEDLE, QUESTION, VALUE = 256, 384, 392
SENTENCES = (
  r'\nThe pass key is (\d{5})\. Keep it in mind\.\n(.*)'
  r'\nWhat is the pass key\? The pass key is (\d{5})'
)


def packed(rows: int, sizes: tuple[int, ...], length: int) -> Batch:
  """Rows of documents of lower case letters, and padding."""
  rng = np.random.default_rng(len(sizes) + length)
  made = []
  for _ in range(rows):
    documents = [rng.integers(97, 123, n) for n in sizes]
    pieces = [(i, 0, n) for i, n in enumerate(sizes)]
    made.append(pack_row(documents, pieces, length))
  return Batch(*(np.stack(arrays) for arrays in zip(*made)))


def mix(
  batch: Batch,
  key_value: float = 0.0,
  passkey: float = 0.0,
  seed: int = 0,
  first_row: int = 0,
) -> Batch:
  config = DataConfig(key_value=key_value, passkey=passkey, seed=seed)
  numbers = first_row + np.arange(len(batch.tokens))
  return Sources(config, ByteTokenizer()).mix(batch, numbers)


def kinds(mixed: Batch) -> np.ndarray:
  """0 text, 1 key-value, 2 passkey."""
  symbols = (mixed.tokens >= NEEDLE).any(axis=1)
  asked = mixed.answers.any(axis=1)
  return np.where(symbols, 1, np.where(asked, 2, 0))


@pytest.mark.parametrize('length', [64, 512])
def test_answers_weigh_a_share_of_the_tokens_at_every_length(
  length: int,
) -> None:
  batch = packed(6, (length - 16,), length)  # and padding
  numbers = np.arange(6)
  plain, weighed = (
    Sources(
      DataConfig(key_value=0.5, passkey=0.0, answer_weight=weight),
      ByteTokenizer(),
    ).mix(batch, numbers)
    for weight in (None, 0.25)
  )
  asked = plain.answers.any(axis=1)
  assert 0 < asked.sum() < 6
  for one, other in zip(plain, weighed):
    if one is not plain.weights:
      np.testing.assert_array_equal(one, other)
  sums = (weighed.weights * weighed.answers).sum(axis=1)
  np.testing.assert_allclose(sums[asked], 0.25 * (length - 16), rtol=1e-6)
  np.testing.assert_array_equal(
    plain.weights[~plain.answers], weighed.weights[~weighed.answers]
  )
  assert set(plain.weights[plain.answers]) == {1.0}


def test_no_share_is_the_batch_itself() -> None:
  batch = packed(4, (300,), 300)
  assert mix(batch) is batch


@pytest.mark.parametrize(
  'shares', [(0.25, 0.5), (1.0, 0.0), (0.0, 1.0), (0.1, 0.03)]
)
def test_shares_hold_over_any_stretch(shares: tuple[float, float]) -> None:
  batch = packed(1000, (300,), 300)
  found = kinds(mix(batch, *shares, first_row=12345))
  for start in range(0, 1000, 50):
    for size in (50, 400):
      part = found[start : start + size]
      for kind, share in enumerate(shares, start=1):
        assert abs((part == kind).sum() - share * len(part)) < 3.5


def test_rows_do_not_depend_on_their_batch() -> None:
  batch = packed(12, (200, 90), 300)
  whole = mix(batch, 0.4, 0.4, first_row=7)
  assert set(kinds(whole)) == {0, 1, 2}
  for start, stop in ((0, 4), (4, 12)):
    part = Batch(*(x[start:stop] for x in batch))
    found = mix(part, 0.4, 0.4, first_row=7 + start)
    for x, y in zip(found, whole):
      assert np.array_equal(x, y[start:stop])
  other = mix(batch, 0.4, 0.4, first_row=7, seed=1)
  assert not np.array_equal(whole.tokens, other.tokens)


def test_blocks_are_numbered_like_rows() -> None:
  """Also where the last of a row is shorter: 3 i + j in the stream."""
  windows = np.full(40, 100)
  batch = blocks(packed(40, (250,), 250), windows)
  sources = Sources(DataConfig(key_value=0.5), ByteTokenizer())
  mixed = sources.mix(batch, 7 + np.arange(40), windows)
  turned = np.stack(
    [mixed.answers[:, i : i + 100].any(axis=1) for i in (0, 100, 200)], axis=1
  )
  numbers = 3 * (7 + np.arange(40))[:, None] + np.arange(3)
  assert np.array_equal(turned, numbers * (5**0.5 - 1) / 2 % 1 < 0.5)


def test_the_batch_is_not_changed() -> None:
  batch = packed(4, (200,), 300)
  before = Batch(*(x.copy() for x in batch))
  mix(batch, 0.5, 0.5)
  for x, y in zip(batch, before):
    assert np.array_equal(x, y)


def check_one_document(mixed: Batch, tokens: int) -> None:
  counted = np.arange(mixed.tokens.shape[1])
  for i in range(len(mixed.tokens)):
    real = counted < tokens
    assert np.array_equal(mixed.segments[i], real)
    assert np.array_equal(mixed.positions[i], np.where(real, counted, 0))
    assert (mixed.targets[i, tokens:] == -1).all()
    assert (mixed.tokens[i, tokens:] == 0).all()
    weighed = mixed.weights[i] > 0
    assert np.array_equal(weighed, mixed.targets[i] >= 0)
    assert (weighed | ~mixed.answers[i]).all()
    assert set(mixed.weights[i]) <= {0.0, 1.0}
  kinds = [np.int32] * 2 + [np.float32, np.bool_] + [np.int32] * 2
  assert [x.dtype for x in mixed] == kinds


@settings(max_examples=30, deadline=None, derandomize=True, database=None)
@given(
  sizes=st.tuples(st.integers(2, 60), st.integers(30, 60)),
  padding=st.integers(0, 20),
  seed=st.integers(0, 99),
)
def test_key_value_rows(
  sizes: tuple[int, int], padding: int, seed: int
) -> None:
  tokens = sum(sizes)
  batch = packed(3, sizes, tokens + padding)
  mixed = mix(batch, key_value=1.0, seed=seed)
  check_one_document(mixed, tokens)
  for i in range(3):
    row, targets = mixed.tokens[i], mixed.targets[i]
    symbol = row >= NEEDLE
    assert symbol.sum() == 16
    assert np.array_equal(row[~symbol], batch.tokens[i][~symbol])
    assert np.array_equal(mixed.answers[i], (row >= QUESTION))
    said = {
      (token - NEEDLE) // 16: (place, (token - NEEDLE) % 16)
      for place, token in enumerate(row)
      if NEEDLE <= token < QUESTION
    }
    assert sorted(said) == list(range(8))
    for place in np.flatnonzero(mixed.answers[i]):
      before, value = said[row[place] - QUESTION]
      assert before < place
      assert targets[place] == VALUE + value
    # Text is learned in the first document alone, but where it is overwritten.
    shown = np.append(row[1:], 0) == batch.targets[i]
    text = (batch.segments[i] == 1) & (batch.targets[i] >= 0) & shown
    text &= ~mixed.answers[i]
    assert np.array_equal(mixed.weights[i] > 0, text | mixed.answers[i])
    assert np.array_equal(targets[text], batch.targets[i][text])


def test_symbols_follow_the_ids_of_the_tokenizer() -> None:
  class Wide(ByteTokenizer):
    vocab = 1000

  batch = packed(2, (100,), 100)
  plain = mix(batch, key_value=1.0)
  config = DataConfig(key_value=1.0)
  wide = Sources(config, Wide()).mix(batch, np.arange(len(batch.tokens)))
  shift = np.where(plain.tokens >= NEEDLE, 1000 - 256, 0)
  assert np.array_equal(wide.tokens, plain.tokens + shift)
  shift = np.where(plain.answers, 1000 - 256, 0)
  assert np.array_equal(wide.targets, plain.targets + shift)


@settings(max_examples=30, deadline=None, derandomize=True, database=None)
@given(
  sizes=st.tuples(st.integers(2, 99), st.integers(150, 200)),
  padding=st.integers(0, 20),
  seed=st.integers(0, 99),
)
def test_passkey_rows(sizes: tuple[int, int], padding: int, seed: int) -> None:
  tokens = sum(sizes)
  batch = packed(3, sizes, tokens + padding)
  mixed = mix(batch, passkey=1.0, seed=seed)
  check_one_document(mixed, tokens)
  for i in range(3):
    text = batch.tokens[i, :tokens].astype(np.uint8).tobytes().decode()
    row = mixed.tokens[i, :tokens].astype(np.uint8).tobytes().decode()
    last = chr(mixed.targets[i, tokens - 1])
    found = re.search(SENTENCES, row + last, re.DOTALL)
    assert found is not None
    said, between, asked = found.groups()
    assert found.end() == tokens + 1
    assert said == asked
    assert text.startswith(row[: found.start()] + between)
    assert np.flatnonzero(mixed.answers[i]).tolist() == list(
      range(tokens - 5, tokens)
    )
    targets = mixed.targets[i][mixed.answers[i]]
    assert ''.join(map(chr, targets)) == said
    assert np.array_equal(mixed.weights[i] > 0, mixed.answers[i])


def test_numbers_and_their_places_are_spread() -> None:
  batch = packed(400, (600,), 600)
  mixed = mix(batch, passkey=1.0)
  rows = [row.astype(np.uint8).tobytes() for row in mixed.tokens]
  places = np.array([row.index(b'The pass key is ') for row in rows])
  assert (
    np.abs(
      np.quantile(places, (0.25, 0.5, 0.75)) / 516 - (0.25, 0.5, 0.75)
    ).max()
    < 0.1
  )
  numbers = np.array([row[p + 16 : p + 21] for row, p in zip(rows, places)])
  assert len(np.unique(numbers)) > 390
  digits = np.bincount(np.frombuffer(b''.join(numbers), np.uint8) - 48)
  assert np.abs(digits / 200 - 1).max() < 0.34  # five deviations


def test_rows_of_padding_stay_as_they_are() -> None:
  batch = packed(6, (31,), 300)
  mixed = mix(batch, 0.5, 0.5)
  for x, y in zip(mixed, batch):
    assert np.array_equal(x, y)


def test_shortest_rows() -> None:
  passkey = Passkey(ByteTokenizer().encode)
  batch = packed(3, (passkey.shortest,), passkey.shortest)
  mixed = mix(batch, passkey=1.0)
  assert mixed.answers.sum() == 15
  sentences = 17 + 5 + 19 + 39 + 5
  assert passkey.shortest == -(-4 * sentences // 3)


@pytest.mark.parametrize(
  ('length', 'shares', 'says'),
  [
    (31, (0.5, 0.0), 'length is 31: rows of key_value need 32'),
    (100, (0.0, 0.5), 'length is 100: rows of passkey need 114'),
    (31, (0.5, 0.5), 'length is 31: rows of key_value, passkey need 114'),
  ],
)
def test_too_short_a_row(
  length: int, shares: tuple[float, float], says: str
) -> None:
  with pytest.raises(ConfigError, match=says):
    mix(packed(2, (30,), length), *shares)
