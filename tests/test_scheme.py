"""Schemes: the arrays of every kind are alike but for their values."""

from __future__ import annotations

import numpy as np
import pytest

from ntk_jax.errors import ConfigError
from ntk_jax.rope.phase import phases
from ntk_jax.rope.spec import RopeSpec
from ntk_jax.scheme import NO_WINDOW, Scheme
from ntk_jax.temperature import Temperature

SCHEMES = (
  Scheme(RopeSpec('default', 8)),
  Scheme(RopeSpec('default', 8), window=4),
  Scheme(RopeSpec('yarn', 8, factor=4.0, original_length=16)),
  Scheme(RopeSpec('dynamic', 8, factor=1.0, original_length=16)),
  Scheme(RopeSpec('default', 8), Temperature('logn', length=16)),
)


@pytest.mark.parametrize('length', [None, 5, 40])
def test_all_have_the_same_shapes_and_dtypes(length: int | None) -> None:
  kinds = {
    tuple((x.shape, x.dtype.name) for x in s.arrays(length, np.arange(7)))
    for s in SCHEMES
  }
  assert kinds == {
    (((4, 2), 'uint32'), ((), 'float32'), ((7,), 'float32'), ((), 'int32'))
  }


def test_arrays_are_those_of_spec_temperature_and_window() -> None:
  spec = RopeSpec('yarn', 8, factor=4.0, original_length=16)
  scheme = Scheme(spec, Temperature('logn', length=16), window=9)
  positions = np.array([[0, 15], [100, 3]])
  arrays = scheme.arrays(64, positions)
  inv_freq, factor = spec.frequencies(64)
  assert np.array_equal(arrays.phases, phases(inv_freq))
  np.testing.assert_allclose(arrays.attention_factor, factor, rtol=1e-7)
  expected = np.maximum(np.log(positions + 1) / np.log(16), 1)
  np.testing.assert_allclose(arrays.q_scale, expected, rtol=1e-6)
  assert arrays.window == 9


def test_no_temperature_and_no_window_change_nothing() -> None:
  arrays = SCHEMES[0].arrays(None, np.arange(3))
  assert (arrays.q_scale == 1).all()
  assert arrays.window == NO_WINDOW == np.iinfo(np.int32).max


def test_a_length_per_row() -> None:
  lengths = np.array([16, 40, 64])
  found = SCHEMES[3].arrays(lengths, np.arange(64))
  assert found.phases.shape == (3, 4, 2)
  assert found.attention_factor.shape == (3,)
  for row, length in enumerate(lengths.tolist()):
    alone = SCHEMES[3].arrays(length, np.arange(64))
    assert np.array_equal(found.phases[row], alone.phases)


def test_per_length_is_that_of_the_spec() -> None:
  assert [s.per_length for s in SCHEMES] == [False] * 3 + [True, False]


@pytest.mark.parametrize('window', [0, -3])
def test_a_window_below_one_is_refused(window: int) -> None:
  with pytest.raises(ConfigError, match=f'window is {window}: .* at least 1'):
    Scheme(RopeSpec('default', 8), window=window)


def test_a_temperature_per_head_is_refused() -> None:
  scheme = Scheme(
    RopeSpec('default', 8), Temperature('constant', scale=(1.0, 1.2))
  )
  with pytest.raises(ConfigError, match='constant.*not one per head'):
    scheme.arrays(None, np.arange(3))
