"""What a scheme comes to at a length, as data."""

from __future__ import annotations

from typing import Any

import numpy as np

from ntk_jax.config import to_plain
from ntk_jax.rope.methods import METHODS
from ntk_jax.rope.spec import RopeSpec
from ntk_jax.scheme import Scheme
from ntk_jax.temperature import Temperature
from ntk_jax.typing import NDArray


def resolved_scheme(scheme: Scheme, length: int) -> dict[str, Any]:
  """Every number that a scheme comes to at a length.

  Args:
    scheme: rope spec, temperature and window.
    length: highest position + 1 that a sequence sees.

  Returns:
    A JSON-able mapping: the spec with its defaults filled in, the attention
    factor and inverse frequencies at the length, the multiplier of each pair
    against the unscaled frequencies, temperature and window.
  """
  spec = scheme.spec
  frequencies, factor = spec.frequencies(length)
  unscaled, _ = RopeSpec(
    'default', spec.rotary_dim, theta=spec.theta
  ).frequencies()
  method = METHODS[spec.method]
  options = spec.resolved_options
  return {
    'rope': {
      'method': spec.method,
      'head_dim': spec.head_dim,
      'rotary_dim': spec.rotary_dim,
      'theta': spec.theta,
      'original_length': spec.original_length,
      'factor': spec.factor,
      'attention_factor': _digits(factor),
      'options': {
        name: to_plain(value)
        for name, value in options.items()
        if value is not None
      },
      'modifiers': to_plain(spec.modifiers),
      'formula': method.formula,
      'source': method.source,
    },
    'per_length': scheme.per_length,
    'temperature': _temperature(scheme),
    'window': scheme.window,
    'length': length,
    'inverse_frequencies': _digits(frequencies),
    'multipliers': _digits(frequencies / unscaled),
  }


def _temperature(scheme: Scheme) -> dict[str, Any] | None:
  """Kind and settings of the attention temperature, None for none."""
  temperature = scheme.temperature
  if isinstance(temperature, Temperature):
    return {'kind': temperature.kind, **to_plain(dict(temperature.settings))}
  return None if temperature is None else {'kind': repr(temperature)}


def _digits(values: NDArray | float) -> Any:
  """Nine significant digits: more than float32 holds, no noise."""
  return np.vectorize(lambda x: float(f'{x:.9g}'))(values).tolist()
