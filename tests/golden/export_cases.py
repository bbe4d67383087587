"""Decoders that are exported and checked, one for each way of exporting."""

from __future__ import annotations

from typing import Any

import numpy as np

from ntk_jax.rope.spec import RopeSpec
from ntk_jax.scheme import Scheme
from ntk_jax.temperature import Temperature

ORIGINAL = 32
SHAPE: dict[str, Any] = {
  'vocab': 64,
  'dim': 64,
  'layers': 4,
  'heads': 4,
  'kv_heads': 2,
  'head_dim': 16,
  'mlp_dim': 96,
  'tied': False,
  'scale_embed': False,
}
GEMMA: dict[str, Any] = {
  'norm_offset': True,
  'post_norms': True,
  'qk_norm': True,
  'scale_embed': True,
  'tied': True,
  'activation': 'gelu',
}
MIXED = (0, 1, 0, 1)
METHODS = (
  'default',
  'linear',
  'ntk',
  'ntk_by_parts',
  'ntk_fixed',
  'ntk_mixed',
  'theta_scale',
  'yarn',
  'yarn_harmonic',
  'yarn_log',
  'yarn_paper',
)
# Fields of the shape, schemes, arguments of save.
Case = tuple[dict[str, Any], list[Scheme], dict[str, Any]]


def spec(method: str, **settings: Any) -> RopeSpec:
  """Of an original length of 32, scaled 4 times where it scales."""
  settings = {'original_length': ORIGINAL, 'factor': 4.0, **settings}
  if method == 'default':
    settings['factor'] = None
  return RopeSpec(method, 16, **settings)


def rope(method: str, window: int | None = None, **settings: Any) -> Scheme:
  return Scheme(spec(method, **settings), window=window)


PLAIN = Scheme(spec('default'))
LOCAL = Scheme(spec('default'), window=16)
LOGN = Temperature('logn', length=ORIGINAL)
DIVISORS = np.linspace(1.0, 3.0, 8)
SIDES = {'short_factor': DIVISORS, 'long_factor': 2 * DIVISORS}
FROZEN = {'freeze_length': 96}
LLAMA3 = {'low_freq_factor': 1.0, 'high_freq_factor': 4.0}
TURNED = {'partial_rotary_factor': 0.5}
HALF = {'short_factor': DIVISORS[:4], 'long_factor': 2 * DIVISORS[:4]}


def cases() -> dict[str, Case]:
  """By name."""
  plain = {f'llama_{name}': ({}, [rope(name)], {}) for name in METHODS}
  return plain | llama_cases() | other_cases()


def llama_cases() -> dict[str, Case]:
  """Of the llama family, beside every static method."""
  return {
    'llama_llama3': ({}, [rope('llama3', options=LLAMA3)], {}),
    'llama_longrope_short': ({}, [rope('longrope', options=SIDES)], {}),
    'llama_dynamic': ({}, [rope('dynamic')], {}),
    'llama_dynamic_frozen': ({}, [rope('dynamic')], FROZEN),
    'llama_dynamic_yarn_frozen': ({}, [rope('dynamic_yarn')], FROZEN),
    'llama_longrope_frozen': ({}, [rope('longrope', options=SIDES)], FROZEN),
    'llama_uncut': ({}, [rope('yarn', options={'truncate': False})], {}),
    'llama_resonance': ({}, [rope('yarn', modifiers=('resonance',))], {}),
    'llama_linear_attention': ({}, [rope('linear', attention_factor=1.2)], {}),
    'llama_p_rope': (
      {},
      [Scheme(RopeSpec('proportional', 16, partial_rotary_factor=0.5))],
      {},
    ),
    'llama_divisor': ({'divisor': 'linear'}, [rope('yarn')], {}),
    'llama_scale': ({'attention_scale': 0.3, 'tied': True}, [PLAIN], {}),
    'llama_biased_scale': (
      {'attention_scale': 0.3, 'qkv_bias': True, 'out_bias': True},
      [PLAIN],
      {},
    ),
    'llama_scaled_embedding': (
      {'tied': True, 'scale_embed': True},
      [PLAIN],
      {},
    ),
    'llama_logn_frozen': ({}, [Scheme(spec('ntk'), LOGN)], FROZEN),
  }


def other_cases() -> dict[str, Case]:
  """Of the other families."""
  return {
    'mistral_window': ({}, [LOCAL], {}),
    'mistral_window_yarn': ({}, [rope('yarn', 16)], {}),
    'ministral_mixed': ({'layer_plan': MIXED}, [LOCAL, PLAIN], {}),
    'qwen2': ({'qkv_bias': True, 'layer_plan': MIXED}, [PLAIN, LOCAL], {}),
    'qwen3_divisor': (
      {'qk_norm': True, 'divisor': 'linear', 'layer_plan': MIXED},
      [rope('ntk_by_parts', 16), rope('ntk_by_parts')],
      {},
    ),
    'gemma2': (
      GEMMA
      | {
        'qk_norm': False,
        'attention_scale': 24**-0.5,
        'attention_soft_cap': 5.0,
        'logit_soft_cap': 8.0,
        'layer_plan': MIXED,
      },
      [rope('yarn', 16), rope('yarn')],
      {},
    ),
    'gemma3_linear': (
      GEMMA | {'layer_plan': MIXED},
      [LOCAL, rope('linear')],
      {},
    ),
    'gemma3_yarn_theta': (
      GEMMA | {'layer_plan': (0, 0, 1, 0)},
      [rope('default', 16, theta=500.0), rope('yarn')],
      {},
    ),
    'gemma3_carrier_scale': (
      GEMMA | {'layer_plan': MIXED, 'attention_scale': 0.3},
      [LOCAL, rope('yarn', options={'truncate': False})],
      {},
    ),
    'gemma3_temperature': (
      GEMMA | {'layer_plan': MIXED},
      [LOCAL, Scheme(spec('ntk'), Temperature('constant', scale=1.3))],
      {},
    ),
    'phi3_partial': ({}, [rope('default', **TURNED)], {}),
    'phi3_partial_yarn': ({}, [rope('yarn', **TURNED)], {}),
    'phi3_longrope': ({}, [rope('longrope', options=HALF, **TURNED)], {}),
    'mixtral': ({'experts': 4, 'experts_per_token': 2}, [rope('yarn')], {}),
  }
