"""Whether a loss has flattened: its slope per e-fold of tokens, with an error.

On a power law every loss is flat per step, if one waits; per e-fold of tokens
it is not. And a detector that compares values with the best so far, as
learning-rate plateaus are found, fires on noise: the tests show both.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ntk_jax.typing import Bool, Float, Int, NDArray

ONE_SIDED = 1.645  # standard errors of 95 % of a normal distribution
_MOST_CORRELATED = 0.8


class Slope(NamedTuple):
  """A slope in units of the values per e-fold of tokens.

  Attributes:
    value: least-squares slope, float64.
    error: its standard error, infinite where the values do not tell.
  """

  value: Float[NDArray, '*B']
  error: Float[NDArray, '*B']


def slope_per_efold(
  tokens: Float[NDArray, '*#B n'] | Int[NDArray, '*#B n'],
  values: Float[NDArray, '*B n'],
) -> Slope:
  """Least-squares slope of values on ln(tokens), and its standard error.

      slope = sum_i (x_i - x) y_i / sum_i (x_i - x)^2,  x_i = ln(tokens_i)
      error = sqrt(sum_i r_i^2 / (n - 2) / sum_i (x_i - x)^2)
              * sqrt((1 + rho) / (1 - rho))

  with r the residuals and rho their correlation at lag 1, clipped to [0, 0.8]:
  neighbouring losses err alike, so they tell less than as many free ones.

  Args:
    tokens: read before each value, increasing and above 0.
    values: any quantity, oldest first.

  >>> tokens = np.array([1e6, 2e6, 3e6, 4e6])
  >>> slope = slope_per_efold(tokens, 3 - 0.2 * np.log(tokens))
  >>> round(float(slope.value), 6), float(slope.error) < 1e-6
  (-0.2, True)
  >>> slope = slope_per_efold(tokens, np.array([3.0, 2.8, 2.9, 2.6]))
  >>> round(float(slope.value), 4), round(float(slope.error), 4)
  (-0.2277, 0.1201)
  """
  values = np.asarray(values, np.float64)
  n = values.shape[-1]
  if n < 3:  # two points lie on a line, whatever it is worth
    nothing = np.zeros(values.shape[:-1])
    return Slope(nothing, nothing + math.inf)
  x = np.log(np.asarray(tokens, np.float64))
  x = x - x.mean(-1, keepdims=True)
  spread = (x * x).sum(-1)
  known = spread > 0
  spread = np.where(known, spread, 1.0)
  y = values - values.mean(-1, keepdims=True)
  slope = (x * y).sum(-1) / spread
  rest = y - slope[..., None] * x
  squares = (rest * rest).sum(-1)
  lagged = (rest[..., 1:] * rest[..., :-1]).sum(-1)
  rho = lagged / np.where(squares > 0, squares, 1.0)
  rho = np.clip(rho, 0.0, _MOST_CORRELATED)
  error = np.sqrt(squares / (n - 2) / spread * (1 + rho) / (1 - rho))
  return Slope(slope, np.where(known, error, math.inf))


def flattened(
  tokens: Float[NDArray, '*#B n'] | Int[NDArray, '*#B n'],
  values: Float[NDArray, '*B n'],
  threshold: float = 0.05,
  doubt: float = math.inf,
) -> Bool[NDArray, '*B']:
  """Whether values surely fall by less than a threshold per e-fold of tokens.

      -slope + 1.645 error < threshold   and   1.645 error < doubt

  Without the second condition a slope of which nothing is known would be
  called flat in 5 % of all checks.

  Args:
    tokens: read before each value, increasing and above 0.
    values: any quantity that falls, oldest first.
    threshold: fall per e-fold, in units of the values.
    doubt: largest 1.645 standard errors that decide anything.

  >>> tokens = np.linspace(1e6, 2e6, 64)
  >>> noise = 0.01 * np.random.default_rng(0).standard_normal(64)
  >>> for slope in (0.2, 0.02):
  ...   print(bool(flattened(tokens, noise - slope * np.log(tokens))))
  False
  True
  """
  slope = slope_per_efold(tokens, values)
  off = ONE_SIDED * slope.error
  return np.asarray((off - slope.value < threshold) & (off < doubt))
