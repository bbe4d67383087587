"""Packed rows by their number in a stream without end, and its name."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from ntk_jax.config import fingerprint
from ntk_jax.data.batch import Batch
from ntk_jax.data.pack import Plan, pack_row
from ntk_jax.data.settings import DataConfig
from ntk_jax.data.tokenize import Documents, Tokenizer
from ntk_jax.errors import ConfigError
from ntk_jax.typing import Int, NDArray

_ENDLESS = 2**48  # batches of a run, as good as infinite


def epoch_order(seed: int, epoch: int, rows: int) -> Int[NDArray, 'rows']:
  """The order of rows in an epoch: each once, a function of its arguments.

  >>> print(epoch_order(0, 0, 5), epoch_order(0, 1, 5))
  [2 4 3 0 1] [1 4 3 0 2]
  """
  return np.random.default_rng([seed, epoch]).permutation(rows)


class Reader:
  """Batches of a host as grain's random access source: number k is made here.

  It goes to worker processes as a whole.
  """

  def __init__(
    self,
    documents: Documents,
    plan: Plan,
    seed: int,
    first_row: int,
    batch_rows: int,
    host_rows: int,
  ) -> None:
    """Takes what a run's rows are made of, and which of them to make.

    Args:
      documents: token ids.
      plan: the rows of an epoch.
      seed: of their order.
      first_row: number in the stream of the first one.
      batch_rows: rows from one batch to the next.
      host_rows: rows of a batch that are made here.
    """
    self._documents = documents
    self._plan = plan
    self._seed = seed
    self._first_row = first_row
    self._batch_rows = batch_rows
    self._host_rows = host_rows
    self._orders: dict[int, NDArray] = {}

  def __len__(self) -> int:
    return _ENDLESS

  def __getitem__(self, index: int) -> Batch:
    start = self._first_row + int(index) * self._batch_rows
    rows = [self._row(start + i) for i in range(self._host_rows)]
    return Batch(*(np.stack(arrays) for arrays in zip(*rows)))

  def _row(self, number: int) -> Batch:
    epoch, place = divmod(number, self._plan.rows)
    order = self._orders.get(epoch)
    if order is None:  # keeps two, a batch may end one epoch and start the next
      order = epoch_order(self._seed, epoch, self._plan.rows)
      kept = {e: o for e, o in self._orders.items() if e == epoch - 1}
      self._orders = kept | {epoch: order}
    pieces = self._plan.row(int(order[place]))
    return pack_row(self._documents, pieces, self._plan.length)


def stream_name(
  config: DataConfig, tokenizer: Tokenizer, corpus: str, plan: Plan
) -> str:
  """Names all that the rows of the stream depend on.

  Args:
    config: settings.
    tokenizer: what made the ids.
    corpus: names the text.
    plan: the rows of an epoch.
  """
  order = epoch_order(config.seed, 0, plan.rows)
  long = [config.long_share, config.long_from]
  answers = ['answer_weight', config.answer_weight]
  arrays = hashlib.sha256()
  for array in (plan.pieces, plan.offsets, order):
    arrays.update(np.ascontiguousarray(array, '<i8').tobytes())
  return fingerprint(
    corpus,
    tokenizer.fingerprint,
    config.end_of_text,
    config.max_length,
    config.seed,
    config.key_value,
    config.passkey,
    arrays.hexdigest(),
    *(long if config.long_share is not None else []),
    *(answers if config.answer_weight is not None else []),
  )


def place_of(
  state: dict[str, Any], name: str, batch_rows: int
) -> tuple[int, int]:
  """The packed row, and the column in it, at which a saved state stands.

  Args:
    state: what a checkpoint keeps.
    name: of the stream that goes on.
    batch_rows: packed rows of a batch of it.

  Raises:
    ConfigError: the state of another stream, or no such state; within a batch
      of other rows.
  """
  if not {'row', 'fingerprint'} <= set(state):
    raise ConfigError(
      f'data state has {sorted(state)}: it holds row and fingerprint'
    )
  if state['fingerprint'] != name:
    raise ConfigError(
      f'data fingerprint is {name}, the checkpoint has '
      f'{state["fingerprint"]}: its row {state["row"]} counts in another '
      'stream; use the same corpus, tokenizer, max_length, seed and shares, '
      'or start anew'
    )
  column, rows = state.get('column', 0), state.get('batch_rows')
  if column and rows != batch_rows:
    raise ConfigError(
      f'batch_rows is {batch_rows}, and the checkpoint stands within a batch '
      f'of {rows} packed rows: go on with {rows}'
    )
  return state['row'], column
