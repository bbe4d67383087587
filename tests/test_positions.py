"""Positions keep their value or are refused, wherever they enter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntk_jax import RopeSpec, Scheme, cos_sin, rerotate, temperature
from ntk_jax.errors import ConfigError
from ntk_jax.positions import as_int32
from ntk_jax.rope import rerope

W = np.array([1.0, 0.1])
SCHEME = Scheme(RopeSpec('default', 4))
TAKERS: dict[str, Callable[[Any], Any]] = {
  'cos_sin': lambda p: cos_sin(p, W),
  'rerotate': lambda p: rerotate(jnp.ones((2, 1, 4)), p, W, W),
  'temperature': lambda p: temperature.logn(p, length=5),
  'remap': lambda p: rerope(p, p, window=5),
  'scheme': lambda p: SCHEME.arrays(8, p),
}


@pytest.mark.unchecked
@pytest.mark.parametrize('taker', TAKERS)
@pytest.mark.parametrize('wrong', [[0.0, 1.5], [0, 2**31], [-(2**31) - 1, 0]])
def test_what_would_change_is_refused(taker: str, wrong: list[float]) -> None:
  with pytest.raises(ConfigError, match='int'):
    TAKERS[taker](np.array(wrong))


@pytest.mark.unchecked
@pytest.mark.parametrize('taker', TAKERS)
def test_lists_numpy_and_jax_are_alike(taker: str) -> None:
  made = [
    jax.tree.leaves(TAKERS[taker](p))
    for p in ([3, 7], np.array([3, 7]), jnp.array([3, 7], jnp.int16))
  ]
  for other in made[1:]:
    for a, b in zip(made[0], other, strict=True):
      np.testing.assert_array_equal(a, b)


def test_the_extremes_stay() -> None:
  ends = [-(2**31), 2**31 - 1]
  assert as_int32(np.array(ends, np.int64)).tolist() == ends
  assert as_int32([]).dtype == np.int32
