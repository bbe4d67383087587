"""A temperature suggested by what attention does at each length.

The last queries of rows are tried under several multipliers, all else as it
is. Where the multiplier c(n) gives at n keys what 1 gives at n_ref keys, it
keeps that flat; `1 + b ln(n / n_ref)` is fitted to those.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ntk_jax.errors import ConfigError
from ntk_jax.typing import Float, NDArray

# Multipliers that are tried; 1 is among them.
TRIED = tuple(float(f'{2 ** (i / 4):.6g}') for i in range(-4, 9))


class Suggestion(NamedTuple):
  """A temperature `1 + slope * ln max(n / reference, 1)` of queries.

  It is `Temperature('inkling', floor=reference, alpha=slope)`.

  Attributes:
    keeps: what it keeps at the reference's value: 'entropy' or 'variance'.
    slope: b, fitted to all layers' mean.
    multipliers: c(n) by length, nan where none that was tried does it.
    by_layer: b fitted to each layer.
    off: largest distance of c(n) from the fit, relative to c(n).
  """

  keeps: str
  slope: float
  multipliers: tuple[float, ...]
  by_layer: tuple[float, ...]
  off: float


def crossing(
  tried: Sequence[float], values: Float[NDArray, ' M'], wanted: float
) -> float:
  """The multiplier at which a monotone curve takes a value.

  Linear in c^2 between those that were tried, as entropy and the logarithm of
  the sum of squares are for Gaussian logits; nan beyond them.

  >>> crossing([1.0, 7.0], np.array([0.9, 0.7]), 0.8)
  5.0
  """
  values = np.asarray(values, np.float64)
  order = np.argsort(values)
  if not values[order[0]] <= wanted <= values[order[-1]]:
    return float('nan')
  at = np.interp(wanted, values[order], np.square(tried)[order])
  return round(float(np.sqrt(at)), 6)


def fitted_slope(
  lengths: Sequence[int], multipliers: Sequence[float], reference: int
) -> float:
  """The b of `c = 1 + b ln(n / n_ref)` by least squares, n above n_ref.

  Lengths without a multiplier (nan) are left out; without any it is nan.

  >>> round(fitted_slope([128, 256, 512], [1.0, 1.2, 1.4], 128), 4)
  0.2885
  """
  x = np.log(np.array(lengths) / reference)
  c = np.array(multipliers, np.float64)
  fits = (x > 0) & np.isfinite(c)
  if not fits.any():
    return float('nan')
  return float(x[fits] @ (c[fits] - 1) / (x[fits] @ x[fits]))


def suggestion(
  keeps: str,
  lengths: Sequence[int],
  reference: int,
  curves: Float[NDArray, 'lengths L M'],
  tried: Sequence[float] = TRIED,
) -> Suggestion:
  """The temperature that keeps a measured quantity as at the reference.

  Args:
    keeps: its name: 'entropy' for `H / ln n`, 'variance' for the logarithm of
      `sum_j p_j^2`.
    lengths: where it was measured.
    reference: one of them.
    curves: the quantity by length, layer and multiplier.
    tried: the multipliers M.

  Raises:
    ConfigError: a reference that was not measured.

  >>> tried = (0.5, 1.0, 2.0, 4.0)
  >>> spread = np.square(tried)[None, None] - np.arange(3.0)[:, None, None]
  >>> found = suggestion('variance', [128, 256, 512], 128, spread, tried)
  >>> found.multipliers, round(found.slope, 3)
  ((1.0, 1.414214, 1.732051), 0.542)
  """
  lengths = list(lengths)
  if reference not in lengths or 1.0 not in tried:
    raise ConfigError(
      f'reference is {reference}: it is one of the lengths, '
      f'{", ".join(map(str, lengths))}, and 1 one of the multipliers'
    )
  at, one = lengths.index(reference), list(tried).index(1.0)

  def flat(of_layer: Any) -> list[float]:
    wanted = float(of_layer[at, one])
    return [crossing(tried, row, wanted) for row in of_layer]

  whole = flat(curves.mean(axis=1))
  slope = fitted_slope(lengths, whole, reference)
  c = np.array(whole)
  fit = 1 + slope * np.log(np.maximum(np.array(lengths) / reference, 1))
  beyond = np.isfinite(c) & (np.array(lengths) > reference)
  off = np.abs(fit / c - 1)[beyond]
  return Suggestion(
    keeps,
    slope,
    tuple(whole),
    tuple(
      fitted_slope(lengths, flat(curves[:, layer]), reference)
      for layer in range(curves.shape[1])
    ),
    float(off.max()) if off.size else float('nan'),
  )
