"""Rotations against complex multiplication in float64, and golden files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from ntk_jax.errors import ConfigError
from ntk_jax.rope.phase import cos_sin, phases
from ntk_jax.rope.rotate import apply_rope, rerotate

GOLDEN = Path(__file__).parent.parent / 'golden'
CASES = ('default_llama2/0', 'longrope_phi3_128k/4')
LAYOUTS = ('half', 'interleaved', 'interleaved_to_half')
B, T, N, H, P = 2, 5, 3, 14, 4  # 8 channels rotated, 6 not


def golden() -> dict[str, np.ndarray]:
  """The golden arrays."""
  return dict(np.load(GOLDEN / 'rope_golden.npz'))


def attention_factor(case: str) -> float:
  """The attention factor of a golden case."""
  name, index = case.split('/')
  cases = json.loads((GOLDEN / 'rope_golden.json').read_text())['cases']
  return cases[name]['results'][int(index)]['attention_factor']


def draw(
  *shape: int, seed: int = 0, dtype: type = jnp.float32
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """x and the cosines and sines of random angles, factor 1.25 included."""
  rng = np.random.default_rng(seed)
  x = jnp.asarray(rng.normal(size=shape or (B, T, N, H)), dtype)
  angle = rng.uniform(0, 7, (B, T, P))
  cos, sin = 1.25 * np.cos(angle), 1.25 * np.sin(angle)
  return x, jnp.float32(cos), jnp.float32(sin)


def channels(kind: str, width: int) -> tuple[np.ndarray, np.ndarray]:
  """The channels that hold the real and the imaginary part of each pair."""
  pair = np.arange(width // 2)
  if kind == 'half':
    return pair, pair + width // 2
  return 2 * pair, 2 * pair + 1


def oracle(
  x: np.ndarray,
  turn: np.ndarray,
  layout: str,
  span: str,
  inverse: bool = False,
) -> np.ndarray:
  """x with each pair, as a complex number, times turn `[..., T, P]`."""
  x = np.asarray(x, np.float64)
  width = 2 * turn.shape[-1]
  start = 0 if span == 'leading' else x.shape[-1] - width
  kinds = layout.split('_to_')
  source, target = kinds[0], kinds[-1]
  if inverse:
    turn, source, target = np.conj(turn), target, source
  re, im = (start + c for c in channels(source, width))
  z = (x[..., re] + 1j * x[..., im]) * turn[..., None, :]
  out = x.copy()
  re, im = (start + c for c in channels(target, width))
  out[..., re], out[..., im] = z.real, z.imag
  return out


@pytest.mark.parametrize('case', CASES)
@pytest.mark.parametrize('layout', LAYOUTS)
def test_golden(case: str, layout: str) -> None:
  arrays = golden()
  cos, sin = cos_sin(
    arrays['apply/positions'].astype(np.int32),
    arrays[f'{case}/ref_inv_freq'],
    attention_factor=attention_factor(case),
  )
  for name in 'qk':
    x = np.moveaxis(arrays[f'apply/{case}/{name}'], 1, 2)
    truth = np.moveaxis(arrays[f'apply/{case}/{layout}/{name}'], 1, 2)
    found = apply_rope(x, cos, sin, layout=layout)
    np.testing.assert_allclose(found, truth, rtol=0, atol=2e-6)


@pytest.mark.parametrize('case', CASES)
@pytest.mark.parametrize(
  ('layout', 'theirs'),
  [('half', 'hf_half_f32'), ('interleaved', 'hf_gptj_f32')],
)
def test_float32_is_what_transformers_computes(
  case: str, layout: str, theirs: str
) -> None:
  arrays = golden()
  x = np.moveaxis(arrays[f'apply/{case}/q'], 1, 2)
  truth = np.moveaxis(arrays[f'apply/{case}/{theirs}/q'], 1, 2)
  p = arrays['apply/positions'].astype(np.int32)
  w, factor = arrays[f'{case}/hf_inv_freq'], attention_factor(case)
  apart = []
  for precision in ('float32', 'exact'):
    cos, sin = cos_sin(p, w, attention_factor=factor, precision=precision)
    found = apply_rope(x, cos, sin, layout=layout)
    apart.append(np.abs(found - truth).max())
  assert apart[0] < 2e-6
  assert apart[1] > 1e-2  # a position of a million: their angles are off


@pytest.mark.parametrize('inverse', [False, True])
@pytest.mark.parametrize('span', ['leading', 'trailing'])
@pytest.mark.parametrize('layout', LAYOUTS)
def test_every_form(layout: str, span: str, inverse: bool) -> None:
  x, cos, sin = draw()
  turn = np.asarray(cos, np.float64) + 1j * np.asarray(sin, np.float64)
  found = apply_rope(x, cos, sin, layout=layout, span=span, inverse=inverse)
  truth = oracle(np.asarray(x), turn, layout, span, inverse)
  np.testing.assert_allclose(found, truth, atol=1e-6)


@pytest.mark.parametrize('layout', LAYOUTS)
def test_there_and_back_is_the_factor_squared(layout: str) -> None:
  x, cos, sin = draw()
  there = apply_rope(x, cos, sin, layout=layout, span='trailing')
  back = apply_rope(
    there, cos, sin, layout=layout, span='trailing', inverse=True
  )
  np.testing.assert_allclose(back[..., -8:], 1.25**2 * x[..., -8:], atol=2e-6)
  np.testing.assert_array_equal(back[..., :-8], x[..., :-8])


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16, jnp.float32])
@pytest.mark.parametrize('span', ['leading', 'trailing'])
def test_the_rest_passes_to_the_bit(dtype: type, span: str) -> None:
  x, cos, sin = draw(dtype=dtype)
  odd = jnp.array([jnp.nan, -jnp.inf, -0.0, 1e-7, 65504, 3], dtype)
  rest = np.s_[..., 8:] if span == 'leading' else np.s_[..., :6]
  x = x.at[rest].set(odd)
  found = jax.jit(apply_rope, static_argnames='span')(x, cos, sin, span=span)
  assert found.dtype == dtype
  bits = np.uint32 if dtype == jnp.float32 else np.uint16
  a, b = (np.asarray(y[rest]).view(bits) for y in (x, found))
  np.testing.assert_array_equal(a, b)


def test_one_rounding_at_the_end() -> None:
  x, cos, sin = draw(dtype=jnp.bfloat16)
  wide = apply_rope(x.astype(jnp.float32), cos, sin)
  np.testing.assert_array_equal(
    apply_rope(x, cos, sin), wide.astype(jnp.bfloat16)
  )


def test_scores_do_not_know_the_layout() -> None:
  q, cos, sin = draw(seed=1)
  k, _, _ = draw(seed=2)
  scores = []
  for layout in ('interleaved', 'interleaved_to_half'):
    a, b = (apply_rope(x, cos, sin, layout=layout) for x in (q, k))
    scores.append(jnp.einsum('btnh,bsnh->bnts', a, b))
  np.testing.assert_allclose(scores[0], scores[1], atol=1e-5)


def test_angles_for_all_rows_and_fewer_dims() -> None:
  x, cos, sin = draw()
  shared = apply_rope(x, cos[0], sin[0])
  for b in range(B):
    one = apply_rope(x[b], cos[0], sin[0])
    np.testing.assert_allclose(shared[b], one, atol=1e-6)


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('span', ['leading', 'trailing'])
def test_gradients_against_differences(layout: str, span: str) -> None:
  def turned(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    return apply_rope(x, cos, sin, layout=layout, span=span)

  # Bilinear, so that central differences are right at any step.
  check_grads(turned, draw(), order=1, eps=0.5, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('layout', LAYOUTS)
def test_the_transpose_is_the_inverse(layout: str) -> None:
  x, cos, sin = draw()
  g, _, _ = draw(seed=3)
  _, pull = jax.vjp(lambda x: apply_rope(x, cos, sin, layout=layout), x)
  expected = apply_rope(g, cos, sin, layout=layout, inverse=True)
  np.testing.assert_allclose(pull(g)[0], expected, atol=1e-6)


# Re-rotation.


@pytest.mark.parametrize('span', ['leading', 'trailing'])
@pytest.mark.parametrize('layout', LAYOUTS)
def test_rerotate_moves_keys(layout: str, span: str) -> None:
  rng = np.random.default_rng(0)
  k = rng.normal(size=(B, T, N, H))
  p = rng.integers(-(2**31), 2**31, (B, T)).astype(np.int32)
  old, new = rng.uniform(0, 1, (2, P))
  turns = [ratio * _turn(p, w) for ratio, w in ((1.0, old), (1.5, new))]
  before, after = (oracle(k, turn, layout, span) for turn in turns)
  before = before.astype(np.float32)
  passed = np.s_[..., 8:] if span == 'leading' else np.s_[..., :6]
  found = jax.jit(
    lambda k, p, a, b: rerotate(
      k, p, a, b, factor_ratio=1.5, layout=layout, span=span
    )
  )(before, p, phases(old), phases(new))
  np.testing.assert_allclose(found, after, atol=3e-6)
  np.testing.assert_array_equal(found[passed], before[passed])


def _turn(p: np.ndarray, w: np.ndarray) -> np.ndarray:
  """exp(i p w) to 1e-10: the whole angle in extended precision."""
  angle = p[..., None].astype(np.longdouble) * w.astype(np.longdouble)
  two_pi = np.longdouble('6.283185307179586476925286766559005768')
  angle = np.asarray(angle - two_pi * np.round(angle / two_pi), np.float64)
  return np.cos(angle) + 1j * np.sin(angle)


def test_rerotate_of_dynamic_frequencies() -> None:
  arrays = golden()
  old, new = (arrays[f'dynamic_llama2_f1/{k}/ref_inv_freq'] for k in (3, 6))
  assert np.abs(old - new).max() > 1e-3
  p = arrays['apply/positions'].astype(np.int32)
  k = np.moveaxis(arrays['apply/default_llama2/0/k'], 1, 2)
  expected = apply_rope(k, *cos_sin(p, new))
  found = rerotate(apply_rope(k, *cos_sin(p, old)), p, old, new)
  np.testing.assert_allclose(found, expected, atol=3e-6)


def test_rerotate_takes_frequencies_or_words() -> None:
  x, _, _ = draw()
  p, (old, new) = np.arange(T), np.random.default_rng(0).uniform(0, 1, (2, P))
  expected = rerotate(x, p, old, new)
  for a in (old, phases(old), jnp.asarray(phases(old))):
    for b in (new, phases(new)):
      np.testing.assert_array_equal(rerotate(x, p, a, b), expected)
  np.testing.assert_array_equal(rerotate(x, p, old, old), x)
  rows = rerotate(x, p, old, np.stack([old, new])[:, None])
  np.testing.assert_array_equal(rows[0], x[0])
  np.testing.assert_array_equal(rows[1], expected[1])


def test_rerotate_keeps_the_dtype() -> None:
  x, _, _ = draw(dtype=jnp.bfloat16)
  old, new = np.zeros(P), np.full(P, 0.1)
  found = rerotate(x, np.arange(T), old, new)
  assert found.dtype == jnp.bfloat16


# Errors.

ERRORS: dict[str, Callable[[], object]] = {
  "unknown layout 'halve': did you mean 'half'": lambda: apply_rope(
    *draw(), layout='halve'
  ),
  "unknown span 'leadin': did you mean 'leading'": lambda: apply_rope(
    *draw(), span='leadin'
  ),
  'cos has 4 pairs, 8 channels, x has only 7': lambda: apply_rope(
    draw()[0][..., :7], *draw()[1:]
  ),
  r'cos has shape \(2, 5, 4\) and sin \(2, 5, 3\)': lambda: apply_rope(
    draw()[0], draw()[1], draw()[2][..., :3]
  ),
  r'cos of shape \(2, 5, 4\) does not fit x of shape \(2, 6, 3, 14\)': (
    lambda: apply_rope(jnp.zeros((2, 6, 3, 14)), *draw()[1:])
  ),
  r'cos of shape \(2, 5, 4\) does not fit x of shape \(2, 1, 3, 14\)': (
    lambda: apply_rope(jnp.zeros((2, 1, 3, 14)), *draw()[1:])
  ),
  'x is int32, must be a floating dtype': lambda: apply_rope(
    draw()[0].astype(jnp.int32), *draw()[1:]
  ),
  "unknown layout 'hal'": lambda: rerotate(
    draw()[0], np.arange(T), np.ones(P), np.ones(P), layout='hal'
  ),
  'inv_freq is float16': lambda: rerotate(
    draw()[0], np.arange(T), np.ones(P, np.float16), np.ones(P)
  ),
  'positions are float64|positions are float32': lambda: rerotate(
    draw()[0], np.arange(T) / 2, np.ones(P), np.ones(P)
  ),
}


@pytest.mark.unchecked
@pytest.mark.parametrize('message', ERRORS)
def test_errors(message: str) -> None:
  with pytest.raises(ConfigError, match=message):
    ERRORS[message]()
