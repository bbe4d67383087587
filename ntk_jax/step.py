"""One training step, jitted: one executable per shape for all methods."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from ntk_jax.accumulate import Sums, accumulate, split_rows
from ntk_jax.data.batch import Batch
from ntk_jax.guard import GuardConfig, GuardState, init_guard, judge, select
from ntk_jax.model.params import Params
from ntk_jax.model.transformer import Controls, Schemes
from ntk_jax.objective import (
  Losses,
  Objective,
  control_specs,
  losses,
  scheme_specs,
)
from ntk_jax.optimizer import (
  OptimizerState,
  descend,
  global_norm,
  group_norms,
)
from ntk_jax.sharding import BATCH, param_specs, shardings
from ntk_jax.trainable import Trainable, combine
from ntk_jax.typing import Array


class TrainState(NamedTuple):
  """Everything that a step changes: of the parameters the trained ones."""

  params: Params
  optimizer: OptimizerState
  guard: GuardState


class StepMetrics(NamedTuple):
  """Scalars of one step; losses in nats per target, means over the batch.

  Attributes:
    loss: what was minimised.
    text: cross-entropy of text.
    answers: cross-entropy of retrieval answers; NaN without any.
    near: cross-entropy of the text below `Controls.near`, of all without.
    grad_norm: global norm of the gradient, before clipping.
    groups: the norm of each kind of parameter.
    good: whether the step was taken.
  """

  loss: Array
  text: Array
  answers: Array
  near: Array
  grad_norm: Array
  groups: dict[str, Array]
  good: Array


@dataclasses.dataclass(frozen=True)
class StepConfig:
  """What of a step is compiled in; the learning rate is not.

  Attributes:
    objective: model and loss.
    transform: of the optimizer, as `OptimizerConfig.transform` gives it.
    guard: when a step is skipped.
    microbatches: parts of a batch whose gradients are made one by one.
    trainable: which parameters are in the state; the others are an argument.
  """

  objective: Objective
  transform: Any
  guard: GuardConfig = GuardConfig()
  microbatches: int = 1
  trainable: Trainable = Trainable()


def init_state(params: Params, config: StepConfig) -> TrainState:
  """A fresh optimizer and guard beside the parameters."""
  optimizer = config.transform.init(params)
  return TrainState(params, optimizer, init_guard(config.guard))


def state_shardings(state: Any, config: StepConfig, mesh: Mesh) -> Any:
  """Where each array of a state (or of its shapes) lives on a mesh."""
  kv_heads = config.objective.model.kv_heads
  return shardings(param_specs(state, mesh, kv_heads), mesh)


@functools.partial(
  jax.jit, static_argnames=('config', 'mesh'), donate_argnames='state'
)
def train_step(
  state: TrainState,
  batch: Batch,
  schemes: Schemes,
  learning_rate: Array,
  controls: Controls | None = None,
  frozen: Params | None = None,
  *,
  config: StepConfig,
  mesh: Mesh | None = None,
) -> tuple[TrainState, StepMetrics]:
  """Descends on the mean loss of a batch.

  A step that the guard refuses changes no parameter and no average: old
  values are selected, never multiplied by zero.

  Args:
    state: parameters, optimizer and guard (donated).
    batch: rows; over a mesh split over data and fsdp.
    schemes: arrays of the layer plan's schemes, of one shape for all methods.
    learning_rate: float32 scalar.
    controls: choices of run time, or None.
    frozen: parameters that are not trained, as `trainable.split` gives them.
    config: static.
    mesh: static; None is one device.

  Returns:
    The new state and this step's metrics.
  """
  sums_of = functools.partial(_sums, state.params, frozen, config, mesh)
  parts = _parts(batch, schemes, controls, config.microbatches)
  _, means, grads = accumulate(sums_of, parts)
  norm = global_norm(grads)
  updates, optimizer = config.transform.update(
    grads, state.optimizer, state.params
  )
  params = descend(state.params, updates, learning_rate)
  good, guard = judge(state.guard, means.loss, norm, config.guard)
  kept = select(good, (params, optimizer), (state.params, state.optimizer))
  after = TrainState(*kept, guard)
  if mesh is not None:
    after = jax.lax.with_sharding_constraint(
      after, state_shardings(after, config, mesh)
    )
  return after, StepMetrics(
    loss=means.loss,
    text=means.text / means.text_weight,
    answers=means.answers / means.answers_weight,
    near=means.near / means.near_weight,
    grad_norm=norm,
    groups=group_norms(grads),
    good=good,
  )


def _parts(
  batch: Batch, schemes: Schemes, controls: Controls | None, count: int
) -> tuple[Batch, Schemes, Controls | None]:
  """Everything per row split as the rows are; all else for every part."""
  plan = controls is not None and controls.plan is not None
  specs = scheme_specs(schemes, plan), control_specs(controls)

  def split(spec: PartitionSpec, x: Any) -> Any:
    if spec[:1] == (BATCH,):
      return split_rows(x, count)
    if BATCH in spec:  # after the dim that counts alternatives
      return jnp.swapaxes(split_rows(jnp.swapaxes(x, 0, 1), count), 1, 2)
    return jnp.broadcast_to(x, (count, *jnp.shape(x)))

  both = jax.tree.map(
    split,
    specs,
    (schemes, controls),
    is_leaf=lambda x: isinstance(x, PartitionSpec),
  )
  return split_rows(batch, count), *both


def _sums(
  params: Params,
  frozen: Params | None,
  config: StepConfig,
  mesh: Mesh | None,
  part: tuple[Batch, Schemes, Controls | None],
) -> Sums:
  """Losses of a part of a batch and the gradient of their sum."""
  batch, schemes, controls = part

  def summed(params: Params) -> tuple[Array, Losses]:
    sums = losses(
      combine(params, frozen, config.trainable),
      batch,
      schemes,
      controls,
      objective=config.objective,
      mesh=mesh,
    )
    return sums.loss, sums

  grads, sums = jax.grad(summed, has_aux=True)(params)
  return Sums(sums.weight, sums, grads)
