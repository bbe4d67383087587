"""The config.json of a decoder: its family, its keys, what it refuses."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from ntk_jax.errors import ConfigError
from ntk_jax.interop.architectures import architecture
from ntk_jax.interop.choice import LIMITS
from ntk_jax.interop.families import FAMILIES
from ntk_jax.interop.fields import written
from ntk_jax.rope.methods import METHODS
from ntk_jax.rope.spec import RopeSpec
from ntk_jax.scheme import Scheme
from tests.interop.made import (
  EXPERTS,
  GEMMA2,
  GEMMA3,
  ORIGINAL,
  QWEN3,
  SHAPE,
  rope,
  shape,
  spec,
)

MIXED = {'layer_plan': (0, 1)}
NOPE = Scheme(RopeSpec('proportional', 8, partial_rotary_factor=0.0))
LLAMA_YARN = {
  'architectures': ['LlamaForCausalLM'],
  'attention_bias': False,
  'bos_token_id': None,
  'dtype': 'bfloat16',
  'eos_token_id': None,
  'head_dim': 8,
  'hidden_act': 'silu',
  'hidden_size': 32,
  'intermediate_size': 24,
  'max_position_embeddings': 128,
  'mlp_bias': False,
  'model_type': 'llama',
  'num_attention_heads': 4,
  'num_hidden_layers': 2,
  'num_key_value_heads': 2,
  'pad_token_id': None,
  'rms_norm_eps': 1e-06,
  'rope_parameters': {
    'factor': 4.0,
    'original_max_position_embeddings': 32,
    'rope_theta': 10000.0,
    'rope_type': 'yarn',
  },
  'rope_scaling': {
    'factor': 4.0,
    'original_max_position_embeddings': 32,
    'rope_type': 'yarn',
  },
  'rope_theta': 10000.0,
  'tie_word_embeddings': False,
  'torch_dtype': 'bfloat16',
  'vocab_size': 40,
}
# Settings that a method needs beside original length and factor.
NEEDS: dict[str, dict[str, Any]] = {
  'llama3': {'options': {'low_freq_factor': 1.0, 'high_freq_factor': 4.0}},
  'longrope': {
    'options': {'short_factor': [1.0, 1.5, 2.0, 4.0]}
    | {'long_factor': [1.0, 1.5, 2.0, 4.0]}
  },
  'proportional': {'partial_rotary_factor': 0.5},
}
STATIC = [
  name
  for name, row in METHODS.items()
  if not row.per_length and name != 'mixed_longrope'
]


def read_back(config: dict[str, Any]) -> list[Scheme]:
  """The schemes by layer that an importer sees in the text of the file."""
  found = architecture(json.loads(json.dumps(config, allow_nan=False)))
  return [found.schemes[number] for number in found.model.plan]


def config_of(schemes: list[Scheme], **fields: Any) -> dict[str, Any]:
  return written(shape(**fields), schemes).config


def same_frequencies(a: RopeSpec, b: RopeSpec) -> None:
  for length in (None, 24, 33, 200):
    wa, fa = a.frequencies(length)
    wb, fb = b.frequencies(length)
    np.testing.assert_allclose(wa, wb, rtol=1e-12)
    np.testing.assert_allclose(fa, fb, rtol=1e-12)


def test_every_key_of_a_llama_with_yarn() -> None:
  found = written(shape(), [rope('yarn')], dtype='bfloat16')
  assert found.config == LLAMA_YARN
  assert (found.folds.queries == 1).all()
  assert found.folds.embed == 1


@pytest.mark.parametrize('method', STATIC)
def test_a_static_method_reads_back(method: str) -> None:
  scheme = rope(method, **NEEDS.get(method, {}))
  (back, *_) = read_back(config_of([scheme]))
  same_frequencies(back.spec, scheme.spec)


@pytest.mark.parametrize('method', ['ntk', 'ntk_exponent', 'theta_scale'])
def test_a_change_of_base_is_a_base(method: str) -> None:
  config = config_of([rope(method)])
  assert config['rope_scaling'] is None
  assert config['rope_parameters'] == {
    'rope_type': 'default',
    'rope_theta': config['rope_theta'],
  }
  inv_freq, _ = spec(method).frequencies()
  plain = config['rope_theta'] ** (-np.arange(0, 8, 2) / 8)
  np.testing.assert_allclose(plain, inv_freq, rtol=1e-12)
  assert config['max_position_embeddings'] == 128


def test_the_carrier_says_everything_twice() -> None:
  config = config_of([rope('ntk_mixed', attention_factor=1.5)])
  inside = config['rope_parameters']
  assert config['rope_scaling'] == {
    key: value for key, value in inside.items() if key != 'rope_theta'
  }
  assert inside['rope_type'] == 'longrope'
  assert inside['short_factor'] == inside['long_factor']
  wanted, _ = spec('ntk_mixed').frequencies()
  plain = 1e4 ** (-np.arange(0, 8, 2) / 8)
  np.testing.assert_allclose(plain / inside['short_factor'], wanted, rtol=1e-12)
  for key in ('attention_factor', 'short_mscale', 'long_mscale'):
    assert inside[key] == 1.5
  assert inside['factor'] == 4.0
  assert inside['original_max_position_embeddings'] == ORIGINAL
  assert config['original_max_position_embeddings'] == ORIGINAL
  assert config['max_position_embeddings'] == 4 * ORIGINAL


@pytest.mark.parametrize('method', [*STATIC, 'dynamic'])
def test_numbers_of_rope_are_floats(method: str) -> None:
  """vLLM stops at a whole one, and at null."""
  config = config_of([rope(method, **NEEDS.get(method, {}), theta=10000)])
  for params in (config['rope_parameters'], config['rope_scaling'] or {}):
    for key, value in params.items():
      if key not in ('rope_type', 'original_max_position_embeddings'):
        values = value if isinstance(value, list) else [value]
        assert {type(v) for v in values} == {float}, key


@pytest.mark.parametrize('method', ['linear', 'dynamic'])
def test_linear_and_dynamic_keep_the_original_length(method: str) -> None:
  found = written(shape(), [rope(method)])
  assert found.config['max_position_embeddings'] == ORIGINAL
  assert found.length == 4 * ORIGINAL


def test_two_sided_longrope_is_native() -> None:
  sides = {
    'short_factor': [1.0, 1.0, 1.5, 2.0],
    'long_factor': [1.0, 2.0, 3.0, 4.0],
  }
  config = config_of([rope('longrope', options=sides)])
  assert config['rope_parameters']['short_factor'] == sides['short_factor']
  assert config['rope_parameters']['long_factor'] == sides['long_factor']


@pytest.mark.parametrize(
  ('family', 'fields', 'schemes'),
  [
    ('llama', {}, [rope('yarn')]),
    ('llama', {'qkv_bias': True, 'out_bias': True, 'mlp_bias': True}, [rope()]),
    ('llama', {'scale_embed': True, 'tied': True}, [rope()]),
    ('llama', {'activation': 'gelu_exact'}, [rope()]),
    ('mistral', {}, [rope('yarn', 16)]),
    ('ministral', MIXED, [rope(window=16), rope()]),
    ('ministral', {'dim': 30}, [rope(window=16), rope()]),
    ('mixtral', EXPERTS, [rope('yarn')]),
    ('mixtral', EXPERTS, [rope(window=16)]),
    ('qwen2', {'qkv_bias': True}, [rope()]),
    ('qwen2', MIXED | {'qkv_bias': True}, [rope(), rope(window=16)]),
    ('qwen3', QWEN3, [rope()]),
    ('qwen3', QWEN3 | {'qkv_bias': True, 'out_bias': True}, [rope()]),
    ('gemma2', GEMMA2 | MIXED, [rope(window=16), rope()]),
    ('gemma3_text', GEMMA3, [rope()]),
    ('gemma3_text', GEMMA3, [rope(window=16)]),
    ('gemma3_text', GEMMA3 | MIXED, [rope(window=16, theta=5e2), rope('yarn')]),
    ('phi3', {}, [rope('yarn', partial_rotary_factor=0.5)]),
    ('phi3', {}, [rope(window=16, partial_rotary_factor=0.5)]),
  ],
)
def test_the_family_is_the_first_that_expresses_it(
  family: str, fields: dict[str, Any], schemes: list[Scheme]
) -> None:
  if fields.get('dim') == 30:
    fields = {**fields, **MIXED}
  model = shape(**fields)
  found = written(model, schemes)
  assert found.config['model_type'] == family
  assert found.config['architectures'] == [FAMILIES[family].architecture]
  back = architecture(found.config)
  assert back.model.scale == pytest.approx(found.model.scale, rel=1e-15)
  for name in vars(model):
    same = getattr(back.model, name) == getattr(found.model, name)
    ours = ('attention_scale', 'rope_theta', 'layer_plan', 'remat', 'precision')
    assert same or name in ours, name
  layers = [schemes[number] for number in model.plan]
  for scheme, other in zip(read_back(found.config), layers, strict=True):
    assert scheme.window == other.window
    if family != 'phi3':  # its factor by rule, the rest folded
      same_frequencies(scheme.spec, other.spec)


@pytest.mark.parametrize(
  ('fields', 'schemes', 'says'),
  [
    ({'head_norm': True}, [rope()], 'llama, never has a norm .*head_norm'),
    ({'norm_offset': True}, [rope()], r'never has .*\(norm_offset\)'),
    ({'post_norms': True}, [rope()], r'never has .*\(post_norms\)'),
    (
      {'qkv_bias': True, 'mlp_bias': True, 'out_bias': False},
      [rope()],
      r'qkv_bias and out_bias together \(attention_bias\)',
    ),
    ({'attention_soft_cap': 9.0}, [rope()], 'no attention_soft_cap.* 9.0'),
    ({'logit_soft_cap': 9.0}, [rope()], 'no logit_soft_cap, which is 9.0'),
    (
      GEMMA3 | {'attention_soft_cap': 9.0},
      [rope()],
      'gemma2, never has norms on q and k',
    ),
    (
      EXPERTS | {'qk_norm': True},
      [rope()],
      r'mixtral, never has norms on q and k|qwen3, has no layers of experts',
    ),
    ({}, [NOPE], r'no position embedding \(NoPE\)'),
    (MIXED, [rope(), NOPE], r'no position embedding \(NoPE\)'),
    (
      MIXED,
      [rope(), rope('yarn')],
      r"one rope for all .*\['default', 'yarn'\]",
    ),
    (
      GEMMA3 | MIXED,
      [rope(window=16), NOPE],
      r'gemma3_text, .*no position embedding',
    ),
    (
      GEMMA3 | MIXED,
      [rope('yarn', 16), rope()],
      'gemma3_text, scales rope in layers without a window alone',
    ),
    (
      GEMMA3 | MIXED,
      [rope(), rope('yarn')],
      r'gemma3_text, has one rope for each type of layer',
    ),
    (
      MIXED,
      [rope(window=16), rope(window=8)],
      r'one size of window, not \[8, 16\]',
    ),
    (
      QWEN3,
      [rope(partial_rotary_factor=0.5)],
      r'turns whole heads, not \[0.5\] of them',
    ),
    (
      {'dim': 40},
      [rope(partial_rotary_factor=0.5)],
      'heads times head_dim as its width, not 40 with 4 of 8|whole heads',
    ),
    ({'dim': 30, 'mlp_bias': True}, [rope()], 'multiple of its heads, not 30'),
    (MIXED, [rope(window=9), rope(partial_rotary_factor=0.5)], 'several'),
  ],
)
def test_what_no_family_has_is_refused_by_name(
  fields: dict[str, Any], schemes: list[Scheme], says: str
) -> None:
  with pytest.raises(ConfigError, match=says):
    written(shape(**fields), schemes)


@pytest.mark.parametrize(
  ('scheme', 'says'),
  [
    (rope('dynamic_yarn'), 'dynamic_yarn cannot be exported.*freeze_length'),
    (
      Scheme(RopeSpec('linear', 8, factor=4.0, attention_factor=1.2)),
      'carrier of linear needs original_length',
    ),
    (
      rope('yarn', modifiers=(('cope_hard', 1),)),
      'carrier cannot hold yarn.*frequency 0',
    ),
    (
      rope('dynamic', partial_rotary_factor=0.5),
      'dynamic cannot be exported: .* default, longrope alone.*freeze_length',
    ),
  ],
)
def test_what_no_rope_type_has_is_refused_by_name(
  scheme: Scheme, says: str
) -> None:
  with pytest.raises(ConfigError, match=says):
    written(shape(), [scheme])


def test_gemma_3_says_its_rope_in_both_spellings() -> None:
  config = config_of(
    [rope(window=16, theta=500.0), rope('linear', theta=1e6)], **GEMMA3 | MIXED
  )
  assert config['rope_theta'] == 1e6
  assert config['rope_local_base_freq'] == 500.0
  assert config['rope_scaling'] == {'rope_type': 'linear', 'factor': 4.0}
  assert config['rope_parameters'] == {
    'sliding_attention': {'rope_type': 'default', 'rope_theta': 500.0},
    'full_attention': {
      'rope_type': 'linear',
      'factor': 4.0,
      'rope_theta': 1e6,
    },
  }
  assert config['sliding_window_pattern'] == 2
  assert config['layer_types'] == ['sliding_attention', 'full_attention']


def test_nested_yarn_without_truncate_takes_the_carrier() -> None:
  uncut = rope('yarn', options={'truncate': False})
  nested = config_of([rope(window=16), uncut], **GEMMA3 | MIXED)
  assert nested['rope_scaling']['rope_type'] == 'longrope'
  assert config_of([uncut])['rope_scaling']['rope_type'] == 'yarn'


@pytest.mark.parametrize(
  ('windows', 'every'),
  [('sfsf', 2), ('ssfs', 3), ('ffff', 1), ('ssss', 5), ('fsfs', None)],
)
def test_a_pattern_is_written_where_there_is_one(
  windows: str, every: int | None
) -> None:
  plan = tuple('sf'.index(kind) for kind in windows)
  schemes = [rope(window=16), rope()]
  config = config_of(schemes, **GEMMA3, layers=4, layer_plan=plan)
  assert config.get('sliding_window_pattern') == every
  assert [s.window for s in read_back(config)] == [
    16 if kind == 's' else None for kind in windows
  ]


def test_phi_3_has_three_keys_and_folds_the_rest() -> None:
  half = {'partial_rotary_factor': 0.5}
  found = written(shape(), [rope('yarn', **half)])
  scaling = found.config['rope_scaling']
  assert set(scaling) == {'type', 'short_factor', 'long_factor'}
  assert scaling['type'] == 'longrope'
  inside = found.config['rope_parameters']
  assert inside['short_factor'] == scaling['short_factor']
  assert 'attention_factor' not in inside
  assert found.config['partial_rotary_factor'] == 0.5
  assert found.config['original_max_position_embeddings'] == ORIGINAL
  rule = math.sqrt(1 + math.log(4) / math.log(ORIGINAL))
  ours = 0.1 * math.log(4) + 1
  turning, still = found.folds.queries[:, :4], found.folds.queries[:, 4:]
  np.testing.assert_allclose(turning, (ours / rule) ** 2, rtol=1e-12)
  assert (still == 1).all()
  by_rule = written(shape(), [rope('longrope', **half, **_sides(2))])
  assert (by_rule.folds.queries == 1).all()


def _sides(pairs: int) -> dict[str, Any]:
  sides = {'short_factor': [1.0] * pairs, 'long_factor': [2.0] * pairs}
  return {'options': sides}


LLAMA_31: dict[str, Any] = {
  'model_type': 'llama',
  'architectures': ['LlamaForCausalLM'],
  'hidden_size': 32,
  'intermediate_size': 24,
  'num_hidden_layers': 2,
  'num_attention_heads': 4,
  'num_key_value_heads': 2,
  'vocab_size': 40,
  'max_position_embeddings': 131072,
  'bos_token_id': 7,
  'eos_token_id': [8, 9],
  'initializer_range': 0.03,
  'pretraining_tp': 1,
  'auto_map': {'AutoModel': 'stranger.Model'},
  'torch_dtype': 'float16',
  'rope_theta': 5e5,
  'rope_scaling': {
    'rope_type': 'llama3',
    'factor': 8.0,
    'low_freq_factor': 1.0,
    'high_freq_factor': 4.0,
    'original_max_position_embeddings': 8192,
  },
}


def exported(origin: dict[str, Any], schemes: Any = None) -> dict[str, Any]:
  """What a model that was read from this config is written as."""
  found = architecture(origin)
  text = json.dumps(origin)
  return written(found.model, schemes or found.schemes, origin=text).config


def test_a_loaded_model_keeps_what_is_not_ours() -> None:
  config = exported(LLAMA_31)
  for key in ('bos_token_id', 'eos_token_id', 'initializer_range'):
    assert config[key] == LLAMA_31[key]
  assert config['pretraining_tp'] == 1
  assert 'pad_token_id' not in config
  assert config['max_position_embeddings'] == 131072  # not 8 * 8192
  assert config['rope_scaling'] == LLAMA_31['rope_scaling']
  assert config['torch_dtype'] == config['dtype'] == 'float32'
  assert 'auto_map' not in config


def test_its_length_is_that_of_the_file() -> None:
  found = architecture(LLAMA_31)
  text = json.dumps(LLAMA_31)
  assert written(found.model, found.schemes, origin=text).length == 131072


def test_new_rope_brings_its_length() -> None:
  scheme = Scheme(RopeSpec('yarn', 8, original_length=8192, factor=4.0))
  config = exported(LLAMA_31, [scheme])
  assert config['max_position_embeddings'] == 32768
  assert config['rope_scaling']['rope_type'] == 'yarn'
  assert config['bos_token_id'] == 7
  plain = exported(LLAMA_31, [Scheme(RopeSpec('default', 8))])
  assert plain['max_position_embeddings'] == 131072
  assert plain['rope_scaling'] is None


def test_condensed_rope_becomes_linear() -> None:
  longchat = {k: v for k, v in LLAMA_31.items() if k != 'rope_scaling'}
  longchat |= {'rope_condense_ratio': 8, 'max_position_embeddings': 2048}
  config = exported(longchat)
  assert config['rope_scaling'] == {'rope_type': 'linear', 'factor': 8.0}
  assert 'rope_condense_ratio' not in config
  assert config['max_position_embeddings'] == 2048


def test_a_family_is_kept_while_it_expresses_the_model() -> None:
  plain = {**LLAMA_31, 'model_type': 'mistral', 'sliding_window': None}
  plain['architectures'] = ['MistralForCausalLM']
  assert exported(plain)['model_type'] == 'mistral'
  windowed = [Scheme(RopeSpec('default', 8), window=16)]
  changed = exported(LLAMA_31, windowed)
  assert changed['model_type'] == 'mistral'
  assert changed['sliding_window'] == 16
  assert changed['bos_token_id'] == 7
  assert changed['pad_token_id'] is None
  assert changed['initializer_range'] == 0.03
  assert 'pretraining_tp' not in changed


def test_experts_are_counted() -> None:
  config = config_of([rope()], **EXPERTS)
  assert config['num_local_experts'] == 3
  assert config['num_experts_per_tok'] == 2


def test_every_family_has_limits() -> None:
  assert set(LIMITS) == set(FAMILIES)


def test_length_is_the_class_default_where_nothing_tells() -> None:
  scheme = Scheme(RopeSpec('default', SHAPE['head_dim']))
  found = written(shape(), [scheme])
  assert found.config['max_position_embeddings'] == 2048
  found = written(shape(), [rope()])
  assert found.config['max_position_embeddings'] == ORIGINAL
