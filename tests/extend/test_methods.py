"""Names of methods and what they stand for."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ntk_jax.errors import ConfigError
from ntk_jax.extend.methods import (
  DEFAULT_METHODS,
  Setting,
  candidate,
  catalogue,
  select,
)
from ntk_jax.rope import METHODS

SETTING = Setting(head_dim=32, theta=1e4, train_length=128, factor=8.0)


def test_the_default_methods_are_those_of_the_job() -> None:
  rows, others = select(DEFAULT_METHODS, SETTING)
  by_name = {row.name: row.scheme for row in rows}
  assert others == []
  assert len(by_name) == 9
  assert by_name['none'].spec.method == 'default'
  assert by_name['window'].window == 128
  assert by_name['linear'].spec.factor == 8.0
  assert by_name['dynamic'].spec.factor == 1.0
  assert by_name['dynamic'].per_length
  assert by_name['by_parts'].spec.attention_factor == 1.0
  scaled = dict(by_name['yarn_scaled'].spec.options)
  assert scaled['beta_fast'] == pytest.approx(128 / (8 * math.pi))
  assert scaled['beta_slow'] == 1.0
  assert scaled['truncate'] is False
  assert by_name['ntk+logn'].spec == by_name['ntk'].spec
  assert by_name['ntk+logn'].temperature is not None


def test_none_is_always_compared() -> None:
  rows, _ = select(('yarn',), SETTING)
  assert [row.name for row in rows] == ['none', 'yarn']


def test_all_is_every_method_or_its_reason() -> None:
  rows, others = select(('all',), SETTING)
  methods = {row.scheme.spec.method for row in rows}
  reasons = {other['name']: other['reason'] for other in others}
  assert methods | set(reasons) >= set(METHODS)
  assert methods & set(reasons) == set()
  assert all(reasons.values())
  assert 'factor lists' in reasons['longrope']


def test_all_names_what_this_setting_does_not_define() -> None:
  """theta_scale needs more than one turn within L0."""
  short = Setting(head_dim=32, theta=1e4, train_length=6, factor=8.0)
  _, others = select(('all',), short)
  assert 'theta_scale' in {other['name'] for other in others}


def test_additions_combine() -> None:
  row = candidate('yarn+resonance+logn+window', SETTING)
  assert row.scheme.spec.modifiers == ('resonance',)
  assert row.scheme.window == 128
  assert row.scheme.temperature is not None
  assert row.label == 'YaRN (betas 32, 1) + resonance + log-n + window'
  clipped = candidate('ntk+cope:4', SETTING).scheme.spec
  assert clipped.modifiers == (('cope', 4),)


@pytest.mark.parametrize('name', catalogue())
def test_every_name_makes_arrays_of_one_shape(name: str) -> None:
  arrays = candidate(name, SETTING).scheme.arrays(1024, np.arange(1024))
  assert arrays.phases.shape == (16, 2)
  assert arrays.attention_factor.shape == ()
  assert arrays.q_scale.shape == (1024,)


@pytest.mark.parametrize(
  ('names', 'says'),
  [
    (('yarm',), "unknown method 'yarm': did you mean 'yarn'?"),
    (('yarn+logm',), "unknown addition to a method 'logm': did you mean"),
    (('yarn+logn+logn',), "has the addition 'logn' twice"),
    (('yarn+cope:4+cope',), "has the addition 'cope' twice"),
    (('yarn+cope',), 'last 20 pairs, but there are 16; give how many'),
    (('yarn+cope:x',), "addition 'cope:x': a number of pairs"),
    (('yarn+resonance:4',), 'goes with cope and cope_hard alone'),
    (('yarn+logn:4',), 'goes with cope and cope_hard alone'),
    (('yarn', 'yarn'), 'name each method once'),
    ((), 'at least one'),
    (('longrope',), "method 'longrope' is not applicable here: needs factor"),
  ],
)
def test_refusals(names: tuple[str, ...], says: str) -> None:
  with pytest.raises(ConfigError) as caught:
    select(names, SETTING)
  assert says in str(caught.value)
