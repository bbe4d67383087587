"""Cross-entropy against float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from ntk_jax.loss import cross_entropy


def test_equals_float64() -> None:
  rng = np.random.default_rng(0)
  logits = rng.normal(scale=5, size=(3, 7, 11)).astype(np.float32)
  targets = rng.integers(0, 11, (3, 7)).astype(np.int32)
  found = cross_entropy(jnp.asarray(logits), targets)
  p = np.exp(logits.astype(np.float64))
  p /= p.sum(-1, keepdims=True)
  expected = -np.log(np.take_along_axis(p, targets[..., None], -1)[..., 0])
  assert found.shape == (3, 7)
  np.testing.assert_allclose(found, expected, rtol=1e-6, atol=2e-6)


def test_huge_logits_are_finite() -> None:
  found = cross_entropy(jnp.array([[3e4, -3e4]]), jnp.array([1]))
  np.testing.assert_allclose(found, [6e4])


def test_no_target_no_loss_no_gradient() -> None:
  logits = jax.random.normal(jax.random.key(0), (2, 5))
  targets = jnp.array([-1, 3])
  loss, grad = jax.value_and_grad(lambda z: cross_entropy(z, targets).sum())(
    logits
  )
  assert cross_entropy(logits, targets)[0] == 0
  assert (grad[0] == 0).all()
  np.testing.assert_allclose(loss, cross_entropy(logits, targets)[1])
  # softmax minus one-hot
  expected = jax.nn.softmax(logits[1]) - jax.nn.one_hot(3, 5)
  np.testing.assert_allclose(grad[1], expected, atol=1e-6)
