"""One training step, jitted: one executable per shape for all methods."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ntk_jax.data.mixture import Batch
from ntk_jax.loss import cross_entropy
from ntk_jax.model.config import ModelConfig
from ntk_jax.model.params import Params
from ntk_jax.model.transformer import forward
from ntk_jax.optimizer import OptimizerState, adamw, global_norm
from ntk_jax.scheme import SchemeArrays
from ntk_jax.typing import Array

RETRIEVAL_WEIGHT = 0.5
_OPTIMIZER = adamw()


class TrainState(NamedTuple):
  """Everything that a step changes."""

  params: Params
  optimizer: OptimizerState


class StepMetrics(NamedTuple):
  """Scalars of one step; losses in nats per target."""

  text_loss: Array
  retrieval_loss: Array
  grad_norm: Array
  finite: Array


def init_state(params: Params) -> TrainState:
  """A fresh optimizer beside the parameters."""
  return TrainState(params, _OPTIMIZER.init(params))


@functools.partial(jax.jit, static_argnames='config', donate_argnames='state')
def train_step(
  state: TrainState,
  batch: Batch,
  scheme: SchemeArrays,
  learning_rate: Array,
  *,
  config: ModelConfig,
) -> tuple[TrainState, StepMetrics]:
  """Descends on `text loss + 0.5 * retrieval loss`.

  A step whose gradients are not finite changes nothing: old values are
  selected, never multiplied by zero.

  Args:
    state: parameters and optimizer state (donated).
    batch: rows and the weights of their targets.
    scheme: arrays of the positional scheme, of one shape for all methods.
    learning_rate: float32 scalar.
    config: the model's shape (static).

  Returns:
    The new state and this step's metrics.
  """

  def loss_fn(params: Params) -> tuple[Array, tuple[Array, Array]]:
    logits = forward(params, config, batch.tokens, None, None, scheme)
    nll = cross_entropy(logits, batch.targets)
    text = jnp.sum(nll * batch.text)
    retrieval = jnp.sum(nll * batch.retrieval)
    return text + RETRIEVAL_WEIGHT * retrieval, (text, retrieval)

  (_, (text, recall)), grads = jax.value_and_grad(loss_fn, has_aux=True)(
    state.params
  )
  norm = global_norm(grads)
  updates, optimizer = _OPTIMIZER.update(grads, state.optimizer, state.params)
  params = jax.tree.map(
    lambda p, u: p + learning_rate * u, state.params, updates
  )
  finite = jnp.isfinite(norm)
  state = jax.tree.map(
    functools.partial(jnp.where, finite), TrainState(params, optimizer), state
  )
  return state, StepMetrics(text, recall, norm, finite)
