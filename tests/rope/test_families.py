"""What real config files leave out, and junk that none should hold."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import numpy as np
import pytest

from ntk_jax.errors import ConfigError
from ntk_jax.rope import RopeSpec, layer_specs

GEMMA3: dict[str, Any] = {
  'model_type': 'gemma3_text',
  'hidden_size': 3840,
  'num_attention_heads': 16,
  'num_hidden_layers': 12,
  'rope_scaling': {'rope_type': 'linear', 'factor': 8.0},
}


def kinds(config: dict[str, Any]) -> list[str | None]:
  """The method of every layer."""
  return [spec.method if spec else None for spec in layer_specs(config)]


def test_gemma3_leaves_out_its_pattern_bases_and_head_dim() -> None:
  """The published 12B file names neither of them."""
  specs = layer_specs(GEMMA3)
  assert kinds(GEMMA3) == (['default'] * 5 + ['linear']) * 2
  assert {s.head_dim for s in specs if s} == {256}
  assert [s.theta for s in specs[4:6] if s] == [1e4, 1e6]
  spelled = layer_specs(
    GEMMA3
    | {
      'head_dim': 256,
      'rope_theta': 1e6,
      'rope_local_base_freq': 1e4,
      'sliding_window_pattern': 6,
    }
  )
  assert specs == spelled
  whole = {'model_type': 'gemma3', 'text_config': GEMMA3}
  assert layer_specs(whole) == specs


def test_a_dual_gemma3_agrees_without_the_local_base() -> None:
  nested = {
    'full_attention': {
      'rope_type': 'linear',
      'factor': 8.0,
      'rope_theta': 1e6,
    },
    'sliding_attention': {'rope_type': 'default', 'rope_theta': 1e4},
  }
  dual = GEMMA3 | {'rope_theta': 1e6, 'rope_parameters': nested}
  assert layer_specs(dual) == layer_specs(GEMMA3)


@pytest.mark.parametrize('model', ['llama4_text', 'smollm3'])
@pytest.mark.parametrize('keys', [{}, {'no_rope_layers': []}])
def test_every_fourth_layer_is_nope(model: str, keys: dict[str, Any]) -> None:
  config = {'model_type': model, 'head_dim': 8, 'num_hidden_layers': 8}
  assert kinds(config | keys) == (['default'] * 3 + [None]) * 2
  none = config | keys | {'no_rope_layer_interval': 0}
  assert kinds(none) == ['default'] * 8


def test_cohere2_has_rope_on_sliding_layers_alone() -> None:
  config = {
    'model_type': 'cohere2',
    'head_dim': 8,
    'num_hidden_layers': 4,
    'rope_theta': 5e4,
  }
  assert kinds(config) == ['default'] * 3 + [None]


@pytest.mark.parametrize(
  ('model', 'head_dim', 'rotary_dim', 'theta'),
  [
    ('gemma2', 256, 256, 1e4),
    ('qwen3', 128, 128, 1e4),
    ('llama', 80, 80, 1e4),
    ('mixtral', 80, 80, 1e6),
    ('glm4', 128, 64, 1e4),
    ('phi', 80, 40, 1e4),
  ],
)
def test_defaults_of_families(
  model: str, head_dim: int, rotary_dim: int, theta: float
) -> None:
  spec = RopeSpec.from_hf(
    {'model_type': model, 'hidden_size': 2560, 'num_attention_heads': 32}
  )
  assert spec is not None
  assert (spec.head_dim, spec.rotary_dim) == (head_dim, rotary_dim)
  assert spec.theta == theta


def test_gemma4_global_heads_are_wider() -> None:
  full = {
    'rope_type': 'proportional',
    'partial_rotary_factor': 0.25,
    'rope_theta': 1e6,
  }
  config = {
    'model_type': 'gemma4_text',
    'head_dim': 256,
    'rope_parameters': {
      'full_attention': full,
      'sliding_attention': {'rope_type': 'default', 'rope_theta': 1e4},
    },
  }
  wide = RopeSpec.from_hf(config, 'full_attention')
  narrow = RopeSpec.from_hf(config, 'sliding_attention')
  assert wide is not None
  assert narrow is not None
  assert (wide.rotary_dim, narrow.rotary_dim) == (512, 256)
  assert int((wide.frequencies()[0] > 0).sum()) == 64


BASE: dict[str, Any] = {'head_dim': 8, 'num_hidden_layers': 2}


@pytest.mark.unchecked
@pytest.mark.parametrize(
  ('fields', 'says'),
  [
    ({'rope_tetha': 1e6}, "unknown rope key of a config 'rope_tetha'"),
    ({'rotary_pct': 0.5}, "'rotary_pct'"),
    ({'rotary_dim': 4}, "'rotary_dim'"),
    ({'rope_type': 'yarn'}, "'rope_type'"),
    ({'model_type': 'novel', 'rope_theta': 1e4, 'head_dim': None}, 'head_dim'),
    ({'model_type': 'novel'}, 'has no rope_theta'),
    ({'model_type': 'gpt_oss'}, 'has no rope_parameters'),
    ({'model_type': ['a']}, "model_type is ['a']"),
    ({'no_rope_layers': [None, '0']}, 'has the entry None'),
    ({'no_rope_layers': [1, 5]}, 'has the entry 5'),
    ({'no_rope_layer_interval': -4}, 'no_rope_layer_interval is -4'),
    ({'no_rope_layer_interval': '4'}, "no_rope_layer_interval is '4'"),
    ({'layer_types': 'ab'}, "layer_types is 'ab'"),
    ({'layer_types': [1, 2]}, 'layer_types is [1, 2]'),
    ({'layer_types': 5}, 'layer_types is 5'),
    ({'num_hidden_layers': 2**31}, 'must be 1 to'),
    ({'head_dim': 2**31}, 'head_dim is 2147483648'),
    ({'head_dim': 72, 'qk_rope_head_dim': 64}, 'qk_rope_head_dim 64'),
    ({'rope_local_base_freq': 1e4}, 'nothing says which layers slide'),
    (
      {'rope_local_base_freq': 1e4, 'layer_types': ['x', 'y']},
      "which is 'x'",
    ),
  ],
)
def test_refusals(fields: dict[str, Any], says: str) -> None:
  with pytest.raises(ConfigError) as caught:
    layer_specs(BASE | fields)
  assert says in str(caught.value)


@pytest.mark.unchecked
@pytest.mark.parametrize('junk', [[], None, 'text', 3])
def test_a_config_is_a_mapping(junk: Any) -> None:
  for read in (RopeSpec.from_hf, layer_specs):
    with pytest.raises(ConfigError, match='must be the mapping'):
      read(junk)


JUNK = [
  None, True, -1, 0, 1, 2.5, 1e300, 10**400, '', 'yarn', [], [1.0], [None],
  {}, {'a': 1}, float('nan'), float('inf'), 2**63,
]  # fmt: skip
KEYS = [
  'head_dim', 'model_type', 'num_hidden_layers', 'rope_theta', 'layer_types',
  'max_position_embeddings', 'rope_scaling', 'rope_parameters',
  'partial_rotary_factor', 'rope_condense_ratio', 'sliding_window_pattern',
  'no_rope_layers', 'no_rope_layer_interval', 'layer_rope_theta',
  'rope_local_base_freq', 'original_max_position_embeddings',
  'qk_rope_head_dim', 'hidden_size', 'num_attention_heads', 'text_config',
]  # fmt: skip
INNER = [
  'rope_type', 'type', 'factor', 'rope_theta', 'attention_factor', 'beta_fast',
  'beta_slow', 'mscale', 'mscale_all_dim', 'truncate', 'short_factor',
  'long_factor', 'low_freq_factor', 'high_freq_factor',
  'original_max_position_embeddings', 'partial_rotary_factor', 'alpha',
]  # fmt: skip
L0 = {'original_max_position_embeddings': 64}
GOOD: dict[str, dict[str, Any]] = {
  'linear': {'factor': 4.0},
  'dynamic': {'factor': 4.0},
  'yarn': {'factor': 4.0, **L0},
  'longrope': {'short_factor': [1.0] * 4, 'long_factor': [2.0] * 4, **L0},
  'llama3': {
    'factor': 4.0,
    'low_freq_factor': 1.0,
    'high_freq_factor': 4.0,
    **L0,
  },
  'proportional': {},
}


@pytest.mark.unchecked
def test_junk_gives_specs_or_one_kind_of_error() -> None:
  """Three thousand configs with junk in them: a finite spec, or ConfigError."""
  rng = np.random.default_rng(0)
  read = 0
  for _ in range(3000):
    kind = list(GOOD)[rng.integers(len(GOOD))]
    params: dict[Any, Any] = {'rope_type': kind} | GOOD[kind]
    if rng.random() < 0.6:
      params[INNER[rng.integers(len(INNER))]] = JUNK[rng.integers(len(JUNK))]
    config = BASE | {'max_position_embeddings': 256, 'rope_parameters': params}
    if rng.random() < 0.6:
      config[KEYS[rng.integers(len(KEYS))]] = JUNK[rng.integers(len(JUNK))]
    try:
      specs = layer_specs(config)
    except ConfigError as error:
      assert len(str(error)) <= 2000
      continue
    read += 1
    for spec in specs:
      if spec is not None:
        inv_freq, factor = spec.frequencies(1000)
        assert np.isfinite(inv_freq).all()
        assert np.isfinite(factor)
        spec.describe()
        with contextlib.suppress(ConfigError):
          json.dumps(spec.to_hf(), allow_nan=False)
  assert read > 200
