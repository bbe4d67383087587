"""Retrieval hidden in text: the tasks that tell methods apart.

Key-value recall: a needle is one symbol that stands for (key, value) and
overwrites a byte; a question is one symbol (key) that overwrites a later byte;
the value is only the target there and is never fed, so nothing nearer can be
copied. Symbols have ids above the text's, so any corpus will do.

Where a model knows no such symbols a needle is a pair of its own tokens, key
then value, and the question the key again: what follows it is recalled from
the text, as a model that has learned to read does unasked.

Passkey: a sentence with a number stands somewhere in the text, and the row
ends with a question for it.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

import numpy as np

from ntk_jax.data.pack import NO_TARGET
from ntk_jax.data.text import BYTES
from ntk_jax.errors import ConfigError
from ntk_jax.typing import Bool, Int, Int32, NDArray

KEYS = 8
VALUES = 16
# Symbols follow the ids of the text: needles, questions, then 16 answers.
_QUESTIONS = KEYS * VALUES
ANSWERS = _QUESTIONS + KEYS
SYMBOLS = ANSWERS + VALUES
VALUE = BYTES + ANSWERS  # the first answer, where the text is bytes
VOCAB = BYTES + SYMBOLS
SHORTEST_ROW = 4 * KEYS  # half text, half symbols

_SAYS = ('\nThe pass key is ', '. Keep it in mind.\n')
_ASKS = '\nWhat is the pass key? The pass key is '
_DIGITS = 5


def next_byte_targets(
  rows: Int32[NDArray, 'B T+1'],
) -> tuple[Int32[NDArray, 'B T'], Int32[NDArray, 'B T']]:
  """Inputs and next-byte targets of text rows."""
  return rows[:, :-1], rows[:, 1:]


def random_questions(
  rng: np.random.Generator, rows: Int32[NDArray, 'B T+1'], first: int = BYTES
) -> tuple[Int32[NDArray, 'B T'], Int32[NDArray, 'B T']]:
  """Training rows: every key hidden and asked once, at random places.

  Of 2 * KEYS places drawn at random, in random pairs, the earlier holds the
  needle and the later asks for it.

  Args:
    rng: where the randomness comes from.
    rows: text to hide in, one token longer than the rows that come back.
    first: the first id of the symbols, above those of the text.

  Returns:
    Tokens and targets; a target is the value at a question, -1 where the
    next token was overwritten, and the next token elsewhere.
  """
  B, T = rows.shape[0], rows.shape[1] - 1
  places = rng.permuted(np.tile(np.arange(T), (B, 1)), axis=1)
  places = np.sort(places[:, : 2 * KEYS].reshape(B, KEYS, 2), axis=-1)
  return _hide(rng, rows, places[..., 0], places[..., 1], first)


def questions_by_depth(
  rng: np.random.Generator, rows: Int32[NDArray, 'B T+1'], first: int = BYTES
) -> tuple[
  Int32[NDArray, 'B T'], Int32[NDArray, 'B T'], Int32[NDArray, 'B KEYS']
]:
  """Test rows: one needle in each of KEYS depth bins, all asked at the end.

  The first 7/8 of a row is cut into KEYS bins with one needle each (keys in
  random order); the questions stand at random places of the last eighth, or
  of the last KEYS tokens where an eighth holds fewer.

  Args:
    rng: where the randomness comes from.
    rows: text to hide in, one token longer than the rows that come back.
    first: the first id of the symbols, above those of the text.

  Returns:
    Tokens, targets, and the place of the question about each bin's needle,
    bin 0 first (the oldest text).
  """
  B, T = rows.shape[0], rows.shape[1] - 1
  needles, asked = _places(rng, B, T, 1)
  tokens, targets = _hide(rng, rows, needles, asked, first)
  return tokens, targets, asked.astype(np.int32)


def _hide(
  rng: np.random.Generator,
  rows: NDArray,
  needles: NDArray,
  asked: NDArray,
  first: int,
) -> tuple[NDArray, NDArray]:
  """Writes needles and questions over the text at the given places."""
  B = rows.shape[0]
  keys = rng.permuted(np.tile(np.arange(KEYS), (B, 1)), axis=1)
  values = rng.integers(VALUES, size=(B, KEYS))
  row = np.arange(B)[:, None]
  symbols = rows.copy()
  symbols[row, needles] = first + keys * VALUES + values
  symbols[row, asked] = first + _QUESTIONS + keys
  tokens = symbols[:, :-1]
  targets = np.where(symbols[:, 1:] < first, symbols[:, 1:], NO_TARGET)
  targets[row, asked] = first + ANSWERS + values
  return tokens.astype(np.int32), targets.astype(np.int32)


class Pairs(NamedTuple):
  """Tokens of a vocabulary that stand for keys and values.

  Attributes:
    keys: ids of the KEYS keys.
    values: ids of the VALUES values.
  """

  keys: tuple[int, ...]
  values: tuple[int, ...]


def choose_pairs(
  vocab: int,
  decode: Callable[[Iterable[int]], str],
  special: Collection[int],
  text: Int[NDArray, 'n'],
) -> Pairs:
  """Plain words that the text uses least, those of low ids first.

  Ids of a vocabulary are given roughly by how often a token was met when it
  was made, so low ones are tokens that the model knows. What is no word of
  two or more letters is taken only where words do not suffice.

  Args:
    vocab: ids are below it.
    decode: the text of ids.
    special: ids that are no text.
    text: where the pairs will be hidden.

  Raises:
    ConfigError: a vocabulary of too few tokens.

  >>> words = '? ab cd ef gh ij kl mn op qr st uv wx yz'.split()
  >>> words = dict(enumerate(words))
  >>> words |= {i: 'x' + chr(83 + i) for i in range(14, 30)}
  >>> pairs = choose_pairs(30, lambda i: words[i[0]], {1}, np.array([2, 2, 3]))
  >>> pairs.keys, pairs.values[:2]
  ((4, 5, 6, 7, 8, 9, 10, 11), (12, 13))
  """
  used = collections.Counter(np.asarray(text).tolist())
  ids = [i for i in range(vocab) if i not in special]
  words = {i for i in ids if _is_word(decode([i]))}
  ids.sort(key=lambda i: (i not in words, used[i], i))
  if len(ids) < KEYS + VALUES:
    raise ConfigError(
      f'the vocabulary has {len(ids)} tokens of text, {KEYS + VALUES} are '
      'needed to ask for what is hidden'
    )
  return Pairs(tuple(ids[:KEYS]), tuple(ids[KEYS : KEYS + VALUES]))


def _is_word(text: str) -> bool:
  word = text.removeprefix(' ')
  return len(word) > 1 and word.isascii() and word.isalpha()


def pairs_by_depth(
  rng: np.random.Generator, rows: Int32[NDArray, 'B T+1'], pairs: Pairs
) -> tuple[
  Int32[NDArray, 'B T'], Int32[NDArray, 'B T'], Int32[NDArray, 'B KEYS']
]:
  """`questions_by_depth` whose needles are two tokens: a key, then its value.

  Keys and values that the text itself has are not taken out of it.

  Args:
    rng: where the randomness comes from.
    rows: text to hide in, one token longer than the rows that come back.
    pairs: tokens of keys and values.

  Returns:
    Tokens, targets, and the place of the question about each bin's needle.
  """
  B, T = rows.shape[0], rows.shape[1] - 1
  needles, asked = _places(rng, B, T, 2)
  keys = rng.permuted(np.tile(np.arange(KEYS), (B, 1)), axis=1)
  keys = np.asarray(pairs.keys)[keys]
  values = np.asarray(pairs.values)[rng.integers(VALUES, size=(B, KEYS))]
  row = np.arange(B)[:, None]
  shown = rows.copy()
  shown[row, needles], shown[row, needles + 1] = keys, values
  shown[row, asked] = keys
  targets = shown[:, 1:].copy()
  targets[row, asked] = values
  return (
    shown[:, :-1].astype(np.int32),
    targets.astype(np.int32),
    asked.astype(np.int32),
  )


def _places(
  rng: np.random.Generator, rows: int, length: int, size: int
) -> tuple[NDArray, NDArray]:
  """Where needles of a size begin, one in each bin, and where one asks."""
  tail = max(KEYS, length // 8)
  edges = np.linspace(0, length - tail, KEYS + 1).astype(np.int64)
  needles = rng.integers(edges[:-1], edges[1:] + 1 - size, size=(rows, KEYS))
  asked = rng.permuted(
    np.tile(np.arange(length - tail, length), (rows, 1)), axis=1
  )
  return needles, asked[:, :KEYS]


class Passkey:
  """A number of five digits said once in a text, and asked at its end.

  Attributes:
    shortest: tokens of a row that is a quarter text.

  Source: the task is that of Mohtashami and Jaggi 2023, arXiv:2305.16300,
  section 4.2; its sentences are other ones.
  """

  def __init__(self, encode: Callable[[str], Int[NDArray, 'n']]) -> None:
    """Encodes the sentences, and every digit by itself."""
    self._says = tuple(encode(part) for part in _SAYS)
    self._asks = encode(_ASKS)
    self._digits = [encode(digit) for digit in '0123456789']
    number = _DIGITS * max(map(len, self._digits))
    sentences = sum(map(len, self._says)) + len(self._asks) + 2 * number
    self.shortest = -(-4 * sentences // 3)

  def hide(
    self, rng: np.random.Generator, text: Int32[NDArray, 'T']
  ) -> tuple[Int32[NDArray, 'T'], Int32[NDArray, 'T'], Bool[NDArray, 'T']]:
    """One row: text with the number at a random place, and the question.

    Args:
      rng: where the randomness comes from.
      text: to hide in, at least `shortest` tokens; its end makes room for the
        sentences.

    Returns:
      Tokens, next-token targets, and which targets are digits of the answer:
      the last ones, the last of all only a target.
    """
    digits = rng.integers(10, size=_DIGITS)
    number = np.concatenate([self._digits[digit] for digit in digits])
    needle = np.concatenate([self._says[0], number, self._says[1]])
    end = np.concatenate([self._asks, number])
    kept = len(text) + 1 - len(needle) - len(end)
    place = rng.integers(kept + 1)
    row = [text[:place], needle, text[place:kept], end]
    row = np.concatenate(row).astype(np.int32)
    answers = np.arange(len(text)) >= len(text) - len(number)
    return row[:-1], row[1:], answers
