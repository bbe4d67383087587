"""The kernel against explicit Jacobians, closed forms and differences."""

from __future__ import annotations

import weakref
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model import oracle

from ntk_jax.diagnostics import (
  empirical_kernel,
  group_of,
  kernel_facts,
  model_kernel,
)
from ntk_jax.diagnostics.gradients import GROUPS, scaled_arrays
from ntk_jax.errors import ConfigError
from ntk_jax.model import ModelConfig, Params, forward
from ntk_jax.sharding import leaf_name

from .cases import CONFIG, NORMED, SCHEMES, params_of, plans_at, tokens_of

LENGTH, COUNT = 17, 5


def direction(config: ModelConfig) -> np.ndarray:
  """Some output direction."""
  return np.random.default_rng(1).normal(size=config.vocab).astype(np.float32)


def kernel_of(config: ModelConfig, **options: Any) -> dict[str, np.ndarray]:
  """That of the small model."""
  arrays = scaled_arrays(SCHEMES, LENGTH, np.arange(LENGTH))
  contexts = tokens_of(COUNT, LENGTH)
  return model_kernel(
    params_of(config), config, arrays, contexts, direction(config), **options
  )


@pytest.mark.parametrize(
  'config', [pytest.param(CONFIG, marks=pytest.mark.slow), NORMED]
)
def test_it_is_the_product_of_explicit_jacobians(config: ModelConfig) -> None:
  params, contexts = params_of(config), tokens_of(COUNT, LENGTH)
  arrays = scaled_arrays(SCHEMES, LENGTH, np.arange(LENGTH))

  # One context at a time: of more than 32 cotangents together, XLA's CPU
  # compiler of jax 0.10.2 gets those after the 32nd wrong (a norm in a scan).
  @jax.jit
  def jacobian(context: Any) -> Any:
    def outputs(params: Params) -> Any:
      return forward(params, config, context[None], None, None, arrays)[0, -1]

    return jax.jacrev(outputs)(params)

  leaves = jax.tree.map(
    lambda *each: np.stack(each).astype(np.float64),
    *[jacobian(context) for context in contexts],
  )
  expected: dict[str, Any] = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(leaves):
    flat = leaf.reshape(COUNT, config.vocab, -1)
    j = np.einsum('v,cvp->cp', direction(config), flat)
    group = group_of(leaf_name(path))
    expected[group] = expected.get(group, 0) + j @ j.T
  found = kernel_of(config)
  assert set(found) == {*GROUPS, 'all'} == {*expected, 'all'}
  for group, gram in expected.items():
    scale = np.abs(gram).max()
    np.testing.assert_allclose(
      found[group], gram, rtol=1e-5, atol=1e-5 * scale, err_msg=group
    )
  whole = sum(expected.values())
  np.testing.assert_allclose(found['all'], whole, rtol=1e-5)


@pytest.mark.slow
def test_a_step_along_one_gradient_moves_another_output_by_it() -> None:
  """K_ab is what the float64 decoder's output at a does, by differences."""
  params, contexts = params_of(CONFIG), tokens_of(COUNT, LENGTH)
  arrays = scaled_arrays(SCHEMES, LENGTH, np.arange(LENGTH))
  u, eps = direction(CONFIG), 1e-5

  def output(params: Params) -> Any:
    row = contexts[1][None]
    return forward(params, CONFIG, row, None, None, arrays)[0, -1] @ u

  way = jax.grad(output)(params)

  def moved(sign: float) -> float:
    there = jax.tree.map(
      lambda p, g: np.float64(p) + sign * eps * np.float64(g), params, way
    )
    z = oracle.decoder(there, CONFIG, contexts[0], plans_at(LENGTH))
    return float(z[-1] @ u)

  slope = (moved(1) - moved(-1)) / (2 * eps)
  np.testing.assert_allclose(kernel_of(CONFIG)['all'][0, 1], slope, rtol=1e-4)


def test_a_linear_model_has_the_gram_matrix_of_its_inputs() -> None:
  x = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
  gradient = jax.grad(lambda w, row: w @ row)
  found = empirical_kernel(
    lambda row: gradient(jnp.ones(4), row), x, group=lambda g: {'w': [g]}
  )
  np.testing.assert_allclose(found['w'], x @ x.T, rtol=1e-5)
  np.testing.assert_array_equal(found['all'], found['w'])


def test_two_linear_layers_have_a_closed_form_each() -> None:
  """f = a . W x: W gives |a|^2 x.x', and a gives Wx.Wx'."""
  rng = np.random.default_rng(0)
  x, a, w = (
    rng.normal(size=shape).astype(np.float32) for shape in ((6, 4), 3, (3, 4))
  )
  gradient = jax.grad(lambda tree, row: tree['a'] @ (tree['w'] @ row))
  found = empirical_kernel(
    lambda row: gradient({'a': a, 'w': w}, row),
    x,
    group=lambda g: {name: [leaf] for name, leaf in g.items()},
  )
  np.testing.assert_allclose(found['w'], (a @ a) * x @ x.T, rtol=1e-4)
  np.testing.assert_allclose(found['a'], x @ w.T @ w @ x.T, rtol=1e-4)


@pytest.mark.parametrize('kept', [1, 3, 4])
def test_blocks_change_nothing(kept: int) -> None:
  """Of five gradients, as many as fit are held at a time."""
  size = 4 * sum(leaf.size for leaf in jax.tree.leaves(params_of(CONFIG)))
  whole, parts = kernel_of(CONFIG), kernel_of(CONFIG, held=kept * size)
  for group, gram in whole.items():
    np.testing.assert_array_equal(parts[group], gram, err_msg=group)
    np.testing.assert_array_equal(gram, gram.T)


def test_no_more_gradients_are_held_than_told() -> None:
  alive, most = [0], [0]

  def gradient(row: Any) -> Any:
    made = jnp.array(row)
    if not isinstance(made, jax.core.Tracer):
      alive[0] += 1
      most[0] = max(most[0], alive[0])
      weakref.finalize(made, lambda: alive.append(alive.pop() - 1))
    return made

  x = np.arange(28, dtype=np.float32).reshape(7, 4)
  found = empirical_kernel(gradient, x, group=lambda g: {'w': [g]}, held=3 * 16)
  np.testing.assert_allclose(found['w'], x @ x.T)
  assert 3 <= most[0] <= 4  # a block of two, another, and the next of those


def test_facts_are_those_of_the_matrix() -> None:
  rng = np.random.default_rng(0)
  x = rng.normal(size=(5, 9))
  gram = x @ x.T
  found = kernel_facts(gram)
  unit = x / np.linalg.norm(x, axis=1)[:, None]
  np.testing.assert_allclose(found.trace, (x**2).sum() / 5)
  alike = [unit[i] @ unit[j] for i in range(5) for j in range(5) if i != j]
  np.testing.assert_allclose(found.correlation, np.mean(alike))
  singular = np.linalg.svd(x, compute_uv=False)
  np.testing.assert_allclose(found.condition, (singular[0] / singular[-1]) ** 2)


def test_what_cannot_be_told_apart_has_no_condition() -> None:
  found = kernel_facts(np.diag([1.0, 0.0]) - 1e-9)
  assert found.condition == float('inf')
  with pytest.raises(ConfigError, match='contexts is 1'):
    kernel_facts(np.ones((1, 1)))


def test_groups_hold_every_parameter_once() -> None:
  names = ['embed', 'unembed', 'final_norm', *params_of(NORMED).layers]
  assert {group_of(name) for name in names} == set(GROUPS)
  assert [group_of(n) for n in ('out', 'out_bias', 'k_bias', 'q_norm')] == [
    'wo',
    'wo',
    'wk',
    'norms',
  ]
