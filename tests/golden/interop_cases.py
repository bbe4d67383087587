"""The models of tests/golden/interop that make_interop.py makes: one a row."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

Config = dict[str, Any]
FULL, SLIDING = 'full_attention', 'sliding_attention'
ORIGINAL = 32  # The original length of every scaled model.


@dataclasses.dataclass(frozen=True)
class Case:
  """A model: its config, how its weights are stored, what it guards.

  Attributes:
    family: The prefix of the classes in transformers.
    config: Keys of the config, v5; `SHAPE` fills in the rest.
    v4: Keys that the old spelling has besides those that it needs.
    mistakes: Changes of the config that an importer might make; each has to
      move the logits.
    dtype: In which the weights are stored.
    shard: The largest file in bytes.
    weights: The case whose weights it has, if not its own.
  """

  family: str
  config: Config
  v4: Config = dataclasses.field(default_factory=dict)
  mistakes: tuple[Config, ...] = ()
  dtype: str = 'bfloat16'
  shard: int = 10**9
  weights: str = ''


SHAPE = {
  'vocab_size': 64,
  'hidden_size': 32,
  'intermediate_size': 40,
  'num_hidden_layers': 2,
  'num_attention_heads': 2,
  'num_key_value_heads': 1,
  'max_position_embeddings': 128,
  'bos_token_id': 1,
  'eos_token_id': 2,
  'pad_token_id': 0,
}
PHI3_TYPES = ('type', 'short_factor', 'long_factor')


def rope(rope_type: str = 'default', theta: float = 1e4, **rest: Any) -> Config:
  """The `rope_parameters` of a config, with the original length if scaled."""
  if rope_type in ('yarn', 'longrope', 'llama3'):
    rest = {'original_max_position_embeddings': ORIGINAL, **rest}
  parameters = {'rope_type': rope_type, 'rope_theta': theta, **rest}
  return {'rope_parameters': parameters}


def yarn(**rest: Any) -> Config:
  return rope('yarn', factor=4.0, **rest)


def longrope(pairs: int, **rest: Any) -> Config:
  """Rising long factors, and short ones that are not all 1."""
  return rope(
    'longrope',
    short_factor=[round(1 + 0.05 * i, 4) for i in range(pairs)],
    long_factor=[round(1.1 + 0.6 * i, 4) for i in range(pairs)],
    **rest,
  )


def by_parts_factors(
  head_dim: int, theta: float, factor: float, fast: float, slow: float
) -> list[float]:
  """By what NTK-by-parts, not truncated, divides each frequency."""

  def pair_turning(times: float) -> float:
    turn = math.log(ORIGINAL / (2 * math.pi * times))
    return head_dim / 2 * turn / math.log(theta)

  low, high = max(pair_turning(fast), 0), pair_turning(slow)
  shares = [(i - low) / (high - low) for i in range(head_dim // 2)]
  shares = [min(max(share, 0.0), 1.0) for share in shares]
  return [1 / (1 - share + share / factor) for share in shares]


BY_PARTS = by_parts_factors(16, 1e4, 4.0, fast=5.0, slow=0.25)
BETAS = {'beta_fast': 5.0, 'beta_slow': 0.25, 'truncate': False}
LATE = {'max_position_embeddings': 64}
PLAIN = rope()

LLAMA = {
  'llama_mha_bias_tied': Case(
    'Llama',
    {
      'num_attention_heads': 4,
      'num_key_value_heads': 4,
      'head_dim': 16,
      'attention_bias': True,
      'mlp_bias': True,
      'tie_word_embeddings': True,
      **rope(theta=5e5),
    },
    mistakes=(PLAIN,),
  ),
  'llama_mqa_bf16_sharded': Case(
    'Llama',
    {'num_attention_heads': 4, 'head_dim': 32, **rope()},
    shard=30_000,
  ),
  'llama_dynamic': Case(
    'Llama',
    {'max_position_embeddings': ORIGINAL, **rope('dynamic', factor=4.0)},
    mistakes=(PLAIN, LATE),
  ),
  'llama_yarn_mscale': Case(
    'Llama',
    yarn(mscale=1.5, mscale_all_dim=0.5),
    mistakes=(yarn(), yarn(mscale=1.5), yarn(mscale=0.5, mscale_all_dim=1.5)),
  ),
  'llama_yarn_by_parts': Case(
    'Llama',
    yarn(attention_factor=1.0, **BETAS),
    mistakes=(
      yarn(**BETAS),
      yarn(attention_factor=1.0),
      yarn(attention_factor=1.0, **{**BETAS, 'truncate': True}),
    ),
  ),
  # As exported: the frequencies of the model above by another type.
  'llama_longrope_carrier': Case(
    'Llama',
    rope(
      'longrope',
      factor=4.0,
      attention_factor=1.0,
      short_factor=BY_PARTS,
      long_factor=BY_PARTS,
      short_mscale=1.0,
      long_mscale=1.0,
    ),
    mistakes=(
      PLAIN,
      rope('longrope', factor=4.0, short_factor=BY_PARTS, long_factor=BY_PARTS),
    ),
    weights='llama_yarn_by_parts',
  ),
  'llama_longrope': Case(
    'Llama', longrope(8, factor=4.0), mistakes=(PLAIN, longrope(8, factor=2.0))
  ),
}
MISTRAL = {
  # The window is the original length: nothing is hidden before token 33.
  'mistral_v01_window': Case(
    'Mistral',
    {'sliding_window': ORIGINAL, 'num_hidden_layers': 3, **rope()},
    mistakes=({'sliding_window': None}, {'sliding_window': ORIGINAL - 1}),
  ),
  'mistral_yarn': Case(
    'Mistral',
    {'sliding_window': None, **yarn(theta=1e6)},
    # Without it, transformers 4.57 cannot read a Mistral with YaRN.
    v4={'head_dim': 16},
    mistakes=(yarn(), {'sliding_window': 4}),
    dtype='float16',
  ),
  # The old spelling has no num_key_value_heads: 8 by default, not the heads.
  'mistral_window_yarn': Case(
    'Mistral',
    {
      'num_attention_heads': 16,
      'num_key_value_heads': 8,
      'head_dim': 8,
      'sliding_window': 20,
      **yarn(),
    },
    mistakes=({'sliding_window': 21}, PLAIN),
  ),
  'ministral_mixed': Case(
    'Ministral',
    {
      'num_hidden_layers': 4,
      'head_dim': 16,
      'sliding_window': 12,
      'layer_types': [FULL, SLIDING, SLIDING, FULL],
      **rope(theta=1e6),
    },
    mistakes=(
      {'layer_types': [SLIDING, FULL, FULL, SLIDING]},
      {'layer_types': [SLIDING] * 4},
      {'sliding_window': 13},
    ),
  ),
  # rope_theta and num_experts_per_tok are the defaults: 1e6, 2.
  'mixtral': Case(
    'Mixtral',
    {
      'num_attention_heads': 4,
      'num_key_value_heads': 2,
      'intermediate_size': 32,
      'num_local_experts': 4,
      **rope(theta=1e6),
    },
    mistakes=(PLAIN, {'num_experts_per_tok': 1}, {'num_experts_per_tok': 3}),
  ),
}
QWEN = {
  # The old spelling names a window that is switched off.
  'qwen2_window_off': Case(
    'Qwen2',
    {'use_sliding_window': False, **rope(theta=1e6)},
    v4={'sliding_window': 16, 'max_window_layers': 1},
    mistakes=(
      PLAIN,
      {
        'use_sliding_window': True,
        'sliding_window': 16,
        'max_window_layers': 1,
      },
    ),
  ),
  'qwen2_window_mixed': Case(
    'Qwen2',
    {
      'num_hidden_layers': 4,
      'use_sliding_window': True,
      'sliding_window': 12,
      'max_window_layers': 3,
      'tie_word_embeddings': True,
      **rope(),
    },
    mistakes=(
      {'max_window_layers': 2},
      {'max_window_layers': 4},
      {'max_window_layers': 0},
    ),
  ),
  # The old spelling has no head_dim: 128 by default, not hidden / heads.
  'qwen3_head_dim_128': Case(
    'Qwen3',
    {
      'num_hidden_layers': 1,
      'head_dim': 128,
      'attention_bias': True,
      'tie_word_embeddings': True,
      **rope(),
    },
    mistakes=(rope(theta=1e6),),
  ),
  'qwen3_window_mixed': Case(
    'Qwen3',
    {
      'num_hidden_layers': 3,
      'num_attention_heads': 4,
      'num_key_value_heads': 2,
      'head_dim': 16,
      'use_sliding_window': True,
      'sliding_window': 10,
      'max_window_layers': 1,
      **rope(theta=1e6),
    },
    mistakes=({'sliding_window': 11}, {'max_window_layers': 2}),
  ),
}
GEMMA = {
  'gemma2_no_caps': Case(
    'Gemma2',
    {
      'num_hidden_layers': 3,
      'head_dim': 16,
      'query_pre_attn_scalar': 30,
      'sliding_window': 14,
      'attn_logit_softcapping': None,
      'final_logit_softcapping': None,
      **rope('linear', factor=4.0),
    },
    # Absent, the caps would be 50 and 30.
    v4={'attn_logit_softcapping': None, 'final_logit_softcapping': None},
    mistakes=(
      {'final_logit_softcapping': 30.0},
      {'query_pre_attn_scalar': 16},
      {'sliding_window': 15},
      PLAIN,
    ),
  ),
  # Every third layer is full, not every sixth; factor 8 on that one only.
  'gemma3': Case(
    'Gemma3',
    {
      'model_type': 'gemma3_text',
      'num_hidden_layers': 4,
      'head_dim': 16,
      'query_pre_attn_scalar': 24,
      'sliding_window': 12,
      'layer_types': [SLIDING, SLIDING, FULL, SLIDING],
      'rope_parameters': {
        FULL: {'rope_type': 'linear', 'factor': 8.0, 'rope_theta': 5e5},
        SLIDING: {'rope_type': 'default', 'rope_theta': 1e4},
      },
    },
    v4={'sliding_window_pattern': 3},
    mistakes=(
      {'layer_types': [SLIDING] * 4},
      {'layer_types': [FULL] * 4},
      {'query_pre_attn_scalar': 16},
      {'sliding_window': 13},
      {
        'rope_parameters': {
          FULL: {'rope_type': 'default', 'rope_theta': 5e5},
          SLIDING: {'rope_type': 'default', 'rope_theta': 1e4},
        }
      },
      {
        'rope_parameters': {
          FULL: {'rope_type': 'linear', 'factor': 8.0, 'rope_theta': 5e5},
          SLIDING: {'rope_type': 'linear', 'factor': 8.0, 'rope_theta': 1e4},
        }
      },
    ),
  ),
}
PHI3 = {
  'phi3_longrope': Case(
    'Phi3',
    {'original_max_position_embeddings': ORIGINAL, **longrope(8)},
    mistakes=(PLAIN,),
  ),
  'phi3_partial': Case(
    'Phi3',
    {
      'num_attention_heads': 2,
      'num_key_value_heads': 2,
      'sliding_window': 18,
      **rope(partial_rotary_factor=0.75),
    },
    mistakes=(PLAIN, {'sliding_window': 19}, {'sliding_window': None}),
  ),
  # As Phi-4-mini: both, and tied.
  'phi3_longrope_partial': Case(
    'Phi3',
    {
      'original_max_position_embeddings': ORIGINAL,
      'tie_word_embeddings': True,
      **longrope(6, partial_rotary_factor=0.75),
    },
    mistakes=(rope(partial_rotary_factor=0.75),),
  ),
}
CASES = {**LLAMA, **MISTRAL, **QWEN, **GEMMA, **PHI3}
