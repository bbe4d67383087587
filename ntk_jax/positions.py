"""Positions as int32, or a clear error: never wrapped, never rounded."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from ntk_jax.errors import ConfigError
from ntk_jax.typing import Array, ArrayLike, NDArray


def as_int32(
  positions: ArrayLike | list, name: str = 'positions'
) -> Array | NDArray:
  """Integers as int32, where that changes no value.

  Args:
    positions: integers: a jax array, traced or not, or a numpy array, number
      or nested list, which stay on the host.
    name: what an error calls them.

  Returns:
    A jax array for a jax array, a numpy array otherwise.

  Raises:
    ConfigError: values that are not integers or do not fit in int32, or a
      traced dtype that may not fit.

  >>> as_int32([0, 5]).dtype
  dtype('int32')
  """
  if not isinstance(positions, jax.Array):
    positions = np.asarray(positions)
    if positions.size == 0 and positions.dtype == np.float64:
      positions = positions.astype(np.int32)  # numpy's dtype of an empty list
  dtype = positions.dtype
  if not jnp.issubdtype(dtype, jnp.integer):
    raise ConfigError(f'{name} are {dtype}, must be integers (int32)')
  if np.can_cast(dtype, np.int32):
    return positions.astype(np.int32)
  if isinstance(positions, jax.core.Tracer):
    raise ConfigError(
      f'{name} are traced as {dtype}, must fit in int32: pass '
      f'{name}.astype(jnp.int32) if they do'
    )
  p = np.asarray(positions)
  if p.size and not -(2**31) <= int(p.min()) <= int(p.max()) < 2**31:
    raise ConfigError(
      f'{name} are from {p.min()} to {p.max()}, must fit in int32'
    )
  return positions.astype(np.int32)
