"""The suggested temperature: where it is known, and on a model."""

from __future__ import annotations

import math

import jax
import numpy as np
import pytest

from ntk_jax.diagnostics import look, suggestion
from ntk_jax.diagnostics.gradients import scaled_arrays
from ntk_jax.diagnostics.suggest import TRIED, crossing, fitted_slope
from ntk_jax.diagnostics.variants import fitted
from ntk_jax.errors import ConfigError
from ntk_jax.model import ModelConfig, init_params
from ntk_jax.rope.spec import RopeSpec
from ntk_jax.scheme import Scheme

LENGTHS = (128, 512, 2048)


def test_it_finds_the_closed_forms_of_gaussian_logits() -> None:
  """H = ln n - c^2 s^2 / 2 and sum p^2 = e^(c^2 s^2) / n, with s^2 = 1."""
  c = np.array(TRIED)
  n = np.array(LENGTHS)[:, None, None]
  entropy = 1 - c**2 / (2 * np.log(n))
  found = suggestion('entropy', LENGTHS, 128, entropy)
  expected = [math.sqrt(math.log(m) / math.log(128)) for m in LENGTHS]
  np.testing.assert_allclose(found.multipliers, expected, rtol=1e-5)
  found = suggestion('variance', LENGTHS, 128, c**2 - np.log(n))
  expected = [math.sqrt(1 + math.log(m / 128)) for m in LENGTHS]
  np.testing.assert_allclose(found.multipliers, expected, rtol=1e-5)


def test_a_slope_is_that_of_least_squares_through_one() -> None:
  x = np.log([2.0, 4.0])
  c = 1 + np.array([0.3, 0.9]) * x
  found = fitted_slope([64, 128, 256, 512], [0.5, 1.0, *c], 128)
  np.testing.assert_allclose(found, (c - 1) @ x / (x @ x))
  line = 1 + 0.2 * np.log([1, 2, 4])
  np.testing.assert_allclose(
    fitted_slope([128, 256, 512], line.tolist(), 128), 0.2
  )


def test_what_was_not_reached_is_no_number() -> None:
  assert math.isnan(crossing([1.0, 2.0], np.array([0.5, 0.4]), 0.3))
  curves = np.array([[[0.5, 0.4]], [[0.2, 0.1]]])
  found = suggestion('entropy', [128, 256], 128, curves, (1.0, 2.0))
  assert found.multipliers[0] == 1.0
  assert math.isnan(found.multipliers[1])
  assert math.isnan(found.slope)
  with pytest.raises(ConfigError, match='reference is 64: it is one of'):
    suggestion('entropy', [128, 256], 64, curves, (1.0, 2.0))


def test_a_model_under_it_has_the_entropy_of_the_reference() -> None:
  """One layer, whose keys do not change with what its queries do."""
  lengths = (32, 64, 256)
  config = ModelConfig(vocab=64, dim=32, layers=1, heads=2, kv_heads=2)
  params = init_params(jax.random.key(0), config)
  scheme = Scheme(RopeSpec('default', 32))
  rows = np.random.default_rng(0).integers(64, size=(4, 256)).astype(np.int32)

  def seen(n: int, multiplier: object = None) -> object:
    arrays = scaled_arrays([scheme], n, np.arange(n), multiplier)
    return look(params, config, arrays, rows[:, -n:], multipliers=TRIED)

  plain = {n: seen(n) for n in lengths}
  for keeps, name in (('entropy', 'entropy'), ('variance', 'sum_squares')):
    curves = np.array([getattr(plain[n], f'{name}_under') for n in lengths])
    if keeps == 'variance':
      curves = np.log(curves)
    found = suggestion(keeps, lengths, 32, curves)
    assert 0.01 < found.slope < 1
    kept = fitted('', 32, found.slope).temperature
    before, after = (
      [getattr(h, name).mean() for h in heads]
      for heads in (plain.values(), (seen(n, kept) for n in lengths))
    )
    np.testing.assert_allclose(after[0], before[0], rtol=0.02)

    def change(values: list[float]) -> float:
      return abs(float(np.log(values[-1] / values[0])))

    assert change(after) < change(before) / 3
