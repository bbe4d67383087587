"""Angles against exact rational arithmetic, which shares no code with them."""

from __future__ import annotations

import functools
from fractions import Fraction
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ntk_jax.errors import ConfigError
from ntk_jax.rope import fixed_point
from ntk_jax.rope.phase import cos_sin, lerope, phases

GOLDEN = Path(__file__).parent.parent / 'golden' / 'rope_golden.npz'
CASES = ('default_llama2', 'yarn_gptoss')
TWO_PI = 2 * Fraction(
  '3.1415926535897932384626433832795028841971693993751'
  '05820974944592307816406286208998628034825342117067'
)
INT32 = st.integers(-(2**31), 2**31 - 1)
FREQUENCIES = arrays.arrays(
  np.float64, 5, elements=st.floats(1e-9, 4.0) | st.just(0.0)
)
exact = jax.jit(cos_sin)


def angles(positions: np.ndarray, w: np.ndarray) -> np.ndarray:
  """positions[:, None] * w modulo one turn, reduced before it is float64."""
  turns = [
    [(Fraction(int(p)) * Fraction(float(x)) / TWO_PI) % 1 for x in w]
    for p in positions
  ]
  return np.array(turns, np.float64) * (2 * np.pi)


def worst(found: tuple[jax.Array, jax.Array], angle: np.ndarray) -> float:
  """The largest error of a cosine or sine against float64."""
  return max(
    np.abs(found[0] - np.cos(angle)).max(),
    np.abs(found[1] - np.sin(angle)).max(),
  )


def ulps(a: jax.Array, truth: np.ndarray) -> np.ndarray:
  """Distance in float32 values between a and the rounded truth."""

  def order(x: np.ndarray) -> np.ndarray:
    bits = np.asarray(x, np.float32).view(np.int32).astype(np.int64)
    return np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)

  return np.abs(order(np.asarray(a)) - order(truth))


@pytest.mark.parametrize('case', CASES)
def test_golden_angles(case: str) -> None:
  golden = np.load(GOLDEN)
  w = golden[f'{case}/0/ref_inv_freq']
  p = golden['cossin/positions'].astype(np.int32)
  for found in (cos_sin(p, w), exact(p, phases(w))):
    for name, values in zip(('cos', 'sin'), found):
      truth = golden[f'cossin/{case}/0/true/{name}']
      assert values.dtype == jnp.float32
      assert np.abs(values - truth).max() <= 2e-7


@given(arrays.arrays(np.int32, 7, elements=INT32), FREQUENCIES)
@settings(deadline=None, max_examples=200)
def test_error_over_all_int32(p: np.ndarray, w: np.ndarray) -> None:
  assert worst(exact(p, phases(w)), angles(p, w)) <= 3e-7


@given(
  arrays.arrays(np.int32, 7, elements=st.integers(-(2**24), 2**24)), FREQUENCIES
)
@settings(deadline=None, max_examples=200)
def test_error_up_to_2_to_24(p: np.ndarray, w: np.ndarray) -> None:
  assert worst(exact(p, phases(w)), angles(p, w)) <= 2e-7


def test_error_at_the_ends_of_int32() -> None:
  p = np.array([-(2**31), -(2**31) + 1, -1, 2**31 - 1], np.int32)
  w = np.array([1.0, 0.1, 3.0235e-7, 3.9])
  assert worst(exact(p, phases(w)), angles(p, w)) <= 2e-7


@given(st.floats(0, 1e30))  # beyond, TWO_PI has too few digits
@settings(max_examples=300)
def test_phases_are_exactly_rounded(w: float) -> None:
  high, low = phases(np.array([w]))[0].tolist()
  assert (high << 32) + low == round(Fraction(w) / TWO_PI * 2**64) % 2**64


def test_phases_of_large_and_subnormal_frequencies() -> None:
  # 2**1000 / (2 pi): the bits of 1 / (2 pi) that follow the 1000th.
  tiny, large = phases(np.array([5e-324, 2.0**1000]))
  assert tiny.tolist() == [0, 0]
  bits = fixed_point._inverse_two_pi(2000)
  high, low = large.tolist()
  assert abs((high << 32) + low - (bits >> 936) % 2**64) <= 1


def test_rotation_over_a_turn() -> None:
  units = np.random.default_rng(0).integers(0, 2**32, 2**20)
  edges = np.arange(8)[:, None] * 2**29 + np.arange(-2, 3)
  units = np.concatenate([units, edges.ravel() % 2**32])
  found = jax.jit(fixed_point.rotation)(units.astype(np.uint32))
  assert worst(found, units * (2 * np.pi / 2**32)) <= 1.2e-7


def test_phases_keep_leading_dims() -> None:
  w = np.linspace(0, 1, 6).reshape(2, 3)
  words = phases(w)
  assert words.dtype == np.uint32 and words.shape == (2, 3, 2)
  np.testing.assert_array_equal(words[1], phases(w[1]))
  np.testing.assert_array_equal(phases(jnp.float32(w)), phases(np.float32(w)))


def test_no_float64_and_no_transcendental_function() -> None:
  p, w = np.arange(3, dtype=np.int32), np.ones(2)
  text = exact.lower(p, phases(w)).as_text()
  assert 'stablehlo.multiply' in text
  for word in ('sine', 'f64', 'i64', 'power'):
    assert word not in text
  as_float32 = functools.partial(cos_sin, precision='float32')
  learned = jnp.float32(w)
  assert 'sine' in jax.jit(as_float32).lower(p, learned).as_text()


def test_opposite_positions_are_conjugate_to_the_bit() -> None:
  rng = np.random.default_rng(0)
  p = rng.integers(1, 2**31, 100).astype(np.int32)
  w = phases(rng.uniform(0, 1, 10))
  (cos, sin), (cos_minus, sin_minus) = exact(p, w), exact(-p, w)
  np.testing.assert_array_equal(cos, cos_minus)
  np.testing.assert_array_equal(sin, -sin_minus)


def test_no_angle_is_exactly_no_rotation() -> None:
  p, w = np.array([0, 5, -(2**31)], np.int32), np.array([0.7, 0.0])
  cos, sin = exact(p, phases(w))
  assert cos[0].tolist() == [1, 1] and sin[0].tolist() == [0, 0]
  assert (cos[:, 1] == 1).all() and (sin[:, 1] == 0).all()


# Learned frequencies.


@given(
  arrays.arrays(np.int32, 7, elements=INT32),
  arrays.arrays(np.float32, 5, elements=st.floats(-100, 100, width=32)),
)
@settings(deadline=None, max_examples=200)
def test_learned_error_over_all_int32(p: np.ndarray, w: np.ndarray) -> None:
  assert worst(exact(p, w), angles(p, w)) <= 3e-7


def test_words_of_float32_are_those_of_the_host() -> None:
  rng = np.random.default_rng(0)
  bits = rng.integers(0, 0x7F800000, 50_000).astype(np.uint32)
  w = np.concatenate([bits.view(np.float32), rng.uniform(0, 4, 50_000)])
  w = np.concatenate([w, [0, 1e-45, 1e-38, 3.4e38, 2**-64, 1]])
  w = w.astype(np.float32)
  found = jax.jit(fixed_point.turns_of_float32)(w)
  np.testing.assert_array_equal(np.stack(found, -1), phases(w))


def test_learned_gradient() -> None:
  w = np.array([1.0, 0.25, 1e-3], np.float32)
  p = np.array([0, 3, -500, 1_000_000], np.int32)
  cos_t, sin_t = np.random.default_rng(0).normal(size=(2, 4, 3))

  def value(w: jax.Array, factor: float) -> jax.Array:
    cos, sin = cos_sin(p, w, attention_factor=factor)
    return jnp.sum(cos_t * cos + sin_t * sin)

  found = jax.jit(jax.grad(value))(jnp.asarray(w), 1.5)
  angle = angles(p, w)
  slope = p[:, None] * (cos_t * -np.sin(angle) + sin_t * np.cos(angle))
  np.testing.assert_allclose(found, 1.5 * slope.sum(0), rtol=2e-6)
  by_factor = jax.grad(value, argnums=1)(jnp.asarray(w), 1.5)
  expected = np.sum(cos_t * np.cos(angle) + sin_t * np.sin(angle))
  np.testing.assert_allclose(by_factor, expected, rtol=1e-5)


def test_learned_gradient_against_differences() -> None:
  w, p, step = 0.3, 40, 1e-6
  up, down = (
    angles(np.array([p]), np.array([w + d]))[0, 0] for d in (step, -step)
  )
  slope = (np.cos(up) - np.cos(down)) / (2 * step)
  first = jax.grad(lambda w: cos_sin(p, w[None])[0][0])
  np.testing.assert_allclose(first(jnp.float32(w)), slope, rtol=1e-5)
  second = jax.grad(first)(jnp.float32(w))
  np.testing.assert_allclose(second, -(p**2) * np.cos(p * w), rtol=1e-5)


def test_learned_under_vmap() -> None:
  w = jnp.float32([[1.0, 0.5], [0.1, 0.2], [0.3, 0.4]])
  p = jnp.arange(5)
  for a, b in zip(jax.vmap(lambda w: cos_sin(p, w))(w), cos_sin(p, w[:, None])):
    np.testing.assert_array_equal(a, b)


def test_learned_frequencies_that_are_not_finite_show() -> None:
  cos, sin = exact(np.array([0, 3]), jnp.float32([jnp.inf, jnp.nan, 1.0]))
  assert np.isnan(cos[:, :2]).all() and np.isnan(sin[:, :2]).all()
  assert np.isfinite(cos[:, 2]).all() and np.isfinite(sin[:, 2]).all()


def test_lerope() -> None:
  w, alpha = np.array([1.0, 0.1, 0.01]), np.array([0.0, -0.5, 0.25])
  np.testing.assert_array_equal(lerope(w, np.zeros(3)), np.float32(w))
  found = lerope(w, alpha)
  assert found.dtype == jnp.float32
  np.testing.assert_allclose(found, w * np.exp(alpha), rtol=2e-7)

  def value(alpha: jax.Array) -> jax.Array:
    return cos_sin(np.array([7]), lerope(w, alpha))[1].sum()

  angle = 7 * w * np.exp(alpha)
  np.testing.assert_allclose(
    jax.grad(value)(jnp.float32(alpha)), np.cos(angle) * angle, rtol=1e-5
  )


# The precision of transformers.


@pytest.mark.parametrize('jit', [False, True])
def test_float32_is_within_one_ulp(jit: bool) -> None:
  rng = np.random.default_rng(0)
  w = np.exp(rng.uniform(-15, 0, 64)).astype(np.float32)
  p = np.concatenate([np.arange(500), rng.integers(0, 2**31, 500)])
  p = p.astype(np.int32)
  as_float32 = functools.partial(cos_sin, precision='float32')
  cos, sin = (jax.jit(as_float32) if jit else as_float32)(p, w)
  angle = (p.astype(np.float32)[:, None] * w).astype(np.float64)
  assert ulps(cos, np.cos(angle)).max() <= 1
  assert ulps(sin, np.sin(angle)).max() <= 1
  # Not what the exact angles give.
  assert np.abs(cos - np.cos(p[:, None] * w.astype(np.float64))).max() > 1e-3


def test_float32_takes_every_form_of_frequencies() -> None:
  w = np.array([0.3, 0.001])
  p = np.array([100_003])
  forms = [w, np.float32(w), jnp.float32(w)]
  found = [cos_sin(p, form, precision='float32') for form in forms]
  for cos, sin in found[1:]:
    np.testing.assert_array_equal(cos, found[0][0])
    np.testing.assert_array_equal(sin, found[0][1])


# Shapes and errors.


def test_rows_with_their_own_frequencies_and_factors() -> None:
  rng = np.random.default_rng(0)
  w, factor = rng.uniform(0, 1, (3, 5)), np.array([1.0, 1.2, 1.7])
  p = rng.integers(0, 2**20, (3, 7)).astype(np.int32)
  for form in (w[:, None], phases(w)[:, None], jnp.float32(w)[:, None]):
    cos, sin = cos_sin(p, form, attention_factor=factor[:, None])
    assert cos.shape == sin.shape == (3, 7, 5)
    for b in range(3):
      one = cos_sin(p[b], form[b, 0], attention_factor=factor[b])
      np.testing.assert_array_equal(cos[b], one[0])
      np.testing.assert_array_equal(sin[b], one[1])
  shared = cos_sin(p[0], w[:, None])[0]
  assert shared.shape == (3, 7, 5)


def test_the_factor_multiplies_in_float32() -> None:
  p, w, factor = np.arange(50), np.array([1.0, 0.3]), 1.3465735902799727
  plain, scaled = cos_sin(p, w), cos_sin(p, w, attention_factor=factor)
  for a, b in zip(plain, scaled):
    np.testing.assert_array_equal(np.asarray(a) * np.float32(factor), b)


def test_integers_of_every_width() -> None:
  w = np.array([0.7])
  expected = cos_sin(jnp.int32(100), w)[0]
  for p in (100, np.int64(100), np.int8(100), jnp.int16(100)):
    np.testing.assert_array_equal(cos_sin(p, w)[0], expected)


W = np.ones(2)
WRONG = {
  'positions are float32, must be integers': lambda: cos_sin(
    jnp.float32([1.0]), W
  ),
  'positions are bool': lambda: cos_sin(np.array([True]), W),
  'positions are from 0 to 2147483648, must fit in int32': lambda: cos_sin(
    np.array([0, 2**31]), W
  ),
  'positions are traced as uint32, must fit in int32': lambda: exact(
    jnp.uint32([1]), phases(W)
  ),
  'inv_freq is bfloat16: frequencies are float64 or float32': lambda: cos_sin(
    1, jnp.ones(2, jnp.bfloat16)
  ),
  'inv_freq is float16': lambda: cos_sin(1, np.ones(2, np.float16)),
  'inv_freq is int64': lambda: phases(np.ones(2, np.int64)),
  'inv_freq has 1 of 2 values that are negative or not finite, first -0.5': (
    lambda: cos_sin(1, np.array([1.0, -0.5]))
  ),
  'first nan': lambda: phases(np.array([np.nan])),
  'first inf': lambda: phases(np.array([np.inf])),
  'inv_freq is traced as float32: phase words are made on the host': (
    lambda: jax.jit(phases)(jnp.ones(2))
  ),
  'inv_freq is traced as bfloat16': lambda: exact(1, jnp.ones(2, jnp.bfloat16)),
  "precision is 'float32' and inv_freq phase words": lambda: cos_sin(
    1, phases(W), precision='float32'
  ),
  "unknown precision 'exakt': did you mean 'exact'": lambda: cos_sin(
    1, W, precision='exakt'
  ),
  r'uint32 of shape \(2, 3\): phase words have the shape \[..., P, 2\]': (
    lambda: cos_sin(1, np.zeros((2, 3), np.uint32))
  ),
  r'inv_freq \(5, 2\).*inv_freq\[:, None\]': lambda: cos_sin(
    np.arange(3), np.ones((5, 2))
  ),
  r'attention_factor\[..., None\] \(5, 1\)': lambda: cos_sin(
    np.arange(3), W, attention_factor=np.ones(5)
  ),
}


@pytest.mark.unchecked
@pytest.mark.parametrize('message', WRONG)
def test_errors(message: str) -> None:
  with pytest.raises(ConfigError, match=message):
    WRONG[message]()
