"""Gradient norms by group, against the plain loss of the whole model."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntk_jax.diagnostics import gradient_norms, group_of, measure
from ntk_jax.diagnostics.gradients import by_group, scaled_arrays
from ntk_jax.loss import cross_entropy
from ntk_jax.model import Params, forward
from ntk_jax.sharding import leaf_name

from .cases import CONFIG, NORMED, SCHEMES, params_of, tokens_of


def norms_of(grads: Params) -> dict[str, float]:
  """By group, in float64."""
  squares: dict[str, float] = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
    group = group_of(leaf_name(path))
    square = float((np.asarray(leaf, np.float64) ** 2).sum())
    squares[group] = squares.get(group, 0.0) + square
  return {group: square**0.5 for group, square in squares.items()}


def doubled(p: np.ndarray) -> np.ndarray:
  """A multiplier of q that grows."""
  return 1.0 + p / 4


def test_norms_are_those_of_the_mean_loss_of_the_pieces() -> None:
  """Two texts of 26 tokens as pieces of 8: three each, two tokens left."""
  config = dataclasses.replace(NORMED, layers=1, layer_plan=(1,))
  params, texts = params_of(config), tokens_of(2, 27)
  tokens, targets = texts[:, :-1], texts[:, 1:]
  found = gradient_norms(params, config, SCHEMES, tokens, targets, 8, doubled)
  arrays = scaled_arrays(SCHEMES, 8, np.arange(8), doubled)

  @jax.jit
  def mean_loss(params: Params) -> Any:
    rows, wanted = (a[:, :24].reshape(6, 8) for a in (tokens, targets))
    logits = forward(params, config, rows, None, None, arrays)
    return cross_entropy(logits, wanted).mean()

  expected = norms_of(jax.grad(mean_loss)(params))
  assert set(found) == set(expected)
  for group, norm in expected.items():
    np.testing.assert_allclose(found[group], norm, rtol=2e-5, err_msg=group)


@pytest.mark.slow
def test_together_they_are_the_norm_that_measure_finds() -> None:
  params, texts = params_of(CONFIG), tokens_of(2, 25)
  found = gradient_norms(
    params, CONFIG, SCHEMES[:1], texts[:, :-1], texts[:, 1:], 12
  )
  whole = measure(params, CONFIG, SCHEMES[0], texts, 12).grad_norm
  squares = np.square(list(found.values())).sum()
  np.testing.assert_allclose(squares**0.5, whole, rtol=1e-5)


@pytest.mark.slow
def test_embeddings_may_be_given_in_place_of_ids() -> None:
  """Then all gradients but the embedding's are the same."""
  params, texts = params_of(CONFIG), tokens_of(1, 17)
  tokens, targets = texts[:, :-1], texts[:, 1:]
  x = params.embed[tokens] * jnp.sqrt(CONFIG.dim)
  by_ids, by_vectors = (
    gradient_norms(params, CONFIG, SCHEMES[:1], inputs, targets, 16)
    for inputs in (tokens, x)
  )
  for group in by_ids.keys() - {'embed'}:
    np.testing.assert_allclose(by_vectors[group], by_ids[group], rtol=1e-5)
  assert abs(by_vectors['embed'] / by_ids['embed'] - 1) > 0.01


def test_groups_of_a_tree_hold_all_its_leaves() -> None:
  params = params_of(NORMED)
  groups = by_group(params)
  leaves = sum((len(leaves) for leaves in groups.values()), 0)
  assert leaves == len(jax.tree.leaves(params))
  assert len(groups['wq']) == 2  # the matrix and its bias
