"""The rows of a step out of packed rows: shorter ones, windows, retrieval."""

from __future__ import annotations

import numpy as np

from ntk_jax.curriculum.sampling import RowPlan
from ntk_jax.data.batch import Batch
from ntk_jax.data.pack import blocks, cut
from ntk_jax.data.settings import DataConfig
from ntk_jax.data.sources import Sources
from ntk_jax.errors import ConfigError
from ntk_jax.typing import Int, NDArray


def read_width(rows: RowPlan, config: DataConfig, shortest: int) -> int:
  """Tokens that a step reads of each packed row: max_length, or fewer.

  Args:
    rows: of the step.
    config: of the packed rows.
    shortest: tokens of the shortest row, and of the smallest window.

  Raises:
    ConfigError: everything about the rows that does not fit packed rows.

  >>> config = DataConfig(max_length=1024, batch_rows=4)
  >>> [read_width(RowPlan(256, rows=n), config, 2) for n in (None, 4, 8)]
  [1024, 256, 512]
  """
  longest, length = config.max_length, rows.length
  wrong = []
  if length < shortest or longest % length:
    wrong.append(
      f'length is {length}: it divides max_length, {longest}, and is at '
      f'least {shortest} with these shares of retrieval'
    )
  width = longest
  if not wrong and rows.rows is not None:
    width = rows.rows // config.batch_rows * length
    if rows.rows % config.batch_rows or width < 1 or longest % width:
      wrong.append(
        f'rows is {rows.rows}: it is batch_rows, {config.batch_rows}, times a '
        f'divisor of max_length / length, {longest // length}'
      )
  if not wrong and rows.windows is not None:
    wrong += _wrong_windows(rows, config.batch_rows * width, shortest)
  if wrong:
    raise ConfigError('; '.join(wrong))
  return width


def _wrong_windows(rows: RowPlan, tokens: int, shortest: int) -> list[str]:
  windows = np.asarray(rows.windows)
  count = tokens // rows.length
  if windows.shape != (count,):
    return [
      f'windows have shape {windows.shape}: one for each of the {count} rows '
      'of the step, on all hosts'
    ]
  if windows.min() < shortest or windows.max() > rows.length:
    return [
      f'windows are {windows.min()} to {windows.max()}: at least {shortest} '
      'with these shares of retrieval, and at most the length of rows, '
      f'{rows.length}'
    ]
  return []


def step_rows(
  part: Batch,
  rows: RowPlan,
  before: Int[NDArray, 'packed'],
  host: int,
  sources: Sources,
) -> Batch:
  """A host's rows of a step: `[packed, width]` -> `[rows, rows.length]`.

  Args:
    part: what the step reads of each of the host's packed rows.
    rows: of all hosts together.
    before: tokens of the stream before each row of the part.
    host: number of this host.
    sources: what makes retrieval rows.
  """
  starts = np.arange(0, part.tokens.shape[1], rows.length)
  numbers = (before[:, None] + starts).ravel() // rows.length
  part = cut(part, rows.length)
  windows = rows.windows
  if windows is not None:
    windows = windows[len(numbers) * host :][: len(numbers)]
    part = blocks(part, windows)
  return sources.mix(part, numbers, windows)
