"""A spec is a checked value: what it refuses, says and equals."""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np
import pytest

from ntk_jax.errors import ConfigError
from ntk_jax.rope import RopeSpec, exponent_for

L0 = {'original_length': 4096}
YARN: dict[str, Any] = {**L0, 'factor': 4.0}
LISTS = {'short_factor': [1.0] * 4, 'long_factor': [2.0] * 4}


@pytest.mark.unchecked
@pytest.mark.parametrize(
  ('method', 'fields', 'says'),
  [
    ('yarm', {}, "unknown rope method 'yarm': did you mean 'yarn'?"),
    ('linear', {'factor': 0.5}, 'factor is 0.5, must be at least 1'),
    ('linear', {'factor': math.nan}, 'factor is nan, must be finite'),
    ('linear', {'factor': math.inf}, 'factor is inf, must be finite'),
    ('linear', {'factor': 10**400}, 'must be finite'),
    ('linear', {'factor': '8'}, "factor is '8', must be a number"),
    ('linear', {'factor': True}, 'factor is True, must be a number'),
    ('linear', {}, 'linear needs factor'),
    ('default', {'factor': 8.0}, 'default takes no factor'),
    ('yarn', {'factor': 4.0}, 'yarn needs original_length'),
    ('yarn', L0, 'yarn needs factor'),
    ('dynamic', {'factor': 1.0}, 'dynamic needs original_length'),
    ('dynamic_linear', {}, 'dynamic_linear needs original_length'),
    ('longrope', {**L0, 'factor': 2.0}, 'needs short_factor'),
    ('llama3', YARN, 'llama3 needs low_freq_factor'),
    ('ntk_exponent', L0, 'ntk_exponent needs the option exponent'),
    ('ntk_exponent', {'options': {'exponent': 0.2258}}, 'use exponent_for'),
    (
      'ntk_exponent',
      {**YARN, 'options': {'exponent': 1.5}},
      'exponent is 1.5, but factor 4.0 gives',
    ),
    ('ntk', {'head_dim': 2, 'factor': 2.0}, 'rotary dim is 2'),
    ('default', {'head_dim': 7}, 'rotary dim is 7'),
    ('default', {'partial_rotary_factor': 0.4}, 'rotary dim is 3'),
    ('default', {'partial_rotary_factor': 1.5}, 'partial_rotary_factor is 1.5'),
    ('default', {'head_dim': 0}, 'head_dim is 0'),
    ('default', {'theta': 0.0}, 'theta is 0.0, must be above 0'),
    ('yarn', {**YARN, 'theta': 1.0}, 'takes its logarithm'),
    ('yarn', {**YARN, 'original_length': 0}, 'original_length is 0'),
    ('yarn', {**YARN, 'original_length': 9.5}, 'original_length is 9.5'),
    ('yarn', {**YARN, 'attention_factor': -1.0}, 'attention_factor is -1.0'),
    ('yarn', {**YARN, 'options': {'beta': 1}}, 'unknown option of yarn'),
    ('yarn', {**YARN, 'options': {'beta_fast': 0}}, 'must be above 0'),
    ('yarn', {**YARN, 'options': {'truncate': 1}}, 'must be True or False'),
    ('yarn', {**YARN, 'options': 3}, 'options is 3, must be a mapping'),
    ('theta_scale', {'original_length': 6, 'factor': 2.0}, 'at least 7'),
    (
      'dynamic_longrope',
      {**L0, 'factor': 1.0, 'options': {'long_factor': [1.0] * 4}},
      'needs more than 1',
    ),
    (
      'longrope',
      {**YARN, 'options': LISTS | {'long_factor': [2.0] * 3}},
      'long_factor has 3 entries, must be a list of 4',
    ),
    (
      'longrope',
      {**YARN, 'options': LISTS | {'long_factor': [2.0, 1.0, 0.0, 1.0]}},
      'an entry of long_factor is 0.0, must be above 0',
    ),
    (
      'yarn_harmonic',
      {**YARN, 'options': {'extrapolation_factor': 1e5}},
      'not finite, or negative',
    ),
    ('ntk', {'factor': 1e300, 'theta': 1e30}, 'not finite, or negative'),
    ('linear', {'factor': 1e300, **L0}, 'beyond 2**53 tokens'),
    ({}, {}, 'unknown rope method'),
    ('default', {'theta': None}, 'theta is None, must be a number'),
    ('default', {'modifiers': 5}, 'give a tuple'),
    ('default', {'modifiers': {'cope': 2}}, 'give a tuple'),
    ('default', {'modifiers': (None,)}, 'unknown rope modifier None'),
    ('default', {'modifiers': ((),)}, "unknown rope modifier ''"),
    ('default', {'modifiers': 'cope'}, 'give a tuple'),
    ('default', {'modifiers': ('cop',)}, "did you mean 'cope'?"),
    ('default', {'modifiers': ('cope',)}, 'last 20 pairs, but there are 4'),
  ],
)
def test_refusals(method: str, fields: dict[str, Any], says: str) -> None:
  given: dict[str, Any] = {'head_dim': 8}
  with pytest.raises(ConfigError) as caught:
    RopeSpec(method, **(given | fields))
  assert says in str(caught.value)


@pytest.mark.unchecked
@pytest.mark.parametrize('length', [0, -1, 1.5, 'long', np.array([2.0])])
def test_lengths_are_whole(length: Any) -> None:
  with pytest.raises(ConfigError, match='whole numbers of tokens'):
    RopeSpec('default', 8).frequencies(length)


@pytest.mark.unchecked
def test_a_traced_length_is_refused() -> None:
  spec = RopeSpec('dynamic', 8, **YARN)

  def f(length: jax.Array) -> Any:
    return spec.frequencies(length)[0]

  with pytest.raises(ConfigError, match='length is traced'):
    jax.jit(f)(4096)


def test_a_target_below_the_original_needs_no_scaling_and_no_nan() -> None:
  assert exponent_for(2048, 4096, 1e4, 128) == 1.0
  with pytest.raises(ConfigError, match='length is nan'):
    exponent_for(math.nan, 4096, 1e4, 128)
  with pytest.raises(ConfigError, match='takes its logarithm'):
    exponent_for(8192, 4096, 1.0, 128)


def test_options_are_kept_as_sorted_pairs() -> None:
  one = RopeSpec('yarn', 8, **YARN, options={'truncate': False, 'beta_slow': 2})
  other = RopeSpec(
    'yarn', 8, **YARN, options=[('beta_slow', 2), ('truncate', False)]
  )
  assert one == other
  assert hash(one) == hash(other)
  assert one.options == (('beta_slow', 2), ('truncate', False))
  assert one != RopeSpec('yarn', 8, **YARN)


def test_none_is_an_option_not_given() -> None:
  assert RopeSpec('yarn', 8, **YARN, options={'mscale': None}) == RopeSpec(
    'yarn', 8, **YARN
  )


@pytest.mark.parametrize(
  ('options', 'expected'),
  [
    ({}, 0.1 * math.log(40) + 1),
    ({'mscale': 0.7}, 0.1 * math.log(40) + 1),  # one alone changes nothing
    ({'mscale': 1.0, 'mscale_all_dim': 0.0}, 0.1 * math.log(40) + 1),
    ({'mscale': 1.0, 'mscale_all_dim': 1.0}, 1.0),
    (
      {'mscale': 1.0, 'mscale_all_dim': 0.5},
      (0.1 * math.log(40) + 1) / (0.05 * math.log(40) + 1),
    ),
  ],
)
def test_mscale_pair(options: dict[str, float], expected: float) -> None:
  spec = RopeSpec('yarn', 64, factor=40.0, **L0, options=options)
  assert float(spec.frequencies()[1]) == pytest.approx(expected, rel=1e-15)


def test_an_explicit_attention_factor_wins_and_spares_the_factor() -> None:
  spec = RopeSpec('longrope', 8, **L0, attention_factor=1.19, options=LISTS)
  assert float(spec.frequencies()[1]) == 1.19


def test_partial_rotation_counts_its_own_dim() -> None:
  spec = RopeSpec('default', 128, partial_rotary_factor=0.25)
  assert spec.rotary_dim == 32
  np.testing.assert_array_equal(
    spec.frequencies()[0], RopeSpec('default', 32).frequencies()[0]
  )
  whole = RopeSpec('proportional', 128, partial_rotary_factor=0.25)
  assert whole.rotary_dim == 128
  assert int((whole.frequencies()[0] > 0).sum()) == 16
  none = RopeSpec('proportional', 128, partial_rotary_factor=0.0)
  assert not none.frequencies()[0].any()


def test_describe_counts_what_never_turns() -> None:
  said = RopeSpec('yarn', 128, factor=16.0, **L0).describe()
  for words in (
    'factor 16',
    'target length 65536',
    'beta_fast 32',
    'attention factor 1.27726',
    'pairs 46 to 63 (18) never turn within 4096 tokens',
    'critical dimension 92 of 128',
  ):
    assert words in said
  llama3 = RopeSpec('default', 128, theta=5e5, original_length=8192)
  assert 'critical dimension 70 of 128' in llama3.describe()
  still = RopeSpec('proportional', 128, partial_rotary_factor=0.25)
  assert '48 pairs do not turn at all' in still.describe()
