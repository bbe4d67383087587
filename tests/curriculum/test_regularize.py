"""Settings of regularisation: what is refused, what they ask for and when."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from ntk_jax.config import from_dict, to_plain
from ntk_jax.curriculum.regularize import (
  RegularizeConfig,
  keep_share,
  kept_count,
  kept_counts,
  loss_factor,
  mask_share,
)

EVERYTHING: dict[str, Any] = {
  'keep_start': 0.25,
  'forget': 0.15,
  'mask_inputs': 0.1,
  'mask_token': 3,
  'weight': 'distance',
  'weight_context': 128,
  'long_ce': True,
  'long_short': 128,
  'long_stride': 64,
  'positions': 'pose',
  'target_length': 4096,
}


def problems(**settings: Any) -> list[str]:
  config = RegularizeConfig(**settings)
  return config.problems(length=512, vocab=264, layers=4)


def test_everything_goes_together_and_nothing_is_on() -> None:
  assert problems() == []
  assert problems(**EVERYTHING) == []
  assert RegularizeConfig().off
  values = to_plain(RegularizeConfig(**EVERYTHING))
  assert from_dict(RegularizeConfig, values) == RegularizeConfig(**EVERYTHING)
  ways: tuple[dict[str, Any], ...] = (
    {'keep_start': 0.5},
    {'forget': 0.1},
    {'mask_inputs': 0.1},
    {'weight': 'position'},
    {'long_ce': True},
    {'positions': 'random'},
  )
  assert not any(RegularizeConfig(**settings).off for settings in ways)


@pytest.mark.parametrize(
  ('settings', 'says'),
  [
    ({'forget': 1.0}, 'forget is 1.0: a share in [0, 1)'),
    ({'forget': -0.1}, 'forget is -0.1'),
    ({'mask_inputs': 1.0}, 'mask_inputs is 1.0'),
    ({'mask_inputs': math.nan}, 'mask_inputs is nan'),
    ({'keep_start': 0.0}, 'keep_start is 0.0'),
    ({'keep_start': 1.5}, 'keep_start is 1.5'),
    ({'keep_start': math.nan}, 'keep_start is nan'),
    ({'keep_until': 0.0}, 'keep_until is 0.0'),
    ({'keep_until': 1.1}, 'keep_until is 1.1'),
    ({'keep_levels': 5}, 'keep_levels is 5: 1 to 4'),
    ({'keep_levels': 0}, 'keep_levels is 0'),
    ({'keep_start': 0.5, 'keep_levels': 1}, 'two levels'),
    ({'keep_multiple': 0}, 'keep_multiple is 0'),
    ({'keep_start': 0.5, 'keep_multiple': 512}, 'no row can be thinned'),
    ({'mask_token': 264}, 'mask_token is 264: an id of the vocabulary, 0 to'),
    ({'mask_token': -1}, 'mask_token is -1'),
    ({'mask_vocab': 265}, 'mask_vocab is 265'),
    ({'mask_vocab': 0}, 'mask_vocab is 0'),
    ({'mask_token': 1, 'mask_vocab': 9}, 'give one of them'),
    ({'mask_fade_from': 1.5}, 'mask_fade_from is 1.5'),
    ({'weight': 'positon'}, "did you mean 'position'"),
    ({'weight_context': 0}, 'weight_context is 0'),
    ({'weight_power': math.inf}, 'weight_power is inf'),
    ({'weight_slope': -1.0}, 'weight_slope is -1.0'),
    ({'weight_cap': 0.0}, 'or all weights are 0'),
    ({'weight_cap': math.nan}, 'weight_cap is nan'),
    (
      {'weight': 'position', 'weight_power': 200.0, 'weight_context': 2048},
      'makes all weights 0',
    ),
    ({'weight': 'distance', 'weight_context': 512}, 'weigh the same'),
    ({'long_ce': True, 'long_short': 512}, 'below the length 512'),
    ({'long_ce': True, 'long_short': 0}, 'long_short is 0'),
    ({'long_ce': True, 'long_short': 8, 'long_stride': 0}, 'long_stride is 0'),
    ({'long_ce': True, 'long_short': 8, 'long_gamma': 0.0}, 'long_gamma is 0'),
    ({'long_from': -0.1}, 'long_from is -0.1'),
    (
      {'long_ce': True, 'long_short': 8, 'keep_start': 0.5, 'long_from': 0.5},
      'begin no earlier',
    ),
    ({'positions': 'skip'}, "unknown positions 'skip'"),
    ({'positions': 'pose'}, 'target_length is None'),
    ({'positions': 'random', 'target_length': 511}, 'target_length is 511'),
    ({'positions': 'pose', 'target_length': 900, 'chunks': 0}, 'chunks is 0'),
    ({'seed': -1}, 'seed is -1'),
  ],
)
def test_a_wrong_setting_is_named(settings: dict[str, Any], says: str) -> None:
  found = problems(**settings)
  assert len(found) == 1, found
  assert says in found[0]


def test_all_that_is_wrong_is_named_together() -> None:
  assert len(problems(forget=2.0, keep_start=0.0, weight='x', seed=-1)) == 4
  few = RegularizeConfig(keep_start=0.5).problems(length=512, vocab=9, layers=2)
  assert 'it takes 3' in few[0]


@pytest.mark.parametrize('levels', [2, 3, 4])
@pytest.mark.parametrize('start', [0.1, 0.5, 0.9])
def test_kept_counts_rise_in_few_steps_to_all(
  levels: int, start: float
) -> None:
  config = RegularizeConfig(keep_start=start, keep_levels=levels)
  fractions = np.arange(301) / 300
  shares = [keep_share(config, f) for f in fractions]
  assert shares[0] == start
  assert (np.diff(shares) >= 0).all()
  assert len(set(shares)) == levels
  # Never above the line, and within a level of it.
  line = start + (1 - start) * np.minimum(fractions / config.keep_until, 1)
  assert (shares <= line + 1e-9).all()
  assert (shares > line - (1 - start) / (levels - 1) - 1e-9).all()
  # All of them only after two thirds.
  assert all((s == 1) == (f >= 2 / 3) for f, s in zip(fractions, shares))
  for length in (64, 1000):
    counts = [kept_count(config, f, length) for f in fractions]
    assert list(dict.fromkeys(counts)) == list(kept_counts(config, length))
    assert 1 < len(set(counts)) <= levels
    for share, count in zip(shares, counts):
      if count is not None:
        assert count % 8 == 0
        assert count <= max(8, share * length) < length


def test_a_row_is_never_thinned_to_nothing_or_to_itself() -> None:
  config = RegularizeConfig(keep_start=0.01)
  assert kept_count(config, 0.0, 16) == 8
  assert kept_count(config, 0.0, 8) is None
  assert kept_counts(config, 8) == (None,)


def test_masking_ends_before_the_run_does() -> None:
  config = RegularizeConfig(mask_inputs=0.1, mask_fade_from=0.8)
  shares = [mask_share(config, f) for f in (0.0, 0.8, 0.85, 0.9, 1.0)]
  np.testing.assert_allclose(shares, [0.1, 0.1, 0.075, 0.05, 0], atol=1e-12)
  kept = dataclasses.replace(config, mask_fade_from=1.0)
  assert mask_share(kept, 1.0) == 0.1
  gone = dataclasses.replace(config, mask_fade_from=0.0)
  assert mask_share(gone, 0.5) == 0.05


def test_factors_are_their_formulas() -> None:
  seen = np.arange(1, 2000, dtype=np.int32)
  config = RegularizeConfig(
    weight='position', weight_context=100, weight_power=0.5
  )
  wanted = [min(1, (c / 100) ** 0.5) for c in range(1, 2000)]
  np.testing.assert_allclose(loss_factor(config, seen), wanted, rtol=1e-6)
  config = RegularizeConfig(
    weight='distance', weight_context=100, weight_slope=0.7, weight_cap=2.5
  )
  wanted = [
    min(2.5, 1 + 0.7 * math.log2(max(1, c / 100))) for c in range(1, 2000)
  ]
  np.testing.assert_allclose(loss_factor(config, seen), wanted, rtol=1e-6)
  assert loss_factor(config, seen).max() == 2.5  # the cap is reached
  assert (loss_factor(RegularizeConfig(), seen) == 1).all()
