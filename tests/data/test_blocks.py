"""Windows inside rows: what is seen, and that cut rows see the same."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntk_jax.data.batch import Batch
from ntk_jax.data.pack import blocks, cut, pack_row, plan_rows
from ntk_jax.errors import ConfigError
from ntk_jax.model import ModelConfig, Params, forward, init_params
from ntk_jax.rope.spec import RopeSpec
from ntk_jax.scheme import Scheme
from ntk_jax.temperature import Temperature

exact = settings(
  max_examples=60, deadline=None, derandomize=True, database=None
)
some_lengths = st.lists(st.integers(2, 30), min_size=1, max_size=20)


def packed(lengths: list[int], room: int) -> Batch:
  """Rows of documents whose tokens all differ."""
  ends = np.cumsum(lengths) + 1
  documents = [np.arange(e - n, e) for n, e in zip(lengths, ends)]
  plan = plan_rows(np.array(lengths), room)
  rows = [pack_row(documents, plan.row(i), room) for i in range(plan.rows)]
  return Batch(*(np.stack(arrays) for arrays in zip(*rows)))


def visible(segments: np.ndarray) -> np.ndarray:
  """[T, T]: whether j is seen from i, of one row."""
  i, j = np.indices((len(segments),) * 2)
  same = segments[:, None] == segments[None]
  return same & (segments[:, None] > 0) & (j <= i)


@exact
@given(lengths=some_lengths, room=st.integers(4, 33), data=st.data())
def test_a_block_sees_what_is_its_own_and_in_its_document(
  lengths: list[int], room: int, data: st.DataObject
) -> None:
  batch = packed(lengths, room)
  windows = np.array(
    [data.draw(st.integers(2, room)) for _ in batch.tokens], np.int32
  )
  found = blocks(batch, windows)
  for row, w in enumerate(windows.tolist()):
    i, j = np.indices((room, room))
    expected = visible(batch.segments[row]) & (j >= i // w * w)
    assert np.array_equal(visible(found.segments[row]), expected)
    # The first that is seen is at 0, the others follow.
    real = batch.segments[row] > 0
    assert np.array_equal(
      found.positions[row], np.where(real, expected.sum(axis=1) - 1, 0)
    )
    numbers = found.segments[row][real]
    assert numbers[0] == 1
    assert set(np.diff(numbers)) <= {0, 1}
  for name in ('tokens', 'targets', 'weights', 'answers'):
    assert getattr(found, name) is getattr(batch, name)
  assert found.positions.dtype == found.segments.dtype == np.int32


@pytest.mark.parametrize(('length', 'w'), [(24, 5), (24, 8), (7, 2), (9, 9)])
def test_as_many_triangles_as_blocks(length: int, w: int) -> None:
  found = blocks(packed([length], length), w)
  sizes = np.bincount(found.segments[0])[1:]
  assert len(sizes) == -(-length // w)
  assert (sizes[:-1] == w).all() and sizes.sum() == length
  pairs = visible(found.segments[0]).sum()
  assert pairs == sum(n * (n + 1) // 2 for n in sizes)


@exact
@given(lengths=some_lengths, room=st.integers(4, 33))
def test_one_block_is_the_row(lengths: list[int], room: int) -> None:
  batch = packed(lengths, room)
  for x, y in zip(blocks(batch, room), batch):
    assert np.array_equal(x, y) and x.dtype == y.dtype


@exact
@given(lengths=some_lengths, w=st.integers(2, 6), count=st.integers(1, 6))
def test_cut_rows_are_blocks(lengths: list[int], w: int, count: int) -> None:
  batch = packed(lengths, w * count)
  inside, short = blocks(batch, w), cut(batch, w)
  for name in set(Batch._fields) - {'segments'}:
    found = getattr(inside, name).reshape(-1, w)
    assert np.array_equal(found, getattr(short, name)), name
  for x, y in zip(cut(inside, w), short):
    assert np.array_equal(x, y)


def test_blocks_of_blocks() -> None:
  batch = packed([23, 11, 14], 48)
  for x, y in zip(blocks(blocks(batch, 12), 6), blocks(batch, 6)):
    assert np.array_equal(x, y)


def test_rows_of_one_document() -> None:
  """No positions and no segments: one document a row."""
  batch = packed([12], 12)
  plain = batch._replace(positions=None, segments=None)
  for x, y in zip(blocks(plain, 5), blocks(batch, 5)):
    assert np.array_equal(x, y)
  for x, y in zip(cut(plain, 4), cut(batch, 4)):
    assert np.array_equal(x, y)


def test_a_part_of_rows_begins_anew() -> None:
  """Columns of packed rows, whose first piece goes on from before."""
  batch = packed([20, 4], 24)
  part = Batch(*(x[:, 12:] for x in batch))
  found = cut(part, 12)
  assert found.positions[0].tolist() == [*range(8), *range(4)]
  assert found.segments[0].tolist() == [1] * 8 + [2] * 4
  batch = packed([12, 8, 4], 24)  # a document begins there
  found = cut(Batch(*(x[:, 12:] for x in batch)), 12)
  assert found.segments[0].tolist() == [1] * 8 + [2] * 4


@pytest.mark.parametrize('windows', [1, 0, -3, 13, [4, 4], [4, 13, 4], [[4]]])
def test_windows_that_do_not_fit(windows: Any) -> None:
  batch = packed([12, 12, 12], 12)
  with pytest.raises(ConfigError, match='one for all 3 rows or one for each'):
    blocks(batch, np.array(windows))


MODEL = ModelConfig(
  vocab=53, dim=16, layers=2, heads=2, kv_heads=1, head_dim=8, mlp_dim=24
)
# Length per position, so that a position that is not restarted shows.
SCHEME = Scheme(RopeSpec('default', 8), Temperature('logn', length=16))


@jax.jit
def logits(params: Params, batch: Batch) -> jax.Array:
  arrays = SCHEME.arrays(None, batch.positions)
  return forward(
    params, MODEL, batch.tokens, batch.positions, batch.segments, arrays
  )


def test_a_model_says_the_same_of_blocks_and_cut_rows() -> None:
  """Float32 of another order of adding: logits of order one within 1e-5."""
  batch = packed([31, 17, 29, 11, 7, 33], 64)
  batch = batch._replace(tokens=batch.tokens % 53)
  params = init_params(jax.random.key(0), MODEL)
  whole = logits(params, batch)
  assert float(np.abs(whole).max()) > 0.5
  for w in (8, 16, 32):
    inside = np.asarray(logits(params, blocks(batch, w)))
    short = np.asarray(logits(params, cut(batch, w)))
    np.testing.assert_allclose(
      inside.reshape(short.shape), short, rtol=0, atol=1e-5
    )
    assert np.abs(inside - whole).max() > 0.01  # the window is seen
