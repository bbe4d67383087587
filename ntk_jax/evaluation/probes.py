"""What growth by quality asks of the model: held-out text at other lengths.

The targets are always the same tokens, and only the context before them
differs: so that losses at all lengths can be compared, and a difference of
two is what the context is worth.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Sequence

import numpy as np
from jax.sharding import Mesh

from ntk_jax.data.retrieval import SHORTEST_ROW
from ntk_jax.data.text import spread_rows
from ntk_jax.errors import unknown
from ntk_jax.evaluation.score import Symbols, TestRows, evaluate, read_rows
from ntk_jax.model.config import ModelConfig
from ntk_jax.model.params import Params
from ntk_jax.scheme import Scheme
from ntk_jax.typing import Int32, NDArray

PROBES = (
  'probe/loss',
  'probe/gain',
  'probe/ahead',
  'probe/recall',
  'probe/full',
  'probe/full_recall',
)
_AT_FULL_LENGTH = PROBES[-2:]


@dataclasses.dataclass(frozen=True)
class ProbeConfig:
  """What is probed while a model trains, and how often.

  Attributes:
    every: steps between probes; 0 probes only where a schedule checks.
    rows: held-out rows that every probe reads.
    window: tokens of context of 'probe/loss'; the shortest length of the run
      where that is less. A quarter of them are the targets of all probes.
    full: length of 'probe/full' and of the held-out rows; None is the run's.
    names: of `PROBES`, what is measured besides what a schedule watches; ()
      is what there is at the full length, if `every` asks for anything.
  """

  every: int = 0
  rows: int = 8
  window: int = 1024
  full: int | None = None
  names: tuple[str, ...] = ()

  def problems(self) -> list[str]:
    """What of it cannot be probed, in words.

    >>> ProbeConfig(rows=0).problems()
    ['rows is 0, must be at least 1']
    """
    wrong = [
      f'{name} is {getattr(self, name)}, must be at least {least}'
      for name, least in (('every', 0), ('rows', 1), ('window', 4))
      if getattr(self, name) < least
    ]
    if self.full is not None and self.full < 4:
      wrong.append(f'full is {self.full}, must be at least 4 tokens')
    return wrong + [
      str(unknown('probe', name, PROBES))
      for name in self.names
      if name not in PROBES
    ]


@dataclasses.dataclass(frozen=True, eq=False)
class Probes:
  """Measures a model on the same held-out targets at any length.

  With L(n) the mean loss in nats of the last quarter of a window's tokens,
  read with the n tokens before the last target as context (itself out),

      probe/loss         L(window), whatever the length of the stage
      probe/gain         L(length / 2) - L(length): what context is worth
      probe/ahead        L(next length) under the next stage's schemes
                         - L(length): what growing would cost
      probe/recall       share of hidden values found in rows of the length
      probe/full         mean loss of the second half of positions at the full
                         length, as `evaluate` takes it
      probe/full_recall  share of hidden values found in rows of that length

  One call reads rows * (window + length / 2 + length + next length), with
  recall another rows * length tokens: at 8 rows, a length of 1024 and a next
  of 2048 that is 45k tokens forward, the time of 15k in training. There is one
  executable per length, for text and questions alike, and the lengths are
  those of the stages but for half of the first, and the window.

  Attributes:
    model: shape of the decoder.
    text: held-out rows of ids, one token longer than the full length.
    window: tokens of context of 'probe/loss'.
    symbols: how retrieval is asked, as in `TestRows`; None asks nothing.
    names: what is measured.
    full_schemes: of the layers at the full length; None takes those of a call.
    mesh: devices that the model lies on, or None for one.
  """

  model: ModelConfig
  text: Int32[NDArray, 'rows full+1']
  window: int
  symbols: Symbols = None
  names: tuple[str, ...] = PROBES[:4]
  full_schemes: Sequence[Scheme] | None = None
  mesh: Mesh | None = None

  @classmethod
  def of(
    cls,
    config: ProbeConfig,
    model: ModelConfig,
    documents: Sequence[NDArray],
    *,
    shortest: int,
    full: int,
    watches: Collection[str] = (),
    symbols: Symbols = None,
    full_schemes: Sequence[Scheme] | None = None,
    mesh: Mesh | None = None,
  ) -> Probes:
    """Probes of a run.

    Args:
      config: settings.
      model: shape of the decoder.
      documents: ids of the held-out documents.
      shortest: length of the first stage.
      full: that of the last.
      watches: metrics that a schedule reads; those that are probes are
        measured besides `config.names`.
      symbols: how retrieval is asked; None for a model that never learns it.
      full_schemes: of the layers at the full length; None for those of a call.
      mesh: devices that the model lies on, or None for one.

    Raises:
      ConfigError: documents too short or too few for the rows.
    """
    full = config.full or full
    text = spread_rows(tuple(documents), full + 1, config.rows)
    asked = config.names or (_AT_FULL_LENGTH if config.every else ())
    wanted = {*asked, *watches}
    names = tuple(name for name in PROBES if name in wanted)
    window = min(config.window, shortest)
    return cls(model, text, window, symbols, names, full_schemes, mesh)

  @property
  def full(self) -> int:
    """The full length."""
    return self.text.shape[1] - 1

  @property
  def targets(self) -> int:
    """Tokens of every row whose loss is measured."""
    return max(1, self.window // 4)

  def __call__(
    self,
    params: Params,
    schemes: Sequence[Scheme],
    length: int,
    next_length: int | None = None,
    next_schemes: Sequence[Scheme] | None = None,
  ) -> dict[str, float]:
    """What is known of a model at a length, in nats per token or shares.

    Args:
      params: the model.
      schemes: of its layers at this length.
      length: tokens that the stage sees.
      next_length: of the stage after it; None at the full length.
      next_schemes: of the layers there; None for the same.

    Returns:
      By name what can be measured: nothing ahead at the full length, no recall
      without symbols or in rows too short for them.
    """
    found: dict[str, float] = {}
    here: dict[int, float] = {}

    def loss(context: int) -> float:
      if context not in here:
        here[context] = self._loss(params, schemes, context)
      return here[context]

    if 'probe/loss' in self.names:
      found['probe/loss'] = loss(self.window)
    if 'probe/gain' in self.names:
      found['probe/gain'] = loss(length // 2) - loss(length)
    if 'probe/ahead' in self.names and next_length is not None:
      ahead = self._loss(params, next_schemes or schemes, next_length)
      found['probe/ahead'] = ahead - loss(length)
    asks = self.symbols is not None and length >= SHORTEST_ROW
    if 'probe/recall' in self.names and asks:
      found['probe/recall'] = self._recall(params, schemes, length)
    if {'probe/full', 'probe/full_recall'} & set(self.names):
      found |= self._at_full_length(params, self.full_schemes or schemes)
    return found

  def work(self, length: int, next_length: int | None = None) -> int:
    """Tokens of forward passes that a call makes."""
    contexts: set[int] = set()
    for name, read in (
      ('probe/loss', {self.window}),
      ('probe/gain', {length // 2, length}),
      ('probe/ahead', {length} if next_length else set()),
    ):
      contexts |= read if name in self.names else set()
    tokens = sum(contexts)
    tokens += next_length or 0 if 'probe/ahead' in self.names else 0
    asks = self.symbols is not None
    if 'probe/recall' in self.names and asks and length >= SHORTEST_ROW:
      tokens += length
    if {'probe/full', 'probe/full_recall'} & set(self.names):
      tokens += self.full * (1 + asks)
    return tokens * len(self.text)

  def _read(
    self, params: Params, schemes: Sequence[Scheme], *rows: NDArray
  ) -> tuple[NDArray, NDArray]:
    return read_rows(
      params,
      self.model,
      schemes,
      *rows,
      symbols=self.symbols,
      mesh=self.mesh,
    )

  def _loss(
    self, params: Params, schemes: Sequence[Scheme], context: int
  ) -> float:
    """Mean loss of the targets, in nats."""
    text = self.text[:, self.full - context :]
    bits, _ = self._read(params, schemes, text[:, :-1], text[:, 1:])
    return _nats(bits[:, -self.targets :])

  def _recall(
    self, params: Params, schemes: Sequence[Scheme], length: int
  ) -> float:
    """Share of the hidden values that are found."""
    tokens, targets, asked = self._rows(length).questions(length)
    _, hits = self._read(params, schemes, tokens, targets)
    return float(np.take_along_axis(hits, asked, axis=1).mean())

  def _at_full_length(
    self, params: Params, schemes: Sequence[Scheme]
  ) -> dict[str, float]:
    scores = evaluate(
      params, self.model, schemes, self._rows(self.full), mesh=self.mesh
    )
    found = {'probe/full': _nats(scores.loss)}
    if self.symbols is not None:
      found['probe/full_recall'] = float(scores.hits.mean())
    return {name: x for name, x in found.items() if name in self.names}

  def _rows(self, length: int) -> TestRows:
    return TestRows(self.text, 0, (length,), self.symbols)


def _nats(bits: NDArray) -> float:
  return float(np.mean(bits, dtype=np.float64)) * math.log(2.0)
