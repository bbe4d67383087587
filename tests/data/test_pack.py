"""Packing: every token once, rows in order, and short rows out of long."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntk_jax.data.batch import Batch
from ntk_jax.data.pack import Plan, cut, pack_row, plan_rows
from ntk_jax.errors import ConfigError

exact = settings(
  max_examples=60, deadline=None, derandomize=True, database=None
)
some_lengths = st.lists(st.integers(0, 40), min_size=1, max_size=60).map(
  lambda lengths: [*lengths, 2]  # at least one has a target
)


def numbered(lengths: list[int]) -> list[np.ndarray]:
  """Documents whose tokens all differ: 1, 2, 3, ..."""
  ends = np.cumsum(lengths) + 1
  return [np.arange(end - n, end) for n, end in zip(lengths, ends)]


def pack(plan: Plan, documents: list[np.ndarray]) -> Batch:
  rows = [
    pack_row(documents, plan.row(i), plan.length) for i in range(plan.rows)
  ]
  return Batch(*(np.stack(arrays) for arrays in zip(*rows)))


@exact
@given(lengths=some_lengths, room=st.integers(2, 33))
def test_every_token_of_every_document_once(
  lengths: list[int], room: int
) -> None:
  plan = plan_rows(np.array(lengths), room)
  seen = [np.zeros(n, int) for n in lengths]
  for i in range(plan.rows):
    pieces = plan.row(i)
    assert 0 < sum(stop - start for _, start, stop in pieces) <= room
    for document, start, stop in pieces:
      assert 0 <= start < stop <= lengths[document]
      seen[document][start:stop] += 1
  assert all((counts == 1).all() for counts in seen)
  assert plan.tokens == sum(lengths)
  assert plan.utilisation == sum(lengths) / (plan.rows * room)


@exact
@given(lengths=some_lengths, room=st.integers(2, 33))
def test_only_long_documents_are_cut(lengths: list[int], room: int) -> None:
  plan = plan_rows(np.array(lengths), room)
  of: dict[int, list[tuple[int, int]]] = {}
  for document, start, stop in plan.pieces.tolist():
    of.setdefault(document, []).append((start, stop))
  for document, pieces in of.items():
    edges = [*range(0, lengths[document], room), lengths[document]]
    assert sorted(pieces) == list(itertools.pairwise(edges))


def best_fit_decreasing(sizes: list[int], room: int) -> list[list[int]]:
  """The definition, in quadratic time."""
  rows: list[list[int]] = []
  for size in sorted(sizes, reverse=True):
    fits = [row for row in rows if sum(row) + size <= room]
    if fits:
      fullest = max(sum(row) for row in fits)
      next(row for row in fits if sum(row) == fullest).append(size)
    else:
      rows.append([size])
  return rows


@exact
@given(lengths=some_lengths, room=st.integers(2, 33))
def test_rows_are_those_of_best_fit_decreasing(
  lengths: list[int], room: int
) -> None:
  plan = plan_rows(np.array(lengths), room)
  found = [
    sum(stop - start for _, start, stop in plan.row(i))
    for i in range(plan.rows)
  ]
  sizes = [min(room, n - i) for n in lengths for i in range(0, n, room)]
  expected = [sum(row) for row in best_fit_decreasing(sizes, room)]
  assert sorted(found) == sorted(expected)


def fewest_rows(sizes: list[int], room: int) -> int:
  """Optimal packing, by trying everything."""
  best = len(sizes)

  def place(i: int, rows: list[int]) -> None:
    nonlocal best
    if len(rows) >= best:
      return
    if i == len(sizes):
      best = len(rows)
      return
    for j in range(len(rows)):
      if rows[j] + sizes[i] <= room:
        place(i + 1, [*rows[:j], rows[j] + sizes[i], *rows[j + 1 :]])
    place(i + 1, [*rows, sizes[i]])

  place(0, [])
  return best


@exact
@given(
  sizes=st.lists(st.integers(1, 20), min_size=1, max_size=8),
  room=st.integers(20, 30),
)
def test_the_bound_of_first_fit_decreasing(sizes: list[int], room: int) -> None:
  """At most 11/9 of the fewest rows, and 6/9 (Dosa 2007)."""
  sizes = sorted([*sizes, 2], reverse=True)
  plan = plan_rows(np.array(sizes), room)
  assert plan.rows <= 11 / 9 * fewest_rows(sizes, room) + 6 / 9


def test_many_documents_fill_their_rows() -> None:
  rng = np.random.default_rng(0)
  lengths = np.clip(rng.lognormal(6, 1.2, 20_000), 1, None).astype(int)
  plan = plan_rows(lengths, 8192)
  assert plan.utilisation > 0.99
  again = plan_rows(lengths, 8192)
  assert np.array_equal(plan.pieces, again.pieces)
  assert np.array_equal(plan.offsets, again.offsets)


@exact
@given(lengths=some_lengths, room=st.integers(2, 33))
def test_rows_say_what_their_tokens_are(lengths: list[int], room: int) -> None:
  documents = numbered(lengths)
  plan = plan_rows(np.array(lengths), room)
  batch = pack(plan, documents)
  for i in range(plan.rows):
    at = 0
    for number, (document, start, stop) in enumerate(plan.row(i), start=1):
      for place in range(start, stop):
        assert batch.tokens[i, at] == documents[document][place]
        assert batch.positions[i, at] == place - start
        assert batch.segments[i, at] == number
        last = place + 1 == lengths[document]
        follows = -1 if last else documents[document][place + 1]
        assert batch.targets[i, at] == follows
        assert batch.weights[i, at] == (not last)
        at += 1
    for name, padding in zip(batch._fields, (0, -1, 0, 0, 0, False)):
      assert (getattr(batch, name)[i, at:] == padding).all()
  assert not batch.answers.any()
  # Every token but the first of each document is a target once.
  targets = np.sort(batch.targets[batch.weights > 0])
  assert np.array_equal(targets, np.concatenate([d[1:] for d in documents]))


def test_types_of_a_row() -> None:
  row = pack_row([np.arange(9, dtype=np.uint8)], [(0, 0, 5)], 7)
  assert [x.dtype for x in row] == [np.int32] * 2 + [np.float32, np.bool_] + [
    np.int32
  ] * 2
  assert all(x.shape == (7,) for x in row)


def plain_cut(batch: Batch, length: int) -> Batch:
  """The definition, token by token."""
  rows, T = batch.tokens.shape
  out = Batch(*(x.reshape(-1, length).copy() for x in batch))
  for i, j in itertools.product(range(rows * T // length), range(length)):
    k = i * length + j
    segment = batch.segments.ravel()[k]
    before = out.segments[i, j - 1] if j else 0
    new = not j or segment != batch.segments.ravel()[k - 1]
    if segment == 0:
      continue
    out.segments[i, j] = before + 1 if new else before
    out.positions[i, j] = 0 if new else out.positions[i, j - 1] + 1
  return out


@exact
@given(
  lengths=some_lengths,
  length=st.integers(2, 6),
  factors=st.tuples(st.integers(1, 4), st.integers(1, 4)),
)
def test_cut(lengths: list[int], length: int, factors: tuple[int, int]) -> None:
  middle = length * factors[0]
  plan = plan_rows(np.array(lengths), middle * factors[1])
  batch = pack(plan, numbered(lengths))
  short = cut(batch, length)
  for found, twice, expected, name in zip(
    short,
    cut(cut(batch, middle), length),
    plain_cut(batch, length),
    batch._fields,
  ):
    assert found.shape == (plan.rows * batch.tokens.shape[1] // length, length)
    assert np.array_equal(found, expected), name
    assert np.array_equal(found, twice), name
    assert found.dtype == getattr(batch, name).dtype
  assert short.weights.sum() == batch.weights.sum()


@pytest.mark.parametrize('length', [0, 1, 5, 16, -4])
def test_a_length_that_does_not_divide(length: int) -> None:
  row = pack_row([np.arange(8)], [(0, 0, 8)], 8)
  batch = Batch(*(x[None] for x in row))
  with pytest.raises(ConfigError, match=f'length is {length}: rows of 8 tok'):
    cut(batch, length)


@pytest.mark.parametrize(
  ('lengths', 'room', 'says'),
  [
    ([5], 1, 'max_length is 1: at least 2'),
    ([1, 0, 1], 8, 'none of 3 documents has 2 tokens'),
    ([], 8, 'none of 0 documents has 2 tokens'),
  ],
)
def test_nothing_to_pack(lengths: list[int], room: int, says: str) -> None:
  with pytest.raises(ConfigError, match=says):
    plan_rows(np.array(lengths, int), room)
