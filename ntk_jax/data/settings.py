"""The settings of a data pipeline, all checked at once."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from ntk_jax.data import retrieval
from ntk_jax.data.retrieval import Passkey
from ntk_jax.data.tokenize import Tokenizer
from ntk_jax.errors import ConfigError
from ntk_jax.typing import Int, NDArray

_SHARES = ('key_value', 'passkey')
_LEAST = {
  'max_length': 2,
  'batch_rows': 1,
  'seed': 0,
  'workers': 0,
  'threads': 0,
  'prefetch': 1,
}


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """What to read, how to pack it, and what to mix in.

  Attributes:
    corpus: a file, folder, `.jsonl` file or glob pattern; None is the sources
      of the running Python's standard library.
    text_field: the field of a JSON line that holds the text.
    tokenizer: a JSON file of the tokenizers library; None is bytes.
    end_of_text: the token to add after each document; None adds none.
    max_length: tokens of a packed row, the longest row there will be.
    batch_rows: packed rows of a batch, on all hosts together.
    seed: of the order of rows and of the retrieval rows.
    key_value: share of the rows in which keys and their values are hidden.
    passkey: share of the rows that ask for a number hidden in their text.
    answer_weight: what the answers of a retrieval row weigh together in the
      loss, as a share of its tokens; None is 1 for each, which is little in
      long rows.
    long_share: share of the tokens of each source (a top folder of the
      corpus, or a `.jsonl` file beside such folders) that long documents are
      raised to, by reading them more often and others less; None reads each
      once.
    long_from: tokens; a document that has more is long.
    vocab: ids that the model has; None leaves that unchecked.
    workers: processes that make rows; 0 is none.
    threads: threads that make rows, in every such process; 0 is none.
    prefetch: batches that are made ahead by each process.
  """

  corpus: str | None = None
  text_field: str = 'text'
  tokenizer: str | None = None
  end_of_text: str | None = None
  max_length: int = 2048
  batch_rows: int = 8
  seed: int = 0
  key_value: float = 0.0
  passkey: float = 0.0
  answer_weight: float | None = None
  long_share: float | None = None
  long_from: int | None = None
  vocab: int | None = None
  workers: int = 0
  threads: int = 1
  prefetch: int = 2

  def validate(
    self,
    tokenizer: Tokenizer | None = None,
    lengths: Int[NDArray, 'documents'] | None = None,
    hosts: int = 1,
  ) -> None:
    """Raises ConfigError that names every wrong field.

    Args:
      tokenizer: the tokenizer, once it is loaded.
      lengths: tokens of each document, once they are known.
      hosts: how many hosts share a batch.
    """
    wrong = self._wrong_numbers()
    if not wrong:
      if self.batch_rows % hosts:
        wrong.append(
          f'batch_rows is {self.batch_rows}: {hosts} hosts take equal shares '
          'of a batch; use a multiple'
        )
      if tokenizer is not None:
        wrong += self._wrong_tokenizer(tokenizer)
      if lengths is not None:
        wrong += self._wrong_lengths(lengths)
    if wrong:
      raise ConfigError('; '.join(wrong))

  def _wrong_numbers(self) -> list[str]:
    wrong = []
    optional = {
      name: 1
      for name in ('vocab', 'long_from')
      if getattr(self, name) is not None
    }
    least = _LEAST | optional
    for name, low in least.items():
      value = getattr(self, name)
      if isinstance(value, bool) or not isinstance(value, int | np.integer):
        wrong.append(f'{name} is {value!r}: it is an integer, {low} or more')
      elif value < low:
        wrong.append(f'{name} is {value}, must be at least {low}')
    wrong += self._wrong_weight()
    shares = [getattr(self, name) for name in _SHARES]
    for name, share in zip(_SHARES, shares):
      if not (_is_number(share) and 0 <= share <= 1):
        wrong.append(f'{name} is {share!r}: it is a share of rows, in [0, 1]')
    if not wrong and sum(shares) > 1:
      wrong.append(
        f'{" + ".join(_SHARES)} is {sum(shares):g}: shares of the same rows, '
        'together at most 1'
      )
    long = self.long_share
    if long is not None and not (_is_number(long) and 0 < long <= 1):
      wrong.append(
        f'long_share is {long!r}: it is a share of tokens, above 0, at most 1'
      )
    if (long is None) != (self.long_from is None):
      wrong.append(
        f'long_share is {long} and long_from is {self.long_from}: give both, '
        'the share of long documents and what is long, or neither'
      )
    if not self.text_field:
      wrong.append("text_field is '': it names the field of a JSON line")
    return wrong

  def _wrong_lengths(self, lengths: Int[NDArray, 'documents']) -> list[str]:
    """What does not go with the lengths of the documents."""
    longest = np.max(lengths, initial=0)
    if longest < 2:
      return [
        f'corpus has {len(lengths)} documents for training, none of 2 '
        'tokens: there is no next token to learn; name longer documents'
      ]
    if self.long_from is not None and longest <= self.long_from:
      return [
        f'long_from is {self.long_from}: the longest document for training '
        f'has {longest} tokens, none is long; lower it, or name longer ones'
      ]
    return []

  def _wrong_weight(self) -> list[str]:
    weight = self.answer_weight
    if weight is None or (math.isfinite(weight) and weight > 0):
      return []
    return [
      f'answer_weight is {weight}: a share of the tokens of a row, above 0, or '
      'None for a weight of 1 for each answer'
    ]

  def _wrong_tokenizer(self, tokenizer: Tokenizer) -> list[str]:
    """What does not go with a tokenizer's ids."""
    wrong = []
    symbols = retrieval.SYMBOLS if self.key_value else 0
    needed = tokenizer.vocab + symbols
    if self.vocab is not None and self.vocab < needed:
      more = f' and {symbols} symbols of key_value' if symbols else ''
      wrong.append(
        f'vocab is {self.vocab}: tokenizer {tokenizer.name!r} has '
        f'{tokenizer.vocab} ids{more}; give the model {needed} or more'
      )
    if self.end_of_text is not None:
      try:
        tokenizer.token_id(self.end_of_text)
      except ConfigError as error:
        wrong.append(str(error))
    shortest = {
      'key_value': retrieval.SHORTEST_ROW,
      'passkey': Passkey(tokenizer.encode).shortest,
    }
    for name in _SHARES:
      if getattr(self, name) and self.max_length < shortest[name]:
        wrong.append(
          f'max_length is {self.max_length}: rows of {name} need '
          f'{shortest[name]} tokens or more'
        )
    return wrong


def _is_number(value: object) -> bool:
  return isinstance(value, int | float) and not isinstance(value, bool)
