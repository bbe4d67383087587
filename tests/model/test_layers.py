"""Single layers against their equations."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from ntk_jax.model.layers import dense, gated, rms_norm


def test_rms_norm_of_bfloat16_is_taken_in_float32() -> None:
  x = (1 + jax.random.normal(jax.random.key(0), (5, 64))).astype(jnp.bfloat16)
  weight = jnp.linspace(0.5, 2.0, 64)
  found = rms_norm(x, weight)
  assert found.dtype == jnp.bfloat16
  x64 = np.asarray(x, np.float64)
  expected = x64 / np.sqrt((x64**2).mean(-1, keepdims=True)) * weight
  # One rounding to eight bits.
  np.testing.assert_allclose(found.astype(np.float32), expected, rtol=2**-8)


def test_rms_norm_of_zeros_is_zero() -> None:
  value, grad = jax.value_and_grad(lambda x: rms_norm(x, jnp.ones(3)).sum())(
    jnp.zeros(3)
  )
  assert value == 0
  assert np.isfinite(grad).all()


def test_swiglu_is_its_equation() -> None:
  keys = jax.random.split(jax.random.key(0), 4)
  shapes = (5, 3), (3, 7), (3, 7), (7, 3)
  x, gate, up, down = (jax.random.normal(k, s) for k, s in zip(keys, shapes))
  found = dense(gated(dense(x, gate), dense(x, up)), down)
  x, gate, up, down = (np.asarray(a, np.float64) for a in (x, gate, up, down))
  hidden = (x @ gate) / (1 + np.exp(-(x @ gate))) * (x @ up)
  np.testing.assert_allclose(found, hidden @ down, rtol=1e-5, atol=1e-5)


def test_bfloat16_gradients_of_a_product_round_once() -> None:
  rng = np.random.default_rng(0)
  x, g = (rng.normal(size=(33, n)).astype(jnp.bfloat16) for n in (7, 5))
  w = rng.normal(size=(7, 5)).astype(jnp.bfloat16)
  dx, dw = jax.vjp(dense, jnp.asarray(x), jnp.asarray(w))[1](jnp.asarray(g))
  assert dx.dtype == dw.dtype == jnp.bfloat16
  x, w, g = (a.astype(np.float64) for a in (x, w, g))
  for found, exact in ((dx, g @ w.T), (dw, x.T @ g)):
    error = np.abs(np.asarray(found, np.float64) - exact)
    # Half a unit of 8 bits, and what float32 sums lose.
    assert (error <= 2**-8 * np.abs(exact) + 1e-5).all()


def test_only_a_cpu_copies_for_its_bfloat16_products() -> None:
  def gradient(x: jax.Array, w: jax.Array) -> jax.Array:
    return jax.grad(lambda w: dense(x, w).astype(jnp.float32).sum())(w)

  def copies(platform: str, dtype: str) -> int:
    traced = jax.jit(gradient).trace(jnp.ones((4, 3), dtype), jnp.ones((3, 2)))
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    return text.count('LayoutConstraint')

  assert copies('cpu', 'bfloat16') == 1
  assert copies('cpu', 'float32') == 0
  assert copies('tpu', 'bfloat16') == copies('cuda', 'bfloat16') == 0
