"""Key-value retrieval hidden in text: the task that tells methods apart.

A needle is one symbol that stands for (key, value) and overwrites a byte; a
question is one symbol (key) that overwrites a later byte; the value is only
the target there and is never fed, so nothing nearer can be copied. Symbols
have ids above the bytes, so any corpus will do.
"""

from __future__ import annotations

import numpy as np

from ntk_jax.data.text import BYTES
from ntk_jax.typing import Int32, NDArray

KEYS = 8
VALUES = 16
_NEEDLE = BYTES
_QUESTION = _NEEDLE + KEYS * VALUES
VALUE = _QUESTION + KEYS  # the 16 ids of answers, the last of the vocabulary
VOCAB = VALUE + VALUES
NO_TARGET = -1
SHORTEST_ROW = 4 * KEYS  # half text, half symbols


def next_byte_targets(
  rows: Int32[NDArray, 'B T+1'],
) -> tuple[Int32[NDArray, 'B T'], Int32[NDArray, 'B T']]:
  """Inputs and next-byte targets of text rows."""
  return rows[:, :-1], rows[:, 1:]


def random_questions(
  rng: np.random.Generator, rows: Int32[NDArray, 'B T+1']
) -> tuple[Int32[NDArray, 'B T'], Int32[NDArray, 'B T']]:
  """Training rows: every key hidden and asked once, at random places.

  Of 2 * KEYS places drawn at random, in random pairs, the earlier holds the
  needle and the later asks for it.

  Args:
    rng: where the randomness comes from.
    rows: text to hide in, one byte longer than the rows that come back.

  Returns:
    Tokens and targets; a target is the value at a question, -1 where the
    next byte was overwritten, and the next byte elsewhere.
  """
  B, T = rows.shape[0], rows.shape[1] - 1
  places = rng.permuted(np.tile(np.arange(T), (B, 1)), axis=1)
  places = np.sort(places[:, : 2 * KEYS].reshape(B, KEYS, 2), axis=-1)
  return _hide(rng, rows, places[..., 0], places[..., 1])


def questions_by_depth(
  rng: np.random.Generator, rows: Int32[NDArray, 'B T+1']
) -> tuple[
  Int32[NDArray, 'B T'], Int32[NDArray, 'B T'], Int32[NDArray, 'B KEYS']
]:
  """Test rows: one needle in each of KEYS depth bins, all asked at the end.

  The first 7/8 of a row is cut into KEYS bins with one needle each (keys in
  random order); the questions stand at random places of the last eighth, or
  of the last KEYS tokens where an eighth holds fewer.

  Args:
    rng: where the randomness comes from.
    rows: text to hide in, one byte longer than the rows that come back.

  Returns:
    Tokens, targets, and the place of the question about each bin's needle,
    bin 0 first (the oldest text).
  """
  B, T = rows.shape[0], rows.shape[1] - 1
  tail = max(KEYS, T // 8)
  edges = np.linspace(0, T - tail, KEYS + 1).astype(np.int64)
  needles = rng.integers(edges[:-1], edges[1:], size=(B, KEYS))
  asked = rng.permuted(np.tile(np.arange(T - tail, T), (B, 1)), axis=1)
  asked = asked[:, :KEYS]
  tokens, targets = _hide(rng, rows, needles, asked)
  return tokens, targets, asked.astype(np.int32)


def _hide(
  rng: np.random.Generator, rows: NDArray, needles: NDArray, asked: NDArray
) -> tuple[NDArray, NDArray]:
  """Writes needles and questions over the bytes at the given places."""
  B = rows.shape[0]
  keys = rng.permuted(np.tile(np.arange(KEYS), (B, 1)), axis=1)
  values = rng.integers(VALUES, size=(B, KEYS))
  row = np.arange(B)[:, None]
  symbols = rows.copy()
  symbols[row, needles] = _NEEDLE + keys * VALUES + values
  symbols[row, asked] = _QUESTION + keys
  tokens = symbols[:, :-1]
  targets = np.where(symbols[:, 1:] < BYTES, symbols[:, 1:], NO_TARGET)
  targets[row, asked] = VALUE + values
  return tokens.astype(np.int32), targets.astype(np.int32)
