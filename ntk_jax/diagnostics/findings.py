"""What was measured: one record per number, and ways to ask for some."""

from __future__ import annotations

import csv
import dataclasses
import functools
import io
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from ntk_jax.typing import Float64, NDArray


class Record(NamedTuple):
  """One number.

  Attributes:
    stage: 'start', 'after S steps' or 'trained'.
    variant: what was varied.
    inputs: 'text' or 'independent'.
    quantity: what it is.
    part: 'layer 0', 'layer 0 head 1', or a group of parameters.
    length: n.
    seed: of the parameters.
    value: the number.
  """

  stage: str
  variant: str
  inputs: str
  quantity: str
  part: str
  length: int
  seed: int
  value: float


@dataclasses.dataclass(frozen=True)
class Findings:
  """All records of a diagnosis.

  >>> records = [
  ...   Record('start', '1/d', 'text', 'rho', 'layer 0', n, s, n * (1.0 + s))
  ...   for n in (4, 8) for s in (0, 1)]
  >>> found = Findings(records)
  >>> found.mean('start', '1/d', 'rho', 'layer 0').tolist()
  [6.0, 12.0]
  """

  records: Sequence[Record]

  @functools.cached_property
  def _index(self) -> dict[tuple[str, ...], dict[tuple[int, int], float]]:
    index: dict[tuple[str, ...], dict[tuple[int, int], float]] = {}
    for r in self.records:
      numbers = index.setdefault(tuple(map(str, r[:5])), {})
      numbers[r.seed, r.length] = r.value
    return index

  def stages(self) -> list[str]:
    """Names of the stages, in order."""
    return list(dict.fromkeys(r.stage for r in self.records))

  def variants(
    self, stage: str, quantity: str, inputs: str = 'text'
  ) -> list[str]:
    """The variants that a quantity was measured of."""
    return list(
      dict.fromkeys(
        r.variant
        for r in self.records
        if (r.stage, r.quantity, r.inputs) == (stage, quantity, inputs)
      )
    )

  def parts(self, stage: str, variant: str, quantity: str) -> list[str]:
    """The layers, heads or groups that a quantity was measured of."""
    return list(
      dict.fromkeys(
        r.part
        for r in self.records
        if (r.stage, r.variant, r.quantity) == (stage, variant, quantity)
      )
    )

  def lengths(self, stage: str, variant: str, quantity: str) -> list[int]:
    """The lengths that a quantity was measured at."""
    return sorted(
      {
        r.length
        for r in self.records
        if (r.stage, r.variant, r.quantity) == (stage, variant, quantity)
      }
    )

  def each(
    self,
    stage: str,
    variant: str,
    quantity: str,
    part: str,
    inputs: str = 'text',
  ) -> Float64[NDArray, 'seeds lengths']:
    """The numbers by seed and length; empty where nothing was measured."""
    found = self._index.get((stage, variant, inputs, quantity, part), {})
    seeds, lengths = (sorted({k[i] for k in found}) for i in (0, 1))
    return np.array(
      [[found[seed, n] for n in lengths] for seed in seeds], np.float64
    )

  def mean(
    self,
    stage: str,
    variant: str,
    quantity: str,
    part: str,
    inputs: str = 'text',
  ) -> Float64[NDArray, ' lengths']:
    """The same, mean over seeds."""
    found = self.each(stage, variant, quantity, part, inputs)
    return found.mean(axis=0) if found.size else found

  def to_csv(self) -> str:
    """A spreadsheet, one record a row."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(Record._fields)
    writer.writerows((*r[:-1], f'{r.value:.5g}') for r in self.records)
    return text.getvalue()

  @classmethod
  def from_csv(cls, text: str) -> Findings:
    """Of what `to_csv` wrote."""
    _, *rows = csv.reader(io.StringIO(text))
    return cls(
      [
        Record(*names, int(length), int(seed), float(value))  # pyrefly: ignore[bad-argument-type, bad-argument-count]
        for *names, length, seed, value in rows
      ]
    )


def log_slope(lengths: Iterable[int], values: Iterable[float]) -> float:
  """Slope of ln value over ln n, by least squares.

  >>> round(log_slope([10, 100, 1000], [3.0, 0.3, 0.03]), 6)
  -1.0
  """
  x, y = np.log(list(lengths)), np.log(list(values))
  return float(np.polyfit(x, y, 1)[0])
