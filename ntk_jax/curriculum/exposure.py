"""What distances a model has seen: pairs of a query and a key, by distance."""

from __future__ import annotations

import numpy as np

from ntk_jax.errors import ConfigError
from ntk_jax.typing import Int, NDArray

BUCKETS = 32  # distances of int32 positions: 0, 1, 2-3, 4-7, ..


def distances(
  segments: Int[NDArray, 'B T'], positions: Int[NDArray, 'B T'] | None = None
) -> Int[NDArray, 'buckets']:
  """Pairs that causal attention within documents sees, by distance.

  Bucket 0 counts distance 0, bucket k the distances from 2**(k-1) to
  2**k - 1. A document of n tokens has n - d pairs at distance d < n. O(T) per
  row; with positions O(T log T), once for each bucket.

  Args:
    segments: number of each token's document in its row; 0 is padding.
    positions: where they are not 0, 1, 2, ... in each document; they increase
      within it, and may skip.

  Returns:
    Counts of all buckets: those of batches add up.

  Raises:
    ConfigError: positions that do not increase within a document.

  Source: An et al. 2024, arXiv:2410.18745.

  >>> segments = np.array([[1, 1, 1, 1, 2, 2, 0]])
  >>> print(distances(segments)[:4])
  [6 4 3 0]
  >>> print(distances(segments, np.array([[0, 1, 7, 8, 0, 9, 0]]))[:5])
  [6 2 0 3 2]
  """
  opens = np.diff(segments, axis=1, prepend=0) != 0
  opens[:, 0] = True
  real = segments.ravel() > 0
  begins = np.flatnonzero(opens.ravel())
  ends = 2 ** np.arange(BUCKETS, dtype=np.int64)  # the first ones too far
  if positions is None:
    sizes = np.diff(begins, append=segments.size)[real[begins]]
    seen = np.minimum(ends[:, None], sizes)
    within = (seen * sizes - seen * (seen - 1) // 2).sum(axis=1)
  else:
    within = _pairs_within(ends, opens.ravel(), real, positions.ravel())
  return np.diff(within, prepend=0)


def _pairs_within(
  ends: Int[NDArray, 'buckets'],
  opens: NDArray,
  real: NDArray,
  positions: Int[NDArray, 'n'],
) -> Int[NDArray, 'buckets']:
  """Pairs of the same document that are nearer than each of some ends."""
  # Each document far behind the one before it, all on one line.
  place = np.cumsum(opens) * 2**33 + positions.astype(np.int64)
  if (np.diff(place) <= 0)[real[1:]].any():
    raise ConfigError('positions do not increase within a document')
  place = place[real]
  number = np.arange(1, len(place) + 1)
  return np.array(
    [
      (number - np.searchsorted(place, place - end, 'right')).sum()
      for end in ends
    ]
  )


def effective_length(
  histogram: Int[NDArray, 'buckets'], threshold: float
) -> int:
  """The largest distance that is surely seen often enough.

  The last bucket whose distances have `threshold` pairs or more each, on
  average, says its first distance. Where pairs get fewer with distance, as they
  do at plain positions, this one has as many; the last that has is less than 4
  times as far.

  Args:
    histogram: counts of `distances`, added up.
    threshold: pairs of one distance, above 0.

  Returns:
    A distance in tokens, 0 where none is seen often enough.

  Raises:
    ConfigError: a threshold that is not above 0.

  Source: An et al. 2024, arXiv:2410.18745.

  >>> histogram = distances(np.ones((1, 2048), int))
  >>> [effective_length(histogram, n) for n in (2000, 1000, 100, 9999)]
  [32, 512, 1024, 0]
  """
  if not threshold > 0:
    raise ConfigError(f'threshold is {threshold}: pairs of a distance, above 0')
  firsts = 2 ** np.arange(len(histogram), dtype=np.int64) // 2
  widths = np.maximum(firsts, 1)
  often = np.flatnonzero(histogram >= threshold * widths)
  return int(firsts[often[-1]]) if len(often) else 0
