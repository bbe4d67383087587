"""What goes wrong with length: attention entropy, far loss, gradient norm.

The same texts are read at every length: cut into pieces of it, which lie
packed in a row of one shape. So lengths differ in nothing but the context that
a token has, and one executable measures every length, method and model.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ntk_jax.accumulate import Sums, accumulate
from ntk_jax.data.batch import NO_TARGET, Batch
from ntk_jax.diagnostics.weights import normalised_entropy
from ntk_jax.errors import ConfigError
from ntk_jax.loss import chunked_cross_entropy
from ntk_jax.mask import Mask
from ntk_jax.model.block import (
  Layer,
  Plan,
  Rows,
  Weights,
  block,
  queries_keys_values,
)
from ntk_jax.model.config import ModelConfig
from ntk_jax.model.layers import rms_norm
from ntk_jax.model.params import Params
from ntk_jax.model.transformer import embedded, plans_of, unembedding
from ntk_jax.objective import Objective, losses
from ntk_jax.optimizer import global_norm
from ntk_jax.scheme import Scheme, SchemeArrays
from ntk_jax.sharding import Axes
from ntk_jax.typing import (
  Array,
  Bool,
  Float32,
  Int32,
  NDArray,
)

QUERIES = 32  # of each text, for the entropy


class Pieces(NamedTuple):
  """A text cut into pieces of one length, packed in a row.

  Attributes:
    positions: from 0 in every piece.
    segments: 1, 2, ... along the row; 0 where no whole piece is left.
    far: the last half of each piece.
    queries: places of the row whose attention is looked at, all of them far.
  """

  positions: Int32[NDArray, ' T']
  segments: Int32[NDArray, ' T']
  far: Bool[NDArray, ' T']
  queries: Int32[NDArray, ' Q']


class Measured(NamedTuple):
  """What a model makes of texts at one length.

  Attributes:
    entropy: `H / ln n` of each head, mean over far queries; 1 is even over
      all n keys that a query sees, 0 all on one.
    far_loss: bits per target over the last half of each piece.
    grad_norm: global norm of the gradient of the mean loss, in nats, over all
      targets.
  """

  entropy: Float32[Array | NDArray, 'L N']
  far_loss: Float32[Array | NDArray, '']
  grad_norm: Float32[Array | NDArray, '']


def measure(
  params: Params,
  config: ModelConfig,
  scheme: Scheme,
  texts: Int32[NDArray, 'texts T+1'],
  length: int,
) -> Measured:
  """Measures a model under a scheme on texts cut into pieces of a length.

  The number of targets is the same at every length that divides T, and so is
  the noise that they leave in the gradient. One text is in memory at a time.

  Args:
    params: the model's.
    config: its shape; every layer has the scheme.
    scheme: rope method, temperature and window.
    texts: ids, one more than the tokens T that are read.
    length: tokens of a piece.

  Returns:
    Host arrays.

  Raises:
    ConfigError: if the texts are shorter than a piece.
  """
  tokens, targets = texts[:, :-1], texts[:, 1:]
  pieces = cut(tokens.shape[1], length)
  arrays = scheme.arrays(length, pieces.positions)
  return jax.device_get(
    _measure(params, tokens, targets, pieces, arrays, config=config)
  )


def cut(tokens: int, length: int, queries: int = QUERIES) -> Pieces:
  """The pieces of a row, and far queries spread evenly over it.

  Args:
    tokens: T, of the row.
    length: of a piece.
    queries: how many places to look at.

  Raises:
    ConfigError: if no piece fits.

  >>> pieces = cut(9, 4, queries=2)
  >>> pieces.positions.tolist(), pieces.segments.tolist()
  ([0, 1, 2, 3, 0, 1, 2, 3, 0], [1, 1, 1, 1, 2, 2, 2, 2, 0])
  >>> pieces.far.astype(int).tolist(), pieces.queries.tolist()
  ([0, 0, 1, 1, 0, 0, 1, 1, 0], [3, 7])
  """
  if not 1 <= length <= tokens:
    raise ConfigError(
      f'length is {length}: a piece of a text of {tokens} tokens has 1 to '
      f'{tokens}; give longer texts or a shorter length'
    )
  number, positions = np.divmod(np.arange(tokens, dtype=np.int32), length)
  segments = np.where(number < tokens // length, number + 1, 0)
  far = (positions >= length // 2) & (segments > 0)
  places = np.flatnonzero(far)
  spread = (np.arange(queries) + 0.5) * len(places) / queries
  return Pieces(
    positions,
    segments.astype(np.int32),
    far,
    places[spread.astype(int)].astype(np.int32),
  )


@functools.partial(jax.jit, static_argnames='config')
def _measure(
  params: Params,
  tokens: Int32[Array | NDArray, 'texts T'],
  targets: Int32[Array | NDArray, 'texts T'],
  pieces: Pieces,
  scheme: SchemeArrays,
  *,
  config: ModelConfig,
) -> Measured:
  """Means over texts, which have as many targets each."""

  def sums_of(text: tuple[Array, Array]) -> Sums:
    ids, wanted = text
    whole = jnp.where(pieces.segments > 0, wanted, NO_TARGET)
    entropy, bits = watched(params, config, ids, whole, pieces, scheme)
    far_loss = jnp.sum(bits, where=pieces.far) / pieces.far.sum()
    grads = _gradient(params, config, ids, whole, pieces, scheme)
    return Sums(1.0, (entropy, far_loss), grads)

  texts = tokens[:, None], targets[:, None]
  _, (entropy, far_loss), grads = accumulate(sums_of, texts)
  return Measured(entropy, far_loss, global_norm(grads))


def watched(
  params: Params,
  config: ModelConfig,
  tokens: Int32[Array | NDArray, 'B T'],
  targets: Int32[Array | NDArray, 'B T'],
  pieces: Pieces,
  scheme: SchemeArrays,
) -> tuple[Float32[Array, 'L N'], Float32[Array, 'B T']]:
  """A forward pass that looks at the sampled queries of every layer.

  Their logits [B, N, Q, T] exist for one layer at a time.

  Args:
    params: the model's.
    config: its shape.
    tokens: ids.
    targets: ids; a negative one has no loss (0).
    pieces: how every row is cut.
    scheme: arrays at the pieces' positions, for all layers.

  Returns:
    Normalised entropy of each head, mean over rows and queries; the loss of
    every target in bits.
  """
  positions, segments = (
    jnp.broadcast_to(a, tokens.shape)
    for a in (pieces.positions, pieces.segments)
  )
  rows = Rows(positions, segments)
  (plan,) = plans_of([scheme], tokens.shape[1], positions)

  def layer_step(x: Array, layer: Layer) -> tuple[Array, Array]:
    entropy = _entropy(x, Weights(layer, config, Axes()), plan, pieces)
    x, _ = block(x, layer, plan, rows, None, config, Axes())
    return x, entropy.mean(axis=(0, 1))

  x, entropy = jax.lax.scan(
    layer_step, embedded(params, config, jnp.asarray(tokens)), params.layers
  )
  x = rms_norm(x, params.final_norm, config.norm_eps, config.norm_offset)
  sums = chunked_cross_entropy(
    x.reshape(*tokens.shape, -1),
    unembedding(params, config),
    targets,
    soft_cap=config.logit_soft_cap,
  )
  return entropy, sums.token_nll / jnp.log(2.0)


def _entropy(x: Array, weights: Weights, plan: Plan, pieces: Pieces) -> Array:
  """`normalised_entropy` of a layer's sampled queries, [B, Q, N]."""
  config, few = weights.config, pieces.queries
  h = weights.norm(x, 'attention_norm')
  q, k, _ = queries_keys_values(h, weights, plan)
  visible = Mask(window=plan.window, document=True).visible(
    pieces.positions[few],
    pieces.positions,
    pieces.segments[few],
    pieces.segments,
  )
  return normalised_entropy(
    q[:, few],
    k,
    visible,
    scale=config.scale,
    q_scale=plan.q_scale[few][:, None],
    soft_cap=config.attention_soft_cap,
  )


def _gradient(
  params: Params,
  config: ModelConfig,
  tokens: Array,
  targets: Array,
  pieces: Pieces,
  scheme: SchemeArrays,
) -> Any:
  """The gradient of the mean loss over all targets."""
  batch = Batch(
    tokens,
    targets,
    jnp.ones(targets.shape, jnp.float32),
    jnp.zeros(targets.shape, bool),
    *(
      jnp.broadcast_to(a, tokens.shape)
      for a in (pieces.positions, pieces.segments)
    ),
  )

  def mean_loss(params: Params) -> Array:
    sums = losses(params, batch, scheme, objective=Objective(config))
    return sums.loss / sums.weight

  return jax.grad(mean_loss)(params)
