"""Packed batches of a stream without end, the same on any hosts and workers.

Row i of the stream is row i % R of epoch i // R, each epoch all R packed rows
in an order of its own. Everything about it is a function of i, so that the
state of a run is one number. Grain reads ahead; what may change from batch to
batch (the length of rows) or needs the number of a row (retrieval) is done
after that. The only file that imports grain.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from typing import Any

import grain
import numpy as np
from absl import flags

from ntk_jax.config import fingerprint
from ntk_jax.data.batch import Batch
from ntk_jax.data.files import PIECE
from ntk_jax.data.pack import Plan, cut, pack_row, plan_rows
from ntk_jax.data.settings import DataConfig
from ntk_jax.data.sources import Sources
from ntk_jax.data.text import Corpus, load_corpus
from ntk_jax.data.tokenize import (
  Documents,
  Tokenizer,
  load_tokenizer,
  tokenize,
)
from ntk_jax.errors import ConfigError
from ntk_jax.typing import Int, NDArray

_ENDLESS = 2**48  # batches of a run, as good as infinite
# Batches come from workers through pipes. Giving shared memory back takes a
# thread of the main process: 13 ms in place of 1 ms, in steps of 170 ms.
_NO_SHM = 2**62


def epoch_order(seed: int, epoch: int, rows: int) -> Int[NDArray, 'rows']:
  """The order of rows in an epoch: each once, a function of its arguments.

  >>> print(epoch_order(0, 0, 5), epoch_order(0, 1, 5))
  [2 4 3 0 1] [1 4 3 0 2]
  """
  return np.random.default_rng([seed, epoch]).permutation(rows)


class _Reader:
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


class Batches(Iterator[Batch]):
  """A host's batches from some row of the stream on.

  Attributes:
    row: number of the next batch's first packed row, on all hosts.
    length: tokens of the rows of the next batch; set it to cut packed rows
      into shorter ones. Tokens per batch stay the same.
  """

  def __init__(
    self, pipeline: Pipeline, row: int, length: int | None = None
  ) -> None:
    """Starts reading ahead."""
    config = pipeline.config
    self.row = row
    self.length = config.max_length if length is None else length
    self._pipeline = pipeline
    self._host_rows = config.batch_rows // pipeline.hosts
    self._offset = pipeline.host * self._host_rows
    if not flags.FLAGS.is_parsed():  # grain asks; no program may have parsed
      flags.FLAGS.mark_as_parsed()
    reader = _Reader(
      pipeline.documents,
      pipeline.plan,
      config.seed,
      row + self._offset,
      config.batch_rows,
      self._host_rows,
    )
    ahead = grain.ReadOptions(
      num_threads=config.threads,
      prefetch_buffer_size=max(config.prefetch, config.threads),
    )
    dataset = grain.MapDataset.source(reader).to_iter_dataset(ahead)
    if config.workers:
      dataset = grain.experimental.WithOptionsIterDataset(
        dataset, grain.experimental.DatasetOptions(min_shm_size=_NO_SHM)
      ).mp_prefetch(
        grain.MultiprocessingOptions(config.workers, config.prefetch)
      )
    self._ahead = iter(dataset)

  def __next__(self) -> Batch:
    """The next batch, `[rows, length]`."""
    self._pipeline.check_length(self.length)
    batch = cut(next(self._ahead), self.length)
    cuts = self._pipeline.config.max_length // self.length
    first = (self.row + self._offset) * cuts
    batch = self._pipeline.sources.mix(batch, first)
    self.row += self._pipeline.config.batch_rows
    return batch

  def state(self) -> dict[str, Any]:
    """What a checkpoint keeps: the next row, and which data it counts in."""
    return {'row': self.row, 'fingerprint': self._pipeline.fingerprint}

  def close(self) -> None:
    """Stops threads and workers; no batch can be asked for after that."""
    self._ahead.close()

  def __enter__(self) -> Batches:
    return self

  def __exit__(self, *error: object) -> None:
    self.close()


@dataclasses.dataclass(frozen=True, eq=False)
class Pipeline:
  """A corpus packed for one host of a run.

  Attributes:
    config: settings.
    tokenizer: what made the ids.
    documents: the ids.
    plan: the rows of an epoch, the same on every host.
    sources: what makes retrieval rows.
    corpus: name and sizes of the text, for reports.
    fingerprint: names the stream of rows; hosts, workers and the rows of a
      batch have no part in it.
    host: number of this host.
    hosts: how many there are; each takes its contiguous part of every batch.
  """

  config: DataConfig
  tokenizer: Tokenizer
  documents: Documents
  plan: Plan
  sources: Sources
  corpus: dict[str, str | int]
  fingerprint: str
  host: int = 0
  hosts: int = 1

  @classmethod
  def of(
    cls,
    config: DataConfig,
    corpus: Corpus | None = None,
    *,
    host: int = 0,
    hosts: int = 1,
  ) -> Pipeline:
    """Reads, encodes and packs the text for training.

    Args:
      config: settings.
      corpus: the text; None reads what the settings name.
      host: number of this host.
      hosts: how many hosts share each batch.

    Raises:
      ConfigError: every wrong setting at once; text that cannot be read or
        encoded.
    """
    if not 0 <= host < hosts:
      raise ConfigError(f'host is {host} of {hosts}: it counts from 0')
    config.validate(hosts=hosts)
    tokenizer = load_tokenizer(config.tokenizer)
    config.validate(tokenizer, hosts=hosts)
    if corpus is None:
      corpus = load_corpus(
        config.corpus,
        text_field=config.text_field,
        shortest=1,
        piece=max(PIECE, config.max_length),
      )
    end = config.end_of_text
    end = None if end is None else tokenizer.token_id(end)
    documents = tokenize(corpus.train, tokenizer, end)
    config.validate(tokenizer, documents.lengths, hosts)
    plan = plan_rows(documents.lengths, config.max_length)
    return cls(
      config,
      tokenizer,
      documents,
      plan,
      Sources(config, tokenizer),
      corpus.describe(),
      _fingerprint(config, tokenizer, corpus.fingerprint, plan),
      host,
      hosts,
    )

  def batches(self, row: int = 0, length: int | None = None) -> Batches:
    """Batches from a row of the stream on; close them after use.

    Args:
      row: a packed row of the stream, at least 0.
      length: tokens of the rows, max_length if None.

    Raises:
      ConfigError: a row below 0, a length that does not fit.
    """
    if isinstance(row, bool) or not isinstance(row, int) or row < 0:
      raise ConfigError(f'row is {row!r}: it counts packed rows from 0')
    if length is not None:
      self.check_length(length)
    return Batches(self, row, length)

  def restore(
    self, state: dict[str, Any], length: int | None = None
  ) -> Batches:
    """Goes on from `Batches.state()`, whatever hosts and workers there were.

    Raises:
      ConfigError: the state of other data, or no such state.
    """
    if not {'row', 'fingerprint'} <= set(state):
      raise ConfigError(
        f'data state has {sorted(state)}: it holds row and fingerprint'
      )
    if state['fingerprint'] != self.fingerprint:
      raise ConfigError(
        f'data fingerprint is {self.fingerprint}, the checkpoint has '
        f'{state["fingerprint"]}: its row {state["row"]} counts in another '
        'stream; use the same corpus, tokenizer, max_length, seed and shares, '
        'or start anew'
      )
    return self.batches(state['row'], length)

  def epochs(self, row: int) -> float:
    """Passes over the packed rows before a row of the stream."""
    return row / self.plan.rows

  def check_length(self, length: int) -> None:
    """Raises ConfigError unless packed rows can be cut to this length."""
    longest = self.config.max_length
    if length < self.sources.shortest or longest % length:
      raise ConfigError(
        f'length is {length}: it divides max_length, {longest}, and is at '
        f'least {self.sources.shortest} with these shares of retrieval'
      )


def _fingerprint(
  config: DataConfig, tokenizer: Tokenizer, corpus: str, plan: Plan
) -> str:
  """Names all that the rows of the stream depend on."""
  order = epoch_order(config.seed, 0, plan.rows)
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
  )
