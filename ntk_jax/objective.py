"""The loss of a batch and its gradient, on one device or over a mesh.

Over a mesh it is one manual `jax.shard_map` around the same function that one
device runs. Gradients are taken outside of it: inside, they would be silently
wrong by factors of the mesh's axes.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from ntk_jax.data.batch import Batch
from ntk_jax.long_ce import LongCE, Pass, long_weights, mean_one
from ntk_jax.loss import chunked_cross_entropy
from ntk_jax.model.config import ModelConfig
from ntk_jax.model.params import Params
from ntk_jax.model.transformer import (
  Controls,
  Schemes,
  hidden_states,
  unembedding,
)
from ntk_jax.scheme import SchemeArrays
from ntk_jax.sharding import BATCH, Axes, axes_of, batch_spec, param_specs
from ntk_jax.typing import Array


@dataclasses.dataclass(frozen=True)
class Objective:
  """What is minimised: `sum w (nll + z_loss * lse^2) / sum w`.

  Attributes:
    model: the model's shape.
    z_loss: weight of the squared log-partition.
    chunk: tokens of a device whose logits exist at a time; None chooses.
    long_ce: weighs text targets by what long context tells of them; None does
      not. Its second pass is in the program of every shape with rows longer
      than its short context, but for those with kept tokens, whose two passes
      could not be compared; `Controls.long_ce` says when it runs.
  """

  model: ModelConfig
  z_loss: float = 0.0
  chunk: int | None = None
  long_ce: LongCE | None = None


class Losses(NamedTuple):
  """Sums over the targets of all devices; those of two batches add up.

  Attributes:
    loss: what is minimised, before it is divided by `weight`.
    weight: of all targets.
    text: weighted losses of the targets that are text, in nats; by the
      batch's weights alone, whatever factors `loss` has.
    text_weight: their weight.
    answers: weighted losses of retrieval answers.
    answers_weight: their weight.
    near: weighted losses of text at positions below `Controls.near`; of all
      text without one.
    near_weight: their weight.
  """

  loss: Array
  weight: Array
  text: Array
  text_weight: Array
  answers: Array
  answers_weight: Array
  near: Array
  near_weight: Array


def losses(
  params: Params,
  batch: Batch,
  schemes: Schemes,
  controls: Controls | None = None,
  *,
  objective: Objective,
  mesh: Mesh | None = None,
) -> Losses:
  """The sums of a batch; `loss` alone carries a gradient.

  Args:
    params: the model's; over a mesh placed by `param_specs`.
    batch: rows; over a mesh split over data and fsdp.
    schemes: of the layer plan; arrays per row are split as the rows are.
    controls: choices of run time, or None.
    objective: what to minimise.
    mesh: the devices, or None for one.
  """
  one = functools.partial(_local, objective=objective, axes=axes_of(mesh))
  if mesh is None:
    return one(params, batch, schemes, controls)
  specs = (
    param_specs(params, mesh, objective.model.kv_heads),
    jax.tree.map(batch_spec, batch),
    scheme_specs(schemes, controls is not None and controls.plan is not None),
    control_specs(controls),
  )
  return jax.shard_map(
    one, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(), check_vma=False
  )(params, batch, schemes, controls)


def _local(
  params: Params,
  batch: Batch,
  schemes: Schemes,
  controls: Controls | None,
  *,
  objective: Objective,
  axes: Axes,
) -> Losses:
  """The sums of all devices, from this device's rows and shards."""
  config = objective.model
  x, _ = hidden_states(
    params,
    config,
    batch.tokens,
    batch.positions,
    batch.segments,
    schemes,
    axes,
    controls=controls,
  )
  weights = jnp.where(batch.targets >= 0, batch.weights, 0.0)
  answers = jnp.where(batch.answers, weights, 0.0)
  text = weights - answers
  told = Pass(batch, schemes, controls)
  factors = _factors(params, x, told, objective, axes)
  if factors is not None:
    weights = answers + mean_one(factors, text, axes)
  sums = chunked_cross_entropy(
    x,
    axes.gather(unembedding(params, config), 'fsdp', 0),
    jnp.reshape(batch.targets, -1),
    jnp.reshape(weights, -1),
    chunk=objective.chunk,
    z_loss=objective.z_loss,
    soft_cap=config.logit_soft_cap,
    axis='tensor' if axes.size('tensor') > 1 else None,
  )
  nll = sums.token_nll.reshape(batch.targets.shape)
  near = _near(text, batch, controls)
  parts = Losses(
    sums.loss,
    sums.weight,
    _weighted(text, nll),
    text.sum(),
    _weighted(answers, nll),
    answers.sum(),
    _weighted(near, nll),
    near.sum(),
  )
  return axes.sum(parts, *BATCH)


def _near(text: Array, batch: Batch, controls: Controls | None) -> Array:
  """Weights of the text at positions that are recorded by themselves."""
  if controls is None or controls.near is None:
    return text
  positions = batch.positions
  if positions is None:
    positions = jnp.arange(text.shape[-1])
  return jnp.where(positions < controls.near, text, 0.0)


def _factors(
  params: Params, x: Array, told: Pass, objective: Objective, axes: Axes
) -> Array | None:
  """What the losses of text targets are multiplied by, or None for nothing.

  They carry no gradient. A retrieval answer keeps the weight it has.
  """
  controls, how = told.controls or Controls(), objective.long_ce
  given = controls.emphasis
  factors = None if given is None else jnp.asarray(given, jnp.float32)
  shape = told.batch.tokens.shape
  if how is None or controls.kept is not None or not how.windows(shape[1]):
    return factors

  def compared() -> Array:
    return long_weights(
      params,
      objective.model,
      told,
      x,
      how,
      chunk=objective.chunk,
      axes=axes,
    )

  if controls.long_ce is None:
    found = compared()
  else:  # the same on all devices, so that they meet in its collectives
    found = jax.lax.cond(
      controls.long_ce, compared, lambda: jnp.ones(shape, jnp.float32)
    )
  return found if factors is None else factors * found


def _weighted(weights: Array, nll: Array) -> Array:
  return jnp.sum(jnp.where(weights == 0, 0.0, weights * nll))


def scheme_specs(schemes: Schemes, alternatives: bool = False) -> Any:
  """How the arrays of schemes are split: per row as rows are, else not.

  Args:
    schemes: one, or several.
    alternatives: whether their first dim counts the ropes that
      `Controls.plan` chooses between.
  """
  rows, none = PartitionSpec(BATCH), PartitionSpec()

  def specs(scheme: SchemeArrays) -> SchemeArrays:
    q_dims = jnp.ndim(scheme.q_scale)
    if alternatives:
      q = PartitionSpec(None, BATCH) if q_dims == 3 else none
      return SchemeArrays(none, none, q, none)  # pyrefly: ignore[bad-argument-type]
    per_row = jnp.ndim(scheme.phases) == 3
    return SchemeArrays(
      rows if per_row else none,  # pyrefly: ignore[bad-argument-type]
      rows if jnp.ndim(scheme.attention_factor) == 1 else none,  # pyrefly: ignore[bad-argument-type]
      rows if q_dims == 2 else none,  # pyrefly: ignore[bad-argument-type]
      none,  # pyrefly: ignore[bad-argument-type]
    )

  if isinstance(schemes, SchemeArrays):
    return specs(schemes)
  return tuple(specs(scheme) for scheme in schemes)


def control_specs(controls: Controls | None) -> Any:
  """How controls are split: what is of no row not, all else by rows."""
  if controls is None:
    return None
  specs = jax.tree.map(batch_spec, controls)
  whole = {
    name: PartitionSpec()
    for name in ('window', 'near', 'long_ce')
    if getattr(controls, name) is not None
  }
  return specs._replace(**whole)
