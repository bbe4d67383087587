"""Frequencies against goldens, papers' numbers and each method's own law."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ntk_jax.rope import METHODS, RopeSpec, exponent_for
from ntk_jax.rope.modifiers import cope, cope_hard, resonance

GOLDEN = Path(__file__).parent.parent / 'golden'
CASES = json.loads((GOLDEN / 'rope_golden.json').read_text())['cases']
L0 = 4096
LISTS = {
  'short_factor': [1.0] * 64,
  'long_factor': list(np.linspace(1.0, 9.0, 64)),
}
OPTIONS: dict[str, dict[str, Any]] = {
  'longrope': LISTS,
  'dynamic_longrope': {'long_factor': LISTS['long_factor']},
  'mixed_longrope': {'long_factor': LISTS['long_factor'], 'start_token': 4},
  'llama3': {'low_freq_factor': 1.0, 'high_freq_factor': 4.0},
}
UNSCALED = ('default', 'proportional')


def spec(method: str, factor: float | None = 8.0, **fields: Any) -> RopeSpec:
  """A spec of a method over 128 channels, 4096 -> 8 * 4096 unless told."""
  given: dict[str, Any] = {'options': OPTIONS.get(method, {})}
  if method not in UNSCALED:
    given['factor'] = factor
  return RopeSpec(method, 128, original_length=L0, **(given | fields))


def ratio(method: str, length: int | None = None, **fields: Any) -> np.ndarray:
  """Frequencies over the unscaled ones."""
  base = RopeSpec('default', 128).frequencies()[0]
  return spec(method, **fields).frequencies(length)[0] / base


def golden_cases() -> Iterator[tuple[str, int, int | None]]:
  """(case, index, length) of every golden frequency vector."""
  for name, case in CASES.items():
    for index, length in enumerate(case.get('seq_lens', ())):
      yield name, index, length


@pytest.fixture(scope='module')
def golden() -> Iterator[Any]:
  """The golden arrays."""
  with np.load(GOLDEN / 'rope_golden.npz') as arrays:
    yield arrays


@pytest.mark.parametrize(('name', 'index', 'length'), list(golden_cases()))
def test_transformers_types(
  golden: Any, name: str, index: int, length: int | None
) -> None:
  case = CASES[name]
  keys = ('head_dim', 'max_position_embeddings', 'rope_parameters')
  read = RopeSpec.from_hf({key: case[key] for key in keys})
  assert read is not None
  inv_freq, factor = read.frequencies(length)
  exact, theirs = (
    golden[f'{name}/{index}/{kind}_inv_freq'] for kind in ('ref', 'hf')
  )
  np.testing.assert_allclose(inv_freq, exact, rtol=1e-13, atol=0)
  np.testing.assert_allclose(inv_freq, theirs, rtol=1e-6, atol=0)
  expected = case['results'][index]['attention_factor']
  assert float(factor) == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize(
  ('name', 'made'),
  [
    ('ntk_aware_a8_d128', spec('ntk')),
    ('seed_exponent_equal_ntk_a8', spec('ntk_exponent')),
    ('ntk_mixed_k8_b0.625', spec('ntk_mixed')),
    ('ntk_by_parts_v1_s16', spec('ntk_by_parts', factor=16.0)),
    ('yarn_harmonic_pose_s16', spec('yarn_harmonic', factor=16.0)),
    ('resonance_llama', spec('default', modifiers=('resonance',))),
    (
      'p_rope_0.75_d256',
      RopeSpec('proportional', 256, partial_rotary_factor=0.75),
    ),
    (
      'cope_soft20_llama3',
      RopeSpec('default', 128, theta=5e5, modifiers=('cope',)),
    ),
  ],
)
def test_other_methods(golden: Any, name: str, made: RopeSpec) -> None:
  inv_freq, _ = made.frequencies()
  expected = golden[f'extra/{name}']
  np.testing.assert_allclose(inv_freq, expected, rtol=2e-15, atol=1e-30)


@pytest.mark.parametrize('method', sorted(set(METHODS) - set(UNSCALED)))
def test_a_factor_of_one_changes_nothing(method: str) -> None:
  """But Su's two, LongRoPE's lists and the exponent have laws of their own."""
  if method == 'dynamic_longrope':  # its lists need something to grow to
    return
  options = {
    k: [1.0] * 64 if k.endswith('_factor') and k in LISTS else v
    for k, v in OPTIONS.get(method, {}).items()
  }
  made = spec(method, factor=1.0, options=options)
  np.testing.assert_allclose(
    made.frequencies()[0], RopeSpec('default', 128).frequencies()[0], rtol=1e-14
  )
  assert float(made.frequencies()[1]) == 1.0


@pytest.mark.parametrize(
  'method', [m for m, row in METHODS.items() if row.per_length]
)
def test_per_length_methods_forget_what_they_saw(method: str) -> None:
  made = spec(method)
  first = made.frequencies(L0)[0]
  for length in (8 * L0, 100, 2 * L0):
    made.frequencies(length)
  np.testing.assert_array_equal(made.frequencies(L0)[0], first)
  np.testing.assert_array_equal(made.frequencies(None)[0], first)
  np.testing.assert_array_equal(made.frequencies(1)[0], first)
  beyond = made.frequencies(L0 + 1)[0]
  assert (beyond <= first).all()
  assert (beyond < first).any()


def test_lengths_by_row_are_the_lengths_one_by_one() -> None:
  made = spec('dynamic_yarn')
  lengths = np.array([[1, 8192], [32768, 4097]], np.int32)
  inv_freq, factor = made.frequencies(lengths)
  assert inv_freq.shape == (2, 2, 64)
  assert factor.shape == (2, 2)
  for i, j in np.ndindex(2, 2):
    alone = made.frequencies(int(lengths[i, j]))
    np.testing.assert_array_equal(inv_freq[i, j], alone[0])
    assert factor[i, j] == alone[1]


def test_dynamic_yarn_is_yarn_at_the_length() -> None:
  dynamic, fixed = spec('dynamic_yarn').frequencies(3 * L0), spec('yarn', 3.0)
  np.testing.assert_array_equal(dynamic[0], fixed.frequencies()[0])
  assert dynamic[1] == fixed.frequencies()[1]


def test_dynamic_linear_is_linear_at_the_length() -> None:
  np.testing.assert_allclose(ratio('dynamic_linear', 3 * L0), 1 / 3, rtol=1e-15)


def test_dynamic_longrope_reaches_its_list_at_the_target() -> None:
  reached = ratio('dynamic_longrope', 8 * L0)
  np.testing.assert_allclose(1 / reached, LISTS['long_factor'], rtol=1e-14)
  half = 1 / ratio('dynamic_longrope', round(4.5 * L0))  # half of 1 to 8
  middle = (1 + np.array(LISTS['long_factor'])) / 2
  np.testing.assert_allclose(half, middle, rtol=1e-14)


def test_longrope_switches_beyond_the_original_length() -> None:
  np.testing.assert_array_equal(ratio('longrope', L0), 1.0)
  long = 1 / ratio('longrope', L0 + 1)
  np.testing.assert_allclose(long, LISTS['long_factor'], rtol=1e-14)
  assert spec('longrope').per_length
  same = dict.fromkeys(LISTS, LISTS['long_factor'])
  assert not spec('longrope', options=same).per_length


def test_mixed_longrope_gives_the_rescaled_side() -> None:
  rescaled = 1 / ratio('mixed_longrope')
  np.testing.assert_allclose(rescaled, LISTS['long_factor'], rtol=1e-14)


def test_theta_scale_moves_the_critical_wavelength() -> None:
  """The (fractional) pair that turned once in L0 turns once in 8 L0."""
  base, scaled = (
    np.log(spec(method).frequencies()[0])
    for method in ('default', 'theta_scale')
  )
  pair = np.interp(-math.log(2 * math.pi / L0), -base, np.arange(64))
  reached = np.exp(np.interp(pair, np.arange(64), scaled))
  assert 2 * math.pi / reached == pytest.approx(8 * L0, rel=1e-12)


def test_yarn_family_blends_between_the_same_ends() -> None:
  for method in ('yarn', 'yarn_paper', 'yarn_harmonic', 'yarn_log'):
    ends = ratio(method)
    np.testing.assert_allclose(ends[:20], 1.0, rtol=1e-14)
    np.testing.assert_allclose(ends[47:], 1 / 8, rtol=1e-14)
    assert (np.diff(ends) < 1e-15).all()


def test_yarn_log_is_the_geometric_mean_where_harmonic_is_the_harmonic() -> (
  None
):
  arithmetic = ratio('yarn')
  share = (1 - arithmetic) / (1 - 1 / 8)  # the ramp
  np.testing.assert_allclose(ratio('yarn_log'), 8.0**-share, rtol=1e-13)
  harmonic = 1 / (share * 8 + 1 - share)
  np.testing.assert_allclose(ratio('yarn_harmonic'), harmonic, rtol=1e-13)


def test_yarn_paper_ramps_over_turns() -> None:
  turns = L0 * RopeSpec('default', 128).frequencies()[0] / (2 * math.pi)
  kept = np.clip((turns - 1) / 31, 0, 1)
  expected = (1 - kept) / 8 + kept
  np.testing.assert_allclose(ratio('yarn_paper'), expected, rtol=1e-14)


def test_su_methods_end_at_the_factor() -> None:
  for method in ('ntk', 'ntk_fixed', 'ntk_mixed'):
    assert ratio(method)[-1] == pytest.approx(1 / 8, rel=1e-13)
  assert ratio('ntk')[0] == 1.0
  assert ratio('ntk_fixed')[0] == pytest.approx(8 ** (-1 / 64), rel=1e-13)


def test_llama3_is_a_step_where_both_factors_are_one() -> None:
  options = {'low_freq_factor': 1.0, 'high_freq_factor': 1.0}
  turns = L0 * RopeSpec('default', 128).frequencies()[0] / (2 * math.pi)
  expected = np.where(turns >= 1, 1.0, 1 / 8)
  made = ratio('llama3', options=options)
  np.testing.assert_allclose(made, expected, rtol=1e-15)


@pytest.mark.parametrize(
  ('length', 'base'),
  [(8192, 20221.2617), (16384, 40889.9424), (32768, 82684.6226)],
)
def test_llama2_dynamic_bases(length: int, base: float) -> None:
  """Published acceptance numbers of LLaMA 2 with dynamic NTK, factor 1."""
  inv_freq = spec('dynamic', factor=1.0).frequencies(length)[0]
  assert inv_freq[1] ** -64 == pytest.approx(base, rel=1e-8)


def test_longchat_divides_positions_by_eight() -> None:
  inv_freq = spec('linear').frequencies()[0]
  assert inv_freq[1] == pytest.approx(0.1082455404, rel=1e-9)
  assert inv_freq[63] == pytest.approx(1.443477481e-5, rel=1e-9)


def test_exponent_relation() -> None:
  q = exponent_for(8 * L0, L0, 1e4, 128)
  assert q == pytest.approx(1.229356187173, abs=1e-12)
  explicit = spec('ntk_exponent', factor=None, options={'exponent': q})
  np.testing.assert_allclose(
    explicit.frequencies()[0], spec('ntk').frequencies()[0], rtol=1e-13
  )
  assert exponent_for(100, L0, 1e4, 128) == 1.0


def test_resonance_gives_whole_wavelengths() -> None:
  waves = 2 * math.pi / resonance(spec('yarn').frequencies()[0])
  np.testing.assert_allclose(waves, np.round(waves), rtol=1e-13)
  assert resonance(np.array([0.0]))[0] == 0.0


def test_cope_clips_the_slow_end() -> None:
  w = np.ones(64)
  soft, hard = cope(w), cope_hard(w)
  assert (soft[:44] == 1).all()
  assert soft[44] == 1.0
  assert soft[-1] == 0.0
  assert (np.diff(soft[44:]) < 0).all()
  assert (hard[:44] == 1).all()
  assert (hard[44:] == 0).all()


def test_modifiers_apply_in_order() -> None:
  both = spec('ntk', modifiers=('resonance', ('cope_hard', 4)))
  alone = spec('ntk', modifiers=('resonance',)).frequencies()[0]
  np.testing.assert_array_equal(both.frequencies()[0][:60], alone[:60])
  assert not both.frequencies()[0][60:].any()


def test_every_row_names_its_formula_and_source() -> None:
  for row in METHODS.values():
    assert row.formula
    assert row.source
