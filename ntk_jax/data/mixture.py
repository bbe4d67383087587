"""Training batches: text rows and retrieval rows, mixed by share.

Batch `step` is a pure function of (corpus, seed, step, shape): a resumed run
sees what an uninterrupted one sees, and nothing of the data needs saving.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from ntk_jax.data import retrieval
from ntk_jax.data.batch import Batch
from ntk_jax.data.text import BYTES, Corpus, RandomRows
from ntk_jax.errors import ConfigError

_ANSWERS = 0.5  # weight of retrieval answers to that of text, as sums


@dataclasses.dataclass(frozen=True)
class Mixture:
  """Draws batches of fixed shape from a corpus.

  Attributes:
    corpus: where the text comes from.
    rows: rows per batch; the second half of them are retrieval rows.
    length: tokens per row.
    seed: of the draw.
    recall: whether half of the rows are retrieval rows; without, all is text.
  """

  corpus: Corpus
  rows: int
  length: int
  seed: int
  recall: bool = True
  _draw: RandomRows = dataclasses.field(init=False, repr=False, compare=False)

  def __post_init__(self) -> None:
    short = self.rows < 2 or self.length < retrieval.SHORTEST_ROW
    if self.recall and short:
      raise ConfigError(
        f'a batch of {self.rows} rows of {self.length} tokens: it takes at '
        f'least 2 rows (text and retrieval) of {retrieval.SHORTEST_ROW} tokens'
      )
    draw = RandomRows(self.corpus.train, self.length + 1)
    object.__setattr__(self, '_draw', draw)

  def batch(self, step: int) -> Batch:
    """The batch of one step.

    The weights of text add up to 1, those of answers to a half. Text is every
    target that is a byte, in both halves; where a symbol overwrote the next
    byte nothing is learned.
    """
    rng = np.random.default_rng([self.seed, self.length, step])
    rows = self._draw(rng, self.rows)
    if not self.recall:
      tokens, targets = retrieval.next_byte_targets(rows)
      even = np.full(targets.shape, 1 / targets.size, np.float32)
      return Batch(tokens, targets, even, np.zeros(targets.shape, bool))
    half = self.rows // 2
    text = retrieval.next_byte_targets(rows[:half])
    hidden = retrieval.random_questions(rng, rows[half:])
    tokens, targets = (np.concatenate(pair) for pair in zip(text, hidden))
    is_text = (targets >= 0) & (targets < BYTES)
    is_value = targets >= retrieval.VALUE
    weights = is_text / is_text.sum() + _ANSWERS * is_value / is_value.sum()
    return Batch(tokens, targets, weights.astype(np.float32), is_value)

  def stream(self, state: dict[str, Any] | None = None) -> MixtureStream:
    """Batches from step 0, or from where a stream stood."""
    return MixtureStream(self, 0 if state is None else state['step'])


class MixtureStream:
  """The batches of a mixture in order."""

  def __init__(self, mixture: Mixture, step: int) -> None:
    """Starts at a step."""
    self._mixture, self._step = mixture, step

  def __next__(self) -> Batch:
    """The batch of the next step."""
    self._step += 1
    return self._mixture.batch(self._step - 1)

  def state(self) -> dict[str, Any]:
    """The step that comes next."""
    return {'step': self._step}

  def close(self) -> None:
    """Nothing is read ahead."""
