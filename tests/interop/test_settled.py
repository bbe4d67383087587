"""What is frozen at a length, and what is refused without one."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ntk_jax.errors import ConfigError
from ntk_jax.interop.settled import settled
from ntk_jax.scheme import Scheme
from ntk_jax.temperature import Temperature
from tests.interop.made import ORIGINAL, rope, spec

RISING = {
  'short_factor': [1.0, 1.0, 1.5, 2.0],
  'long_factor': [1.0, 2.0, 3.0, 4.0],
}


@pytest.mark.parametrize('method', ['dynamic', 'dynamic_yarn', 'longrope'])
def test_frequencies_are_those_of_the_length(method: str) -> None:
  options = RISING if method == 'longrope' else {}
  scheme = rope(method, options=options)
  frozen = settled(scheme, 100)
  wanted, factor = scheme.spec.frequencies(100)
  for length in (None, 8, 100, 1000):
    got, got_factor = frozen.spec.frequencies(length)
    np.testing.assert_allclose(got, wanted, rtol=1e-13)
    assert float(got_factor) == pytest.approx(float(factor), rel=1e-15)
  assert not frozen.spec.per_length
  assert frozen.length == 100


def test_dynamic_becomes_another_base() -> None:
  frozen = settled(rope('dynamic'), 128)
  # base' = theta (s n / L0 - (s - 1)) ^ (d / (d - 2))
  wanted = 1e4 * (4 * 128 / ORIGINAL - 3) ** (8 / 6)
  assert frozen.spec.method == 'default'
  assert frozen.spec.theta == pytest.approx(wanted, rel=1e-12)


def test_what_servers_compute_stays_as_it_is() -> None:
  for scheme in (rope('dynamic'), rope('longrope', options=RISING)):
    assert settled(scheme).spec is scheme.spec
  static = rope('yarn', window=7)
  assert settled(static, 100) == (static.spec, 1.0, 7, 128)


def test_a_temperature_is_that_of_the_last_position() -> None:
  logn = Temperature('logn', length=ORIGINAL)
  got = settled(Scheme(spec(), logn), 96).temperature
  assert got == pytest.approx(math.log(96) / math.log(ORIGINAL), rel=1e-6)


def test_a_constant_temperature_needs_no_length() -> None:
  scheme = Scheme(spec(), Temperature('constant', scale=1.3))
  assert settled(scheme).temperature == 1.3


@pytest.mark.parametrize(
  ('scheme', 'length', 'says'),
  [
    (
      rope('dynamic_yarn'),
      None,
      'dynamic_yarn cannot be exported: .* give fre',
    ),
    (
      Scheme(spec(), Temperature('logn', length=64)),
      None,
      "Temperature\\('logn', length=64\\) cannot be exported: .*position",
    ),
    (
      Scheme(spec(), Temperature('constant', scale=(1.0, 2.0))),
      None,
      'one finite number for all heads',
    ),
    (rope(), 0, 'freeze_length is 0'),
    (rope(), 1.5, 'freeze_length is 1.5'),
    (
      rope('dynamic_yarn', modifiers=(('cope_hard', 2),)),
      64,
      'dynamic_yarn at 64 tokens .* frequency 0',
    ),
  ],
)
def test_refusals(scheme: Scheme, length: int | None, says: str) -> None:
  with pytest.raises(ConfigError, match=says):
    settled(scheme, length)


def test_mixed_longrope_is_refused_at_any_length() -> None:
  options = {'long_factor': RISING['long_factor'], 'start_token': 4}
  scheme = rope('mixed_longrope', options=options)
  for length in (None, 64):
    with pytest.raises(ConfigError, match='mixed_longrope cannot be exported'):
      settled(scheme, length)
