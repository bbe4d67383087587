"""What a config.json leaves out: the defaults of transformers' classes.

A file may omit what its model's class has as a default, and classes differ:
the same missing key means head_dim 256 in Gemma and hidden size / heads in
Llama. One row per family; a family without a row must spell things out.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from ntk_jax.errors import ConfigError


class Family(NamedTuple):
  """Rope defaults of a model class.

  Attributes:
    theta: base, of global layers where layers differ.
    head_dim: None is hidden size / heads.
    partial: share of the head that turns.
    local_theta: base of sliding layers, where it is their own.
    pattern: every k-th layer is global.
    nope_interval: every k-th layer has no position embedding.
    global_head_dim: head dim of global layers, where it is their own.
    nope_global: whether global layers have no position embedding.
    own_rope: whether the class scales where the config says nothing of rope.
    known: False for a family without a row.
  """

  theta: float = 1e4
  head_dim: int | None = None
  partial: float = 1.0
  local_theta: float | None = None
  pattern: int | None = None
  nope_interval: int | None = None
  global_head_dim: int | None = None
  nope_global: bool = False
  own_rope: bool = False
  known: bool = True


_PLAIN = (
  'arcee',
  'deepseek_v2',
  'deepseek_v3',
  'falcon',
  'granite',
  'granitemoe',
  'hunyuan_v1_dense',
  'hunyuan_v1_moe',
  'llama',
  'ministral',
  'mistral',
  'olmo',
  'olmo2',
  'olmoe',
  'phi3',
  'qwen2',
  'qwen2_moe',
  'qwen3_moe',
  'starcoder2',
)
_GEMMA3 = Family(theta=1e6, head_dim=256, local_theta=1e4, pattern=6)

FAMILIES: Mapping[str, Family] = MappingProxyType(
  {
    **{name: Family() for name in _PLAIN},
    'cohere': Family(theta=5e5),
    'cohere2': Family(pattern=4, nope_global=True),
    'ernie4_5': Family(theta=5e5, head_dim=128),
    'gemma': Family(head_dim=256),
    'gemma2': Family(head_dim=256),
    'gemma3_text': _GEMMA3,
    'gemma4_text': Family(head_dim=256, global_head_dim=512, own_rope=True),
    'glm': Family(head_dim=128, partial=0.5),
    'glm4': Family(head_dim=128, partial=0.5),
    'gpt_neox': Family(partial=0.25),
    'gpt_oss': Family(theta=1.5e5, head_dim=64, own_rope=True),
    'helium': Family(theta=1e5, head_dim=128),
    'llama4_text': Family(theta=5e5, head_dim=128, nope_interval=4),
    'ministral3': Family(head_dim=128, own_rope=True),
    'mixtral': Family(theta=1e6),
    'nemotron': Family(partial=0.5),
    'olmo3': Family(theta=5e5),
    'persimmon': Family(partial=0.5),
    'phi': Family(partial=0.5),
    'phimoe': Family(theta=1e6),
    'qwen3': Family(head_dim=128),
    'qwen3_next': Family(head_dim=256, partial=0.25),
    'seed_oss': Family(head_dim=128),
    'smollm3': Family(theta=2e6, nope_interval=4),
    'stablelm': Family(partial=0.25),
  }
)


def family_of(config: Mapping[str, Any]) -> Family:
  """The row of a config's model type; plain where it names none.

  Raises:
    ConfigError: a model type that is not a name.

  Source: the configuration classes of transformers 5.23.

  >>> family_of({'model_type': 'gemma2'}).head_dim
  256
  """
  model = config.get('model_type')
  if model is None:
    return Family()
  if not isinstance(model, str):
    raise ConfigError(f'model_type is {model!r}, must be a name')
  return FAMILIES.get(model, Family(known=False))


def head_dim_of(config: Mapping[str, Any], layer_type: str | None) -> Any:
  """Channels of a head in a layer, as the config or its family says.

  Raises:
    ConfigError: what is missing, and what is not known of the family.

  Source: as `family_of`.

  >>> head_dim_of({'hidden_size': 64, 'num_attention_heads': 4}, None)
  16
  """
  family = family_of(config)
  if layer_type == 'full_attention':
    own = config.get('global_head_dim') or family.global_head_dim
    if own is not None:
      return own
  for key in ('head_dim', 'qk_rope_head_dim'):
    if config.get(key) is not None:
      return config[key]
  if family.head_dim is not None:
    return family.head_dim
  if not family.known:
    raise ConfigError(
      f'config of model type {config["model_type"]!r} has no head_dim, and its '
      'default is not known here; add head_dim'
    )
  return _size(config, 'hidden_size') // _size(config, 'num_attention_heads')


def _size(config: Mapping[str, Any], key: str) -> int:
  size = config.get(key)
  if isinstance(size, bool) or not isinstance(size, int) or size < 1:
    raise ConfigError(
      f'config has no head_dim, and {key} is {size!r}, no whole number to '
      'divide hidden_size by num_attention_heads'
    )
  return size
