"""Bootstrap intervals over rows, and over seeds where there are several."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ntk_jax.typing import Float64, NDArray

_DRAWS = 2000


class Interval(NamedTuple):
  """A mean with its 95% bootstrap interval."""

  mean: float
  low: float
  high: float

  def plain(self) -> dict[str, float]:
    """As a JSON-able mapping, to six digits after the point."""
    return {name: round(x, 6) for name, x in self._asdict().items()}


class Bootstrap:
  """Resamples seeds, then rows within each, the same draws for every value.

  Sharing the draws pairs all comparisons: a difference or ratio of two means
  is taken draw by draw. With one seed only rows are resampled, so the
  interval says nothing of training again.

  Source: Efron and Tibshirani 1993, chapter 13 (percentile intervals); two
  stages as in Davison and Hinkley 1997, section 3.8.

  >>> boot = Bootstrap(seeds=1, rows=4)
  >>> boot.mean(np.array([[1.0, 1.0, 1.0, 1.0]]))
  Interval(mean=1.0, low=1.0, high=1.0)
  """

  def __init__(self, seeds: int, rows: int) -> None:
    rng = np.random.default_rng(0)
    self._seed = rng.integers(seeds, size=(_DRAWS, seeds, 1))
    if seeds == 1:
      self._seed[:] = 0
    self._row = rng.integers(rows, size=(_DRAWS, seeds, rows))

  def mean(self, values: Float64[NDArray, 'seeds rows']) -> Interval:
    """The mean of values by seed and row."""
    return self._interval(values.mean(), self._means(values))

  def ratio(
    self,
    above: Float64[NDArray, 'seeds rows'],
    below: Float64[NDArray, 'seeds rows'],
  ) -> Interval:
    """The ratio of two means, drawn together."""
    floor = np.finfo(np.float64).tiny  # a draw without a single hit below
    draws = self._means(above) / np.maximum(self._means(below), floor)
    return self._interval(above.mean() / max(below.mean(), floor), draws)

  def _means(self, values: NDArray) -> NDArray:
    return np.asarray(values, np.float64)[self._seed, self._row].mean((1, 2))

  def _interval(self, mean: float, draws: NDArray) -> Interval:
    low, high = np.percentile(draws, [2.5, 97.5])
    return Interval(float(mean), float(low), float(high))
