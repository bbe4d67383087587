"""Bootstrap intervals over rows, and over seeds where there are several."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ntk_jax.typing import Float64, Int32, NDArray

DRAWS = 2000


class Interval(NamedTuple):
  """A mean with its 95% bootstrap interval."""

  mean: float
  low: float
  high: float

  def plain(self) -> dict[str, float]:
    """As a JSON-able mapping, to six digits after the point."""
    return {name: round(x, 6) for name, x in self._asdict().items()}


class Bootstrap:
  """Resamples seeds, then rows, with the same draws for every value.

  Sharing the draws pairs all comparisons: a difference or ratio of two means
  is taken draw by draw. All seeds read the same rows, so one draw of rows
  serves all of its seeds: a hard row stays hard for each. With one seed only
  rows are resampled, so the interval says nothing of training again.

  Source: Efron and Tibshirani 1993, chapter 13 (percentile intervals); Owen
  2007, arXiv:0712.1111 (crossed factors, each resampled on its own).

  >>> boot = Bootstrap(seeds=1, rows=4)
  >>> boot.mean(np.array([[1.0, 1.0, 1.0, 1.0]]))
  Interval(mean=1.0, low=1.0, high=1.0)
  """

  def __init__(self, seeds: int, rows: int) -> None:
    """Draws once; seeds and rows are how many there are of each."""
    rng = np.random.default_rng(0)
    self._of_row = _times_drawn(rng, rows)
    self._of_seed = _times_drawn(rng, seeds)

  def mean(self, values: Float64[NDArray, 'seeds rows']) -> Interval:
    """The mean of values by seed and row."""
    return _interval(values.mean(), self._means(values))

  def ratio(
    self,
    above: Float64[NDArray, 'seeds rows'],
    below: Float64[NDArray, 'seeds rows'],
  ) -> Interval:
    """The ratio of two means, drawn together.

    The mean of `below` must be above 0; draws in which it is 0 do not count.
    """
    over, under = self._means(above), self._means(below)
    draws = over[under > 0] / under[under > 0]
    return _interval(above.mean() / below.mean(), draws)

  def _means(
    self, values: Float64[NDArray, 'seeds rows']
  ) -> Float64[NDArray, ' draws']:
    by_row = self._of_seed @ values
    return (by_row * self._of_row).sum(axis=1) / values.size


def _times_drawn(
  rng: np.random.Generator, count: int
) -> Int32[NDArray, 'draws count']:
  """How often each of `count` things comes up in `count` draws."""
  return rng.multinomial(count, np.full(count, 1 / count), size=DRAWS)


def _interval(mean: float, draws: NDArray) -> Interval:
  low, high = np.percentile(draws, [2.5, 97.5])
  return Interval(float(mean), float(low), float(high))
