"""The configs of hf_rope.npz and hf_rope.json; make_hf_rope.py runs them."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

Config = dict[str, Any]
NESTED = 'full_attention'
LOCAL = {'rope_type': 'default', 'rope_theta': 10000.0}
# v4 keeps these outside of `rope_scaling`.
TOP = ('rope_theta', 'partial_rotary_factor')


# --- the cases -------------------------------------------------------------


def case(
  head_dim: int,
  length: int,
  rope_type: str,
  theta: float = 1e4,
  at: tuple[int | None, ...] = (None,),
  **rope: object,
) -> Config:
  """A config in the v5 spelling and the lengths to evaluate it at."""
  rope = {'rope_type': rope_type, 'rope_theta': theta, **rope}
  config = {
    'head_dim': head_dim,
    'max_position_embeddings': length,
    'rope_parameters': rope,
  }
  return {'config': config, 'seq_lens': list(at), 'layer_type': None}


def ramp(start: float, stop: float, count: int) -> list[float]:
  """Increasing factors, rounded so that they print short."""
  step = (stop - start) / (count - 1)
  return [round(start + step * i, 4) for i in range(count)]


def default_cases() -> Iterator[tuple[str, Config]]:
  yield 'default_d80', case(80, 2048, 'default', at=(None, 9000))
  yield 'default_d72', case(72, 8192, 'default', 5e5)
  yield 'default_d2', case(2, 64, 'default')
  for d, part in ((80, 0.25), (80, 0.4), (80, 0.75), (72, 0.25), (72, 0.75)):
    name = f'default_d{d}_partial_{part}'
    yield name, case(d, 2048, 'default', partial_rotary_factor=part)
  # 0.29 * 100 = 28.999999999999996, so the rotary dim is 28.
  rounding = case(100, 2048, 'default', partial_rotary_factor=0.29)
  yield 'default_d100_partial_0.29', rounding
  for theta in (2.0, 10.0, 1e9, 1e15):
    yield f'default_theta_{theta:g}', case(64, 4096, 'default', theta)
  yield 'linear_1', case(80, 4096, 'linear', factor=1.0)
  yield 'linear_2.5', case(72, 4096, 'linear', factor=2.5, at=(None, 10240))
  partial = case(80, 4096, 'linear', 1e6, factor=2.5, partial_rotary_factor=0.4)
  yield 'linear_2.5_partial_0.4', partial
  yield 'linear_int_4', case(64, 4096, 'linear', factor=4)


def dynamic_cases() -> Iterator[tuple[str, Config]]:
  at = (None, 1, 4095, 4096, 4097, 5000, 8192, 16384, 131072, 1048576)
  yield 'dynamic_1', case(64, 4096, 'dynamic', factor=1.0, at=at)
  yield 'dynamic_2', case(128, 4096, 'dynamic', factor=2.0, at=at)
  yield 'dynamic_4', case(80, 4096, 'dynamic', factor=4.0, at=at)
  some = (None, 2048, 2049, 3001, 65536)
  for part in (0.25, 0.4, 0.75):
    rope = {'factor': 2.0, 'partial_rotary_factor': part}
    name = f'dynamic_2_partial_{part}'
    yield name, case(80, 2048, 'dynamic', at=some, **rope)
  yield (
    'dynamic_2.5_theta_10',
    case(72, 2048, 'dynamic', 10.0, some, factor=2.5),
  )
  yield 'dynamic_4_theta_1e7', case(64, 2048, 'dynamic', 1e7, some, factor=4.0)
  yield 'dynamic_2_d4', case(4, 2048, 'dynamic', 1e4, some, factor=2.0)


def yarn_cases() -> Iterator[tuple[str, Config]]:
  def yarn(
    factor: float | None, original: int = 4096, d: int = 64, **more: Any
  ) -> Config:
    ratio = math.ceil(factor or 4.0)
    length = more.pop('length', original * ratio)
    more['original_max_position_embeddings'] = original
    return case(d, length, 'yarn', factor=factor, **more)

  for factor in (1.0, 1.5, 40.0):
    yield f'yarn_{factor:g}', yarn(factor, d=80, at=(None, 4096, 100000))
  yield 'yarn_factor_null', yarn(None)
  yield 'yarn_factor_null_2.5', yarn(None, original=8192, length=20480)
  yield 'yarn_factor_over_ratio', yarn(8.0, length=8192)
  yield 'yarn_int_4', yarn(4)
  for fast, slow in ((16, 2), (5, 1), (32.0, 1.5), (8, 0.5)):
    for truncate in (True, False):
      name = f'yarn_betas_{fast}_{slow}_{"cut" if truncate else "uncut"}'
      rope = {'beta_fast': fast, 'beta_slow': slow, 'truncate': truncate}
      yield name, yarn(8.0, d=72, theta=5e5, **rope)
  yield 'yarn_betas_equal', yarn(8.0, beta_fast=4, beta_slow=4, truncate=False)
  for value in (1.0, 1.5):
    yield f'yarn_attention_{value}', yarn(4.0, attention_factor=value)
  pair = {'mscale': 1.0, 'mscale_all_dim': 0.707}
  yield 'yarn_mscale_pair', yarn(40.0, **pair)
  yield 'yarn_mscale_pair_null', yarn(None, length=163840, **pair)
  yield 'yarn_mscale_pair_factor_1', yarn(1.0, **pair)
  yield 'yarn_attention_over_pair', yarn(40.0, attention_factor=1.25, **pair)
  yield 'yarn_mscale_all_dim_only', yarn(40.0, mscale_all_dim=0.707)
  yield 'yarn_mscale_zero', yarn(40.0, mscale=0.0, mscale_all_dim=1.0)
  yield 'yarn_mscale_all_dim_zero', yarn(40.0, mscale=1.0, mscale_all_dim=0.0)
  for part in (0.25, 0.4, 0.75):
    partial = yarn(8.0, d=80, partial_rotary_factor=part)
    yield f'yarn_partial_{part}', partial
  # The lower bound is negative: 64 / (32 * 2 pi) < 1.
  yield 'yarn_low_below_zero', yarn(16.0, original=64)
  yield 'yarn_both_below_zero', yarn(16.0, original=5, truncate=False)
  # The upper bound is cut at rotary_dim - 1, not at the number of pairs.
  yield 'yarn_high_clamped', yarn(4.0, original=65536, theta=100.0)
  yield 'yarn_low_over_high', yarn(4.0, original=1048576, theta=10.0)
  yield 'yarn_theta_2', yarn(4.0, theta=2.0)
  yield 'yarn_theta_1e12', yarn(4.0, theta=1e12)
  for original in (32768, 262144, 1048576):
    rope = {'d': 128, 'theta': 1e7, 'truncate': False}
    yield f'yarn_original_{original}', yarn(4.0, original=original, **rope)


def longrope_cases() -> Iterator[tuple[str, Config]]:
  def longrope(d: int = 32, original: int = 4096, **more: Any) -> Config:
    pairs = int(d * more.get('partial_rotary_factor', 1.0)) // 2
    rope = {
      'short_factor': more.pop('short', ramp(1.0, 1.4, pairs)),
      'long_factor': more.pop('long', ramp(1.1, 30.0, pairs)),
      'original_max_position_embeddings': original,
      **more,
    }
    length = rope.pop('length', 8 * original)
    at = (None, 1, original - 1, original, original + 1, 8 * original)
    return case(d, length, 'longrope', at=at, **rope)

  yield 'longrope_ratio', longrope()
  yield 'longrope_factor_null', longrope(factor=None)
  yield 'longrope_ratio_1', longrope(length=4096)
  yield 'longrope_ratio_2.5', longrope(original=2000, length=5000)
  yield 'longrope_factor_32', longrope(factor=32.0)
  yield 'longrope_factor_1', longrope(factor=1.0)
  yield 'longrope_factor_int', longrope(factor=4)
  below = longrope(short=ramp(0.5, 1.2, 16), long=ramp(0.25, 16.0, 16))
  yield 'longrope_below_one', below
  ints = longrope(short=[1] * 16, long=[1, 2, 3, 4] * 4)
  yield 'longrope_int_entries', ints
  for value in (1.0, 1.5):
    name = f'longrope_attention_{value}'
    yield name, longrope(attention_factor=value, factor=16.0)
  partial = longrope(d=80, original=8192, theta=1e6, partial_rotary_factor=0.4)
  yield 'longrope_partial_0.4', partial


def other_cases() -> Iterator[tuple[str, Config]]:
  def llama3(
    factor: float, low: float, high: float, d: int = 64, **more: Any
  ) -> Config:
    original = more.pop('original', 8192)
    more = {'theta': 5e5, 'at': (None, 131072), **more}
    rope = {'low_freq_factor': low, 'high_freq_factor': high}
    rope['original_max_position_embeddings'] = original
    return case(d, 16 * original, 'llama3', factor=factor, **rope, **more)

  yield 'llama3_1', llama3(8.0, 1.0, 4.0, d=128)
  yield 'llama3_2', llama3(32.0, 1.0, 4.0)
  yield 'llama3_step', llama3(16.0, 1.0, 1.0, d=80)
  yield 'llama3_step_at_4', llama3(16, 4, 4)
  yield 'llama3_low_2_high_8', llama3(8.0, 2.0, 8.0)
  yield 'llama3_theta_10', llama3(8.0, 1.0, 4.0, theta=10.0)
  yield 'llama3_theta_1e4_d72', llama3(2.5, 1.0, 4.0, d=72, theta=1e4)
  yield 'llama3_factor_1', llama3(1.0, 1.0, 4.0)
  yield 'llama3_original_1048576', llama3(4.0, 1.0, 4.0, original=1048576)
  partial = llama3(8.0, 1.0, 4.0, d=80, partial_rotary_factor=0.4)
  yield 'llama3_partial_0.4', partial
  for part in (0.0, 0.25, 0.334, 0.5, 1.0):
    rope = {'partial_rotary_factor': part}
    name = f'proportional_{part}'
    yield name, case(72, 8192, 'proportional', 1e6, (None, 8193), **rope)
    name = f'proportional_{part}_factor_8'
    rope['factor'] = 8.0
    yield name, case(80, 8192, 'proportional', 1e4, **rope)
  yield 'proportional_whole', case(64, 8192, 'proportional')


def nested_cases(flat: dict[str, Config]) -> Iterator[tuple[str, Config]]:
  """Some flat cases as the entry of one layer type; Gemma 3's classes."""
  names = (
    'default_d72',
    'linear_2.5',
    'dynamic_2',
    'yarn_betas_16_2_cut',
    'yarn_mscale_pair',
    'yarn_factor_null',
    'longrope_ratio',
    'llama3_2',
    'proportional_0.25',
    # Wrong in transformers: it looks for `truncate` beside the layer types.
    'yarn_betas_16_2_uncut',
  )
  for name in names:
    config = copy.deepcopy(flat[name]['config'])
    rope = {NESTED: config['rope_parameters'], 'sliding_attention': LOCAL}
    config['rope_parameters'] = rope
    yield (
      f'nested_{name}',
      {**flat[name], 'config': config, 'layer_type': NESTED},
    )


def all_cases() -> dict[str, Config]:
  flat = dict[str, Config]()
  for make in (
    default_cases,
    dynamic_cases,
    yarn_cases,
    longrope_cases,
    other_cases,
  ):
    for name, value in make():
      assert name not in flat, name
      flat[name] = value
  return {**flat, **dict(nested_cases(flat))}


# --- the spellings ---------------------------------------------------------


def spellings(config: Config) -> dict[str, Config]:
  """The same config in v5, in v4 (both keys of the type), and in both."""
  rope = config['rope_parameters']
  base = {k: config[k] for k in ('head_dim', 'max_position_embeddings')}
  base |= {k: rope[k] for k in TOP if k in rope}
  scaling = {k: v for k, v in rope.items() if k not in TOP}
  named = {('type' if k == 'rope_type' else k): v for k, v in scaling.items()}
  plain = rope['rope_type'] == 'default'
  v4 = {**base, 'rope_scaling': None if plain else scaling}
  found = {
    'v5': config,
    'v4': v4,
    'v4_type': {**base, 'rope_scaling': named},
    'both': {**v4, 'rope_parameters': rope},
  }
  key = 'original_max_position_embeddings'
  if rope['rope_type'] == 'longrope':
    inner = {k: v for k, v in scaling.items() if k != key}
    found['v4_top'] = {**base, key: rope[key], 'rope_scaling': inner}
  return copy.deepcopy(found)


def without_null_factor(config: Config) -> Config | None:
  """The config with a null factor left out, or None if it has none."""
  config = copy.deepcopy(config)
  rope = config['rope_parameters']
  rope = rope.get(NESTED, rope)
  if rope.get('factor', 1.0) is not None:
    return None
  del rope['factor']
  return config


# --- odd configs -----------------------------------------------------------


def odd(kind: str | None, /, *drop: str, **change: Any) -> Config:
  """A small sound v5 config of a type, with keys changed or dropped."""
  original = {'original_max_position_embeddings': 32}
  sound = {
    'default': {},
    'linear': {'factor': 2.0},
    'dynamic': {'factor': 2.0},
    'yarn': {'factor': 2.0, **original},
    'llama3': {
      'factor': 2.0,
      'low_freq_factor': 1.0,
      'high_freq_factor': 4.0,
      **original,
    },
    'longrope': {
      'short_factor': [1.0] * 8,
      'long_factor': [2.0] * 8,
      **original,
    },
    'proportional': {'partial_rotary_factor': 0.5},
  }
  config = {'head_dim': 16, 'max_position_embeddings': 64}
  config |= {k: change.pop(k) for k in list(change) if k in config}
  rope = {'rope_type': kind, 'rope_theta': 1e4}
  rope |= {**sound.get(kind or '', {}), **change}
  rope = {k: v for k, v in rope.items() if k not in drop}
  return {**config, 'rope_parameters': rope}


def odd_spellings() -> dict[str, Config]:
  """Where the two spellings, or two keys, say different things."""
  base = {'head_dim': 16, 'max_position_embeddings': 64}
  linear = {'rope_type': 'linear', 'factor': 2.0}
  v5 = {'rope_parameters': {**linear, 'rope_theta': 1e4}}
  yarn = odd('yarn')
  top = {'original_max_position_embeddings': 16}
  return {
    'conflict_of_factor': {
      **base,
      **v5,
      'rope_theta': 1e4,
      'rope_scaling': {**linear, 'factor': 4.0},
    },
    'conflict_of_type': {
      **base,
      **v5,
      'rope_theta': 1e4,
      'rope_scaling': {**linear, 'rope_type': 'dynamic'},
    },
    'conflict_of_theta': {**base, **v5, 'rope_theta': 5e5},
    'conflict_of_partial': {
      **odd('linear', partial_rotary_factor=0.5),
      'partial_rotary_factor': 0.25,
    },
    'conflict_of_original': {**yarn, **top},
    'conflict_of_type_keys': odd('linear', type='dynamic'),
    'same_type_keys': odd('linear', type='linear'),
    'theta_at_top_only': {**base, 'rope_parameters': linear, 'rope_theta': 5e5},
    'theta_missing_v5': odd('linear', 'rope_theta'),
    'theta_missing_v4': {**base, 'rope_scaling': linear},
    'no_rope_keys': base,
    'rope_parameters_null': {**base, 'rope_parameters': None},
    'untyped_v4': {**base, 'rope_theta': 1e4, 'rope_scaling': {'factor': 8}},
    'untyped_v5': odd('linear', 'rope_type'),
    'condense_ratio': {
      **base,
      'rope_theta': 1e4,
      'rope_scaling': None,
      'rope_condense_ratio': 8,
    },
  }


def odd_values() -> dict[str, Config]:
  """Keys that are unknown, missing, of the wrong type or out of range."""
  nan, inf = float('nan'), float('inf')
  found = {
    'unknown_type': odd('ntk', factor=2.0),
    'unknown_type_su': odd('su', factor=2.0),
    'type_null': odd(None, factor=2.0),
    'type_list': odd('linear', rope_type=['linear']),
    'unknown_key': odd('linear', alpha=1000.0),
    'key_of_another_type': odd('linear', beta_fast=32.0),
    'default_with_factor': odd('default', factor=2.0),
    'factor_missing': odd('linear', 'factor'),
    'factor_null': odd('linear', factor=None),
    'factor_int': odd('linear', factor=2),
    'factor_int_huge': odd('linear', factor=10**400),
    'factor_bool': odd('linear', factor=True),
    'factor_string': odd('linear', factor='2.0'),
    'theta_int': odd('default', rope_theta=10000),
    'theta_string': odd('default', rope_theta='10000'),
    'theta_zero': odd('default', rope_theta=0.0),
    'theta_negative': odd('default', rope_theta=-1e4),
    'theta_one': odd('default', rope_theta=1.0),
    'theta_one_yarn': odd('yarn', rope_theta=1.0),
    'theta_nan': odd('default', rope_theta=nan),
    'theta_inf': odd('default', rope_theta=inf),
    'rotary_dim_odd': odd('linear', head_dim=20, partial_rotary_factor=0.25),
    'head_dim_odd': odd('default', head_dim=15),
    'partial_zero': odd('linear', partial_rotary_factor=0.0),
    'partial_over_one': odd('linear', partial_rotary_factor=1.5),
    'partial_negative': odd('proportional', partial_rotary_factor=-0.5),
    'dynamic_rotary_dim_2': odd('dynamic', head_dim=2),
    'yarn_factor_missing': odd('yarn', 'factor'),
    'yarn_ratio_below_one': odd(
      'yarn', factor=None, max_position_embeddings=16
    ),
    'yarn_beta_fast_null': odd('yarn', beta_fast=None),
    'yarn_beta_fast_zero': odd('yarn', beta_fast=0),
    'yarn_betas_swapped': odd('yarn', beta_fast=1, beta_slow=32),
    'yarn_truncate_null': odd('yarn', truncate=None),
    'yarn_attention_null': odd('yarn', attention_factor=None),
    'yarn_attention_zero': odd('yarn', attention_factor=0.0),
    'yarn_attention_negative': odd('yarn', attention_factor=-1.0),
    'yarn_original_zero': odd('yarn', original_max_position_embeddings=0),
    'longrope_short_list': odd('longrope', long_factor=[2.0] * 7),
    'longrope_long_list': odd('longrope', short_factor=[1.0] * 9),
    'longrope_one_entry': odd('longrope', short_factor=[1.0]),
    'longrope_scalar': odd('longrope', long_factor=2.0),
    'longrope_list_missing': odd('longrope', 'long_factor'),
    'longrope_entry_zero': odd('longrope', short_factor=[0.0] + [1.0] * 7),
    'longrope_entry_negative': odd('longrope', short_factor=[-1.0] * 8),
    'longrope_entry_nan': odd('longrope', short_factor=[nan] * 8),
    'longrope_ratio_below_one': odd('longrope', max_position_embeddings=16),
    'llama3_low_zero': odd('llama3', low_freq_factor=0.0),
    'llama3_low_over_high': odd('llama3', low_freq_factor=8.0),
  }
  for kind in ('linear', 'dynamic', 'yarn', 'llama3', 'longrope'):
    found[f'{kind}_factor_half'] = odd(kind, factor=0.5)
  for kind, value in (('zero', 0.0), ('negative', -2.0), ('nan', nan)):
    found[f'linear_factor_{kind}'] = odd('linear', factor=value)
  found['proportional_factor_half'] = odd('proportional', factor=0.5)
  original = 'original_max_position_embeddings'
  for kind in ('yarn', 'llama3', 'longrope'):
    found[f'{kind}_original_missing'] = odd(kind, original)
  for key in ('factor', 'low_freq_factor', 'high_freq_factor'):
    found[f'llama3_{key}_missing'] = odd('llama3', key)
  return found
