"""The forecast of a run as text: what it is of, a table, what does not fit."""

from __future__ import annotations

from collections.abc import Sequence

import jax

from ntk_jax.memory import gib
from ntk_jax.metrics import flops_per_token
from ntk_jax.model.params import active_parameter_count, parameter_count
from ntk_jax.train.forecast import Forecast, forecast
from ntk_jax.train.settings import TrainConfig

_COLUMNS = (
  'rows',
  'length',
  'arguments',
  'outputs',
  'temporaries',
  'in all',
  'on the host',
  'formula',
  'TFLOP',
  'compiled in',
)
_NOTHING = 2**17  # bytes: scalars and the tables of a step


def forecast_lines(
  config: TrainConfig,
  shapes: Sequence[tuple[int, int]] | None = None,
  target: str | None = None,
) -> list[str]:
  """What `forecast` finds, in words and a table.

  Args:
    config: the run.
    shapes: (rows, length) of its batches, as `row_shapes` gives them.
    target: a TPU topology to compile for, or None for this machine.

  Raises:
    ConfigError: as `forecast` does.
  """
  found = forecast(config, shapes, target)
  table = [_COLUMNS, *(_cells(config, each) for each in found)]
  widths = [max(map(len, column)) for column in zip(*table)]
  rows = [
    '  '.join(cell.rjust(width) for cell, width in zip(row, widths))
    for row in table
  ]
  refused = [
    f'{each.rows:,} x {each.length:,} does not fit: {each.refused}'
    for each in found
    if each.refused
  ]
  return [*_about(config, target), '', *rows, *refused]


def _about(config: TrainConfig, target: str | None) -> list[str]:
  model, devices = config.model, config.mesh.size
  where = f'this {jax.default_backend()}' if target is None else target
  each = 'it' if devices == 1 else f'each of {devices} devices of it'
  return [
    f'A train step of {parameter_count(model):,} parameters, compiled for '
    f'{where} and not run; bytes on {each}.',
    f'compute {model.precision.compute}, remat {model.remat}, mlp_chunk '
    f'{model.mlp_chunk}, loss_chunk {config.loss_chunk}, microbatches '
    f'{config.microbatches}',
    'in all = arguments + outputs + temporaries, donated ones once; formula: '
    'ntk_jax.memory.step_need;',
    'TFLOP of a step on all devices by formula, without what is made again '
    'or masked',
  ]


def _cells(config: TrainConfig, found: Forecast) -> tuple[str, ...]:
  shape = f'{found.rows:,}', f'{found.length:,}'
  end = gib(found.need.total), f'{_work(config, found) / 1e12:,.4g}'
  said = found.compiled
  if said is None:
    return (*shape, '-', '-', '-', 'too much', '-', *end, '-')
  sizes = said.arguments, said.outputs, said.temporaries, said.total, said.host
  return (*shape, *map(_size, sizes), *end, f'{said.seconds:.1f} s')


def _size(size: int) -> str:
  return '0' if size < _NOTHING else gib(size)


def _work(config: TrainConfig, found: Forecast) -> float:
  """Floating-point operations of a step on all devices."""
  model = config.model
  looked_up = 0 if model.tied else model.vocab * model.dim
  return (
    found.rows
    * found.length
    * flops_per_token(
      active_parameter_count(model) - looked_up,
      model.heads * model.head_dim,
      found.length,
      [config.schemes[number].window for number in model.plan],
    )
  )
