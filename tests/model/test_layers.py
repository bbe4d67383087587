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
