"""What llama.cpp calls tensors and settings, and how it stores them.

Its llama graphs rotate neighbouring channels, the files of Hugging Face rotate
halves: rows of q and k are permuted for them. Its Qwen graphs rotate halves.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from types import MappingProxyType
from typing import Any, NamedTuple

from ntk_jax.errors import ConfigError
from ntk_jax.interop.fields import Written
from ntk_jax.interop.settled import Settled
from ntk_jax.interop.tensors import EMBED, NORM, UNEMBED
from ntk_jax.rope.hf_export import fields_of
from ntk_jax.rope.methods import METHODS
from ntk_jax.rope.spec import RopeSpec
from ntk_jax.typing import NDArray

_OUTER = {
  EMBED: 'token_embd.weight',
  NORM: 'output_norm.weight',
  UNEMBED: 'output.weight',
}
_INNER = {
  'input_layernorm': 'attn_norm',
  'self_attn.q_proj': 'attn_q',
  'self_attn.k_proj': 'attn_k',
  'self_attn.v_proj': 'attn_v',
  'self_attn.o_proj': 'attn_output',
  'self_attn.q_norm': 'attn_q_norm',
  'self_attn.k_norm': 'attn_k_norm',
  'post_attention_layernorm': 'ffn_norm',
  'mlp.gate_proj': 'ffn_gate',
  'mlp.up_proj': 'ffn_up',
  'mlp.down_proj': 'ffn_down',
  'block_sparse_moe.gate': 'ffn_gate_inp',
  'block_sparse_moe.experts.w1': 'ffn_gate_exps',
  'block_sparse_moe.experts.w3': 'ffn_up_exps',
  'block_sparse_moe.experts.w2': 'ffn_down_exps',
}
_LAYER = re.compile(r'model\.layers\.(\d+)\.(.+)\.(weight|bias)')
# Family -> its graph in llama.cpp.
GRAPHS = MappingProxyType(
  {
    'llama': 'llama',
    'mistral': 'llama',
    'mixtral': 'llama',
    'qwen2': 'qwen2',
    'qwen3': 'qwen3',
  }
)


class Stacked(NamedTuple):
  """A tensor of the file: its name, and those of Hugging Face it stacks."""

  name: str
  sources: tuple[str, ...]

  @property
  def permuted(self) -> str | None:
    """Which heads its rows are of, 'q' or 'k', if of either."""
    found = re.search(r'\.attn_([qk])\.', self.name)
    return found[1] if found else None


def renamed(names: Iterator[str]) -> list[Stacked]:
  """The tensors of the file, in the order of the first of each.

  >>> found = renamed(iter(['model.layers.3.self_attn.q_proj.bias']))
  >>> found[0].name, found[0].permuted
  ('blk.3.attn_q.bias', 'q')
  """
  groups: dict[str, list[str]] = {}
  for name in names:
    groups.setdefault(_renamed(name), []).append(name)
  return [Stacked(name, tuple(sources)) for name, sources in groups.items()]


def _renamed(name: str) -> str:
  if name in _OUTER:
    return _OUTER[name]
  found = _LAYER.fullmatch(name)
  assert found, name
  layer, module, kind = found.groups()
  module = re.sub(r'(experts)\.\d+', r'\1', module)
  return f'blk.{layer}.{_INNER[module]}.{kind}'


def interleaved(rows: NDArray, heads: int) -> NDArray:
  """Rows of q or k, halves of each head as neighbours.

  >>> import numpy as np
  >>> interleaved(np.arange(8), 2)
  array([0, 2, 1, 3, 4, 6, 5, 7])
  """
  halves = rows.reshape(heads, 2, -1, *rows.shape[1:])
  return halves.swapaxes(1, 2).reshape(rows.shape)


def settings(found: Written) -> dict[str, Any]:
  """Keys of the model's shape, without the prefix of its graph."""
  config, model = found.config, found.model
  keys: dict[str, Any] = {
    'context_length': found.length,
    'vocab_size': model.vocab,
    'embedding_length': model.dim,
    'block_count': model.layers,
    'feed_forward_length': model.mlp_dim,
    'attention.head_count': model.heads,
    'attention.head_count_kv': model.kv_heads,
    'attention.key_length': model.head_dim,
    'attention.value_length': model.head_dim,
    'attention.layer_norm_rms_epsilon': float(model.norm_eps),
    'rope.dimension_count': model.head_dim,
  }
  if 'num_local_experts' in config:
    keys['expert_count'] = config['num_local_experts']
    keys['expert_used_count'] = config['num_experts_per_tok']
  return keys


def rope_settings(
  layer: Settled, graph: str
) -> tuple[dict[str, Any], NDArray | None]:
  """Keys of rope, and the divisors of `rope_freqs.weight`.

  The llama graph takes any static frequencies as divisors, and an attention
  factor; the others take another base, linear scaling, and YaRN as it is by
  default.

  Raises:
    ConfigError: what the graph ignores, or frequencies of 0.
  """
  spec = layer.spec
  native = _native(spec)
  if native is not None:
    return {'rope.freq_base': native}, None
  inv_freq, attention = spec.frequencies()
  if graph != 'llama':
    return _scaled(spec, graph), None
  if not inv_freq.all():
    raise ConfigError(
      f'{spec.method} cannot be written as GGUF: some of its pairs have '
      'frequency 0, which no divisor gives'
    )
  plain, _ = RopeSpec('default', spec.head_dim, theta=spec.theta).frequencies()
  keys = {'rope.freq_base': spec.theta}
  if attention != 1:
    keys['rope.scaling.attn_factor'] = float(attention)
  return keys, plain / inv_freq


def _native(spec: RopeSpec) -> float | None:
  """The base of a spec that is plain rope of some base."""
  try:
    fields = fields_of(spec)
  except ConfigError:
    return None
  return fields['rope_theta'] if fields['rope_scaling'] is None else None


def _scaled(spec: RopeSpec, graph: str) -> dict[str, Any]:
  """Linear scaling and YaRN, as every graph of llama.cpp has them."""
  usual = METHODS[spec.method].options
  given = [name for name, value in spec.options if value != usual[name]]
  bare = spec.attention_factor is None and not (spec.modifiers or given)
  if spec.method not in ('linear', 'yarn') or not bare:
    raise ConfigError(
      f'{spec.method} cannot be written as GGUF for the {graph} graph of '
      'llama.cpp, which reads no frequencies: it takes another base, linear, '
      'or yarn with its default settings'
    )
  keys = {
    'rope.freq_base': spec.theta,
    'rope.scaling.type': spec.method,
    'rope.scaling.factor': spec.factor,
  }
  if spec.method == 'yarn':
    keys['rope.scaling.original_context_length'] = spec.original_length
  return keys
