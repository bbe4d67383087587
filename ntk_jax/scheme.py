"""A layer's position scheme: rope, temperature and window as plain arrays.

A method is data, not code. `Scheme` names the choice on the host; its
`arrays` are all that enters a jitted program, the same shapes for every
method, so one executable per shape serves them all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from ntk_jax.errors import ConfigError
from ntk_jax.positions import as_int32
from ntk_jax.rope.phase import phases
from ntk_jax.rope.spec import RopeSpec
from ntk_jax.typing import (
  Array,
  ArrayLike,
  Float32,
  Int,
  Int32,
  NDArray,
  UInt32,
)

NO_WINDOW = 2**31 - 1

# 0-based query positions int32 -> multipliers of q, float32.
Temperature = Callable[[ArrayLike], Array]


class SchemeArrays(NamedTuple):
  """What enters jit: a pytree of arrays, alike for all methods."""

  phases: UInt32[NDArray, '*B P 2']
  attention_factor: Float32[NDArray, '*B']
  q_scale: Float32[Array | NDArray, '*positions']
  window: Int32[NDArray, '']


@dataclasses.dataclass(frozen=True)
class Scheme:
  """Rope spec, attention temperature and window of a layer.

  Attributes:
    spec: frequencies as a function of length.
    temperature: multiplier of q by 0-based query position (a function of
      `ntk_jax.temperature` with its settings bound), or None for 1.
    window: keys that a query sees, itself included; None sees all.

  Source: the unifying form `q_p . k_j * a(p)` with one frequency vector per
  length; see `ntk_jax.rope.METHODS` for the papers.

  >>> scheme = Scheme(RopeSpec('linear', 8, factor=4.0), window=128)
  >>> arrays = scheme.arrays(512, np.arange(512))
  >>> arrays.phases.shape, arrays.q_scale.shape, int(arrays.window)
  ((4, 2), (512,), 128)
  """

  spec: RopeSpec
  temperature: Temperature | None = None
  window: int | None = None

  def __post_init__(self) -> None:
    whole = isinstance(self.window, int) and not isinstance(self.window, bool)
    if self.window is not None and not (whole and 1 <= self.window < 2**31):
      raise ConfigError(
        f'window is {self.window!r}: a query sees itself, so a window is a '
        'whole number, at least 1 and below 2**31, or None for no window'
      )

  @property
  def per_length(self) -> bool:
    """Whether the frequencies change with the length that is seen."""
    return self.spec.per_length

  def arrays(
    self,
    length: int | NDArray | None,
    positions: Int[Array | NDArray, '*positions'],
  ) -> SchemeArrays:
    """The arrays of this scheme at a length, for given query positions.

    Args:
      length: highest position + 1 that a sequence sees, an int or one per
        row; None means at or below the original length.
      positions: 0-based query positions; traced ones do where a temperature
        is a jax function of them.

    Returns:
      Phase words `[*B, P, 2]`, attention factor `[*B]`, q multipliers of the
      shape of `positions`, and the window (2**31 - 1 for none).

    Raises:
      ConfigError: as the spec does for a length; a temperature per head.
    """
    inv_freq, factor = self.spec.frequencies(length)
    positions = as_int32(positions)
    q_scale = np.ones(positions.shape, np.float32)
    if self.temperature is not None:
      q_scale = self.temperature(positions)
      if not isinstance(q_scale, jax.core.Tracer):
        q_scale = np.asarray(q_scale, np.float32)
    if q_scale.shape != positions.shape:
      raise ConfigError(
        f'temperature {self.temperature!r} gives {q_scale.shape} for positions '
        f'{positions.shape}: a scheme takes one multiplier per position, not '
        'one per head'
      )
    return SchemeArrays(
      np.asarray(phases(inv_freq)),
      np.asarray(factor, np.float32),
      q_scale,
      np.asarray(self.window or NO_WINDOW, np.int32),
    )
