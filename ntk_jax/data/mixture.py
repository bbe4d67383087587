"""Training batches: text rows and retrieval rows, mixed by share.

Batch `step` is a pure function of (corpus, seed, step, shape): a resumed run
sees what an uninterrupted one sees, and nothing of the data needs saving.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from ntk_jax.data import retrieval
from ntk_jax.data.text import BYTES, Corpus, RandomRows
from ntk_jax.errors import ConfigError
from ntk_jax.typing import Float32, Int32, NDArray


class Batch(NamedTuple):
  """Rows with two weightings of their targets, each of sum 1."""

  tokens: Int32[NDArray, 'B T']
  targets: Int32[NDArray, 'B T']
  text: Float32[NDArray, 'B T']
  retrieval: Float32[NDArray, 'B T']


@dataclasses.dataclass(frozen=True)
class Mixture:
  """Draws batches of fixed shape from a corpus.

  Attributes:
    corpus: where the text comes from.
    rows: rows per batch; the second half of them are retrieval rows.
    length: tokens per row.
    seed: of the draw.
  """

  corpus: Corpus
  rows: int
  length: int
  seed: int
  _draw: RandomRows = dataclasses.field(init=False, repr=False, compare=False)

  def __post_init__(self) -> None:
    if self.rows < 2 or self.length < retrieval.SHORTEST_ROW:
      raise ConfigError(
        f'a batch of {self.rows} rows of {self.length} tokens: it takes at '
        f'least 2 rows (text and retrieval) of {retrieval.SHORTEST_ROW} tokens'
      )
    draw = RandomRows(self.corpus.train, self.length + 1)
    object.__setattr__(self, '_draw', draw)

  def batch(self, step: int) -> Batch:
    """The batch of one step.

    Text weighs every target that is a byte, in both halves; retrieval weighs
    the questions. Where a symbol overwrote the next byte, neither does.
    """
    rng = np.random.default_rng([self.seed, self.length, step])
    rows = self._draw(rng, self.rows)
    half = self.rows // 2
    text = retrieval.next_byte_targets(rows[:half])
    hidden = retrieval.random_questions(rng, rows[half:])
    tokens, targets = (np.concatenate(pair) for pair in zip(text, hidden))
    is_text = (targets >= 0) & (targets < BYTES)
    is_value = targets >= retrieval.VALUE
    return Batch(
      tokens,
      targets,
      (is_text / is_text.sum()).astype(np.float32),
      (is_value / is_value.sum()).astype(np.float32),
    )
