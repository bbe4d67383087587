"""How transformers 4 and 5 read rope and windows from a config.json."""

from __future__ import annotations

import dataclasses
from typing import Any

from ntk_jax.interop.servers.parameters import standardised, transformers_spec
from ntk_jax.interop.servers.reading import (
  FULL,
  ORIGINAL,
  SLIDING,
  Decoder,
  Layer,
  Reading,
  Unsupported,
)
from ntk_jax.rope import RopeSpec

_PHI3_KEYS = {'type', 'short_factor', 'long_factor'}
_FORMULAS = ('default', 'linear', 'dynamic', 'yarn', 'llama3', 'longrope')


def transformers5(decoder: Decoder) -> Reading:
  """`rope_parameters`, or `rope_scaling` and `rope_theta` in its place.

  Source: transformers 5.23.0.
  """
  params = standardised(decoder)
  notes = _ignored(decoder)
  if decoder.family == 'phi3':
    inner = (decoder.config.get('rope_parameters') or {}).get(ORIGINAL)
    if inner is not None and params[FULL].get(ORIGINAL) != inner:
      notes.append(
        f'its Phi3Config takes {ORIGINAL} {params[FULL][ORIGINAL]}, the '
        f"class's default, over the {inner} in rope_parameters"
      )
  if decoder.family == 'gemma3_text':
    for of_type in params.values():  # it looks for the key beside the types
      if of_type.pop('truncate', True) is False:
        notes.append("yarn's truncate is ignored in parameters by layer type")
  specs = {
    kind: _whole_head(decoder, transformers_spec(decoder, params[kind]), notes)
    for kind in set(decoder.kinds)
  }
  return _reading(decoder, specs, notes)


def transformers4(decoder: Decoder) -> Reading:
  """`rope_scaling` and `rope_theta` alone.

  Source: transformers 4.57.6.
  """
  config = decoder.config
  scaling = dict(config.get('rope_scaling') or {})
  notes = _ignored(decoder)
  if config.get('rope_parameters') and not scaling:
    theta = config.get('rope_theta')
    notes.append(
      'rope_parameters is not read: '
      + (f'theta {theta:g}' if theta else f'theta is {decoder.theta:g}')
      + ' and no scaling, without a warning'
    )
  if decoder.family == 'phi3' and scaling:
    scaling = _phi3_scaling(scaling)
  params = scaling | {
    'rope_theta': config.get('rope_theta') or decoder.theta,
    'partial_rotary_factor': config.get('partial_rotary_factor'),
  }
  if 'partial_rotary_factor' in scaling:
    notes.append('partial_rotary_factor is read from the top level only')
  specs = {}
  for kind in set(decoder.kinds):
    if kind == SLIDING and decoder.local_theta is not None:
      theta = config.get('rope_local_base_freq') or decoder.local_theta
      specs[kind] = decoder.spec('default', {'rope_theta': theta})
    else:
      specs[kind] = _spec4(decoder, params, bool(scaling), notes)
  for spec in specs.values():
    _check_share(decoder, spec)
  return _reading(decoder, specs, notes)


def _spec4(
  decoder: Decoder, params: dict[str, Any], scaled: bool, notes: list[str]
) -> RopeSpec:
  """One spec from `rope_scaling`, where `type` goes before `rope_type`."""
  kind = params.get('type') or params.get('rope_type')
  if not scaled:
    kind = 'default'
  if kind not in _FORMULAS:
    raise Unsupported(f'rope type {kind!r} has no function (KeyError)')
  params = params | {'rope_type': kind}
  outside = decoder.config.get(ORIGINAL)
  if kind == 'yarn':
    if params.get('factor') is None:
      raise Unsupported('rope type yarn needs factor')
    params[ORIGINAL] = params.get(ORIGINAL) or decoder.length
  if kind == 'llama3' and ORIGINAL not in params:
    raise Unsupported(f'rope type llama3 needs {ORIGINAL} (KeyError)')
  if kind == 'longrope':
    if decoder.family == 'phi3' and outside is None:
      outside = 4096
    if outside is None:
      if params.get('factor') is None and not params.get('attention_factor'):
        raise Unsupported(
          f'longrope without factor and a top-level {ORIGINAL} (TypeError)'
        )
      notes.append(
        f'longrope reads {ORIGINAL} from the top level alone; without it the '
        f'original length is max_position_embeddings, {decoder.length}'
      )
      params[ORIGINAL] = decoder.length
    else:  # the ratio stands in for the factor
      params[ORIGINAL] = outside
      params['factor'] = max(1.0, decoder.length / outside)
  return transformers_spec(decoder, params)


def _phi3_scaling(scaling: dict[str, Any]) -> dict[str, Any]:
  if set(scaling) != _PHI3_KEYS or scaling['type'] not in (
    'longrope',
    'su',
    'yarn',
  ):
    raise Unsupported(
      'its Phi3Config takes a rope_scaling of exactly type, short_factor and '
      'long_factor (ValueError)'
    )
  return scaling | {'type': 'longrope'}


def _ignored(decoder: Decoder) -> list[str]:
  """Keys that mean something and are read by no class of these families."""
  config, notes = decoder.config, []
  if config.get('rope_condense_ratio') not in (None, 1):
    notes.append('rope_condense_ratio is not read')
  spelled = [config.get(key) for key in ('rope_scaling', 'rope_parameters')]
  if any('alpha' in params for params in spelled if params):
    notes.append('alpha of dynamic is not read')
  return notes


def _whole_head(decoder: Decoder, spec: RopeSpec, notes: list[str]) -> RopeSpec:
  """Rope type default is of the class itself: most turn the whole head."""
  if spec.method != 'default' or decoder.family == 'phi3':
    _check_share(decoder, spec)
    return spec
  if spec.rotary_dim != decoder.model.head_dim:
    notes.append(
      f'partial_rotary_factor is not read by {decoder.family}: the whole head '
      'turns'
    )
  return dataclasses.replace(spec, partial_rotary_factor=1.0)


def _check_share(decoder: Decoder, spec: RopeSpec) -> None:
  if spec.rotary_dim != decoder.model.head_dim and decoder.family != 'phi3':
    raise Unsupported(
      f'{decoder.family} turns whole heads, but cos and sin have '
      f'{spec.rotary_dim} of {decoder.model.head_dim} channels (RuntimeError)'
    )


def _reading(
  decoder: Decoder, specs: dict[str, RopeSpec], notes: list[str]
) -> Reading:
  layers = tuple(
    Layer(specs[kind], window)
    for kind, window in zip(decoder.kinds, decoder.windows, strict=True)
  )
  changing = [s for s in specs.values() if s.per_length]
  # Phi 3 alone drops its cache where the factors change.
  changing = [s for s in changing if decoder.family != 'phi3']
  stale = min((s.original_length or 1 for s in changing), default=None)
  if stale is not None:
    notes.append(
      f'a fresh forward pass is right at every length, but generate() keeps '
      f'cached keys under the frequencies of {stale} tokens and less'
    )
  return Reading(layers, stale_after=stale, notes=tuple(dict.fromkeys(notes)))
