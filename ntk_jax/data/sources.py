"""Retrieval rows made out of packed rows, by share.

Whether a row is one, and what it asks, is a function of (seed, length, number
of the row) alone: no worker, host or earlier row has a say.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ntk_jax.data import retrieval
from ntk_jax.data.batch import NO_TARGET, Batch
from ntk_jax.data.pack import block_begins, number_segments
from ntk_jax.data.retrieval import Passkey, random_questions
from ntk_jax.data.settings import DataConfig
from ntk_jax.data.tokenize import Tokenizer
from ntk_jax.errors import ConfigError
from ntk_jax.typing import Int, NDArray

Source = Callable[[np.random.Generator, Batch], Batch]
_GOLDEN = 0x9E3779B97F4A7C15  # 2**64 / golden ratio, odd


class Sources:
  """Turns a share of packed rows into retrieval rows.

  A retrieval row is a document of its own: all its tokens are segment 1, at
  positions 0, 1, 2, ..., so that a question reaches across the whole row. Text
  is learned there only in what was the row's first document, which sees
  nothing of the others, and in passkey rows not at all.

  Attributes:
    shortest: tokens of the shortest row that can be turned.
  """

  def __init__(self, config: DataConfig, tokenizer: Tokenizer) -> None:
    """Takes shares and seed of the settings, ids of the tokenizer."""
    passkey = Passkey(tokenizer.encode)
    every: list[tuple[str, float, int, Source]] = [
      (
        'key_value',
        config.key_value,
        retrieval.SHORTEST_ROW,
        lambda rng, row: key_value_row(rng, row, tokenizer.vocab),
      ),
      (
        'passkey',
        config.passkey,
        passkey.shortest,
        lambda rng, row: passkey_row(rng, row, passkey),
      ),
    ]
    self._seed, self._weight = config.seed, config.answer_weight
    self._asked = [source for source in every if source[1] > 0]
    self.shortest = max((source[2] for source in self._asked), default=2)

  def mix(
    self,
    batch: Batch,
    numbers: Int[NDArray, 'rows'],
    windows: Int[NDArray, 'rows'] | None = None,
  ) -> Batch:
    """The batch with its share of rows turned into retrieval rows.

    Shares hold to within a few rows over any stretch of the stream: row i is
    turned where the fractional part of i times the golden ratio says so. A row
    that is mostly padding stays as it is.

    Each block of a row with a window is turned as if it were a row of its own:
    block j of the c blocks of row i is row c i + j of the stream of rows of w
    tokens, so that cut rows and blocks hold the same.

    Args:
      batch: rows of T tokens, already in `blocks` of the windows; not changed.
      numbers: of its rows, in the stream of rows of T tokens.
      windows: of each row; None is whole rows.

    Raises:
      ConfigError: rows too short for a source that is asked for.
    """
    rows, length = batch.tokens.shape
    every = np.full(rows, length) if windows is None else windows
    self._check(int(every.min()))
    if not self._asked:
      return batch
    mixed = Batch(*(x.copy() for x in batch))
    counts = -(-length // every)
    row = np.repeat(np.arange(rows), counts)
    block = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    start, stop = block * every[row], (block + 1) * every[row]
    number = numbers[row] * counts[row] + block
    real = (batch.segments > 0).sum(axis=1)  # padding is at the end
    kinds = self._kinds(number, np.minimum(real[row], stop) - start)
    for j in np.flatnonzero(kinds >= 0).tolist():
      seed = [self._seed, int(every[row[j]]), int(number[j])]
      make = self._asked[kinds[j]][3]
      place = row[j], slice(start[j], stop[j])
      made = make(
        np.random.default_rng(seed), Batch(*(x[place] for x in batch))
      )
      if self._weight is not None:
        made = weigh_answers(made, self._weight)
      for whole, part in zip(mixed, made):
        whole[place] = part
    begins = block_begins(every, rows, length)
    return mixed._replace(segments=number_segments(mixed.segments, begins))

  def _check(self, length: int) -> None:
    """Refuses rows that are too short for what is asked."""
    short = [name for name, _, least, _ in self._asked if length < least]
    if short:
      raise ConfigError(
        f'length is {length}: rows of {", ".join(short)} need {self.shortest} '
        'tokens or more; start longer, or set their share to 0'
      )

  def _kinds(
    self, numbers: Int[NDArray, 'rows'], tokens: Int[NDArray, 'rows']
  ) -> Int[NDArray, 'rows']:
    """What rows of these numbers and tokens are turned into, -1 for text."""
    place = numbers.astype(np.uint64) * np.uint64(_GOLDEN) / 2.0**64
    kinds = np.full(len(numbers), -1)
    for kind, (_, share, shortest, _) in enumerate(self._asked):
      here = (place >= 0) & (place < share)
      kinds[here & (tokens >= shortest)] = kind
      place = np.where(place < share, -1.0, place - share)
    return kinds


def key_value_row(rng: np.random.Generator, row: Batch, first: int) -> Batch:
  """A packed row as one document, every key hidden and asked once in it.

  Args:
    rng: where the randomness comes from.
    row: one packed row `[T]`.
    first: the first id of the symbols.
  """
  tokens = int((row.segments > 0).sum())
  last = max(int(row.targets[tokens - 1]), 0)
  text = np.append(row.tokens[:tokens], np.int32(last))
  symbols, targets = random_questions(rng, text[None], first)
  answers = targets[0] >= first
  learned = (row.weights > 0) & (row.segments == row.segments[0])
  learned = learned[:tokens] & (targets[0] != NO_TARGET)
  return _one_document(row, symbols[0], targets[0], answers, learned | answers)


def weigh_answers(row: Batch, share: float) -> Batch:
  """A retrieval row whose answers weigh a share of its tokens together.

  However long a row is, retrieval then has the same part in its loss.

  Args:
    row: `[T]`, with at least one answer.
    share: of its tokens, padding left out.

  >>> row = Batch(
  ...   np.zeros(4), np.zeros(4), np.float32([1, 1, 1, 0]),
  ...   np.array([True, False, True, False]), None, np.array([1, 1, 1, 0]))
  >>> weigh_answers(row, 0.5).weights.tolist()
  [0.75, 1.0, 0.75, 0.0]
  """
  each = share * (row.segments > 0).sum() / row.answers.sum()
  weights = np.where(row.answers, np.float32(each), row.weights)
  return row._replace(weights=weights)


def passkey_row(
  rng: np.random.Generator, row: Batch, passkey: Passkey
) -> Batch:
  """A packed row as one document that asks for a number hidden in it.

  Args:
    rng: where the randomness comes from.
    row: one packed row `[T]`.
    passkey: the sentences.
  """
  tokens = int((row.segments > 0).sum())
  said, targets, answers = passkey.hide(rng, np.asarray(row.tokens[:tokens]))
  return _one_document(row, said, targets, answers, answers)


def _one_document(
  row: Batch,
  tokens: np.ndarray,
  targets: np.ndarray,
  answers: np.ndarray,
  learned: np.ndarray,
) -> Batch:
  """A row of these tokens in one segment, padded as the given row is."""
  count = len(tokens)
  kept = np.where(learned, targets, NO_TARGET).astype(np.int32)
  made = (
    tokens,
    kept,
    learned.astype(np.float32),
    answers,
    np.arange(count, dtype=np.int32),
    np.ones(count, np.int32),
  )
  if count == len(row.tokens):  # of most rows: nothing to pad, which is slow
    return Batch(*made)
  room = (0, len(row.tokens) - count)
  return Batch(
    *(
      np.pad(x, room, constant_values=NO_TARGET if x is kept else 0)
      for x in made
    )
  )
