"""Which family of Hugging Face can express a decoder, and what the others lack.

Every family is asked alike: its row of `FAMILIES` says which options its class
has, the table here what its rope can be. The first without an obstacle is
taken; where all have some, those of the nearest are told.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import NamedTuple

from ntk_jax.errors import ConfigError
from ntk_jax.interop.architectures import SOFT_CAPS
from ntk_jax.interop.families import FAMILIES, Family
from ntk_jax.interop.settled import Settled
from ntk_jax.model.config import ModelConfig
from ntk_jax.rope.hf_export import fields_of
from ntk_jax.rope.spec import RopeSpec


class Limits(NamedTuple):
  """What a family's class asks of rope and shape.

  Attributes:
    types: rope types that it takes, None for all.
    by_type: sliding layers have rope of their own: another base.
    whole_heads: hidden size is a multiple of the number of heads.
    joined_heads: hidden size is number of heads times head dim.
  """

  types: tuple[str, ...] | None = None
  by_type: bool = False
  whole_heads: bool = False
  joined_heads: bool = False


LIMITS = MappingProxyType(
  {name: Limits() for name in FAMILIES}
  | {
    'llama': Limits(whole_heads=True),
    'gemma2': Limits(whole_heads=True),
    'gemma3_text': Limits(by_type=True, whole_heads=True),
    'phi3': Limits(('default', 'longrope'), joined_heads=True),
  }
)
_OPTIONS = {
  'norm_offset': 'norms by 1 + weight',
  'qkv_bias': 'biases on q, k and v',
  'out_bias': "a bias on attention's output",
  'mlp_bias': 'biases in the MLP',
  'qk_norm': 'norms on q and k',
  'post_norms': 'norms on what attention and MLP add',
  'head_norm': "a norm on each head's output",
}


def choose(
  model: ModelConfig, layers: Sequence[Settled], first: str | None = None
) -> Family:
  """The family that a decoder is written as.

  Args:
    model: its shape.
    layers: the scheme of each layer.
    first: the family to ask before the others, where it came from.

  Raises:
    ConfigError: if none has all that the decoder has, naming what the nearest
      lacks.

  >>> layer = Settled(RopeSpec('default', 32), 1.0, 128, None)
  >>> choose(ModelConfig(vocab=9, layers=1), [layer]).name
  'mistral'
  """
  names = sorted(FAMILIES, key=lambda name: name != first)
  found = {name: obstacles(FAMILIES[name], model, layers) for name in names}
  nearest = min(names, key=lambda name: len(found[name]))
  if found[nearest]:
    raise ConfigError(
      'no family of Hugging Face expresses this model; the nearest, '
      f'{nearest}, {"; ".join(found[nearest])}'
    )
  return FAMILIES[nearest]


def obstacles(
  family: Family, model: ModelConfig, layers: Sequence[Settled]
) -> list[str]:
  """What the family lacks for a decoder, each a predicate of its name."""
  return [
    *_of_options(family, model),
    *_of_shape(family, model),
    *_of_windows(family, layers),
    *_of_rope(family, layers),
  ]


def slides(family: Family) -> bool:
  """Whether its class has a sliding window."""
  probe = {
    'num_hidden_layers': 1,
    'use_sliding_window': True,
    'max_window_layers': 0,
    'sliding_window_pattern': 2,
  }
  return any(family.windows(probe))


def caps(family: Family) -> bool:
  """Whether its class has a soft cap and a scale of attention (Gemma)."""
  return 'query_pre_attn_scalar' in family.defaults


def routes(family: Family) -> bool:
  """Whether its MLP is a choice of experts."""
  return 'num_local_experts' in family.defaults


def _of_options(family: Family, model: ModelConfig) -> list[str]:
  wrong = []
  free = {field for fields in family.biases.values() for field in fields}
  for field, what in _OPTIONS.items():
    wanted, fixed = getattr(model, field), family.fixed.get(field, False)
    if field not in free and wanted != fixed:
      wrong.append(f'{"always" if fixed else "never"} has {what} ({field})')
  for key, fields in family.biases.items():
    if len({getattr(model, field) for field in fields}) > 1:
      wrong.append(f'has {" and ".join(fields)} together ({key})')
  wrong += [
    f'has no {field}, which is {getattr(model, field)}'
    for field, key in SOFT_CAPS.items()
    if getattr(model, field) is not None and key not in family.defaults
  ]
  experts = model.experts
  if routes(family) != (experts > 0):
    wrong.append(f'has {"only" if routes(family) else "no"} layers of experts')
  return wrong


def _of_shape(family: Family, model: ModelConfig) -> list[str]:
  limits, wrong = LIMITS[family.name], []
  if limits.whole_heads and model.dim % model.heads:
    wrong.append(
      f'has a width that is a multiple of its heads, not {model.dim} with '
      f'{model.heads}'
    )
  if limits.joined_heads and model.dim != model.heads * model.head_dim:
    wrong.append(
      f'has heads times head_dim as its width, not {model.dim} with '
      f'{model.heads} of {model.head_dim}'
    )
  return wrong


def _of_windows(family: Family, layers: Sequence[Settled]) -> list[str]:
  windows = {layer.window for layer in layers}
  sizes, wrong = {w for w in windows if w is not None}, []
  if len(sizes) > 1:
    wrong.append(f'has one size of window, not {sorted(sizes)}')
  if sizes and not slides(family):
    wrong.append(f'has no sliding window, which is {max(sizes)}')
  elif None in windows and sizes and not family.typed:
    wrong.append('has one window for all layers, here only some have it')
  return wrong


def _of_rope(family: Family, layers: Sequence[Settled]) -> list[str]:
  limits, wrong = LIMITS[family.name], []
  specs = {layer.spec for layer in layers}
  still = [s for s in specs if not s.frequencies()[0].any()]
  if still:
    wrong.append(
      'has rope in every layer, here some have no position embedding (NoPE)'
    )
  if limits.by_type:
    sliding = {layer.spec for layer in layers if layer.window is not None}
    groups = [sliding, {layer.spec for layer in layers if layer.window is None}]
    if not still and not all(map(_is_plain, sliding)):
      wrong.append('scales rope in layers without a window alone')
  else:
    groups = [specs]
  if any(len(group) > 1 for group in groups):
    methods = sorted({spec.method for spec in specs})
    of = 'each type of layer' if limits.by_type else 'all layers'
    wrong.append(f'has one rope for {of}, here are several: {methods}')
  if not family.partial and any(s.rotary_dim != s.head_dim for s in specs):
    shares = sorted({s.partial_rotary_factor for s in specs})
    wrong.append(f'turns whole heads, not {shares} of them')
  return wrong


def _is_plain(spec: RopeSpec) -> bool:
  """Whether it is plain rope of some base."""
  try:
    return fields_of(spec)['rope_scaling'] is None
  except ConfigError:
    return False
