"""Retrieval rows made out of packed rows, by share.

Whether a row is one, and what it asks, is a function of (seed, length, number
of the row) alone: no worker, host or earlier row has a say.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ntk_jax.data import retrieval
from ntk_jax.data.batch import NO_TARGET, Batch
from ntk_jax.data.retrieval import Passkey, random_questions
from ntk_jax.data.settings import DataConfig
from ntk_jax.data.tokenize import Tokenizer
from ntk_jax.errors import ConfigError

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
    self._seed = config.seed
    self._asked = [source for source in every if source[1] > 0]
    self.shortest = max((source[2] for source in self._asked), default=2)

  def mix(self, batch: Batch, first_row: int) -> Batch:
    """The batch with its share of rows turned into retrieval rows.

    Shares hold to within a few rows over any stretch of the stream: row i is
    turned where the fractional part of i times the golden ratio says so. A row
    that is mostly padding stays as it is.

    Args:
      batch: rows of T tokens; not changed.
      first_row: number of its first row in the stream of rows of T tokens.

    Raises:
      ConfigError: rows too short for a source that is asked for.
    """
    rows, length = batch.tokens.shape
    if length < self.shortest:
      short = [name for name, _, least, _ in self._asked if length < least]
      raise ConfigError(
        f'length is {length}: rows of {", ".join(short)} need {self.shortest} '
        'tokens or more; start longer, or set their share to 0'
      )
    if not self._asked:
      return batch
    mixed = Batch(*(x.copy() for x in batch))
    for i in range(rows):
      make = self._source(first_row + i, int((batch.segments[i] > 0).sum()))
      if make is not None:
        rng = np.random.default_rng([self._seed, length, first_row + i])
        row = make(rng, Batch(*(x[i] for x in batch)))
        for whole, part in zip(mixed, row):
          whole[i] = part
    return mixed

  def _source(self, row: int, tokens: int) -> Source | None:
    """What a row is turned into, None for text."""
    place = row * _GOLDEN % 2**64 / 2**64
    for _, share, shortest, make in self._asked:
      if place < share:
        return make if tokens >= shortest else None
      place -= share
    return None


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
  learned = (row.weights > 0) & (row.segments == 1)
  learned = learned[:tokens] & (targets[0] != NO_TARGET)
  return _one_document(row, symbols[0], targets[0], answers, learned | answers)


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
  room = (0, len(row.tokens) - len(tokens))
  return Batch(
    np.pad(tokens, room),
    np.pad(
      np.where(learned, targets, NO_TARGET).astype(np.int32),
      room,
      constant_values=NO_TARGET,
    ),
    np.pad(learned.astype(np.float32), room),
    np.pad(answers, room),
    np.pad(np.arange(len(tokens), dtype=np.int32), room),
    (row.segments > 0).astype(np.int32),
  )
