"""What a training step takes of a device, by the compiler, before it runs.

The step of every row shape that a run will meet is compiled from shapes alone:
nothing is allocated, and a laptop compiles for a TPU that it does not have.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec, SingleDeviceSharding

from ntk_jax.data.batch import Batch
from ntk_jax.errors import ConfigError
from ntk_jax.memory import Need, step_need
from ntk_jax.model.params import init_params
from ntk_jax.model.transformer import Controls
from ntk_jax.objective import control_specs, scheme_specs
from ntk_jax.sharding import batch_spec, make_mesh, shardings
from ntk_jax.step import init_state, state_shardings, train_step
from ntk_jax.train.checks import fit_problems
from ntk_jax.train.course import Inputs
from ntk_jax.train.regularised import regularised
from ntk_jax.train.settings import TrainConfig
from ntk_jax.train.stages import Stages
from ntk_jax.train.topology import topology

# A CPU's buffers are the same however good its instructions are.
_QUICK: Any = {'xla_backend_optimization_level': 0}
_FULL = 'RESOURCE_EXHAUSTED'
_SAID = 200  # characters of a message: those that have its numbers


class Compiled(NamedTuple):
  """What a compiler says of a program, on each device.

  Attributes:
    arguments: bytes that are there before: state and batch.
    outputs: bytes of results that take no argument's place.
    temporaries: bytes in between.
    host: bytes in the host's memory, where activations are offloaded.
    flops: that the compiler counts, the body of a loop once; None if it does
      not say.
    seconds: that lowering and compiling took.
  """

  arguments: int
  outputs: int
  temporaries: int
  host: int
  flops: float | None
  seconds: float

  @property
  def total(self) -> int:
    """Arguments, outputs and temporaries, what is donated counted once."""
    return self.arguments + self.outputs + self.temporaries


class Forecast(NamedTuple):
  """The step of one row shape.

  Attributes:
    rows: of a batch, on all devices.
    length: tokens of a row.
    need: by formula.
    compiled: by the compiler; None where the target has too little memory.
    refused: what the compiler said then.
  """

  rows: int
  length: int
  need: Need
  compiled: Compiled | None
  refused: str = ''


def row_shapes(
  config: TrainConfig, lengths: Sequence[int], batch: str = 'tokens'
) -> list[tuple[int, int]]:
  """(rows, length) of the batches that a run meets.

  Args:
    config: the run, whose `data` has the longest rows.
    lengths: tokens of a row.
    batch: what stays constant, 'tokens' or 'rows'.

  Raises:
    ConfigError: lengths that do not divide the tokens of a batch.
  """
  rows, longest = config.data.batch_rows, config.data.max_length
  if batch == 'rows':
    return [(rows, length) for length in lengths]
  wrong = [n for n in lengths if n < 1 or rows * longest % n]
  if wrong:
    raise ConfigError(
      f'lengths {wrong}: a batch has {rows} x {longest} tokens, so each must '
      'be at least 1 and divide that number'
    )
  return [(rows * longest // length, length) for length in lengths]


def forecast(
  config: TrainConfig,
  shapes: Sequence[tuple[int, int]] | None = None,
  target: str | None = None,
) -> list[Forecast]:
  """Compiles the train step of each row shape and asks what it takes.

      total = arguments + outputs - donated + temporaries

  (`peak_memory` of the same analysis leaves temporaries out on a CPU.)

  Args:
    config: the run.
    shapes: (rows, length) of its batches; None is that of its data.
    target: a TPU topology to compile for, as `v5e:4x4`; None is the devices
      that are there. A run of one device takes the first.

  Raises:
    ConfigError: wrong settings, or a mesh that the devices do not fit; no
      libtpu; a topology that libtpu does not know.
  """
  if shapes is None:
    shapes = [(config.data.batch_rows, config.data.max_length)]
  devices = jax.devices() if target is None else topology(target)
  if config.mesh.size == 1:
    devices = devices[:1]
  config.validate(len(devices))
  wrong = [
    f'{rows:,} rows of {length:,}: {text}'
    for rows, length in shapes
    for text in fit_problems(_with_rows(config, rows, length), 1)
  ]
  if wrong:
    raise ConfigError('; '.join(wrong))
  if config.mesh.size == 1:
    where: Any = SingleDeviceSharding(devices[0])
  else:
    where = make_mesh(config.mesh, devices)
  found = []
  for rows, length in shapes:
    need = step_need(
      config.model,
      rows,
      length,
      moments=(config.optimizer.mu_dtype, config.optimizer.nu_dtype),
      microbatches=config.microbatches,
      mesh=config.mesh,
      loss_chunk=config.loss_chunk,
    )
    try:
      compiled = _compiled(config, rows, length, where)
    except jax.errors.JaxRuntimeError as error:
      if _FULL not in str(error):
        raise
      found.append(Forecast(rows, length, need, None, _refusal(error)))
    else:
      found.append(Forecast(rows, length, need, compiled))
  return found


def _with_rows(config: TrainConfig, rows: int, length: int) -> TrainConfig:
  """The run as if its rows had one shape."""
  data = dataclasses.replace(config.data, batch_rows=rows, max_length=length)
  return dataclasses.replace(config, data=data)


def _compiled(
  config: TrainConfig, rows: int, length: int, where: Mesh | Any
) -> Compiled:
  start = time.perf_counter()
  mesh = where if isinstance(where, Mesh) else None
  program = train_step.lower(
    *_arguments(config, rows, length, where), config=config.step, mesh=mesh
  ).compile(_QUICK if _platform(where) == 'cpu' else None)
  seconds = time.perf_counter() - start
  found: Any = program.memory_analysis()
  cost = program.cost_analysis()
  return Compiled(
    arguments=found.argument_size_in_bytes,
    outputs=found.output_size_in_bytes - found.alias_size_in_bytes,
    temporaries=found.temp_size_in_bytes,
    host=found.host_argument_size_in_bytes
    + found.host_output_size_in_bytes
    - found.host_alias_size_in_bytes
    + found.host_temp_size_in_bytes,
    flops=cost.get('flops') if isinstance(cost, dict) else None,
    seconds=seconds,
  )


def _platform(where: Mesh | Any) -> str:
  devices = where.devices.flat if isinstance(where, Mesh) else where.device_set
  return next(iter(devices)).platform


def _arguments(
  config: TrainConfig, rows: int, length: int, where: Mesh | Any
) -> tuple[Any, ...]:
  """Shapes and places of what a step is called with."""
  step = config.step
  state: Any = jax.eval_shape(
    lambda: init_state(init_params(jax.random.key(0), config.model), step)
  )
  inputs: Any = _last_inputs(config, rows, length)
  if isinstance(where, Mesh):
    batch, schemes, _, controls = inputs
    several = controls is not None and controls.plan is not None
    specs = (
      jax.tree.map(batch_spec, batch),
      scheme_specs(schemes, several),
      PartitionSpec(),
      control_specs(controls),
    )
    places: Any = state_shardings(state, step, where), shardings(specs, where)
  else:
    places = jax.tree.map(lambda _: where, (state, inputs))
  state, inputs = jax.tree.map(
    lambda x, place: jax.ShapeDtypeStruct(np.shape(x), x.dtype, sharding=place),
    (state, inputs),
    places,
  )
  return state, *inputs


def _last_inputs(config: TrainConfig, rows: int, length: int) -> Inputs:
  """Inputs of no meaning, as the last step has them for rows of a shape.

  Until then the regularisation may drop tokens, which takes less.
  """
  stages, steps = Stages(config, epoch_tokens=1), config.optimizer.steps
  ids, floats = (np.ones((rows, length), dtype) for dtype in ('i4', 'f4'))
  positions = np.broadcast_to(np.arange(length, dtype=np.int32), ids.shape)
  batch, controls = regularised(
    config.regularize,
    Batch(ids, ids, floats, floats < 0, positions, ids),
    fraction=(steps - 1) / steps,
    step=steps - 1,
    first_row=0,
  )
  arrays, choice = stages.arrays(length, batch)
  if choice is not None:
    controls = (controls or Controls())._replace(plan=choice)
  if 'near' in stages.schedule.watches:
    controls = (controls or Controls())._replace(near=np.int32(length))
  return batch, arrays, np.float32(0), controls


def _refusal(error: Exception) -> str:
  """What a compiler says of a program that takes too much."""
  _, _, text = ' '.join(str(error).split()).partition(f'{_FULL}: ')
  return text[:_SAID]
