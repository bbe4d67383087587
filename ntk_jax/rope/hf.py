"""Rope fields of a Hugging Face config.json, read strictly and written whole.

Three spellings exist: `rope_scaling` beside `rope_theta` (transformers 4),
`rope_parameters` (5), flat or by layer type, and LongChat's
`rope_condense_ratio`. What a reader might misunderstand is refused: unknown
keys, scaling without a type, spellings that disagree. What transformers gives
a finite meaning is accepted with that meaning.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ntk_jax.errors import ConfigError, unknown
from ntk_jax.rope.spec import RopeSpec

Config = Mapping[str, Any]

ORIGINAL = 'original_max_position_embeddings'
_MAX = 'max_position_embeddings'
_LOCAL = 'rope_local_base_freq'
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
# theta of a config that names none, by transformers' classes.
_DEFAULT_THETA: Mapping[Any, float] = {
  'gemma': 1e4,
  'gemma2': 1e4,
  'gemma3_text': 1e6,
  'llama': 1e4,
  'llama4_text': 5e5,
  'mistral': 1e4,
  'mixtral': 1e6,
  'phi3': 1e4,
  'qwen2': 1e4,
  'qwen3': 1e4,
  'smollm3': 2e6,
}


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
  v5 = _reading(config, 'rope_parameters', layer_type)
  v4 = _reading(config, 'rope_scaling', layer_type)
  if v4 is None and v5 is None:  # a theta alone, or nothing at all
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


def layer_specs(config: Config) -> tuple[RopeSpec | None, ...]:
  """The rope spec of every layer of a whole config.json.

  Reads `layer_types`, `no_rope_layers` (1 turns, 0 is NoPE),
  `no_rope_layer_interval` (every k-th is NoPE), `layer_rope_theta` (0 is
  NoPE), `sliding_window_pattern` (every k-th is global) and
  `rope_local_base_freq`.

  Returns:
    One spec per layer, None where there is no position embedding.

  Raises:
    ConfigError: as `spec_from`, and lists of other lengths than the layers.

  >>> specs = layer_specs({'head_dim': 8, 'num_hidden_layers': 4,
  ...                      'no_rope_layer_interval': 4})
  >>> [spec and spec.method for spec in specs]
  ['default', 'default', 'default', None]
  """
  types = _layer_types(config)
  turns = _per_layer(config, 'no_rope_layers', len(types))
  interval = config.get('no_rope_layer_interval')
  if turns is None:
    turns = [not interval or (i + 1) % interval for i in range(len(types))]
  thetas = _per_layer(config, 'layer_rope_theta', len(types))
  specs = []
  for i, kind in enumerate(types):
    theta = thetas[i] if thetas else None
    spec = spec_from(config, kind) if turns[i] and theta != 0 else None
    if spec is not None and theta is not None:
      spec = dataclasses.replace(spec, theta=theta)
    specs.append(spec)
  return tuple(specs)


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
  theta = config.get(_LOCAL)
  if theta is None or layer_type == 'full_attention':
    return None
  if layer_type is None:
    raise ConfigError(
      f'{_LOCAL} gives sliding layers their own base; name full_attention or '
      'sliding_attention as layer_type'
    )
  return {'rope_type': 'default', _THETA: theta}


def _spec(
  config: Config, params: dict[str, Any] | str, layer_type: str | None
) -> RopeSpec | None:
  """A spec from one flat dict of parameters and the fields around it."""
  if isinstance(params, str):
    return None
  params = _given(params)
  local = layer_type == 'sliding_attention' and _local(config, layer_type)
  outer = dict(config) | ({_THETA: config[_LOCAL]} if local else {})
  if layer_type not in (None, 'full_attention') and not local:
    # Beside parameters by layer type, the top-level base is the global one.
    outer |= {_THETA: None} if _THETA in params else {}
  kind = _condensed(config, params, _rope_type(config, params))
  _check_keys(kind, params)
  original = _agreed(params, outer, ORIGINAL)
  longest = _agreed(params, outer, _MAX)
  theta = _agreed(params, outer, _THETA)
  share = _agreed(params, outer, _PARTIAL)
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
    _head_dim(config),
    theta=_default_theta(config) if theta is None else theta,
    partial_rotary_factor=1.0 if share is None else share,
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
  except TypeError:
    raise ConfigError(
      f'rope type {kind}: {_MAX} is {longest!r} and {ORIGINAL} {original!r}, '
      'must be numbers'
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


def _head_dim(config: Config) -> Any:
  for key in ('head_dim', 'qk_rope_head_dim'):
    if config.get(key) is not None:
      return config[key]
  width, heads = config.get('hidden_size'), config.get('num_attention_heads')
  if not isinstance(width, int) or not isinstance(heads, int) or heads < 1:
    raise ConfigError(
      'config has no head_dim, nor hidden_size and num_attention_heads to '
      'divide'
    )
  return width // heads


def _default_theta(config: Config) -> float:
  model = config.get('model_type')
  if model is not None and model not in _DEFAULT_THETA:
    raise ConfigError(
      f'config of model type {model!r} has no {_THETA}, and its default is not '
      f'known here; add {_THETA}'
    )
  return _DEFAULT_THETA.get(model, 1e4)


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


def _layer_types(config: Config) -> list[str | None]:
  """The type of every layer, None where the config makes no difference."""
  count = config.get('num_hidden_layers')
  types = config.get('layer_types')
  if types:
    if count is not None and count != len(types):
      raise ConfigError(
        f'layer_types has {len(types)} entries for {count} layers'
      )
    return list(types)
  if isinstance(count, bool) or not isinstance(count, int) or count < 1:
    raise ConfigError(f'num_hidden_layers is {count!r}, must be at least 1')
  pattern = config.get('sliding_window_pattern')
  if pattern is None:
    return [None] * count
  if isinstance(pattern, bool) or not isinstance(pattern, int) or pattern < 1:
    raise ConfigError(
      f'sliding_window_pattern is {pattern!r}, must be a whole number above 0 '
      '(every k-th layer is global); give layer_types for other patterns'
    )
  return [
    'sliding_attention' if (i + 1) % pattern else 'full_attention'
    for i in range(count)
  ]


def _per_layer(config: Config, key: str, layers: int) -> list[Any] | None:
  values = config.get(key)
  if not values:
    return None
  if not isinstance(values, list | tuple) or len(values) != layers:
    size = len(values) if isinstance(values, list | tuple) else repr(values)
    raise ConfigError(f'{key} has {size} entries for {layers} layers')
  return list(values)
