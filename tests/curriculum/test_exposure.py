"""Distances that are seen, against counting every pair."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntk_jax.curriculum.exposure import BUCKETS, distances, effective_length
from ntk_jax.errors import ConfigError

exact = settings(
  max_examples=60, deadline=None, derandomize=True, database=None
)


def rows_of(sizes: list[list[int]], length: int) -> np.ndarray:
  """Segments of rows that hold documents of these sizes."""
  rows = np.zeros((len(sizes), length), np.int32)
  for row, documents in zip(rows, sizes):
    numbers = np.repeat(np.arange(len(documents)) + 1, documents)[:length]
    row[: len(numbers)] = numbers
  return rows


def brute_force(segments: np.ndarray, positions: np.ndarray) -> np.ndarray:
  """Every pair that is seen, one by one."""
  counts = np.zeros(BUCKETS, int)
  for row, places in zip(segments.tolist(), positions.tolist()):
    for i, j in np.argwhere(np.tri(len(row))).tolist():
      if row[i] == row[j] != 0:
        counts[(places[i] - places[j]).bit_length()] += 1
  return counts


some_rows = st.lists(
  st.lists(st.integers(1, 20), max_size=5), min_size=1, max_size=3
)


@exact
@given(sizes=some_rows, length=st.integers(1, 40), seed=st.integers(0, 999))
def test_against_every_pair(
  sizes: list[list[int]], length: int, seed: int
) -> None:
  segments = rows_of(sizes, length)
  rng = np.random.default_rng(seed)
  plain, skipping = np.zeros((2, *segments.shape), np.int32)
  for row, number in {(i, n) for i, x in enumerate(segments) for n in x}:
    here = segments[row] == number
    if number:
      plain[row, here] = np.arange(here.sum())
      steps = rng.choice([1, 2, 300, 2**24], size=here.sum())
      skipping[row, here] = np.cumsum(steps)
  expected = brute_force(segments, plain)
  assert np.array_equal(distances(segments), expected)
  assert np.array_equal(distances(segments, plain), expected)
  found = distances(segments, skipping)
  assert np.array_equal(found, brute_force(segments, skipping))
  assert found.sum() == expected.sum() and found.dtype == np.int64


def test_rows_add_up() -> None:
  segments = rows_of([[9, 4], [13], [1, 1, 5]], 13)
  parts = [distances(segments[i : i + 1]) for i in range(3)]
  assert np.array_equal(sum(parts), distances(segments))
  # The last document of a row and the first of the next have one number.
  alike = np.array([[1, 1, 1], [1, 1, 1]])
  assert distances(alike)[:3].tolist() == [6, 4, 2]


def test_long_rows_do_not_overflow() -> None:
  n = 2**20
  found = distances(np.ones((1, n), np.int32))
  assert found.sum() == n * (n + 1) // 2
  ends = np.array([[0, 2**31 - 1]], np.int32)
  assert distances(np.array([[1, 1]]), ends)[31] == 1


@pytest.mark.parametrize('threshold', [1, 3, 40, 250, 999, 1000, 1001, 5000])
@pytest.mark.parametrize('sizes', [[1000], [700, 300], [64] * 15, [513, 9, 9]])
def test_effective_length(sizes: list[int], threshold: float) -> None:
  """Within the promised factor of 4 of the exact one."""
  found = effective_length(distances(rows_of([sizes], 1000)), threshold)
  pairs = [sum(max(n - d, 0) for n in sizes) for d in range(1000)]
  enough = [d for d, count in enumerate(pairs) if count >= threshold]
  if not enough:
    assert found == 0
  else:
    assert found <= enough[-1] < max(4 * found, 2)


@pytest.mark.parametrize('threshold', [0, -1, float('nan')])
def test_a_threshold_of_nothing(threshold: float) -> None:
  with pytest.raises(ConfigError, match=f'threshold is {threshold}'):
    effective_length(np.ones(3, int), threshold)


def test_positions_that_go_back() -> None:
  segments = np.array([[1, 1, 2, 2]])
  distances(segments, np.array([[4, 5, 0, 1]]))
  for wrong in ([1, 0, 0, 1], [0, 1, 2, 2]):
    with pytest.raises(ConfigError, match='positions do not increase'):
      distances(segments, np.array([wrong]))
