"""Packed batches of a stream without end, the same on any hosts and workers.

Row i of the stream is row i % R of epoch i // R, each epoch all R packed rows
in an order of its own. Everything about it is a function of i, so that the
state of a run is one number. Grain reads ahead; what may change from batch to
batch (the length of rows, their windows) or needs the number of a row
(retrieval) is done after that. The only file that imports grain.

A step may read less than a batch of packed rows: a column of each, from where
the step before left off. The state is then two numbers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import grain
import numpy as np
from absl import flags

from ntk_jax.curriculum.sampling import RowPlan
from ntk_jax.data.batch import Batch
from ntk_jax.data.copies import plan_epoch
from ntk_jax.data.files import PIECE
from ntk_jax.data.pack import Plan
from ntk_jax.data.reader import Reader, place_of, stream_name
from ntk_jax.data.rows import read_width, step_rows
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

# Batches come from workers through pipes. Giving shared memory back takes a
# thread of the main process: 13 ms in place of 1 ms, in steps of 170 ms.
_NO_SHM = 2**62


class Batches(Iterator[Batch]):
  """A host's batches from some place of the stream on.

  Attributes:
    row: number of the first packed row, on all hosts, that is not read to its
      end.
    column: tokens of the packed rows of a batch that are read already.
    length: tokens of the rows that `next` gives; set it to cut packed rows
      into shorter ones. Tokens per batch stay the same.
  """

  def __init__(
    self,
    pipeline: Pipeline,
    row: int,
    length: int | None = None,
    column: int = 0,
  ) -> None:
    """Starts reading ahead."""
    config = pipeline.config
    self.row = row
    self.column = column
    self.length = config.max_length if length is None else length
    self._packed: Batch | None = None
    self._pipeline = pipeline
    self._host_rows = config.batch_rows // pipeline.hosts
    if not flags.FLAGS.is_parsed():  # grain asks; no program may have parsed
      flags.FLAGS.mark_as_parsed()
    reader = Reader(
      pipeline.documents,
      pipeline.plan,
      config.seed,
      row + pipeline.host * self._host_rows,
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
    """All of the next packed rows, `[rows, length]`."""
    return self.read(RowPlan(self.length))

  def read(self, rows: RowPlan) -> Batch:
    """This host's part of the batch of a step.

    Tokens, targets and weights do not depend on how windows are made: rows of
    w tokens, and windows of w in longer rows, give the same. A step begins at
    a multiple of what it reads of each packed row: after fewer tokens a step,
    less than one batch of packed rows is passed over, until the next epoch.

    Args:
      rows: of all hosts together. Without a number of rows, a step reads a
        whole batch of packed rows; with k times batch_rows it reads k times
        `rows.length` tokens of each.

    Raises:
      ConfigError: rows that packed rows cannot be cut to; nothing is read.
    """
    longest = self._pipeline.config.max_length
    width = self._pipeline.check_rows(rows)
    start = -(-self.column // width) * width
    if start == longest:
      self._next_rows()
      start = 0
    if self._packed is None:
      self._packed = next(self._ahead)
    part = Batch(*(x[:, start : start + width] for x in self._packed))
    first = self.row + self._pipeline.host * self._host_rows
    before = (first + np.arange(self._host_rows)) * longest + start
    batch = step_rows(
      part, rows, before, self._pipeline.host, self._pipeline.sources
    )
    self.column = start + width
    if self.column == longest:
      self._next_rows()
    return batch

  def _next_rows(self) -> None:
    """Leaves the packed rows that are being read."""
    if self._packed is None:
      next(self._ahead)
    self._packed = None
    self.row, self.column = self.row + self._pipeline.config.batch_rows, 0

  def state(self) -> dict[str, Any]:
    """What a checkpoint keeps: the next tokens, in which data and batches."""
    return {
      'row': self.row,
      'column': self.column,
      'batch_rows': self._pipeline.config.batch_rows,
      'fingerprint': self._pipeline.fingerprint,
    }

  def close(self) -> None:
    """Stops threads and workers; no batch can be asked for after that."""
    self._ahead.close()

  def __enter__(self) -> Batches:
    return self

  def __exit__(self, *error: object) -> None:
    self.close()


def corpus_of(config: DataConfig) -> Corpus:
  """The text that settings name, for training and held out.

  Raises:
    ConfigError: if it cannot be read.
  """
  return load_corpus(
    config.corpus,
    text_field=config.text_field,
    shortest=1,
    piece=max(PIECE, config.max_length),
  )


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
      corpus = corpus_of(config)
    end = config.end_of_text
    end = None if end is None else tokenizer.token_id(end)
    documents = tokenize(corpus.train, tokenizer, end)
    config.validate(tokenizer, documents.lengths, hosts)
    plan = plan_epoch(config, documents.lengths, corpus.sources)
    return cls(
      config,
      tokenizer,
      documents,
      plan,
      Sources(config, tokenizer),
      corpus.describe(),
      stream_name(config, tokenizer, corpus.fingerprint, plan),
      host,
      hosts,
    )

  def batches(
    self, row: int = 0, length: int | None = None, column: int = 0
  ) -> Batches:
    """Batches from a row of the stream on; close them after use.

    Args:
      row: a packed row of the stream, at least 0.
      length: tokens of the rows, max_length if None.
      column: tokens of the packed rows that are read already.

    Raises:
      ConfigError: a row below 0, a length or a column that does not fit.
    """
    if isinstance(row, bool) or not isinstance(row, int) or row < 0:
      raise ConfigError(f'row is {row!r}: it counts packed rows from 0')
    if not isinstance(column, int) or not 0 <= column < self.config.max_length:
      raise ConfigError(
        f'column is {column!r}: it counts tokens of packed rows, below '
        f'max_length, {self.config.max_length}'
      )
    if length is not None:
      self.check_rows(RowPlan(length))
    return Batches(self, row, length, column)

  def restore(
    self, state: dict[str, Any], length: int | None = None
  ) -> Batches:
    """Goes on from `Batches.state()`, whatever hosts and workers there were.

    Raises:
      ConfigError: the state of other data, or no such state.
    """
    row, column = place_of(state, self.fingerprint, self.config.batch_rows)
    return self.batches(row, length, column)

  def tokens(self, state: dict[str, Any]) -> int:
    """Tokens of the stream before `Batches.state()`, padding included."""
    longest = self.config.max_length
    column = state.get('column', 0)
    return state['row'] * longest + column * self.config.batch_rows

  def epochs(self, row: float) -> float:
    """Passes over the packed rows before a row of the stream."""
    return row / self.plan.rows

  def check_rows(self, rows: RowPlan) -> int:
    """Tokens that a step of these rows reads of each packed row.

    Raises:
      ConfigError: everything about the rows that does not fit.
    """
    return read_width(rows, self.config, self.sources.shortest)
