"""Documents that are read several times: rows of copies, shares of tokens."""

from __future__ import annotations

import collections
import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntk_jax.data.copies import plan_copies, plan_epoch
from ntk_jax.data.pack import Plan, plan_rows
from ntk_jax.data.pipeline import Pipeline
from ntk_jax.data.settings import DataConfig
from ntk_jax.data.text import Corpus
from ntk_jax.errors import ConfigError

CONFIG = DataConfig(
  max_length=512, batch_rows=2, threads=0, long_share=0.7, long_from=200
)


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(
  documents=st.lists(
    st.tuples(st.integers(0, 40), st.integers(0, 4)), min_size=1, max_size=40
  ),
  room=st.integers(2, 33),
  seed=st.integers(0, 99),
)
def test_every_copy_of_every_token_once(
  documents: list[tuple[int, int]], room: int, seed: int
) -> None:
  lengths, counts = np.array([*documents, (2, 1)]).T
  plan = plan_copies(lengths, counts, room, seed)
  assert plan.offsets[0] == 0 and plan.offsets[-1] == len(plan.pieces)
  seen = [np.zeros(n, int) for n in lengths]
  for i in range(plan.rows):
    pieces = plan.row(i)
    assert 0 < sum(stop - start for _, start, stop in pieces) <= room
    once = collections.Counter((d, start) for d, start, _ in pieces)
    assert set(once.values()) == {1}  # no copy beside another
    for document, start, stop in pieces:
      seen[document][start:stop] += 1
      assert stop - start == lengths[document] or lengths[document] > room
  for found, times, n in zip(seen, counts, lengths):
    # Plans of nothing but single tokens are left out: nothing is learned.
    assert (found == times).all() or (n == 1 and (found <= times).all())


def test_each_once_is_the_plain_plan() -> None:
  lengths = np.random.default_rng(0).integers(1, 90, 200)
  plain = plan_rows(lengths, 64)
  for plan in (
    plan_copies(lengths, np.ones(200, int), 64, seed=3),
    plan_epoch(
      dataclasses.replace(CONFIG, max_length=64, long_share=None), lengths
    ),
  ):
    assert np.array_equal(plan.pieces, plain.pieces)
    assert np.array_equal(plan.offsets, plain.offsets)


def tokens_by_document(plan: Plan, documents: int) -> np.ndarray:
  sizes = plan.pieces[:, 2] - plan.pieces[:, 1]
  return np.bincount(plan.pieces[:, 0], sizes, documents)


def test_rows_are_as_full_as_ever() -> None:
  rng = np.random.default_rng(0)
  lengths = np.clip(rng.lognormal(6, 1.2, 20_000), 1, None).astype(int)
  sources = [('code', 'books')[i] for i in rng.integers(2, size=len(lengths))]
  config = DataConfig(max_length=8192, long_share=0.7, long_from=2048)
  plan = plan_epoch(config, lengths, sources)
  assert plan.utilisation > 0.99
  read = tokens_by_document(plan, len(lengths))
  for source in ('code', 'books'):
    here = np.array(sources) == source
    assert lengths[here & (lengths > 2048)].sum() < 0.45 * lengths[here].sum()
    long = read[here & (lengths > 2048)].sum()
    assert long / read[here].sum() == pytest.approx(0.7, abs=2e-3)
    assert read[here].sum() == pytest.approx(lengths[here].sum(), rel=2e-3)


def corpus(*sources: str) -> Corpus:
  """Of each source 3 documents of 400 bytes and 30 of 100."""
  rng = np.random.default_rng(0)
  sizes = ([400] * 3 + [100] * 30) * len(sources)
  texts = tuple(rng.integers(97, 123, n, dtype=np.uint8) for n in sizes)
  names = tuple(name for name in sources for _ in range(33))
  return Corpus('made up', texts, (), 'one', names)


def test_a_pipeline_reads_more_of_long_documents() -> None:
  pipeline = Pipeline.of(CONFIG, corpus('a', 'b'))
  read = tokens_by_document(pipeline.plan, 66).reshape(2, 33)
  assert read.sum(axis=1) == pytest.approx([4200, 4200], abs=250)
  long = read[:, :3].sum(axis=1) / read.sum(axis=1)
  assert long == pytest.approx([0.7, 0.7], abs=0.05)
  with pipeline.batches() as batches:
    for _ in range(pipeline.plan.rows):
      next(batches)
    assert pipeline.epochs(batches.row) == 2


def test_sources_count() -> None:
  """Documents of one source are not long at the cost of another."""
  texts = corpus('a', 'b')
  sources = ('a',) * 3 + ('b',) * 63  # all of a is long
  apart = Pipeline.of(CONFIG, dataclasses.replace(texts, sources=sources))
  assert tokens_by_document(apart.plan, 66)[:3].tolist() == [400] * 3
  together = Pipeline.of(CONFIG, dataclasses.replace(texts, sources=()))
  assert tokens_by_document(together.plan, 66)[:3].sum() > 1200


CHANGES: list[dict[str, Any]] = [
  {},
  {'long_share': 0.71},
  {'long_from': 201},
  {'long_share': None, 'long_from': None},
  {'seed': 1},
]


def test_the_shares_name_the_stream() -> None:
  texts = corpus('a')
  names = {
    Pipeline.of(dataclasses.replace(CONFIG, **change), texts).fingerprint
    for change in CHANGES
  }
  assert len(names) == len(CHANGES)


def test_no_document_is_long() -> None:
  config = dataclasses.replace(CONFIG, long_from=400)
  with pytest.raises(ConfigError, match='long_from is 400: the longest docum'):
    Pipeline.of(config, corpus('a'))
