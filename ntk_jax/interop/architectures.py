"""What a config.json says of a decoder: its shape and its layers' schemes."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

from ntk_jax.errors import ConfigError
from ntk_jax.interop.families import Config, Family, family_of
from ntk_jax.model.config import ModelConfig
from ntk_jax.rope import layer_specs
from ntk_jax.rope.families import head_dim_of
from ntk_jax.scheme import Scheme

ACTIVATIONS = {
  'silu': 'silu',
  'swish': 'silu',
  'gelu': 'gelu_exact',
  'gelu_pytorch_tanh': 'gelu',
  'gelu_new': 'gelu',
}
_COUNTS = {
  'vocab': 'vocab_size',
  'dim': 'hidden_size',
  'mlp_dim': 'intermediate_size',
  'layers': 'num_hidden_layers',
  'heads': 'num_attention_heads',
}
SLIDING, FULL = 'sliding_attention', 'full_attention'
_LARGEST = 2**24  # of any count
_LONGEST = 2**31 - 1  # of a length: nothing is as large as it
_MOST_LAYERS, _MOST_EXPERTS = 2**14, 2**14


class Architecture(NamedTuple):
  """A config.json in this project's terms.

  Attributes:
    family: its row.
    model: the shape; float32, as nothing of precision is read.
    schemes: rope and window by their number in `model.layer_plan`.
    length: `max_position_embeddings`.
  """

  family: Family
  model: ModelConfig
  schemes: tuple[Scheme, ...]
  length: int


def architecture(config: Mapping[str, Any]) -> Architecture:
  """Reads a whole config.json; what it leaves out is as its class has it.

  Args:
    config: of one of `ntk_jax.interop.families.FAMILIES`, in the spelling of
      transformers 4 or 5, or both.

  Raises:
    ConfigError: another family, values without sense, settings that the
      decoder does not have, quantised weights, or rope as `RopeSpec.from_hf`
      refuses it.

  Source: the configuration and modeling files of transformers 5.23.

  >>> found = architecture({'model_type': 'mistral', 'num_hidden_layers': 2})
  >>> found.model.kv_heads, found.schemes[0].window, found.length
  (8, 4096, 131072)
  """
  family = family_of(config)
  given = _with_defaults(config, family)
  _check_options(given)
  counts: dict[str, Any] = {
    field: _count(given, key) for field, key in _COUNTS.items()
  }
  if counts['layers'] > _MOST_LAYERS:
    raise ConfigError(
      f'num_hidden_layers is {counts["layers"]}, must be 1 to {_MOST_LAYERS}'
    )
  given['num_key_value_heads'] = (
    counts['heads']
    if given['num_key_value_heads'] is None
    else _count(given, 'num_key_value_heads')
  )
  schemes, plan = _schemes(given, family)
  length = _length(given, schemes)
  options: dict[str, Any] = {'scale_embed': False, **family.fixed}
  model = ModelConfig(
    **counts,
    kv_heads=given['num_key_value_heads'],
    head_dim=_head_dim(given),
    rope_theta=schemes[0].spec.theta,
    layer_plan=plan if len(schemes) > 1 else (),
    activation=_activation(given, family),
    norm_eps=_number(given, 'rms_norm_eps'),
    tied=_flag(given, 'tie_word_embeddings'),
    attention_scale=_attention_scale(given, family),
    **options,
    **_soft_caps(given, family),
    **_biases(given, family),
    **_experts(given, family),
  )
  model.validate()
  return Architecture(family, model, schemes, length)


def _with_defaults(config: Config, family: Family) -> dict[str, Any]:
  """The config, its missing keys filled; null stays null where it means so."""
  given = dict(family.defaults) | dict(config)
  kept = ['sliding_window', *SOFT_CAPS.values()]
  if 'query_pre_attn_scalar' not in family.defaults:
    kept.append('num_key_value_heads')  # null: as many as heads
  for key, value in family.defaults.items():
    if given[key] is None and key not in kept:
      given[key] = value
  return given


# Field of `ModelConfig` -> key of the classes that have it.
SOFT_CAPS = {
  'attention_soft_cap': 'attn_logit_softcapping',
  'logit_soft_cap': 'final_logit_softcapping',
}


def _check_options(given: Config) -> None:
  """Raises ConfigError for what would change the maths unseen."""
  if given.get('quantization_config') is not None:
    raise ConfigError(
      'quantization_config is set: quantised weights are not read; convert '
      'the checkpoint to bfloat16, float16 or float32'
    )
  if given.get('use_bidirectional_attention'):
    raise ConfigError(
      'use_bidirectional_attention is set: only causal decoders are read'
    )


def _count(given: Config, key: str, largest: int = _LARGEST) -> int:
  value = given[key]
  if isinstance(value, bool) or not isinstance(value, int):
    raise ConfigError(f'{key} is {value!r}, must be a whole number')
  if not 1 <= value <= largest:
    raise ConfigError(f'{key} is {value}, must be 1 to {largest}')
  return value


def _length(given: Config, schemes: tuple[Scheme, ...]) -> int:
  length = _count(given, 'max_position_embeddings', _LONGEST)
  factor = max(scheme.spec.factor or 1 for scheme in schemes)
  if length * factor >= 2**53:
    raise ConfigError(
      f'the factor of rope is {factor:g}, times max_position_embeddings '
      f'{length} beyond 2**53 tokens'
    )
  return length


def _number(given: Config, key: str) -> float:
  value = given[key]
  real = isinstance(value, int | float) and not isinstance(value, bool)
  # An int may be too large for a float.
  if not (real and 0 < value <= sys.float_info.max):
    raise ConfigError(f'{key} is {value!r}, must be a finite number above 0')
  return float(value)


def _flag(given: Config, key: str) -> bool:
  if not isinstance(given[key], bool):
    raise ConfigError(f'{key} is {given[key]!r}, must be true or false')
  return given[key]


def _head_dim(given: Config) -> int:
  dim, heads = given['hidden_size'], given['num_attention_heads']
  if given.get('head_dim') is None and dim % heads:
    raise ConfigError(
      f'hidden_size {dim} is no multiple of num_attention_heads {heads}, and '
      'there is no head_dim'
    )
  given = {**given, 'head_dim': head_dim_of(given, None)}
  return _count(given, 'head_dim')


def _activation(given: Config, family: Family) -> str:
  name = given[family.activation]
  if not isinstance(name, str) or name not in ACTIVATIONS:
    raise ConfigError(
      f'{family.activation} is {name!r}, must be one of '
      f'{", ".join(ACTIVATIONS)}'
    )
  return ACTIVATIONS[name]


def _attention_scale(given: Config, family: Family) -> float | None:
  """Gemma: `query_pre_attn_scalar ** -0.5`; None is by head_dim."""
  if 'query_pre_attn_scalar' not in family.defaults:
    return None
  return _number(given, 'query_pre_attn_scalar') ** -0.5


def _soft_caps(given: Config, family: Family) -> dict[str, Any]:
  """Of Gemma; other classes do not read these keys."""
  return {
    field: _number(given, key)
    for field, key in SOFT_CAPS.items()
    if key in family.defaults and given[key] is not None
  }


def _biases(given: Config, family: Family) -> dict[str, Any]:
  return {
    field: _flag(given, key)
    for key, fields in family.biases.items()
    for field in fields
  }


def _experts(given: Config, family: Family) -> dict[str, Any]:
  if 'num_local_experts' not in family.defaults:
    return {}
  experts = _count(given, 'num_local_experts')
  chosen = _count(given, 'num_experts_per_tok')
  if experts > _MOST_EXPERTS:
    raise ConfigError(
      f'num_local_experts is {experts}, must be 1 to {_MOST_EXPERTS}'
    )
  return {'experts': experts, 'experts_per_token': chosen}


def _schemes(
  given: dict[str, Any], family: Family
) -> tuple[tuple[Scheme, ...], tuple[int, ...]]:
  """The distinct schemes in order of appearance, and each layer's number."""
  windows = _windows(given, family)
  if family.typed:
    types = given.get('layer_types') or _types(windows)
    given = {**given, 'layer_types': types}
  given = {**given, **_phi3_original(given)}
  found: dict[Scheme, int] = {}
  plan = []
  for spec, window in zip(layer_specs(given), windows, strict=True):
    if spec is None:
      raise ConfigError(
        f'the config has layers without rope, which {family.name} does not '
        'have: no_rope_layers, no_rope_layer_interval and layer_rope_theta '
        'mean nothing to its class, and null is no rope parameters'
      )
    scheme = Scheme(spec, window=window)
    plan.append(found.setdefault(scheme, len(found)))
  return tuple(found), tuple(plan)


def _types(windows: list[int | None]) -> list[str]:
  return [FULL if window is None else SLIDING for window in windows]


def _phi3_original(given: Config) -> dict[str, int]:
  """Phi 3's class has an original length of its own, 4096, if none is told."""
  key = 'original_max_position_embeddings'
  rope = given.get('rope_parameters') or given.get('rope_scaling') or {}
  told = given.get(key) is not None or not isinstance(rope, Mapping)
  if given['model_type'] != 'phi3' or told or key in rope:
    return {}
  return {key: 4096} if 'short_factor' in rope else {}


def _windows(given: Config, family: Family) -> list[int | None]:
  """The window of every layer, None where it sees all."""
  types = given.get('layer_types')
  if family.typed and types:
    slides = _listed(given, types)
  else:
    slides = family.windows(_checked_pattern(given, family))
  window = given['sliding_window']
  if window is None or not any(slides):
    if family.typed and types and any(slides):
      raise ConfigError(
        f'layer_types names {SLIDING} layers, but sliding_window is null; give '
        'the window'
      )
    return [None] * len(slides)
  switch = 'use_sliding_window'
  if switch in family.defaults and not _flag(given, switch):
    raise ConfigError(
      f'layer_types names {SLIDING} layers, but use_sliding_window is false; '
      'make them agree'
    )
  window = _count(given, 'sliding_window')
  return [window if slide else None for slide in slides]


def _listed(given: Config, types: Any) -> list[bool]:
  layers = given['num_hidden_layers']
  if not isinstance(types, list) or len(types) != layers:
    raise ConfigError(
      f'layer_types must be a list of {layers}, one for each layer, and is '
      f'{types!r}'
    )
  for kind in types:
    if kind not in (SLIDING, FULL):
      raise ConfigError(
        f'layer_types has the entry {kind!r}, must be {SLIDING} or {FULL}'
      )
  return [kind == SLIDING for kind in types]


def _checked_pattern(given: Config, family: Family) -> Config:
  for key in {'max_window_layers', 'sliding_window_pattern'} & {
    *family.defaults
  }:
    value = given[key]
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not (whole and value >= 0):
      raise ConfigError(f'{key} is {value!r}, must be a whole number from 0 up')
  if given.get('sliding_window_pattern') == 0:
    raise ConfigError('sliding_window_pattern is 0, must be at least 1')
  if 'use_sliding_window' in family.defaults:
    _flag(given, 'use_sliding_window')
  return given
