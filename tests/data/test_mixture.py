"""Batches: a pure function of seed and step, text and answers weighed."""

from __future__ import annotations

import numpy as np
import pytest

from ntk_jax.data.mixture import Mixture
from ntk_jax.data.text import Corpus
from ntk_jax.errors import ConfigError

NEEDLE, VALUE = 256, 392


@pytest.fixture(scope='module')
def corpus() -> Corpus:
  rng = np.random.default_rng(0)
  documents = tuple(
    rng.integers(0, 256, size=n, dtype=np.uint8) for n in (900, 2500, 4000)
  )
  return Corpus('made up', documents, documents[:1], 'none')


def test_a_batch_is_a_function_of_seed_and_step(corpus: Corpus) -> None:
  first = Mixture(corpus, 6, 48, seed=3).batch(7)
  again = Mixture(corpus, 6, 48, seed=3)
  again.batch(2)  # what was drawn before does not matter
  for x, y in zip(first[:4], again.batch(7)[:4], strict=True):
    assert np.array_equal(x, y)
  for other in (again.batch(8), Mixture(corpus, 6, 48, seed=4).batch(7)):
    assert not np.array_equal(first.tokens, other.tokens)


def test_another_length_is_another_draw() -> None:
  # The bytes of a row say roughly where it starts.
  document = (np.arange(10_000) // 50).astype(np.uint8)
  corpus = Corpus('made up', (document,), (), 'none')
  short, long = (
    50 * Mixture(corpus, 24, length, seed=3).batch(0).tokens[:12, 0]
    for length in (48, 96)
  )
  assert (np.abs(short - long) > 500).mean() > 0.5


@pytest.mark.parametrize(('rows', 'plain'), [(2, 1), (6, 3), (7, 3)])
def test_half_of_the_rows_are_retrieval(
  corpus: Corpus, rows: int, plain: int
) -> None:
  batch = Mixture(corpus, rows, 64, seed=0).batch(0)
  assert batch.tokens.shape == batch.targets.shape == (rows, 64)
  assert (batch.tokens[:plain] < NEEDLE).all()
  assert ((batch.tokens[plain:] >= NEEDLE).sum(axis=1) == 16).all()
  assert batch.tokens.max() < VALUE  # answers are never fed
  assert (np.sort(batch.targets[plain:], axis=1)[:, -8:] >= VALUE).all()


def test_weights_are_even_over_their_targets(corpus: Corpus) -> None:
  batch = Mixture(corpus, 6, 64, seed=0).batch(5)
  assert batch.weights.dtype == np.float32
  text = (batch.targets >= 0) & (batch.targets < 256)
  assert np.array_equal(batch.answers, batch.targets >= VALUE)
  wanted = text / text.sum() + 0.5 * batch.answers / batch.answers.sum()
  np.testing.assert_allclose(batch.weights, wanted, rtol=1e-6)
  np.testing.assert_allclose(batch.weights.sum(), 1.5, rtol=1e-6)
  # The recall rows are text too, but for what was overwritten.
  assert text[3:].sum() > 3 * (64 - 24 - 1)
  assert (batch.targets[3:] < 0).any()


def test_rows_stay_in_a_document() -> None:
  documents = tuple(np.full(97, n, np.uint8) for n in range(50))
  corpus = Corpus('made up', documents, documents[:1], 'none')
  rows = Mixture(corpus, 64, 96, seed=0).batch(0)
  text = np.concatenate([rows.tokens, rows.targets], axis=1)
  for row in text:
    assert len(np.unique(row[(row >= 0) & (row < 256)])) == 1


@pytest.mark.parametrize(('rows', 'length'), [(1, 64), (2, 31), (0, 64)])
def test_too_small_a_batch(corpus: Corpus, rows: int, length: int) -> None:
  with pytest.raises(ConfigError) as error:
    Mixture(corpus, rows, length, seed=0)
  assert f'{rows} rows of {length} tokens' in str(error.value)
  assert 'at least 2 rows (text and retrieval) of 32 tokens' in str(error.value)


def test_rows_longer_than_the_documents(corpus: Corpus) -> None:
  with pytest.raises(ConfigError, match='has the 4001 bytes of a row'):
    Mixture(corpus, 2, 4000, seed=0)
