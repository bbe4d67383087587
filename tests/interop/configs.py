"""Small configs, and what each server was measured to make of them.

Transformers 5.23 and 4.57 were measured by their own modules, vLLM 0.32 by its
tables, llama.cpp by its logits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ntk_jax.interop import doctor

V4, V5, VLLM, CPP = 'transformers v4', 'transformers v5', 'vLLM', 'llama.cpp'

# The small model of the measurements: original length 32, head_dim 16.
LLAMA: dict[str, Any] = {
  'model_type': 'llama',
  'vocab_size': 256,
  'hidden_size': 64,
  'intermediate_size': 96,
  'num_hidden_layers': 2,
  'num_attention_heads': 4,
  'num_key_value_heads': 2,
  'max_position_embeddings': 128,
}
MISTRAL = LLAMA | {'model_type': 'mistral', 'sliding_window': 16}
QWEN2 = LLAMA | {'model_type': 'qwen2'}
PHI3 = LLAMA | {
  'model_type': 'phi3',
  'original_max_position_embeddings': 32,
  'rope_theta': 1e4,
}
GEMMA3 = LLAMA | {
  'model_type': 'gemma3_text',
  'num_hidden_layers': 7,
  'head_dim': 16,
  'query_pre_attn_scalar': 16,
  'sliding_window': 16,
}
YARN = {
  'rope_type': 'yarn',
  'factor': 4.0,
  'original_max_position_embeddings': 32,
}
LLAMA3 = {
  'rope_type': 'llama3',
  'factor': 4.0,
  'low_freq_factor': 1.0,
  'high_freq_factor': 4.0,
  'original_max_position_embeddings': 32,
}
LINEAR = {'rope_type': 'linear', 'factor': 8.0}
DYNAMIC = {'rope_type': 'dynamic', 'factor': 4.0}
LONG = [1.0 + 0.4 * i for i in range(8)]
LONGROPE = {
  'rope_type': 'longrope',
  'factor': 4.0,
  'short_factor': [1.0] * 8,
  'long_factor': LONG,
  'original_max_position_embeddings': 32,
}
PHI3_KEYS = {'type': 'longrope', 'short_factor': [1.0] * 8, 'long_factor': LONG}


def old(config: Mapping[str, Any], params: Any, **others: Any) -> dict:
  """The spelling of transformers 4."""
  return {**config, 'rope_theta': 1e4, 'rope_scaling': params, **others}


def new(config: Mapping[str, Any], params: Any, **others: Any) -> dict:
  """The spelling of transformers 5."""
  params = {'rope_theta': 1e4, **params}
  return {**config, 'rope_parameters': params, **others}


def dual(config: Mapping[str, Any], params: Any, **others: Any) -> dict:
  """Both."""
  return new(old(config, params), params, **others)


def kinds(config: Mapping[str, Any]) -> dict[str, str]:
  """Server -> kind of verdict."""
  return {k: v.kind for k, v in doctor.diagnose(config).verdicts.items()}


def default(dim: int = 16, theta: float = 1e4) -> np.ndarray:
  """Unscaled frequencies."""
  return theta ** (-np.arange(0, dim, 2) / dim)


def difference(
  a: np.ndarray, b: np.ndarray, length: int, fa: float = 1.0, fb: float = 1.0
) -> float:
  """Largest difference of cos and sin over positions below a length."""
  p = np.arange(length)[:, None]
  cos = np.abs(fa * np.cos(p * a) - fb * np.cos(p * b)).max()
  return float(max(cos, np.abs(fa * np.sin(p * a) - fb * np.sin(p * b)).max()))


OTHER = [*['sliding_attention', 'full_attention'] * 3, 'full_attention']
ALL = (V4, V5, VLLM, CPP)
MODERN = (V5, VLLM, CPP)
# Name -> config, servers that are exact, servers that do not start.
CASES: dict[str, tuple[dict, tuple[str, ...], tuple[str, ...]]] = {
  'default': (old(LLAMA, None), ALL, ()),
  'nothing said': (LLAMA, ALL, ()),
  'linear v4': (old(LLAMA, LINEAR), ALL, ()),
  'linear v5': (new(LLAMA, LINEAR), MODERN, ()),
  'linear dual': (dual(LLAMA, LINEAR), ALL, ()),
  'linear, type': (old(LLAMA, {'type': 'linear', 'factor': 8.0}), ALL, ()),
  'linear, whole factor': (
    dual(LLAMA, LINEAR | {'factor': 8}),
    (V4, V5, CPP),
    (VLLM,),
  ),
  'condense ratio': (LLAMA | {'rope_condense_ratio': 8}, (), ()),
  'llama3': (dual(LLAMA, LLAMA3), ALL, ()),
  'llama3 of qwen2': (dual(QWEN2, LLAMA3), (V4, V5, VLLM), ()),
  'yarn v4': (old(LLAMA, YARN), ALL, ()),
  'yarn v5': (new(LLAMA, YARN), MODERN, ()),
  'yarn, factor 1': (
    dual(LLAMA, YARN | {'attention_factor': 1.0}),
    (V4, V5, VLLM),
    (),
  ),
  'yarn, mscale': (
    dual(LLAMA, YARN | {'mscale': 0.7, 'mscale_all_dim': 1.3}),
    (V4, V5, VLLM),
    (),
  ),
  'yarn, beta': (dual(LLAMA, YARN | {'beta_slow': 0.25}), (V4, V5, VLLM), ()),
  'yarn, truncate': (
    dual(LLAMA, YARN | {'truncate': False}),
    (V4, V5, VLLM),
    (),
  ),
  'yarn, null truncate': (
    dual(LLAMA, YARN | {'truncate': None}),
    (V4, V5, VLLM),
    (),
  ),
  'yarn, null beta': (
    dual(LLAMA, YARN | {'beta_fast': None}),
    (V4, V5, CPP),
    (VLLM,),
  ),
  'yarn of mistral': (
    dual(MISTRAL | {'sliding_window': None}, YARN),
    ALL,
    (),
  ),
  'dynamic': (dual(LLAMA, DYNAMIC, max_position_embeddings=32), (), ()),
  'longrope, v4 without top length': (old(LLAMA, LONGROPE), (), ()),
  'carrier': (
    dual(
      LLAMA,
      LONGROPE
      | {
        'short_factor': LONG,
        'attention_factor': 1.1,
        'short_mscale': 1.1,
        'long_mscale': 1.1,
      },
      original_max_position_embeddings=32,
    ),
    (V4, V5, VLLM),
    (),
  ),
  'proportional': (
    new(LLAMA, {'rope_type': 'proportional', 'partial_rotary_factor': 0.5}),
    (V5, VLLM),
    (),
  ),
  'mistral window': (dual(MISTRAL, YARN), (V4, V5, VLLM), ()),
  'qwen2, windows off': (QWEN2 | {'sliding_window': 16}, ALL, ()),
  'qwen2, mixed windows': (
    QWEN2
    | {'use_sliding_window': True, 'sliding_window': 16}
    | {'max_window_layers': 1},
    (V4, V5),
    (VLLM,),
  ),
  'ministral': (
    MISTRAL
    | {'model_type': 'ministral'}
    | {'layer_types': ['sliding_attention', 'full_attention']},
    (V4, V5, VLLM),
    (CPP,),
  ),
  'phi3, three keys': (PHI3 | {'rope_scaling': PHI3_KEYS}, (V4, V5), ()),
  'phi3, more keys': (PHI3 | {'rope_scaling': LONGROPE}, (V5,), (V4,)),
  'phi3, linear': (PHI3 | {'rope_scaling': LINEAR}, (), ALL),
  'phi3, default': (PHI3, ALL, ()),
  'gemma2': (
    LLAMA
    | {'model_type': 'gemma2', 'head_dim': 16, 'sliding_window': 16}
    | {'query_pre_attn_scalar': 16},
    ALL,
    (),
  ),
  'gemma2, scalar': (
    LLAMA
    | {'model_type': 'gemma2', 'head_dim': 16, 'sliding_window': 16}
    | {'query_pre_attn_scalar': 24},
    (V4, V5, VLLM),
    (),
  ),
  'gemma3 v4': (
    old(GEMMA3, LINEAR, rope_local_base_freq=1e4) | {'rope_theta': 1e6},
    ALL,
    (),
  ),
  'gemma3 v5': (
    GEMMA3
    | {
      'rope_parameters': {
        'full_attention': {**LINEAR, 'rope_theta': 1e6},
        'sliding_attention': {'rope_type': 'default', 'rope_theta': 1e4},
      }
    },
    MODERN,
    (),
  ),
  'gemma3, other layers': (
    GEMMA3 | {'layer_types': OTHER},
    (V4, V5, VLLM),
    (),
  ),
}
