"""Specs by layer, from the fields of a whole config.json."""

from __future__ import annotations

from typing import Any

import pytest

from ntk_jax.errors import ConfigError
from ntk_jax.rope import RopeSpec, layer_specs

BASE: dict[str, Any] = {'head_dim': 8, 'max_position_embeddings': 4096}
FULL = {'rope_type': 'linear', 'factor': 8.0, 'rope_theta': 1e6}
SLIDING = {'rope_type': 'default', 'rope_theta': 1e4}
NESTED = {'full_attention': FULL, 'sliding_attention': SLIDING}
GEMMA3_V4 = BASE | {
  'rope_theta': 1e6,
  'rope_local_base_freq': 1e4,
  'rope_scaling': {'rope_type': 'linear', 'factor': 8.0},
}


def bases(config: dict[str, Any]) -> list[float | None]:
  """theta of every layer, None for NoPE."""
  return [spec.theta if spec else None for spec in layer_specs(config)]


def test_gemma3_in_both_spellings() -> None:
  """Every third layer global here (every sixth in the real one)."""
  count = {'num_hidden_layers': 6, 'sliding_window_pattern': 3}
  new = layer_specs(BASE | count | {'rope_parameters': NESTED})
  old = layer_specs(GEMMA3_V4 | count)
  assert new == old
  assert [s.method for s in new if s] == ['default', 'default', 'linear'] * 2
  both = layer_specs(GEMMA3_V4 | count | {'rope_parameters': NESTED})
  assert both == new


def test_explicit_layer_types_win_over_the_pattern() -> None:
  types = ['full_attention', 'sliding_attention']
  config = BASE | {
    'num_hidden_layers': 2,
    'layer_types': types,
    'sliding_window_pattern': 1,
    'rope_parameters': NESTED,
  }
  assert bases(config) == [1e6, 1e4]


def test_nope_by_list_interval_theta_and_null() -> None:
  four = BASE | {'num_hidden_layers': 4}
  assert bases(four | {'no_rope_layers': [1, 0, 0, 1]}) == [
    1e4,
    None,
    None,
    1e4,
  ]
  assert bases(four | {'no_rope_layer_interval': 2}) == [1e4, None] * 2
  # An empty list gives way to the interval; a list wins over it.
  empty = {'no_rope_layers': [], 'no_rope_layer_interval': 4}
  assert bases(four | empty) == [1e4, 1e4, 1e4, None]
  stored = {'no_rope_layers': [1, 1, 1, 1], 'no_rope_layer_interval': 4}
  assert bases(four | stored) == [1e4] * 4
  by_layer = {'layer_rope_theta': [1e4, 0, 5e5, 0]}
  assert bases(four | by_layer) == [1e4, None, 5e5, None]
  nested = {'full_attention': None, 'sliding_attention': SLIDING}
  types = ['sliding_attention', 'full_attention'] * 2
  config = four | {'rope_parameters': nested, 'layer_types': types}
  assert bases(config) == [1e4, None, 1e4, None]


def test_a_type_of_null_is_nope() -> None:
  config = BASE | {'rope_parameters': {'a': None, 'b': None}}
  assert RopeSpec.from_hf(config, 'a') is None


@pytest.mark.parametrize(
  ('fields', 'says'),
  [
    ({}, 'num_hidden_layers is None'),
    ({'num_hidden_layers': 0}, 'num_hidden_layers is 0'),
    (
      {'num_hidden_layers': 3, 'layer_types': ['full_attention']},
      'layer_types has 1 entries for 3 layers',
    ),
    (
      {'num_hidden_layers': 3, 'no_rope_layers': [1, 0]},
      'no_rope_layers has 2 entries for 3 layers',
    ),
    (
      {'num_hidden_layers': 3, 'layer_rope_theta': 1e4},
      'layer_rope_theta has 10000.0 entries',
    ),
    (
      {'num_hidden_layers': 3, 'sliding_window_pattern': 'LLG'},
      "sliding_window_pattern is 'LLG'",
    ),
    (
      {'num_hidden_layers': 1, 'rope_parameters': NESTED},
      'name one of full_attention, sliding_attention',
    ),
    (
      {'layer_types': ['chunked'], 'rope_parameters': NESTED},
      "unknown layer type 'chunked'",
    ),
    (
      {
        'num_hidden_layers': 1,
        'rope_parameters': {'full_attention': {'factor': 2.0}},
        'layer_types': ['full_attention'],
      },
      'has no rope_type',
    ),
  ],
)
def test_refusals(fields: dict[str, Any], says: str) -> None:
  with pytest.raises(ConfigError) as caught:
    layer_specs(BASE | fields)
  assert says in str(caught.value)


def test_spellings_that_disagree_are_refused() -> None:
  wrong = GEMMA3_V4 | {'rope_local_base_freq': 2e4, 'rope_parameters': NESTED}
  with pytest.raises(ConfigError, match='rope_theta is 10000.0'):
    RopeSpec.from_hf(wrong, 'sliding_attention')
  with pytest.raises(ConfigError, match='name full_attention or sliding'):
    RopeSpec.from_hf(GEMMA3_V4)


def test_longchat_and_hunyuan() -> None:
  longchat = RopeSpec.from_hf(
    BASE | {'rope_condense_ratio': 8, 'rope_scaling': None}
  )
  assert longchat == RopeSpec('linear', 8, factor=8)
  hunyuan = RopeSpec.from_hf(
    BASE
    | {
      'rope_theta': 1e4,
      'rope_scaling': {'type': 'dynamic', 'alpha': 1000.0, 'factor': 1.0},
    }
  )
  assert hunyuan == RopeSpec('ntk', 8, factor=1000.0, original_length=4096)


def test_ministral_carries_its_temperature_beside_the_frequencies() -> None:
  spec = RopeSpec.from_hf(
    BASE
    | {
      'max_position_embeddings': 262144,
      'rope_parameters': {
        'type': 'yarn',
        'rope_theta': 1e6,
        'factor': 16.0,
        'original_max_position_embeddings': 16384,
        'max_position_embeddings': 262144,
        'beta_fast': 32.0,
        'beta_slow': 1.0,
        'mscale_all_dim': 1.0,
        'mscale': 1.0,
        'llama_4_scaling_beta': 0.1,
      },
    }
  )
  assert spec is not None
  assert float(spec.frequencies()[1]) == 1.0
