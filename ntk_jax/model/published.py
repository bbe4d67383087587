"""Shapes of published decoders, at their real size."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ntk_jax.model.config import ModelConfig

_LLAMA2 = ModelConfig(
  vocab=32000,
  dim=4096,
  layers=32,
  heads=32,
  kv_heads=32,
  head_dim=128,
  mlp_dim=11008,
  norm_eps=1e-5,
  tied=False,
  scale_embed=False,
)


def _like(model: ModelConfig, **fields: Any) -> ModelConfig:
  return dataclasses.replace(model, **fields)


_YI = _like(_LLAMA2, vocab=64000, kv_heads=4, rope_theta=5e6)
_MISTRAL = _like(_LLAMA2, kv_heads=8, mlp_dim=14336)

# Layer plans are of the rows that take these shapes. `hybrid-8b` is of this
# project: Llama 3 8B with QK-norm and one layer in four of another kind.
MODELS: Mapping[str, ModelConfig] = MappingProxyType(
  {
    'llama-7b': _like(_LLAMA2, norm_eps=1e-6),
    'llama2-7b': _LLAMA2,
    'llama2-13b': _like(
      _LLAMA2, dim=5120, layers=40, heads=40, kv_heads=40, mlp_dim=13824
    ),
    'llama2-70b': _like(
      _LLAMA2, dim=8192, layers=80, heads=64, kv_heads=8, mlp_dim=28672
    ),
    'code-llama-7b': _like(_LLAMA2, vocab=32016),
    'qwen-7b': _like(
      _LLAMA2,
      vocab=151936,
      norm_eps=1e-6,
      qkv_bias=True,
      layer_plan=(0,) * 16 + (1,) * 16,
    ),
    'yi-6b': _YI,
    'yi-34b': _like(
      _YI, dim=7168, layers=60, heads=56, kv_heads=8, mlp_dim=20480
    ),
    'mistral-7b': _MISTRAL,
    'mistral-7b-v0.2': _like(_MISTRAL, rope_theta=1e6),
    'mistral-7b-v0.3': _like(_MISTRAL, rope_theta=1e6, vocab=32768),
    'hybrid-8b': _like(
      _MISTRAL, vocab=128256, qk_norm=True, layer_plan=(0, 0, 0, 1) * 8
    ),
  }
)
