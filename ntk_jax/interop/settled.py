"""A layer's scheme as a file can hold it: one rope spec and plain numbers.

A file of settings has no temperature that grows with position and few
frequencies that change with length. At a length to freeze at, both are one
set of numbers.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ntk_jax.errors import ConfigError
from ntk_jax.rope.frequencies import default_frequencies
from ntk_jax.rope.spec import RopeSpec
from ntk_jax.scheme import Scheme
from ntk_jax.scheme import Temperature as AnyTemperature
from ntk_jax.temperature import Temperature
from ntk_jax.typing import NDArray

# Per-length methods that servers have.
_NATIVE = ('dynamic', 'longrope')


class Settled(NamedTuple):
  """A scheme without functions of position or length.

  Attributes:
    spec: static, or of a per-length method with a rope type of its own.
    temperature: what q . k is multiplied by beside the divisor.
    window: keys that a query sees, or None.
    length: the longest sequence that it is meant for, None where unknown.
  """

  spec: RopeSpec
  temperature: float
  window: int | None
  length: int | None


def settled(scheme: Scheme, freeze_length: int | None = None) -> Settled:
  """The scheme, frozen where no file can express how it changes.

  Args:
    scheme: of a layer.
    freeze_length: tokens; frequencies that depend on length become those at
      this length, whatever method, and a temperature that depends on position
      becomes that of the last position, `freeze_length - 1`.

  Raises:
    ConfigError: what cannot be expressed without a length to freeze at, or
      with one.

  >>> spec = RopeSpec('dynamic', 4, factor=1.0, original_length=4096)
  >>> frozen = settled(Scheme(spec), 8192)
  >>> frozen.spec.method, frozen.spec.theta, frozen.length
  ('default', 40000.0, 8192)
  """
  whole = isinstance(freeze_length, int) and not isinstance(freeze_length, bool)
  if freeze_length is not None and not (whole and 1 <= freeze_length < 2**31):
    raise ConfigError(
      f'freeze_length is {freeze_length!r}, must be a whole number of tokens'
    )
  spec = scheme.spec
  if spec.method == 'mixed_longrope':
    raise ConfigError(
      'mixed_longrope cannot be exported: its first positions turn at other '
      'frequencies than the rest, which no file of settings expresses; use '
      'longrope'
    )
  length = None if spec.original_length is None else spec.target_length
  if spec.per_length and freeze_length is not None:
    spec, length = frozen_spec(spec, freeze_length), freeze_length
  elif spec.per_length and spec.method not in _NATIVE:
    raise ConfigError(
      f'{spec.method} cannot be exported: its frequencies depend on the length '
      'that is seen, and no rope type computes them; give freeze_length to '
      'export those of one length'
    )
  temperature = _constant(scheme.temperature, freeze_length)
  return Settled(spec, temperature, scheme.window, length)


def frozen_spec(spec: RopeSpec, length: int) -> RopeSpec:
  """The static spec that has the frequencies of a per-length one at a length.

  Args:
    spec: with an original length.
    length: tokens.

  Returns:
    Plain RoPE of another base where that is what they are, else divisors.

  Raises:
    ConfigError: frequencies of 0, which no divisor gives.
  """
  inv_freq, attention = spec.frequencies(length)
  shape = {
    'head_dim': spec.head_dim,
    'partial_rotary_factor': spec.partial_rotary_factor,
  }
  theta = _base(inv_freq, spec.rotary_dim)
  if theta is not None and attention == 1:
    return RopeSpec('default', **shape, theta=theta)
  if not inv_freq.all():
    raise ConfigError(
      f'{spec.method} at {length} tokens cannot be exported: some of its pairs '
      'have frequency 0, which no divisor gives'
    )
  divisors = default_frequencies(spec.theta, spec.rotary_dim) / inv_freq
  original = spec.original_length or length
  return RopeSpec(
    'longrope',
    **shape,
    theta=spec.theta,
    original_length=original,
    factor=max(1.0, length / original),
    attention_factor=float(attention),
    options={'short_factor': divisors, 'long_factor': divisors},
  )


def _base(inv_freq: NDArray, dim: int) -> float | None:
  """The base that gives these frequencies, None if there is none."""
  if dim < 4 or not inv_freq.all():
    return None
  theta = float(inv_freq[-1] ** (-dim / (dim - 2)))
  plain = default_frequencies(theta, dim)
  same = np.allclose(plain, inv_freq, rtol=1e-13, atol=0)
  return theta if same else None


def _constant(
  temperature: AnyTemperature | None, freeze_length: int | None
) -> float:
  """The multiplier of q as one number."""
  if temperature is None:
    return 1.0
  known = isinstance(temperature, Temperature)
  fixed = known and temperature.kind == 'constant'
  if not fixed and freeze_length is None:
    raise ConfigError(
      f'{temperature!r} cannot be exported: it depends on the position, for '
      'which no file of settings has a field; give freeze_length to export its '
      'value at that length'
    )
  last = np.array([(freeze_length or 1) - 1], np.int32)
  if known and fixed:  # not by way of float32
    value = np.asarray(dict(temperature.settings)['scale'], np.float64)
  else:
    value = np.asarray(temperature(last), np.float64)
  if value.size != 1 or not np.isfinite(value).all():
    raise ConfigError(
      f'{temperature!r} cannot be exported: it is {value.ravel().tolist()}, '
      'must be one finite number for all heads'
    )
  return float(value.item())
