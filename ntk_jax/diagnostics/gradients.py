"""The gradient of the mean loss, group of parameters by group, at a length."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ntk_jax.accumulate import Sums, accumulate
from ntk_jax.data.batch import NO_TARGET
from ntk_jax.diagnostics.pieces import Pieces, cut
from ntk_jax.loss import chunked_cross_entropy
from ntk_jax.model.block import Rows
from ntk_jax.model.config import ModelConfig
from ntk_jax.model.layers import rms_norm
from ntk_jax.model.params import Params
from ntk_jax.model.stack import Stack
from ntk_jax.model.transformer import embedded, plans_of, unembedding
from ntk_jax.scheme import Scheme, SchemeArrays
from ntk_jax.sharding import Axes, leaf_name
from ntk_jax.typing import Array, Int32, NDArray

GROUPS = MappingProxyType(
  {
    'wq': ('q',),
    'wk': ('k',),
    'wv': ('v',),
    'wo': ('out',),
    'mlp': ('gate', 'up', 'down', 'router'),
    'embed': ('embed', 'unembed'),
    'norms': (),
  }
)
_GROUP_OF = {leaf: group for group, of in GROUPS.items() for leaf in of}


def group_of(leaf: str) -> str:
  """The group of a parameter by its name; a bias belongs to its matrix.

  >>> [group_of(name) for name in ('out', 'q_bias', 'down', 'mlp_norm')]
  ['wo', 'wq', 'mlp', 'norms']
  """
  return _GROUP_OF.get(leaf.removesuffix('_bias'), 'norms')


def by_group(tree: Any) -> dict[str, list[Any]]:
  """The leaves of parameters, or of a gradient, by group; empty ones not."""
  found: dict[str, list[Any]] = {group: [] for group in GROUPS}
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    found[group_of(leaf_name(path))].append(leaf)
  return {group: leaves for group, leaves in found.items() if leaves}


def gradient_norms(
  params: Params,
  config: ModelConfig,
  schemes: Sequence[Scheme],
  inputs: Array | NDArray,
  targets: Int32[NDArray, 'texts T'],
  length: int,
  multiplier: Any = None,
) -> dict[str, float]:
  """Norm of the gradient of the mean loss in nats, by group of parameters.

  Texts are cut into pieces of the length, so that the number of targets, and
  the noise that they leave in the gradient, is the same at every length that
  divides T. One text is in memory at a time.

  Args:
    params: the model's.
    config: its shape.
    schemes: one for each number of its layer plan.
    inputs: ids [texts, T], or what stands for their embeddings [texts, T, D]:
      then the embedding's gradient is that of the output matrix alone.
    targets: the id after each.
    length: tokens of a piece.
    multiplier: a further factor of q: a function of 0-based positions, or
      None.

  Raises:
    ConfigError: if the texts are shorter than a piece.
  """
  pieces = cut(targets.shape[1], length)
  arrays = scaled_arrays(schemes, length, pieces.positions, multiplier)
  found = _norms(params, arrays, inputs, targets, pieces, config=config)
  return {group: float(norm) for group, norm in jax.device_get(found).items()}


def scaled_arrays(
  schemes: Sequence[Scheme],
  length: int,
  positions: NDArray,
  multiplier: Any = None,
) -> tuple[SchemeArrays, ...]:
  """Arrays of schemes at a length, with a further multiplier of q.

  >>> from ntk_jax.rope.spec import RopeSpec
  >>> scheme = Scheme(RopeSpec('default', 4))
  >>> (found,) = scaled_arrays([scheme], 3, np.arange(3), lambda p: 1.0 + p)
  >>> print(found.q_scale)
  [1. 2. 3.]
  """
  made = [scheme.arrays(length, positions) for scheme in schemes]
  if multiplier is not None:
    more = np.asarray(multiplier(positions), np.float32)
    made = [
      a._replace(q_scale=np.asarray(a.q_scale * more, np.float32)) for a in made
    ]
  return tuple(made)


@functools.partial(jax.jit, static_argnames='config')
def _norms(
  params: Params,
  schemes: tuple[SchemeArrays, ...],
  inputs: Array,
  targets: Array,
  pieces: Pieces,
  *,
  config: ModelConfig,
) -> dict[str, Array]:
  def sums_of(text: tuple[Array, Array]) -> Sums:
    wanted = jnp.where(pieces.segments > 0, text[1], NO_TARGET)
    loss = functools.partial(
      _mean_loss, schemes, text[0], wanted, pieces, config
    )
    return Sums(1.0, 0.0, jax.grad(loss)(params))

  _, _, grads = accumulate(sums_of, (inputs, targets))
  return {
    group: jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in leaves))
    for group, leaves in by_group(grads).items()
  }


def _mean_loss(
  schemes: tuple[SchemeArrays, ...],
  row: Array,
  targets: Array,
  pieces: Pieces,
  config: ModelConfig,
  params: Params,
) -> Array:
  """Nats per target of one packed row."""
  x = row if row.ndim == 2 else embedded(params, config, row[None])
  plans = plans_of(schemes, targets.shape[0], pieces.positions)
  rows = Rows(pieces.positions, pieces.segments)
  layers = Stack(params.layers, config, Axes())
  x = layers.run(x, (0, config.layers), plans, rows)
  x = rms_norm(x, params.final_norm, config.norm_eps, config.norm_offset)
  sums = chunked_cross_entropy(
    x,
    unembedding(params, config),
    targets,
    soft_cap=config.logit_soft_cap,
  )
  return sums.loss / sums.weight
