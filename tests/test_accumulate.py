"""Gradients in parts equal those of the whole batch."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntk_jax.accumulate import Sums, accumulate, split_rows
from ntk_jax.errors import ConfigError
from ntk_jax.loss import chunked_cross_entropy

ROWS, T, D, V = 12, 7, 5, 11
RNG = np.random.default_rng(0)
PARAMS = {
  'embed': jnp.asarray(RNG.normal(size=(V, D)), jnp.float32),
  'out': jnp.asarray(RNG.normal(size=(D, V)), jnp.float32),
}
# Parts with very different weights, one of them (rows 3, 7, 11) with none.
WEIGHTS = RNG.uniform(size=(ROWS, T)) * (RNG.uniform(size=(ROWS, T)) < 0.3)
WEIGHTS[0] *= 40
WEIGHTS[3::4] = 0
BATCH = {
  'tokens': jnp.asarray(RNG.integers(0, V, (ROWS, T)), jnp.int32),
  'targets': jnp.asarray(RNG.integers(0, V, (ROWS, T)), jnp.int32),
  'weights': jnp.asarray(WEIGHTS, jnp.float32),
}


def sums_of(batch: dict[str, jax.Array], params: Any = None) -> Sums:
  def loss(params: Any) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    x = jnp.tanh(params['embed'][batch['tokens']])
    sums = chunked_cross_entropy(
      x, params['out'], batch['targets'], batch['weights'], chunk=8
    )
    return sums.loss, (sums.weight, sums.z)

  params = PARAMS if params is None else params
  (value, (weight, z)), grads = jax.value_and_grad(loss, has_aux=True)(params)
  return Sums(weight, {'loss': value, 'z': z}, grads)


@pytest.mark.parametrize('parts', [1, 2, 4, 12])
def test_parts_equal_the_whole(parts: int) -> None:
  weight, values, grads = jax.jit(
    lambda batch: accumulate(sums_of, split_rows(batch, parts))
  )(BATCH)
  whole = sums_of(BATCH)
  np.testing.assert_allclose(weight, WEIGHTS.sum(), rtol=1e-6)
  for name, value in values.items():
    mean = whole.values[name] / WEIGHTS.sum()
    np.testing.assert_allclose(value, mean, rtol=1e-6)
  for name, grad in grads.items():
    mean = np.asarray(whole.grads[name]) / WEIGHTS.sum()
    assert grad.dtype == jnp.float32
    np.testing.assert_allclose(grad, mean, rtol=0, atol=1e-6 * abs(mean).max())


def test_a_mean_of_means_would_be_another_number() -> None:
  """The weights are spread so unevenly that the test above can fail."""
  parts = split_rows(BATCH, 4)
  means = []
  for k in range(4):
    part = sums_of({name: array[k] for name, array in parts.items()})
    means.append(part.values['loss'] / max(float(part.weight), 1.0))
  whole = sums_of(BATCH).values['loss'] / WEIGHTS.sum()
  assert abs(np.mean(means) - whole) > 0.1


def test_sums_are_float32() -> None:
  """In bfloat16 the small gradients would vanish beside the large sum."""
  parts = jnp.array([256.0] + [0.5] * 64, jnp.bfloat16)
  weight, _, grad = accumulate(
    lambda part: Sums(jnp.float32(1), (), part), parts
  )
  assert grad.dtype == jnp.float32
  np.testing.assert_allclose(grad, (256 + 32) / 65, rtol=1e-6)
  assert weight == 65


@pytest.mark.parametrize('parts', [1, 3])
def test_no_target_at_all_gives_zeros(parts: int) -> None:
  batch = BATCH | {'weights': jnp.zeros((ROWS, T))}
  weight, values, grads = accumulate(sums_of, split_rows(batch, parts))
  assert weight == 0
  assert values['loss'] == 0
  assert all((grad == 0).all() for grad in jax.tree.leaves(grads))


def test_what_is_not_finite_stays_so() -> None:
  batch = BATCH | {'targets': BATCH['targets'].at[0, 0].set(V)}
  _, values, _ = accumulate(sums_of, split_rows(batch, 3))
  assert WEIGHTS[0, 0] > 0 and np.isnan(values['loss'])


def test_rows_are_dealt_out() -> None:
  parts = split_rows({'a': np.arange(6), 'b': np.ones((6, 2))}, 3)
  assert parts['a'].tolist() == [[0, 3], [1, 4], [2, 5]]
  assert parts['b'].shape == (3, 2, 2)


@pytest.mark.parametrize('parts', [0, -1, 5])
def test_parts_that_are_not_equal_raise(parts: int) -> None:
  with pytest.raises(ConfigError, match=f'12 rows in {parts} microbatches'):
    split_rows(BATCH, parts)
