"""One comparison of a result, as sentences and tables look at it."""

from __future__ import annotations

from typing import NamedTuple

from ntk_jax.report.phrases import Plain

CONTROL = 'none'  # the unextended model; tuned, plain continuation


class Part(NamedTuple):
  """One comparison of a result: without training, or fine-tuned."""

  result: Plain
  answer: Plain
  rows: list[Plain]
  tuned: bool

  @classmethod
  def compared(cls, result: Plain) -> Part:
    """The methods without training."""
    part = result['compared']
    return cls(result, part['answer'], part['rows'], False)

  @classmethod
  def fine_tuned(cls, result: Plain) -> Part:
    """The fine-tuned methods and plain continuation."""
    part = result['tuned']
    return cls(result, part['answer'], part['rows'], True)

  @property
  def ranked(self) -> list[Plain]:
    """The rows that have a place."""
    return [row for row in self.rows if row['group'] is not None]

  @property
  def train(self) -> str:
    """The length of training, in words."""
    return f'{self.result["lengths"]["train"]:,} tokens'

  @property
  def target(self) -> str:
    """The target length, in words."""
    return f'{self.result["lengths"]["target"]:,} tokens'

  def row(self, name: str) -> Plain:
    """The row of a name."""
    return next(row for row in self.rows if row['name'] == name)

  def loss(self, row: Plain) -> Plain:
    """Loss at the target, with its interval."""
    lengths = self.result['lengths']
    return row['loss'][lengths['all'].index(lengths['target'])]

  def short(self, row: Plain) -> str:
    """The row as sentences name it: what a user types, or the control."""
    plain = self.tuned and row['name'] == CONTROL
    return 'plain continuation' if plain else f'`{row["name"]}`'

  def full(self, row: Plain) -> str:
    """The row with what its name stands for."""
    plain = self.tuned and row['name'] == CONTROL
    return self.short(row) if plain else f'{self.short(row)}: {row["label"]}'
