"""RopeSpec.from_hf against transformers, and what it must refuse.

The numbers are those of tests/golden/hf_rope.json and .npz: transformers'
float32 and an independent float64 formula (tests/golden/README.md).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ntk_jax.errors import ConfigError
from ntk_jax.rope import RopeSpec

GOLDEN = Path(__file__).resolve().parent.parent / 'golden'
GIVEN = json.loads((GOLDEN / 'hf_rope.json').read_text())
CASES: dict[str, Any] = GIVEN['cases']
ODD: dict[str, Any] = GIVEN['odd']
ODD_LENGTHS: list[int | None] = GIVEN['made']['odd_lengths']
with np.load(GOLDEN / 'hf_rope.npz') as file:
  ARRAYS = dict(file)

# transformers rounds frequencies to float32, exponents and ramps included.
HF_TOLERANCE = 1e-6
# Two float64 computations of the same formula.
TOLERANCE = 1e-12

# Odd configs that are refused -> what the message must name.
REFUSED = {
  'conflict_of_factor': 'factor',
  'conflict_of_type': 'type',
  'conflict_of_theta': 'rope_theta',
  'conflict_of_partial': 'partial_rotary_factor',
  'conflict_of_original': 'original_max_position_embeddings',
  'conflict_of_type_keys': 'type',
  'untyped_v4': 'type',
  'untyped_v5': 'type',
  'unknown_type': 'ntk',
  'unknown_type_su': 'su|longrope',
  'type_null': 'type',
  'type_list': 'type',
  'unknown_key': 'alpha',
  'key_of_another_type': 'beta_fast',
  'default_with_factor': 'factor',
  'factor_missing': 'factor',
  'factor_null': 'factor',
  'factor_string': 'factor',
  'factor_int_huge': 'factor',
  'theta_string': 'theta',
  'theta_zero': 'theta',
  'theta_negative': 'theta',
  'theta_one_yarn': 'theta',
  'theta_nan': 'theta',
  'theta_inf': 'theta',
  'rotary_dim_odd': 'rotary',
  'head_dim_odd': 'head_dim',
  'partial_over_one': 'partial_rotary_factor',
  'partial_negative': 'partial_rotary_factor',
  'dynamic_rotary_dim_2': 'rotary|head_dim',
  'yarn_ratio_below_one': 'factor|max_position_embeddings',
  'yarn_original_zero': 'original',
  'longrope_short_list': 'long_factor',
  'longrope_long_list': 'short_factor',
  'longrope_one_entry': 'short_factor',
  'longrope_scalar': 'long_factor',
  'longrope_list_missing': 'long_factor',
  'longrope_entry_zero': 'short_factor',
  'longrope_entry_negative': 'short_factor',
  'longrope_entry_nan': 'short_factor',
  'longrope_ratio_below_one': 'factor|max_position_embeddings',
  'llama3_low_zero': 'low_freq_factor',
  'linear_factor_half': 'factor',
  'dynamic_factor_half': 'factor',
  'yarn_factor_half': 'factor',
  'llama3_factor_half': 'factor',
  'longrope_factor_half': 'factor',
  'proportional_factor_half': 'factor',
  'linear_factor_zero': 'factor',
  'linear_factor_negative': 'factor',
  'linear_factor_nan': 'factor',
  'yarn_original_missing': 'original',
  'llama3_original_missing': 'original',
  'longrope_original_missing': 'original',
  'llama3_factor_missing': 'factor',
  'llama3_low_freq_factor_missing': 'low_freq_factor',
  'llama3_high_freq_factor_missing': 'high_freq_factor',
}
# Odd configs that have one sensible meaning, the one of transformers.
ACCEPTED = (
  'factor_int',
  'theta_int',
  'same_type_keys',
  'theta_at_top_only',
  'yarn_attention_null',
)
# Odd configs whose meaning transformers misses or refuses.
OURS = ('condense_ratio', 'yarn_factor_missing')
# All others may be refused or accepted, but never mean something else.
OPEN = tuple(n for n in ODD if n not in {*REFUSED, *ACCEPTED, *OURS})


SPELT = [
  pytest.param(name, spelling, id=f'{name}-{spelling}')
  for name, case in CASES.items()
  for spelling in case['spellings']
]


def read(name: str, spelling: str = 'v5') -> RopeSpec:
  case = CASES[name]
  spec = RopeSpec.from_hf(case['spellings'][spelling], case['layer_type'])
  assert spec is not None
  return spec


def check(
  spec: RopeSpec, name: str, k: int, length: int | None, wrong: bool = False
) -> None:
  """Compares one length of a case with both computations."""
  inv_freq, factor = spec.frequencies(length)
  want = ARRAYS[f'{name}/ref_inv_freq'][k]
  hf = ARRAYS[f'{name}/hf_inv_freq'][k]
  assert inv_freq.dtype == np.float64
  np.testing.assert_allclose(inv_freq, want, rtol=TOLERANCE, atol=0)
  if not wrong:
    np.testing.assert_allclose(inv_freq, hf, rtol=HF_TOLERANCE, atol=0)
  np.testing.assert_allclose(
    factor, CASES[name]['attention_factor'][k], rtol=TOLERANCE, atol=0
  )


@pytest.mark.parametrize(('name', 'spelling'), SPELT)
def test_every_spelling_gives_the_numbers_of_transformers(
  name: str, spelling: str
) -> None:
  spec = read(name, spelling)
  wrong = 'wrong_in_transformers' in CASES[name]
  for k, length in enumerate(CASES[name]['seq_lens']):
    check(spec, name, k, length, wrong)


@pytest.mark.parametrize('name', CASES)
def test_order_and_batching_of_lengths_do_not_matter(name: str) -> None:
  spec = read(name)
  lengths = CASES[name]['seq_lens']
  for k in reversed(range(len(lengths))):
    one, factor = spec.frequencies(lengths[k])
    np.testing.assert_array_equal(one, read(name).frequencies(lengths[k])[0])
    if lengths[k] is not None:
      batch = np.array([lengths[k], 1, lengths[k]])
      many, factors = spec.frequencies(batch)
      assert many.shape == (3, one.size) and factors.shape == (3,)
      np.testing.assert_array_equal(many[0], one)
      np.testing.assert_array_equal(many[2], one)
      np.testing.assert_array_equal(many[1], spec.frequencies(1)[0])
      np.testing.assert_array_equal(factors[0], factor)


@pytest.mark.parametrize(
  'name', [name for name, case in CASES.items() if case['layer_type']]
)
def test_a_nested_config_needs_its_layer_type(name: str) -> None:
  config = CASES[name]['spellings']['v5']
  with pytest.raises(ConfigError, match='full_attention.*sliding_attention'):
    RopeSpec.from_hf(config)
  with pytest.raises(ConfigError, match='chunked_attention'):
    RopeSpec.from_hf(config, 'chunked_attention')
  local = RopeSpec.from_hf(config, 'sliding_attention')
  assert local is not None
  inv_freq, factor = local.frequencies()
  d = config['head_dim']
  want = 1e4 ** -(np.arange(0, d, 2) / d)
  np.testing.assert_allclose(inv_freq, want, rtol=TOLERANCE)
  assert factor == 1


def test_truncate_is_read_inside_a_layer_type() -> None:
  """transformers misses it there; what it gives is not what we give."""
  (name,) = (n for n, c in CASES.items() if 'wrong_in_transformers' in c)
  with pytest.raises(AssertionError, match='Not equal'):
    check(read(name), name, 0, None)
  flat = name.removeprefix('nested_')
  np.testing.assert_array_equal(
    read(name).frequencies()[0], read(flat).frequencies()[0]
  )


@pytest.mark.unchecked  # strings where numbers belong
@pytest.mark.parametrize('name', REFUSED)
def test_what_is_wrong_is_refused_by_name(name: str) -> None:
  with pytest.raises(ConfigError, match=REFUSED[name]):
    RopeSpec.from_hf(ODD[name]['config'])


def check_odd(spec: RopeSpec | None, name: str) -> None:
  """Compares with what transformers goes on with."""
  assert spec is not None, 'a rope config read as a layer without rope'
  assert ODD[name].get('finite'), 'transformers gives no finite numbers'
  for k, length in enumerate(ODD_LENGTHS):
    inv_freq, factor = spec.frequencies(length)
    want = ODD[name]['inv_freq'][k]
    np.testing.assert_allclose(inv_freq, want, rtol=HF_TOLERANCE, atol=0)
    want = ODD[name]['attention_factor'][k]
    np.testing.assert_allclose(factor, want, rtol=TOLERANCE, atol=0)


@pytest.mark.parametrize('name', ACCEPTED)
def test_what_has_one_meaning_is_accepted(name: str) -> None:
  check_odd(RopeSpec.from_hf(ODD[name]['config']), name)


@pytest.mark.parametrize('name', OPEN)
def test_what_is_doubtful_never_means_something_else(name: str) -> None:
  try:
    spec = RopeSpec.from_hf(ODD[name]['config'])
  except ConfigError:
    return
  check_odd(spec, name)


def test_condense_ratio_is_linear_scaling() -> None:
  """transformers ignores LongChat's key; LongChat divides positions by it."""
  spec = RopeSpec.from_hf(ODD['condense_ratio']['config'])
  assert spec is not None
  want = 1e4 ** -(np.arange(0, 16, 2) / 16) / 8
  np.testing.assert_allclose(spec.frequencies()[0], want, rtol=TOLERANCE)


def test_a_missing_yarn_factor_is_the_ratio_of_lengths() -> None:
  config = ODD['yarn_factor_missing']['config']
  rope = {**config['rope_parameters'], 'factor': 2.0}
  spec = RopeSpec.from_hf(config)
  want = RopeSpec.from_hf({**config, 'rope_parameters': rope})
  assert spec is not None and want is not None
  for got, expected in zip(spec.frequencies(), want.frequencies()):
    np.testing.assert_array_equal(got, expected)


def test_the_golden_set_is_whole_and_agrees_with_itself() -> None:
  assert len(CASES) >= 100 and len(ODD) >= 60
  assert set(REFUSED) <= set(ODD) and set(ACCEPTED) <= set(ODD)
  assert len(ARRAYS) == 2 * len(CASES)
  for name, case in CASES.items():
    hf, ref = (ARRAYS[f'{name}/{key}_inv_freq'] for key in ('hf', 'ref'))
    assert hf.dtype == np.float32 and ref.dtype == np.float64
    assert hf.shape == ref.shape and len(hf) == len(case['seq_lens'])
    agree = np.allclose(hf, ref, rtol=HF_TOLERANCE, atol=0)
    assert agree != ('wrong_in_transformers' in case), name


@pytest.mark.parametrize('change', [1e-11, -1e-11])
def test_a_small_error_is_seen(change: float) -> None:
  spec = read('linear_2.5')
  off = RopeSpec(
    'linear', spec.head_dim, theta=spec.theta * (1 + change), factor=2.5
  )
  check(spec, 'linear_2.5', 0, None)
  with pytest.raises(AssertionError, match='Not equal'):
    check(off, 'linear_2.5', 0, None)
