"""Rope specs as fields of a Hugging Face config.json, for every reader.

A method with a rope type of its own is written as that type, a static change
of base as another theta, and any other static method by the carrier: the
longrope type with equal short and long divisors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ntk_jax.errors import ConfigError, unknown
from ntk_jax.rope.frequencies import default_frequencies
from ntk_jax.rope.hf import ORIGINAL
from ntk_jax.rope.spec import RopeSpec

FORMS = ('v4', 'v5', 'dual')
_MAX = 'max_position_embeddings'
# Rope parameters, and keys beside them.
_Fields = tuple[dict[str, Any], dict[str, Any]]


def fields_of(
  spec: RopeSpec, form: str = 'dual', *, carrier: bool = False
) -> dict[str, Any]:
  """Keys to merge into a config.json, so that it means this spec.

  Args:
    spec: what to write.
    form: 'v4' (`rope_scaling` and `rope_theta`), 'v5' (`rope_parameters`), or
      'dual', which transformers 4 and 5 both read rightly.
    carrier: write the frequencies themselves, as longrope divisors
      `theta^(-2i/d) / w_i` with an explicit attention factor.

  Returns:
    The keys; numbers are floats, absent ones are left out, never null (but
    `rope_scaling` itself, which null clears).

  Raises:
    ConfigError: an unknown form, or a spec that the form cannot express,
      naming what stands in the way.

  Source: `modeling_rope_utils.py` of transformers 5.23 and 4.57.

  >>> spec = RopeSpec('ntk', 128, factor=8.0)
  >>> fields_of(spec, 'v4')
  {'rope_theta': 82684.62264056217, 'rope_scaling': None}
  """
  if form not in FORMS:
    raise unknown('form', form, FORMS)
  params, beside = _carrier(spec) if carrier else _native(spec, form)
  theta = params.pop('rope_theta', spec.theta)
  share = (
    1.0
    if carrier and spec.method == 'proportional'
    else (spec.partial_rotary_factor)
  )
  partial = {'partial_rotary_factor': share} if share != 1 else {}
  if form != 'v5':
    plain = params['rope_type'] == 'default'
    scaling = None if plain else dict(params)
    beside |= {'rope_theta': theta, 'rope_scaling': scaling, **partial}
  if form != 'v4':
    beside['rope_parameters'] = {**params, 'rope_theta': theta, **partial}
  return beside


def _native(spec: RopeSpec, form: str) -> _Fields:
  """The spec as a rope type of its own."""
  write = _WRITERS.get(spec.method)
  if write is None:
    raise _refusal(spec, f'no rope type computes {spec.method}')
  if spec.modifiers:
    raise _refusal(spec, f'no rope type has the modifiers {spec.modifiers}')
  options = dict(spec.options)
  if options.pop('extrapolation_factor', 1.0) != 1.0:
    raise _refusal(spec, 'no rope type has an extrapolation_factor')
  factor = spec.attention_factor
  if spec.method not in ('yarn', 'longrope') and factor not in (None, 1.0):
    raise _refusal(
      spec, f'rope type of {spec.method} has no attention_factor ({factor})'
    )
  if spec.method == 'proportional' and form == 'v4':
    raise ConfigError(
      'transformers 4 has no rope type proportional; use form v5 or dual'
    )
  return write(spec)


def _refusal(spec: RopeSpec, why: str) -> ConfigError:
  if spec.per_length or spec.method == 'mixed_longrope':
    return ConfigError(
      f'{spec.method} cannot be written to a config.json: {why}, and its '
      'frequencies are no single set that a carrier could hold'
    )
  return ConfigError(
    f'{spec.method} cannot be written to a config.json as it stands: {why}; '
    'write its frequencies with carrier=True'
  )


def _default(spec: RopeSpec) -> _Fields:
  return {'rope_type': 'default'}, {}


def _raised(spec: RopeSpec) -> _Fields:
  """The base whose last frequency is this spec's: all others follow."""
  dim = spec.rotary_dim
  if dim < 4:
    return _default(spec)  # one pair, of frequency 1 whatever the base
  inv_freq, _ = spec.frequencies()
  last = float(inv_freq[-1])
  with np.errstate(all='ignore'):
    theta = float(np.float64(last) ** (-dim / (dim - 2)))
  if not np.isfinite(theta):
    raise ConfigError(
      f'{spec.method} cannot be written: its last frequency {last} needs a '
      'theta beyond float64'
    )
  return {'rope_type': 'default', 'rope_theta': theta}, {}


def _scaled(kind: str, original: bool) -> Callable[[RopeSpec], _Fields]:
  """Types with a factor alone; servers multiply the length by it."""

  def write(spec: RopeSpec) -> _Fields:
    length = spec.original_length
    beside = {_MAX: length} if original and length is not None else {}
    factor = {} if spec.factor is None else {'factor': spec.factor}
    return {'rope_type': kind, **factor}, beside

  return write


def _extended(kind: str) -> Callable[[RopeSpec], _Fields]:
  """Types that carry the original length beside the extended one."""

  def write(spec: RopeSpec) -> _Fields:
    options = {
      k: _floats(v) for k, v in spec.options if k != 'extrapolation_factor'
    }
    named = {
      'factor': spec.factor,
      ORIGINAL: spec.original_length,
      'attention_factor': None if kind == 'llama3' else spec.attention_factor,
    }
    if spec.factor is None:  # longrope, with an explicit attention_factor
      raise ConfigError(
        f'{kind} is written with its extended length, which needs factor; give '
        'target length / original length to the spec'
      )
    params = {k: v for k, v in named.items() if v is not None}
    beside = {_MAX: spec.target_length}
    if kind == 'longrope':
      beside[ORIGINAL] = spec.original_length
      if spec.attention_factor is not None:  # vLLM reads these alone
        params |= dict.fromkeys(
          ('short_mscale', 'long_mscale'), spec.attention_factor
        )
    return {'rope_type': kind, **params, **options}, beside

  return write


def _floats(value: Any) -> Any:
  """Numbers as floats, in lists too: some servers refuse whole ones."""
  if isinstance(value, tuple):
    return [float(v) for v in value]
  return value if isinstance(value, bool) else float(value)


_WRITERS: dict[str, Callable[[RopeSpec], _Fields]] = {
  'default': _default,
  'linear': _scaled('linear', original=True),
  'dynamic': _scaled('dynamic', original=True),
  'proportional': _scaled('proportional', original=False),
  'ntk': _raised,
  'ntk_exponent': _raised,
  'theta_scale': _raised,
  'yarn': _extended('yarn'),
  'llama3': _extended('llama3'),
  'longrope': _extended('longrope'),
}


def _carrier(spec: RopeSpec) -> _Fields:
  """Any static frequencies, as equal short and long divisors of longrope."""
  if spec.per_length or spec.method == 'mixed_longrope':
    raise _refusal(spec, 'it is not one set of frequencies')
  if spec.original_length is None:
    raise ConfigError(
      f'the carrier of {spec.method} needs original_length, which the longrope '
      'type requires; give it to the spec'
    )
  inv_freq, attention = spec.frequencies()
  if not inv_freq.all():
    still = int(np.sum(inv_freq == 0))
    raise ConfigError(
      f'the carrier cannot hold {spec.method}'
      f'{"".join(f" + {m}" for m in spec.modifiers)}: {still} of its pairs '
      'have frequency 0, which no divisor gives'
    )
  divisors = default_frequencies(spec.theta, spec.rotary_dim) / inv_freq
  factor = float(attention)
  params = {
    'rope_type': 'longrope',
    'short_factor': divisors.tolist(),
    'long_factor': divisors.tolist(),
    'factor': spec.factor or 1.0,
    'attention_factor': factor,
    ORIGINAL: spec.original_length,
    'short_mscale': factor,
    'long_mscale': factor,
  }
  return params, {_MAX: spec.target_length, ORIGINAL: spec.original_length}
