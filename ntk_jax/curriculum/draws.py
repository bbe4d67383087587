"""Draws for the documents of packed rows: all of a batch at once, row by row.

Numbers come from a generator per row, so that what a row gets depends on
nothing but the seed and the row's number; what is made of them is one array
operation over all documents.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ntk_jax.typing import Float64, Int, NDArray

# Keeps these draws apart from others of the same seed, step and row.
_STREAM = int.from_bytes(b'skip')


class RowDraws:
  """A generator for each row that has documents, drawn from in their order.

  >>> draws = RowDraws((0, 7), first_row=4, row_D=np.array([0, 0, 2]))
  >>> draws.uniform(np.array([1, 2, 1])).round(3).tolist()
  [0.581, 0.895, 0.079, 0.574]
  """

  def __init__(
    self, seed: Sequence[int], first_row: int, row_D: Int[NDArray, 'D']
  ) -> None:
    """Makes the generators.

    Args:
      seed: words; the row's number is added.
      first_row: number of row 0.
      row_D: the row of each document, not falling.
    """
    rows, self._index_D = np.unique(row_D, return_inverse=True)
    self._generators = [
      np.random.default_rng([*seed, first_row + int(row), _STREAM])
      for row in rows
    ]

  def uniform(self, counts_D: Int[NDArray, 'D']) -> Float64[NDArray, 'N']:
    """So many numbers from [0, 1) for each document, one after another."""
    totals = np.bincount(self._index_D, counts_D).astype(np.int64).tolist()
    return np.concatenate(
      [rng.random(count) for rng, count in zip(self._generators, totals)]
    )


def distinct_places(
  u_DC: Float64[NDArray, 'D C'], count_D: Int[NDArray, 'D']
) -> Int[NDArray, 'D C']:
  """C of 1 ... count, in order, every set of them as likely.

  Args:
    u_DC: uniform numbers from [0, 1).
    count_D: at least C.

  Source: Floyd's sampling; Bentley and Floyd 1987, CACM 30(9).

  >>> distinct_places(np.array([[0.5, 0.9], [0.0, 0.2]]), np.array([9, 2]))
  array([[5, 9],
         [1, 2]])
  """
  chosen = np.zeros(u_DC.shape, np.int64)
  size = u_DC.shape[1]
  for c in range(size):
    most = count_D - size + c + 1
    pick = 1 + (u_DC[:, c] * most).astype(np.int64)
    taken = (chosen[:, :c] == pick[:, None]).any(axis=1)
    chosen[:, c] = np.where(taken, most, pick)
  return np.sort(chosen, axis=1)


def drawn_subsets(
  draws: RowDraws, sizes_D: Int[NDArray, 'D'], target: int
) -> Int[NDArray, 'N']:
  """For each document so many of 0 ... target - 1, in order.

  Every set is as likely: what is missing is drawn until nothing is, which
  treats all numbers alike; for a document that takes more than half of them,
  those that it leaves out.

  Args:
    draws: of the documents' rows.
    sizes_D: how many each takes, at most target.
    target: numbers lie below it.

  >>> draws = RowDraws((0, 7), first_row=0, row_D=np.array([0, 1]))
  >>> drawn_subsets(draws, np.array([3, 6]), target=7)
  array([1, 2, 3, 0, 1, 2, 3, 5, 6])
  """
  documents = len(sizes_D)
  dense = 2 * sizes_D > target
  wanted = np.where(dense, target - sizes_D, sizes_D)
  keys, missing = np.zeros(0, np.int64), wanted
  while missing.any():
    drawn = (draws.uniform(missing) * target).astype(np.int64)
    drawn += np.repeat(np.arange(documents) * target, missing)
    keys = np.sort(np.concatenate([keys, drawn]))  # np.unique is far slower
    keys = keys[np.diff(keys, prepend=-1) > 0]
    missing = wanted - np.bincount(keys // target, minlength=documents)
  if dense.any():
    every = np.flatnonzero(dense)[:, None] * target + np.arange(target)
    kept = keys[~dense[keys // target]]
    left = np.setdiff1d(every, keys, assume_unique=True)
    keys = np.sort(np.concatenate([kept, left.reshape(-1)]))
  return keys % target
