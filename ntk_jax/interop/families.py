"""The model families of Hugging Face that are read and written, a row each.

A row says what a config.json of the family leaves out, which options of the
decoder its class has, and what it calls its tensors. What a family says of
rope is in `ntk_jax.rope.families`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from ntk_jax.errors import ConfigError, unknown

Config = Mapping[str, Any]

# Leaf of `Params.layers` -> module under `model.layers.{layer}.`. Leaves with
# one module are rows of one tensor, in this order.
_NAMES = {
  'attention_norm': 'input_layernorm',
  'q': 'self_attn.q_proj',
  'k': 'self_attn.k_proj',
  'v': 'self_attn.v_proj',
  'out': 'self_attn.o_proj',
  'q_norm': 'self_attn.q_norm',
  'k_norm': 'self_attn.k_norm',
  'mlp_norm': 'post_attention_layernorm',
  'gate': 'mlp.gate_proj',
  'up': 'mlp.up_proj',
  'down': 'mlp.down_proj',
}
_SANDWICHED = _NAMES | {
  'attention_post_norm': 'post_attention_layernorm',
  'mlp_norm': 'pre_feedforward_layernorm',
  'mlp_post_norm': 'post_feedforward_layernorm',
}
_FUSED = _NAMES | {
  **dict.fromkeys('qkv', 'self_attn.qkv_proj'),
  **dict.fromkeys(('gate', 'up'), 'mlp.gate_up_proj'),
}
_EXPERTS = _NAMES | {
  'router': 'block_sparse_moe.gate',
  'gate': 'block_sparse_moe.experts.{expert}.w1',
  'up': 'block_sparse_moe.experts.{expert}.w3',
  'down': 'block_sparse_moe.experts.{expert}.w2',
}


def _no_windows(config: Config) -> list[bool]:
  return [False] * config['num_hidden_layers']


def _all_windows(config: Config) -> list[bool]:
  return [True] * config['num_hidden_layers']


def _upper_windows(config: Config) -> list[bool]:
  """Qwen: layers from max_window_layers on, if windows are in use."""
  if not config['use_sliding_window']:
    return _no_windows(config)
  first = config['max_window_layers']
  return [i >= first for i in range(config['num_hidden_layers'])]


def _even_windows(config: Config) -> list[bool]:
  """Gemma 2: every other layer, the first one too."""
  return [i % 2 == 0 for i in range(config['num_hidden_layers'])]


def _windows_but_each(config: Config) -> list[bool]:
  """Gemma 3: all but every k-th layer."""
  every = config['sliding_window_pattern']
  return [bool((i + 1) % every) for i in range(config['num_hidden_layers'])]


_ALL_BIASES = ('qkv_bias', 'out_bias')


class Family(NamedTuple):
  """What one `model_type` of a config.json means.

  Attributes:
    name: the model type.
    architecture: the class that `architectures` names.
    defaults: of its configuration class, for keys that a file leaves out.
    fixed: fields of `ModelConfig` that all its models have.
    biases: config key -> fields of `ModelConfig` that it switches.
    windows: which layers slide where `layer_types` does not say.
    typed: whether the class reads `layer_types`.
    partial: whether a part of a head may turn.
    activation: the key that names the activation.
    names: leaf -> module, as above.
  """

  name: str
  architecture: str
  defaults: Config
  fixed: Mapping[str, Any] = MappingProxyType({})
  biases: Mapping[str, tuple[str, ...]] = MappingProxyType({})
  windows: Callable[[Config], list[bool]] = _no_windows
  typed: bool = False
  partial: bool = False
  activation: str = 'hidden_act'
  names: Mapping[str, str] = MappingProxyType(_NAMES)


_COMMON = {
  'vocab_size': 32000,
  'hidden_size': 4096,
  'intermediate_size': 14336,
  'num_hidden_layers': 32,
  'num_attention_heads': 32,
  'num_key_value_heads': 8,
  'hidden_act': 'silu',
  'max_position_embeddings': 131072,
  'rms_norm_eps': 1e-6,
  'tie_word_embeddings': False,
  'sliding_window': None,
}
_LLAMA = _COMMON | {
  'intermediate_size': 11008,
  'num_key_value_heads': None,
  'max_position_embeddings': 2048,
  'attention_bias': False,
  'mlp_bias': False,
}
_QWEN = _COMMON | {
  'vocab_size': 151936,
  'intermediate_size': 22016,
  'num_key_value_heads': 32,
  'max_position_embeddings': 32768,
  'use_sliding_window': False,
  'sliding_window': 4096,
  'max_window_layers': 28,
}
_GEMMA = _COMMON | {
  'vocab_size': 256000,
  'hidden_size': 2304,
  'intermediate_size': 9216,
  'num_hidden_layers': 26,
  'num_attention_heads': 8,
  'num_key_value_heads': 4,
  'hidden_activation': 'gelu_pytorch_tanh',
  'max_position_embeddings': 8192,
  'tie_word_embeddings': True,
  'attention_bias': False,
  'query_pre_attn_scalar': 256,
  'sliding_window': 4096,
  'final_logit_softcapping': 30.0,
}
_GEMMA_FIXED = {'norm_offset': True, 'post_norms': True, 'scale_embed': True}

_ROWS = (
  Family(
    'llama',
    'LlamaForCausalLM',
    _LLAMA,
    biases={'attention_bias': _ALL_BIASES, 'mlp_bias': ('mlp_bias',)},
  ),
  Family(
    'mistral',
    'MistralForCausalLM',
    _COMMON | {'sliding_window': 4096},
    windows=_all_windows,
  ),
  Family(
    'ministral',
    'MinistralForCausalLM',
    _COMMON | {'sliding_window': 4096},
    windows=_all_windows,
    typed=True,
  ),
  Family(
    'mixtral',
    'MixtralForCausalLM',
    _COMMON
    | {
      'rms_norm_eps': 1e-5,
      'num_local_experts': 8,
      'num_experts_per_tok': 2,
    },
    windows=_all_windows,
    names=_EXPERTS,
  ),
  Family(
    'qwen2',
    'Qwen2ForCausalLM',
    _QWEN,
    fixed={'qkv_bias': True},
    windows=_upper_windows,
    typed=True,
  ),
  Family(
    'qwen3',
    'Qwen3ForCausalLM',
    _QWEN | {'head_dim': 128, 'attention_bias': False},
    fixed={'qk_norm': True},
    biases={'attention_bias': _ALL_BIASES},
    windows=_upper_windows,
    typed=True,
  ),
  Family(
    'gemma2',
    'Gemma2ForCausalLM',
    _GEMMA | {'head_dim': 256, 'attn_logit_softcapping': 50.0},
    fixed=_GEMMA_FIXED,
    biases={'attention_bias': _ALL_BIASES},
    windows=_even_windows,
    typed=True,
    activation='hidden_activation',
    names=_SANDWICHED,
  ),
  Family(
    'gemma3_text',
    'Gemma3ForCausalLM',
    _GEMMA
    | {
      'vocab_size': 262208,
      'head_dim': 256,
      'max_position_embeddings': 131072,
      'sliding_window_pattern': 6,
      # Its attention reads attn_logit_softcapping no more.
      'final_logit_softcapping': None,
    },
    fixed=_GEMMA_FIXED | {'qk_norm': True},
    biases={'attention_bias': _ALL_BIASES},
    windows=_windows_but_each,
    typed=True,
    activation='hidden_activation',
    names=_SANDWICHED,
  ),
  Family(
    'phi3',
    'Phi3ForCausalLM',
    _COMMON
    | {
      'vocab_size': 32064,
      'hidden_size': 3072,
      'intermediate_size': 8192,
      'num_key_value_heads': None,
      'max_position_embeddings': 4096,
      'rms_norm_eps': 1e-5,
    },
    windows=_all_windows,
    partial=True,
    names=_FUSED,
  ),
)
FAMILIES: Mapping[str, Family] = MappingProxyType(
  {family.name: family for family in _ROWS}
)


def family_of(config: Config) -> Family:
  """The row of a config's `model_type`.

  Raises:
    ConfigError: for a missing or unknown model type, or another class in
      `architectures`.

  Source: the configuration classes of transformers 5.23.

  >>> family_of({'model_type': 'qwen3'}).fixed
  {'qk_norm': True}
  """
  name = config.get('model_type')
  if name is None:
    raise ConfigError(
      'config has no model_type; give the family of the weights, one of '
      f'{", ".join(FAMILIES)}'
    )
  if not isinstance(name, str) or name not in FAMILIES:
    raise unknown('model_type of a config', name, FAMILIES)
  family = FAMILIES[name]
  classes = config.get('architectures')
  known = family.architecture.lower()
  named = classes if isinstance(classes, list) else [classes]
  if classes is not None and not all(
    isinstance(c, str) and c.lower() == known for c in named
  ):
    raise ConfigError(
      f'model_type is {name!r} but architectures are {classes!r}, must be '
      f'{[family.architecture]}: which of the two are the weights of?'
    )
  return family
