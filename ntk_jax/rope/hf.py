"""Rope fields of a Hugging Face config.json, read strictly and written whole.

Three spellings exist: `rope_scaling` beside `rope_theta` (transformers 4),
`rope_parameters` (5), flat or by layer type, and LongChat's
`rope_condense_ratio`. What a reader might misunderstand is refused: unknown
keys, scaling without a type, spellings that disagree. What transformers gives
a finite meaning is accepted with that meaning.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ntk_jax.errors import ConfigError, unknown
from ntk_jax.rope.families import family_of, head_dim_of
from ntk_jax.rope.spec import RopeSpec

Config = Mapping[str, Any]

ORIGINAL = 'original_max_position_embeddings'
_MAX = 'max_position_embeddings'
LOCAL_THETA = 'rope_local_base_freq'
_THETA = 'rope_theta'
_PARTIAL = 'partial_rotary_factor'


class _Type(NamedTuple):
  """Keys of a rope type: those that must be there, those that may."""

  required: tuple[str, ...] = ()
  optional: tuple[str, ...] = ()


_TYPES = {
  'default': _Type(),
  'linear': _Type(('factor',)),
  'dynamic': _Type(
    ('factor',),
    # Hunyuan's static alpha, and what stands inert beside it.
    (ORIGINAL, 'alpha', 'beta_fast', 'beta_slow', 'mscale', 'mscale_all_dim'),
  ),
  'yarn': _Type(
    (ORIGINAL,),
    (
      'factor',
      'attention_factor',
      'beta_fast',
      'beta_slow',
      'mscale',
      'mscale_all_dim',
      'truncate',
    ),
  ),
  'longrope': _Type(
    (ORIGINAL, 'short_factor', 'long_factor'),
    ('factor', 'attention_factor', 'short_mscale', 'long_mscale'),
  ),
  'llama3': _Type(('factor', ORIGINAL, 'low_freq_factor', 'high_freq_factor')),
  'proportional': _Type((), ('factor',)),
}
# Keys of any type. The last three say nothing of frequencies: a temperature
# (`temperature.ministral`), a length repeated, a note of training.
_ANYWHERE = (
  'rope_type',
  'type',
  _THETA,
  _PARTIAL,
  'llama_4_scaling_beta',
  _MAX,
  'finetuned',
)
_OPTIONS = (
  'beta_fast',
  'beta_slow',
  'mscale',
  'mscale_all_dim',
  'truncate',
  'short_factor',
  'long_factor',
  'low_freq_factor',
  'high_freq_factor',
)
_BETAS = ('beta_fast', 'beta_slow')
_SLIDING = 'sliding_attention'
# Top-level keys that begin like rope's and are read, or say nothing of angles.
_TOP = (
  'rope_scaling',
  'rope_parameters',
  _THETA,
  LOCAL_THETA,
  'rope_condense_ratio',
  'rope_interleave',
)


def spec_from(config: Config, layer_type: str | None = None) -> RopeSpec | None:
  """The rope spec that a config.json means.

  Args:
    config: a whole config.json, or the least: `head_dim`,
      `max_position_embeddings` and `rope_parameters`.
    layer_type: which entry of parameters given by layer type.

  Returns:
    The spec, or None for a layer without position embedding (NoPE).

  Raises:
    ConfigError: unknown, missing or conflicting keys, scaling without a type,
      values out of range, or parameters by layer type without `layer_type`.

  Source: `modeling_rope_utils.py` of transformers 5.23.

  >>> spec_from({'head_dim': 8, 'rope_theta': 5e5,
  ...            'rope_scaling': {'type': 'linear', 'factor': 4.0}}).theta
  500000.0
  """
  config = text_config(config)
  if layer_type is not None and not isinstance(layer_type, str):
    raise ConfigError(f'layer_type is {layer_type!r}, must be a name')
  family = family_of(config)
  if family.nope_global and layer_type == 'full_attention':
    return None
  v5 = _reading(config, 'rope_parameters', layer_type)
  v4 = _reading(config, 'rope_scaling', layer_type)
  if v4 is None and v5 is None:  # a theta alone, or nothing at all
    if family.own_rope:
      raise ConfigError(
        f'config of model type {config["model_type"]!r} has no '
        'rope_parameters, for which its class scales in its own way; spell '
        'them out'
      )
    v5 = _local(config, layer_type) or {}
  specs = [
    _spec(config, params, layer_type)
    for params in (v5, v4)
    if params is not None
  ]
  if len(specs) == 2 and not _same(*specs):
    raise ConfigError(
      f'rope_scaling {v4} and rope_parameters {v5} mean different frequencies; '
      'keep the right one'
    )
  return specs[0]


def text_config(config: Config) -> Config:
  """The part of a config that is about the decoder, its keys checked.

  Args:
    config: a config.json; of a multimodal one, `text_config` is taken.

  Returns:
    A mapping whose rope keys are all known.

  Raises:
    ConfigError: anything but a mapping, and unknown keys of rope.

  >>> text_config({'model_type': 'llama4', 'text_config': {'head_dim': 8}})
  {'head_dim': 8}
  """
  if not isinstance(config, Mapping):
    raise ConfigError(
      f'config is a {type(config).__name__}, must be the mapping that a '
      'config.json holds'
    )
  inner = config.get('text_config')
  if isinstance(inner, Mapping) and config.get('hidden_size') is None:
    return text_config(inner)
  for key, value in config.items():
    like_rope = str(key).startswith(('rope_', 'rotary_'))
    if like_rope and key not in _TOP and value is not None:
      raise unknown('rope key of a config', key, _TOP)
  return config


def _reading(
  config: Config, spelling: str, layer_type: str | None
) -> dict[str, Any] | str | None:
  """Parameters of one spelling: a dict, 'nope', or None if it is not used."""
  params = config.get(spelling)
  if params is None or params == {}:
    return None
  if not isinstance(params, Mapping):
    raise ConfigError(f'{spelling} is {params!r}, must be a mapping or null')
  nested = any(isinstance(value, Mapping) for value in params.values())
  if not nested and not all(
    v is None and k not in _KNOWN for k, v in params.items()
  ):
    old = spelling == 'rope_scaling'
    return (_local(config, layer_type) if old else None) or dict(params)
  if layer_type is None:
    raise ConfigError(
      f'{spelling} is by layer type; name one of {", ".join(params)} as '
      'layer_type'
    )
  if layer_type not in params:
    raise unknown('layer type', layer_type, params)
  entry = params[layer_type]
  if entry is not None and not isinstance(entry, Mapping):
    raise ConfigError(f'{spelling}.{layer_type} is {entry!r}, not a mapping')
  return 'nope' if entry is None else dict(entry)


_KNOWN = {
  *_ANYWHERE,
  *(key for kind in _TYPES.values() for keys in kind for key in keys),
}


def _local(config: Config, layer_type: str | None) -> dict[str, Any] | None:
  """Gemma 3, old spelling: sliding layers have a base of their own."""
  theta = config.get(LOCAL_THETA)
  if theta is None:
    theta = family_of(config).local_theta
  if theta is None or layer_type == 'full_attention':
    return None
  if layer_type != _SLIDING:
    raise ConfigError(
      'sliding layers of this config have their own base; name '
      'full_attention or sliding_attention as layer_type, which is '
      f'{layer_type!r}'
    )
  return {'rope_type': 'default', _THETA: theta}


def _spec(
  config: Config, params: dict[str, Any] | str, layer_type: str | None
) -> RopeSpec | None:
  """A spec from one flat dict of parameters and the fields around it."""
  if isinstance(params, str):
    return None
  params = _given(params)
  family, outer = family_of(config), dict(config)
  default_theta = family.theta
  if layer_type not in (None, 'full_attention'):
    # Beside what is by layer type, the top-level base is the global one.
    local = config.get(LOCAL_THETA) if layer_type == _SLIDING else None
    if local is not None or _THETA in params or family.local_theta:
      outer[_THETA] = local
    default_theta = family.local_theta or family.theta
  kind = _condensed(config, params, _rope_type(config, params))
  _check_keys(kind, params)
  original = _agreed(params, outer, ORIGINAL)
  longest = _agreed(params, outer, _MAX)
  theta = _agreed(params, outer, _THETA)
  if theta is None:
    theta = _known(config, default_theta, _THETA)
  share = _share(config, params, outer, kind)
  factor = params.get('factor')
  method = kind
  if kind == 'dynamic':
    method, factor, original = _dynamic(params, original, longest)
  elif factor is None and kind in ('yarn', 'longrope'):
    factor = _ratio(kind, longest, original)
  options = {k: params[k] for k in _OPTIONS if k in params}
  if kind == 'yarn':  # transformers takes a beta of 0 for its default
    options = {k: v for k, v in options.items() if k not in _BETAS or v != 0}
  if kind == 'dynamic':
    options = {}
  return RopeSpec(
    method,
    head_dim_of(config, layer_type),
    theta=theta,
    partial_rotary_factor=share,
    original_length=original,
    factor=factor,
    attention_factor=_attention_factor(config, params),
    options=options,
  )


def _given(params: dict[str, Any]) -> dict[str, Any]:
  """What is not null; transformers takes `truncate: null` for false."""
  given = {k: v for k, v in params.items() if v is not None}
  if 'truncate' in params:
    given['truncate'] = params['truncate'] or False
  return given


def _rope_type(config: Config, params: dict[str, Any]) -> str:
  named = [params[k] for k in ('rope_type', 'type') if k in params]
  if len(named) > 1 and named[0] == named[1]:
    named.pop()
  if len(named) > 1:
    raise ConfigError(
      f'rope_type {params["rope_type"]!r} and type {params["type"]!r} '
      'disagree; keep rope_type'
    )
  if not named:
    extra = set(params) - {_THETA, _PARTIAL}
    if extra:
      raise ConfigError(
        f'rope scaling {params} has no rope_type, so {sorted(extra)[0]!r} has '
        f'no meaning; add rope_type, one of {", ".join(_TYPES)}'
      )
    return 'default'
  kind = named.pop()
  if kind == 'su' or (kind == 'yarn' and config.get('model_type') == 'phi3'):
    return 'longrope'
  if not isinstance(kind, str) or kind not in _TYPES:
    raise unknown('rope_type', kind, _TYPES)
  return kind


def _condensed(config: Config, params: dict[str, Any], kind: str) -> str:
  """LongChat: positions divided by a ratio, that is linear."""
  ratio = config.get('rope_condense_ratio')
  if ratio is None or ratio == 1:
    return kind
  if kind == 'default':
    params['factor'] = ratio
  elif kind != 'linear' or params.get('factor') != ratio:
    raise ConfigError(
      f'rope_condense_ratio is {ratio}, but rope scaling is {kind} with factor '
      f'{params.get("factor")}; keep the right one'
    )
  return 'linear'


def _check_keys(kind: str, params: dict[str, Any]) -> None:
  required, optional = _TYPES[kind]
  for key in params:
    if key not in (*_ANYWHERE, *required, *optional):
      raise unknown(f'key of rope type {kind}', key, (*required, *optional))
  for key in required:
    if key not in params and key != ORIGINAL:  # that one may stand outside
      raise ConfigError(f'rope type {kind} needs {key}, which is missing')


def _agreed(params: dict[str, Any], config: Config, key: str) -> Any:
  """A value that may stand inside or outside, alike if in both."""
  inside, outside = params.get(key), config.get(key)
  if inside is not None and outside is not None and inside != outside:
    raise ConfigError(
      f'{key} is {inside} in the rope parameters but {outside} beside them; '
      'keep the right one'
    )
  return outside if inside is None else inside


def _dynamic(
  params: dict[str, Any], original: Any, longest: Any
) -> tuple[str, Any, Any]:
  """Dynamic NTK is relative to max_position_embeddings; alpha is static."""
  if longest is None:
    raise ConfigError(f'rope type dynamic needs {_MAX}, its original length')
  if original is not None and original != longest:
    raise ConfigError(
      f'rope type dynamic: {ORIGINAL} is {original} but {_MAX} is {longest}, '
      'which transformers takes as the original length; make them equal'
    )
  if 'alpha' in params:
    return 'ntk', params['alpha'], longest
  inert = set(params) & {'beta_fast', 'beta_slow', 'mscale', 'mscale_all_dim'}
  if inert:
    raise unknown('key of rope type dynamic', min(inert), ('factor',))
  return 'dynamic', params['factor'], longest


def _ratio(kind: str, longest: Any, original: Any) -> float | None:
  if longest is None or not original:
    return None
  try:
    return longest / original
  except (TypeError, ArithmeticError):
    raise ConfigError(
      f'rope type {kind}: {_MAX} is {longest!r} and {ORIGINAL} {original!r}, '
      'must be numbers of tokens'
    ) from None


def _attention_factor(config: Config, params: dict[str, Any]) -> float | None:
  """The explicit factor; vLLM's and PhiMoE's mscales must say the same."""
  factor = params.get('attention_factor')
  mscales = [params[k] for k in ('short_mscale', 'long_mscale') if k in params]
  if factor is None and mscales and config.get('model_type') == 'phimoe':
    factor = mscales[0]
  if any(mscale != factor for mscale in mscales):
    raise ConfigError(
      f'short_mscale and long_mscale are {mscales}, but attention_factor is '
      f'{factor}; transformers reads attention_factor: make them equal'
    )
  return factor


def _known(config: Config, default: float, key: str) -> float:
  """The default of a family that has a row."""
  if not family_of(config).known:
    raise ConfigError(
      f'config of model type {config["model_type"]!r} has no {key}, and its '
      f'default is not known here; add {key}'
    )
  return default


def _share(
  config: Config, params: dict[str, Any], outer: Config, kind: str
) -> Any:
  """The share of the head that turns."""
  share = _agreed(params, outer, _PARTIAL)
  if share is None:
    share = 1.0 if kind == 'proportional' else family_of(config).partial
  head, rope = config.get('head_dim'), config.get('qk_rope_head_dim')
  if None not in (head, rope):
    try:
      agree = int(head * share) == rope
    except (TypeError, ValueError, OverflowError):
      agree = False
    if not agree:
      raise ConfigError(
        f'head_dim is {head!r} and qk_rope_head_dim {rope!r}, but '
        f'{_PARTIAL} is {share!r}; give the share that turns'
      )
  return share


def _same(a: RopeSpec | None, b: RopeSpec | None) -> bool:
  """Whether two specs give the same frequencies and factors everywhere."""
  if a is None or b is None:
    return a is b
  lengths = {spec.original_length or 1 for spec in (a, b)}
  probes = sorted({n * k for n in lengths for k in (1, 2, 64)})
  wa, fa = a.frequencies(np.array(probes))
  wb, fb = b.frequencies(np.array(probes))
  return wa.shape == wb.shape and bool(
    np.allclose(wa, wb, rtol=1e-12, atol=0) and np.allclose(fa, fb, rtol=1e-12)
  )
