"""Rope parameters as transformers 5 standardises them.

vLLM and llama.cpp's converter read a config through transformers, so their
rules start from these too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ntk_jax.interop.servers.reading import (
  FULL,
  ORIGINAL,
  SLIDING,
  YARN_OPTIONS,
  Decoder,
  Unsupported,
)
from ntk_jax.rope import RopeSpec

Parameters = dict[str, Any]
_WITH_ORIGINAL = ('llama3', 'yarn', 'longrope')
_OF_PHI3 = ('default', 'longrope')
_PHI3_ORIGINAL = 4096  # a default of the class, beside the parameters


def standardised(decoder: Decoder) -> dict[str, Parameters]:
  """Parameters by attention type; a flat dict counts for both types.

  Raises:
    Unsupported: what a class of configuration refuses.

  Source: `convert_rope_params_to_dict` and `standardize_rope_params` of
  transformers 5.23, and what Phi 3 and Gemma 3 make of them.
  """
  config = decoder.config
  if decoder.family == 'gemma3_text':
    return _by_type(decoder)
  given = config.get('rope_scaling') or config.get('rope_parameters') or {}
  if any(isinstance(value, Mapping) for value in given.values()):
    raise Unsupported(
      f'the class of {decoder.family} has one rope for all layers, but the '
      'parameters are by layer type'
    )
  params = dict(given)
  _fill(params, 'rope_theta', config.get('rope_theta') or decoder.theta)
  share = config.get('partial_rotary_factor')
  if share is not None:
    _fill(params, 'partial_rotary_factor', share)
  _fill(params, 'rope_type', params.get('type') or 'default')
  if params['rope_type'] in _WITH_ORIGINAL:
    outside = config.get(ORIGINAL)
    if decoder.family == 'phi3' and outside is None:
      outside = _PHI3_ORIGINAL
    if outside is not None:  # what stands outside wins
      params[ORIGINAL] = outside
    _fill(params, ORIGINAL, decoder.length)
  if decoder.family == 'phi3' and params['rope_type'] in ('su', 'yarn'):
    params['rope_type'] = 'longrope'
  if decoder.family == 'phi3' and params['rope_type'] not in _OF_PHI3:
    raise Unsupported(
      'Phi3Config takes rope types default and longrope, not '
      f'{params["rope_type"]} (ValueError)'
    )
  return {FULL: params, SLIDING: params}


def _by_type(decoder: Decoder) -> dict[str, Parameters]:
  """Gemma 3: scaling is of global layers, sliding ones have a base."""
  config = decoder.config
  given = config.get('rope_parameters') or {}
  scaling = config.get('rope_scaling')
  if given and FULL not in given and scaling:
    raise Unsupported(
      'the class of gemma3_text finds no full_attention in rope_parameters to '
      'merge rope_scaling into (KeyError)'
    )
  full = {**(given.get(FULL) or {}), **(scaling or {})}
  local = dict(given.get(SLIDING) or {})
  _fill(full, 'rope_theta', config.get('rope_theta') or decoder.theta)
  _fill(
    local,
    'rope_theta',
    config.get('rope_local_base_freq') or decoder.local_theta,
  )
  for params in (full, local):
    _fill(params, 'rope_type', params.get('type') or 'default')
    if params['rope_type'] in _WITH_ORIGINAL:
      _fill(params, ORIGINAL, decoder.length)
  return {FULL: full, SLIDING: local}


def without_su(decoder: Decoder, params: Parameters) -> Parameters:
  """The parameters with `su` called longrope, as those do who patch it."""
  if params['rope_type'] != 'su':
    return params
  original = decoder.config.get(ORIGINAL) or decoder.length
  return {ORIGINAL: original} | params | {'rope_type': 'longrope'}


def _fill(params: Parameters, key: str, value: Any) -> None:
  if key not in params:
    params[key] = value


def transformers_spec(decoder: Decoder, params: Parameters) -> RopeSpec:
  """The spec that `modeling_rope_utils` computes from parameters.

  Raises:
    Unsupported: a type without a function, or without a key that it needs.

  Source: transformers 5.23; the formulas are the same in 4.57.
  """
  kind, get = params['rope_type'], params.get
  if kind not in _SPECS:
    raise Unsupported(f'rope type {kind!r} has no function (KeyError)')
  for key in _SPECS[kind]:
    if key not in params:
      raise Unsupported(f'rope type {kind} needs {key} (KeyError)')
  if kind == 'default':
    return decoder.spec('default', params)
  if kind in ('linear', 'proportional'):
    return decoder.spec(kind, params, factor=get('factor'))
  original = get(ORIGINAL) or decoder.length
  if kind == 'dynamic':
    return decoder.spec(
      kind, params, factor=params['factor'], original_length=decoder.length
    )
  if kind == 'llama3':
    names = ('low_freq_factor', 'high_freq_factor')
    options = {name: params[name] for name in names}
    return decoder.spec(
      kind,
      params,
      factor=params['factor'],
      original_length=original,
      options=options,
    )
  factor = get('factor')
  if factor is None:
    factor = max(1.0, decoder.length / original)
  names = YARN_OPTIONS if kind == 'yarn' else ('short_factor', 'long_factor')
  options = {name: get(name) for name in names if get(name) is not None}
  for name in ('beta_fast', 'beta_slow'):
    if options.get(name) == 0:  # taken for the default
      del options[name]
  if kind == 'yarn' and 'truncate' in params:
    options['truncate'] = bool(params['truncate'])
  return decoder.spec(
    kind,
    params,
    factor=factor,
    original_length=original,
    attention_factor=get('attention_factor'),
    options=options,
  )


def one_regime(
  decoder: Decoder, spec: RopeSpec, params: Parameters, notes: list[str]
) -> RopeSpec:
  """LongRoPE as servers run it: one set of divisors, chosen at the start.

  The long ones where the length that is served is above the original, and an
  attention factor by `s = max_position_embeddings / L0`.
  """
  original, options = params[ORIGINAL], dict(spec.options)
  chosen = 'long' if decoder.length > original else 'short'
  if spec.per_length:
    notes.append(
      f'one set of longrope divisors for all lengths, the {chosen} ones for '
      f'{decoder.length} tokens served (long above {original})'
    )
  divisors = options[f'{chosen}_factor']
  return dataclasses.replace(
    spec,
    original_length=original,
    factor=max(1.0, decoder.length / original),
    attention_factor=None,
    options={'short_factor': divisors, 'long_factor': divisors},
  )


# Rope type -> keys without which it raises.
_SPECS: dict[str, tuple[str, ...]] = {
  'default': (),
  'linear': ('factor',),
  'dynamic': ('factor',),
  'proportional': (),
  'yarn': ('factor',),
  'llama3': ('factor', 'low_freq_factor', 'high_freq_factor'),
  'longrope': ('short_factor', 'long_factor', ORIGINAL),
}
