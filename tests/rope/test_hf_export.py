"""What is written means what was meant, and reads back in every form."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from ntk_jax.errors import ConfigError
from ntk_jax.rope import METHODS, RopeSpec

BOTH: dict[str, Any] = {'factor': 4.0, 'original_length': 4096}
LISTS = {
  'short_factor': [1.0, 1.1, 1.2, 1.3],
  'long_factor': [1.0, 2.0, 3.0, 4.0],
}
LLAMA3 = {'low_freq_factor': 1.0, 'high_freq_factor': 4.0}
NATIVE = [
  RopeSpec('default', 8, theta=5e5),
  RopeSpec('default', 32, partial_rotary_factor=0.25),
  RopeSpec('linear', 8, **BOTH),
  RopeSpec('linear', 8, factor=2.5),
  RopeSpec('dynamic', 8, **BOTH),
  RopeSpec('ntk', 8, **BOTH),
  RopeSpec('ntk_exponent', 8, options={'exponent': 1.3}),
  RopeSpec('theta_scale', 8, **BOTH),
  RopeSpec('yarn', 8, **BOTH),
  RopeSpec('yarn', 8, **BOTH, attention_factor=1.0),
  RopeSpec(
    'yarn',
    32,
    partial_rotary_factor=0.5,
    **BOTH,
    options={'beta_fast': 5.0, 'truncate': False},
  ),
  RopeSpec('yarn', 8, **BOTH, options={'mscale': 1.0, 'mscale_all_dim': 0.7}),
  RopeSpec('llama3', 8, **BOTH, options=LLAMA3),
  RopeSpec('longrope', 8, **BOTH, options=LISTS),
  RopeSpec('longrope', 8, **BOTH, attention_factor=1.3, options=LISTS),
]
CARRIED = [
  RopeSpec('ntk_by_parts', 8, **BOTH),
  RopeSpec('yarn_paper', 8, **BOTH),
  RopeSpec('yarn_log', 8, **BOTH),
  RopeSpec('yarn_harmonic', 8, **BOTH),
  RopeSpec('ntk_fixed', 8, **BOTH),
  RopeSpec('ntk_mixed', 8, **BOTH),
  RopeSpec('linear', 8, **BOTH, attention_factor=1.1),
  RopeSpec('yarn', 8, **BOTH, modifiers=('resonance',)),
  RopeSpec('yarn', 8, **BOTH, options={'extrapolation_factor': 0.5}),
  RopeSpec('default', 32, partial_rotary_factor=0.5, original_length=4096),
  RopeSpec('proportional', 8, original_length=4096),
]


def read(spec: RopeSpec, form: str, **how: Any) -> RopeSpec:
  """Writes a spec into a config.json that said something else, and reads it."""
  before = {
    'head_dim': spec.head_dim,
    'max_position_embeddings': 2048,
    'num_hidden_layers': 1,
  }
  config = before | spec.to_hf(form, **how)
  again = RopeSpec.from_hf(json.loads(json.dumps(config)))
  assert again is not None
  return again


def same(a: RopeSpec, b: RopeSpec) -> None:
  """Equal frequencies and factors at, below and beyond the original length."""
  lengths = np.array([1, 4096, 4097, 16384, 100_000])
  for mine, other in zip(a.frequencies(lengths), b.frequencies(lengths)):
    np.testing.assert_allclose(other, mine, rtol=1e-13, atol=0)
  assert a.rotary_dim == b.rotary_dim


@pytest.mark.parametrize('form', ['v4', 'v5', 'dual'])
@pytest.mark.parametrize('spec', NATIVE, ids=str)
def test_native_types_read_back(spec: RopeSpec, form: str) -> None:
  same(spec, read(spec, form))


@pytest.mark.parametrize('form', ['v4', 'v5', 'dual'])
@pytest.mark.parametrize('spec', CARRIED, ids=str)
def test_the_carrier_reads_back(spec: RopeSpec, form: str) -> None:
  carried = read(spec, form, carrier=True)
  assert not carried.per_length
  same(spec, carried)


def test_the_carrier_satisfies_every_reader() -> None:
  written = RopeSpec('yarn_paper', 8, **BOTH).to_hf(carrier=True)
  params = written['rope_parameters']
  assert params['short_factor'] == params['long_factor']
  assert params['short_mscale'] == params['attention_factor']  # vLLM
  assert params['long_mscale'] == params['attention_factor']
  # transformers 4 reads the length beside, 5 inside.
  key = 'original_max_position_embeddings'
  assert written[key] == params[key] == 4096
  assert written['max_position_embeddings'] == 16384
  assert written['rope_scaling'].items() <= params.items()


def test_proportional_reads_back_in_version_5() -> None:
  spec = RopeSpec('proportional', 64, partial_rotary_factor=0.25)
  same(spec, read(spec, 'v5'))
  same(spec, read(spec, 'dual'))
  with pytest.raises(ConfigError, match='transformers 4 has no rope type'):
    spec.to_hf('v4')


def test_lengths_are_what_servers_expect() -> None:
  """Linear and dynamic are multiplied by servers; the others are not."""
  for method, length in (
    ('linear', 4096),
    ('dynamic', 4096),
    ('yarn', 16384),
    ('llama3', 16384),
    ('longrope', 16384),
  ):
    options = {'llama3': LLAMA3, 'longrope': LISTS}.get(method, {})
    written = RopeSpec(method, 8, **BOTH, options=options).to_hf()
    assert written['max_position_embeddings'] == length


def test_numbers_are_floats_and_nothing_is_null() -> None:
  """An integer factor stops vLLM, and so does a null beta."""
  written = RopeSpec('linear', 8, factor=8).to_hf()
  assert isinstance(written['rope_scaling']['factor'], float)
  for spec in NATIVE:
    params = spec.to_hf('v5')['rope_parameters']
    assert None not in params.values()


def test_defaults_given_whole_numbers_and_part_tokens_are_written_well() -> (
  None
):
  given = RopeSpec(
    'yarn', 8, **BOTH, options={'extrapolation_factor': 1.0, 'beta_fast': 32}
  )
  params = given.to_hf('v5')['rope_parameters']
  assert 'extrapolation_factor' not in params
  assert isinstance(params['beta_fast'], float)
  same(given, read(given, 'dual'))
  whole = {'short_factor': [1, 1, 1, 1], 'long_factor': [1, 2, 3, 4]}
  longrope = RopeSpec('longrope', 8, **BOTH, options=whole).to_hf('v5')
  listed = longrope['rope_parameters']['long_factor']
  assert all(isinstance(x, float) for x in listed)
  part = RopeSpec('yarn', 8, factor=1.0002, original_length=4096)
  assert part.to_hf()['max_position_embeddings'] == 4096  # not 4097


def test_longrope_tells_vllm_its_attention_factor() -> None:
  params = NATIVE[14].to_hf('v5')['rope_parameters']
  assert params['short_mscale'] == params['long_mscale'] == 1.3


def test_a_theta_beyond_float64_is_refused() -> None:
  spec = RopeSpec('theta_scale', 8, theta=2.0, factor=1e14, original_length=7)
  spec.to_hf()
  huge = RopeSpec('ntk', 8, theta=1e300, factor=1e12)
  with pytest.raises(ConfigError, match='beyond float64'):
    huge.to_hf()


def test_version_4_is_told_that_there_is_no_scaling() -> None:
  written = RopeSpec('ntk', 8, **BOTH).to_hf('v4')
  assert written['rope_scaling'] is None
  assert written['rope_theta'] == pytest.approx(1e4 * 4 ** (8 / 6), rel=1e-14)


@pytest.mark.parametrize(
  ('spec', 'how', 'says'),
  [
    (NATIVE[0], {'form': 'v6'}, "unknown form 'v6'"),
    (CARRIED[0], {}, 'no rope type computes ntk_by_parts'),
    (CARRIED[6], {}, 'has no attention_factor (1.1)'),
    (CARRIED[7], {}, "no rope type has the modifiers ('resonance',)"),
    (CARRIED[8], {}, 'no rope type has an extrapolation_factor'),
    (
      RopeSpec('dynamic_yarn', 8, original_length=4096),
      {},
      'no single set that a carrier could hold',
    ),
    (
      RopeSpec('dynamic_yarn', 8, original_length=4096),
      {'carrier': True},
      'it is not one set of frequencies',
    ),
    (NATIVE[4], {'carrier': True}, 'it is not one set of frequencies'),
    (NATIVE[13], {'carrier': True}, 'it is not one set of frequencies'),
    (
      RopeSpec(
        'mixed_longrope',
        8,
        **BOTH,
        options={'long_factor': [1.0] * 4, 'start_token': 4},
      ),
      {'carrier': True},
      'it is not one set of frequencies',
    ),
    (RopeSpec('ntk', 8, factor=4.0), {'carrier': True}, 'original_length'),
    (
      RopeSpec(
        'longrope',
        8,
        original_length=4096,
        attention_factor=1.3,
        options=LISTS,
      ),
      {},
      'extended length, which needs factor',
    ),
    (
      RopeSpec('proportional', 8, partial_rotary_factor=0.5, original_length=9),
      {'carrier': True},
      'cannot hold proportional: 2 of its pairs have frequency 0',
    ),
    (
      RopeSpec('yarn', 8, **BOTH, modifiers=(('cope_hard', 1),)),
      {'carrier': True},
      '1 of its pairs have frequency 0',
    ),
  ],
  ids=str,
)
def test_refusals(spec: RopeSpec, how: dict[str, Any], says: str) -> None:
  with pytest.raises(ConfigError) as caught:
    spec.to_hf(**how)
  assert says in str(caught.value)


def test_every_method_is_written_or_refused_by_name() -> None:
  reached = {spec.method for spec in (*NATIVE, *CARRIED)}
  per_length = {'dynamic_linear', 'dynamic_yarn', 'dynamic_longrope'}
  assert reached | per_length | {'mixed_longrope'} == set(METHODS)
