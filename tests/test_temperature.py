"""Multipliers against golden files and float64 formulas."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntk_jax import temperature
from ntk_jax.config import fingerprint, to_plain
from ntk_jax.errors import ConfigError
from ntk_jax.temperature import TEMPERATURES, Temperature

GOLDEN = Path(__file__).parent / 'golden'
# The ends of steps and powers, and the largest int32.
P = np.array(
  [0, 1, 2, 126, 127, 128, 255, 1023, 1024, 8190, 8191, 8192, 16383, 16384]
  + [127999, 128000, 999_999, 2**24, 2**31 - 2, 2**31 - 1],
  np.int32,
)
N64 = P.astype(np.float64) + 1
P64 = P.astype(np.float64)

Multiplier = Callable[[np.ndarray], jax.Array]
FORMULAS: dict[str, tuple[Multiplier, np.ndarray]] = {
  'logn': (
    lambda p: temperature.logn(p, length=128),
    np.maximum(np.log(N64) / np.log(128), 1),
  ),
  'ssmax': (
    lambda p: temperature.ssmax(p, 0.43, 0.5),
    0.43 * np.log(N64) + 0.5,
  ),
  'llama4': (
    lambda p: temperature.llama4(p),
    1 + 0.1 * np.log(1 + np.floor(N64 / 8192)),
  ),
  'llama4 of 7': (
    lambda p: temperature.llama4(p, floor=7, scale=0.3),
    1 + 0.3 * np.log(1 + np.floor(N64 / 7)),
  ),
  'ministral': (
    lambda p: temperature.ministral(p, length=16384, beta=0.1),
    1 + 0.1 * np.log(1 + np.floor(P64 / 16384)),
  ),
  'inkling': (
    lambda p: temperature.inkling(p),
    1 + 0.1 * np.log(np.maximum(N64 / 128000, 1)),
  ),
  'grok': (
    lambda p: temperature.grok(p, length=1024),
    np.where(P64 > 1024, np.log2(np.maximum(P64, 1)) / np.log2(1024), 1),
  ),
  'learned': (
    lambda p: temperature.learned(
      p, np.array([0.1, 0.0]), np.array([0.5, 1.0])
    ),
    np.log(N64)[:, None] * [0.1, 0.0] + [0.5, 1.0],
  ),
  'entropy_invariant': (
    lambda p: temperature.entropy_invariant(p, kappa=3.0, head_dim=16),
    3.0 * np.log(N64) / 16 * math.sqrt(16),
  ),
  'constant': (
    lambda p: temperature.constant(p, scale=np.array([1.0, 1.2])),
    np.broadcast_to([1.0, 1.2], (*P.shape, 2)),
  ),
}


@pytest.mark.parametrize('name', FORMULAS)
@pytest.mark.parametrize('jit', [False, True])
def test_formulas(name: str, jit: bool) -> None:
  found, truth = FORMULAS[name]
  value = (jax.jit(found) if jit else found)(P)
  assert value.dtype == jnp.float32
  np.testing.assert_allclose(value, truth, rtol=4e-7, atol=1e-7)


def test_every_kind_has_a_formula_here() -> None:
  assert {name.split()[0] for name in FORMULAS} == set(TEMPERATURES)


@pytest.mark.parametrize(
  ('key', 'found'),
  [
    ('llama4_floor8192_scale0.1', temperature.llama4),
    ('ministral3_beta0.1_L16384', FORMULAS['ministral'][0]),
    ('logn_rerope_L4096', Temperature('logn', length=4096)),
  ],
)
def test_golden(key: str, found: Multiplier) -> None:
  golden = np.load(GOLDEN / 'rope_golden.npz')
  value = found(golden['temp/positions'].astype(np.int32))
  np.testing.assert_allclose(value, golden[f'temp/{key}'], rtol=3e-7)


def test_every_position_of_a_million_is_in_the_right_step() -> None:
  p = np.arange(2**20)
  for found, n, length in (
    (temperature.llama4(p), p + 1, 8192),
    (temperature.ministral(p, length=8192, beta=0.1), p, 8192),
  ):
    step = np.expm1((np.asarray(found, np.float64) - 1) / 0.1)
    np.testing.assert_array_equal(np.round(step), n // length)


@pytest.mark.parametrize('length', [2**24 + 1, 2**31 - 1])
def test_steps_are_integer_where_float32_is_not(length: int) -> None:
  p = np.array([length - 2, length - 1], np.int32)
  one, two = temperature.llama4(p, floor=length)
  assert (float(one), float(two)) == (1.0, pytest.approx(1 + 0.1 * math.log(2)))


def test_logn_is_exactly_one_up_to_the_length() -> None:
  found = np.asarray(temperature.logn(np.arange(200), length=128))
  assert (found[:128] == 1).all() and (found[128:] > 1).all()


@pytest.mark.parametrize('name', ['ssmax', 'learned'])
def test_per_head_and_learned(name: str) -> None:
  p = np.array([[0, 9], [99, 999]])
  found = getattr(temperature, name)
  scale, bias = jnp.float32([0.1, 0.2, 0.3]), jnp.float32([1.0, 0.0, -1.0])
  value = found(p, scale, bias)
  assert value.shape == (2, 2, 3)
  by_scale, by_bias = jax.jacobian(found, argnums=(1, 2))(p, scale, bias)
  eye = np.eye(3)
  log_n = np.log(p + 1.0)[..., None, None]
  np.testing.assert_allclose(by_scale, log_n * eye, rtol=1e-6)
  np.testing.assert_allclose(by_bias, np.broadcast_to(eye, by_bias.shape))


def test_one_scale_with_a_bias_per_head() -> None:
  found = temperature.ssmax(np.array([0, 9]), 0.5, np.array([0.0, 1.0]))
  expected = 0.5 * np.log([[1], [10]]) + [0, 1]
  np.testing.assert_allclose(found, expected, rtol=1e-6)


# Scalars.


def test_scalars() -> None:
  path = GOLDEN / 'rope_golden.json'
  golden = json.loads(path.read_text())['temperature_scalars']
  found = {
    'deepseek_v3_softmax_scale_multiplier(factor40,mscale_all_dim1)': (
      temperature.deepseek(40, 1)
    ),
    'deepseek_v2_softmax_scale_multiplier(factor40,mscale_all_dim0.707)': (
      temperature.deepseek(40, 0.707)
    ),
    'yarn_paper_logit_multiplier(factor32)': temperature.yarn(32) ** 2,
    'chunkllama_mscale(factor8)': temperature.chunk_llama(8),
    'grok_sglang_mscale(factor4)': temperature.yarn_log(4),
  }
  assert found == pytest.approx(golden, rel=1e-15)
  case = json.loads(path.read_text())['cases']['longrope_phi3_128k']
  assert temperature.longrope(32, 4096) == pytest.approx(
    case['results'][0]['attention_factor'], rel=1e-15
  )


def test_scalars_at_factor_one() -> None:
  assert temperature.yarn(1) == temperature.yarn(1.0, 0.707) == 1
  assert temperature.longrope(1, 2) == temperature.deepseek(1, 1) == 1
  assert temperature.deepseek(40, 0.0) == 1


def test_divisors() -> None:
  assert temperature.divisor(64) == 8
  assert temperature.divisor(64, 'linear') == 64
  assert temperature.divisor(64, 0.5) == 0.5
  assert isinstance(temperature.divisor(64, 3), float)


# Temperature.


def test_temperature_is_a_plain_value() -> None:
  one: Any = Temperature('ministral', length=np.int64(512), beta=0.1)
  assert one == Temperature('ministral', beta=0.1, length=512)
  assert hash(one) == hash(Temperature('ministral', beta=0.1, length=512))
  assert one != Temperature('ministral', beta=0.1, length=513)
  assert to_plain(one) == {
    'kind': 'ministral',
    'settings': [['beta', 0.1], ['length', 512]],
  }
  assert fingerprint(one) != fingerprint(Temperature('logn', length=512))
  assert pickle.loads(pickle.dumps(one)) == one
  assert eval(repr(one)) == one
  with pytest.raises(AttributeError):
    one.kind = 'logn'


def test_temperature_calls_its_function() -> None:
  one = Temperature('ministral', length=16384, beta=0.1)
  np.testing.assert_array_equal(one(P), FORMULAS['ministral'][0](P))
  heads = Temperature(
    'learned', scale_N=np.array([0.0, 0.1]), bias_N=(1.0, 1.0)
  )
  assert heads(P).shape == (*P.shape, 2)
  assert hash(heads) == hash(eval(repr(heads)))


def test_defaults_are_settings_too() -> None:
  expected = (('floor', 8192), ('scale', 0.1))
  assert Temperature('llama4').settings == expected
  assert Temperature('llama4') == Temperature('llama4', floor=8192)


def test_table_names_formula_and_source() -> None:
  for kind, row in TEMPERATURES.items():
    assert getattr(temperature, kind) is row.function
    assert row.formula and row.source


# Past the type checker.
ANY: dict[str, Any] = {'word': 'big', 'half': 0.5}
ERRORS: dict[str, Callable[[], object]] = {
  "unknown temperature 'log': did you mean 'logn'": lambda: Temperature('log'),
  "temperature 'ministral' needs length; its settings are length, beta": (
    lambda: Temperature('ministral', beta=0.1)
  ),
  "temperature 'learned' needs scale_N, bias_N": lambda: Temperature('learned'),
  "unknown setting of temperature 'logn' 'lenght': did you mean 'length'": (
    lambda: Temperature('logn', lenght=512)
  ),
  'scale is nan, must be finite': lambda: Temperature(
    'llama4', scale=float('nan')
  ),
  r'scale is \(1.0, inf\), must be finite': lambda: Temperature(
    'constant', scale=(1.0, float('inf'))
  ),
  "scale is 'big', must be numbers": lambda: Temperature(
    'llama4', scale=ANY['word']
  ),
  'length is 1, must be an integer >= 2': lambda: Temperature('logn', length=1),
  'length is 512.0, must be an integer': lambda: Temperature(
    'logn', length=512.0
  ),
  'length is 2147483648, must be an integer': lambda: temperature.grok(
    P, length=2**31
  ),
  'floor is 0, must be an integer >= 1': lambda: temperature.llama4(P, floor=0),
  'floor is 0.5, must be': lambda: temperature.inkling(P, floor=ANY['half']),
  'head_dim is 0, must be': lambda: temperature.entropy_invariant(
    P, kappa=1.0, head_dim=0
  ),
  'positions are float32, must be integers': lambda: temperature.logn(
    jnp.float32([1.0]), length=512
  ),
  'factor is 0.5, must be at least 1': lambda: temperature.yarn(0.5),
  'factor is inf, must be': lambda: temperature.longrope(math.inf, 4096),
  'factor is nan, must be': lambda: temperature.yarn_log(math.nan),
  "unknown divisor 'sqr': did you mean 'sqrt'.*a positive number": (
    lambda: temperature.divisor(64, 'sqr')
  ),
  'divisor is -1.0, must be positive and finite': lambda: temperature.divisor(
    64, -1.0
  ),
  'head_dim is 0, must be an': lambda: temperature.divisor(0),
}


@pytest.mark.unchecked
@pytest.mark.parametrize('message', ERRORS)
def test_errors(message: str) -> None:
  with pytest.raises(ConfigError, match=message):
    ERRORS[message]()
