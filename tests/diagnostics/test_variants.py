"""What variants change, and what they leave alone."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from ntk_jax.diagnostics import look
from ntk_jax.diagnostics import variants as kinds
from ntk_jax.diagnostics.gradients import scaled_arrays
from ntk_jax.initializers import (
  entropy_flat_multiplier,
  length_aware_gain,
  variance_flat_multiplier,
)
from ntk_jax.model import init_params
from ntk_jax.model.params import param_shapes
from ntk_jax.temperature import logn

from .cases import CONFIG, SCHEMES, tokens_of

REFERENCE, LENGTH = 16, 64
PARAMS = init_params(jax.random.key(0), CONFIG)
RHO = {16: np.array([0.1, 0.3]), 64: np.array([0.05, 0.3])}
MODEL = kinds.Model(PARAMS, CONFIG, SCHEMES, REFERENCE, RHO)
ALL = {v.name: v for v in kinds.at_start(CONFIG, REFERENCE)}


def test_at_the_reference_only_divisors_and_norms_change_anything() -> None:
  for name, variant in ALL.items():
    applied = MODEL.under(variant, REFERENCE)
    np.testing.assert_allclose(applied.gain, 1.0)
    np.testing.assert_array_equal(
      applied.params.layers['out'], PARAMS.layers['out']
    )
    if applied.multiplier is not None and name != '1/d':
      scale = applied.multiplier(np.arange(REFERENCE))
      np.testing.assert_allclose(scale, 1.0, rtol=1e-6)
    assert (applied.config != CONFIG) == (name == kinds.NORM)


def test_temperatures_are_the_closed_forms_at_every_position() -> None:
  p = np.array([15, 31, 63, 255])
  n = (p + 1).tolist()
  forms = {
    kinds.LOGN: logn(p, length=REFERENCE),
    kinds.FLAT_ENTROPY: [entropy_flat_multiplier(x, REFERENCE) for x in n],
    kinds.FLAT_VARIANCE: [variance_flat_multiplier(x, REFERENCE) for x in n],
  }
  for name, expected in forms.items():
    multiplier = MODEL.under(ALL[name], LENGTH).multiplier
    assert multiplier is not None
    np.testing.assert_allclose(multiplier(p), expected, rtol=1e-6)


def test_gains_are_those_of_the_initializers_layer_by_layer() -> None:
  naive = MODEL.under(ALL[kinds.NAIVE], LENGTH)
  np.testing.assert_allclose(naive.gain, 2.0)
  aware = MODEL.under(ALL[kinds.AWARE], LENGTH)
  for layer, (scheme, most) in enumerate(zip(SCHEMES[:1] * 2, (LENGTH,) * 2)):
    expected = length_aware_gain(
      most,
      REFERENCE,
      rho=RHO[LENGTH][layer],
      rho_ref=RHO[REFERENCE][layer],
      dim=CONFIG.dim,
      inv_freq=scheme.spec.frequencies(LENGTH)[0],
    )
    np.testing.assert_allclose(aware.gain[layer], expected)
    np.testing.assert_allclose(
      aware.params.layers['out'][layer],
      expected * np.asarray(PARAMS.layers['out'][layer]),
      rtol=1e-6,
    )
  assert aware.gain[0] > aware.gain[1] > 1  # less alike, more to make up for


def test_a_window_is_all_that_a_gain_counts() -> None:
  """Layers that see 9 keys at any length need no gain."""
  config = dataclasses.replace(CONFIG, layer_plan=(0, 1))
  same = {n: np.array([0.1, 0.1]) for n in (REFERENCE, LENGTH)}
  model = kinds.Model(PARAMS, config, SCHEMES, REFERENCE, same)
  scheme = dataclasses.replace(
    SCHEMES[1], spec=dataclasses.replace(SCHEMES[1].spec)
  )
  assert scheme.window == 9
  gain = model.under(ALL[kinds.AWARE], LENGTH).gain
  assert gain[0] > 1.05
  np.testing.assert_allclose(gain[1], 1.0, rtol=1e-6)


def test_another_divisor_is_that_of_the_config() -> None:
  rows, at = tokens_of(1, 20), np.arange(20)
  linear = dataclasses.replace(CONFIG, divisor='linear')
  applied = MODEL.under(ALL['1/d'], 20)
  found = look(
    applied.params,
    applied.config,
    scaled_arrays(SCHEMES, 20, at, applied.multiplier),
    rows,
  )
  expected = look(PARAMS, linear, scaled_arrays(SCHEMES, 20, at), rows)
  for x, y in zip(found, expected):
    np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)


def test_a_norm_is_that_of_the_config() -> None:
  normed = dataclasses.replace(CONFIG, head_norm=True)
  applied = MODEL.under(ALL[kinds.NORM], LENGTH)
  assert applied.config == normed
  shapes = param_shapes(normed).layers
  assert {n: a.shape for n, a in applied.params.layers.items()} == shapes
  np.testing.assert_array_equal(applied.params.layers['head_norm'], 1.0)
  for name, leaf in PARAMS.layers.items():
    np.testing.assert_array_equal(applied.params.layers[name], leaf)


@pytest.mark.parametrize('divisor', ['sqrt', 'linear'])
def test_a_model_is_first_and_no_divisor_stands_twice(divisor: str) -> None:
  config = dataclasses.replace(CONFIG, divisor=divisor, head_norm=True)
  names = [v.name for v in kinds.at_start(config, REFERENCE)]
  assert names[:2] == (
    ['1/sqrt(d)', '1/d'] if divisor == 'sqrt' else ['1/d', '1/sqrt(d)']
  )
  assert len(set(names)) == len(names)
  assert kinds.NORM not in names  # it has one
