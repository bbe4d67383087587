"""Held-out loss against what it cost: pure functions of a run's lines.

A run's lines are those of its metrics.jsonl, one a step; tokens and seconds
are counted up to the end of their step, over sessions. What is measured between
steps, on held-out rows, is in their seconds only where training needs it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ntk_jax.typing import Float64, NDArray

Lines = Sequence[Mapping[str, Any]]
COSTS = ('tokens', 'cpu', 'steady', 'wall')
PROBED = LOSS, RECALL = 'probe/full', 'probe/full_recall'
# What of a line says which executable ran its step.
_KIND = ('length', 'row_length', 'rows', 'kept')


class Curve(NamedTuple):
  """The probes of a run, in order.

  Attributes:
    steps: steps done at each probe.
    loss: held-out bits per token in the second half of the full length.
    recall: share of hidden values found there; NaN where nothing is asked.
    costs: by name of `COSTS`, what was spent until then: tokens, CPU-seconds,
      CPU-seconds without compiling (see `steady`), seconds on the clock.
  """

  steps: NDArray
  loss: Float64[NDArray, ' probes']
  recall: Float64[NDArray, ' probes']
  costs: dict[str, Float64[NDArray, ' probes']]


class Spread(NamedTuple):
  """A value over seeds; one that is None was never reached.

  Attributes:
    median: the middle one, a value that was not reached counting as the
      largest; None if that one is not.
    low: the smallest.
    high: the largest; None if one was not reached.
    reached: how many were.
    of: how many seeds there are.
  """

  median: float | None
  low: float | None
  high: float | None
  reached: int
  of: int

  def plain(self) -> dict[str, float | int | None]:
    """As a JSON-able mapping, to six digits after the point."""
    return {
      name: round(x, 6) if isinstance(x, float) else x
      for name, x in self._asdict().items()
    }


def curve(lines: Lines, measures: bool = False) -> Curve:
  """The probes of a run with what they cost.

  Args:
    lines: of the run.
    measures: whether its schedule reads the probes, so that their time is a
      part of its own.

  >>> lines = [
  ...   {'step': i, 'tokens': 8 * i + 8, 'cpu_seconds': i + 1.0, 'seconds': i,
  ...    'length': 4} for i in range(4)]
  >>> for i in (1, 3):
  ...   lines[i] |= {'probe/full': math.log(8 / i), 'probe/full_recall': 0.5}
  >>> found = curve(lines)
  >>> found.steps.tolist(), found.loss.round(3).tolist()
  ([2, 4], [3.0, 1.415])
  >>> found.costs['tokens'].tolist(), found.costs['steady'].tolist()
  ([16.0, 32.0], [2.0, 4.0])
  """
  at = [i for i, line in enumerate(lines) if line.get(LOSS) is not None]
  cpu, wall = _column(lines, 'cpu_seconds'), _column(lines, 'seconds')
  kinds = [tuple(map(line.get, _KIND)) for line in lines]
  aside = [
    _column(lines, name) if measures else 0.0
    for name in ('measure_cpu_seconds', 'measure_seconds')
  ]
  costs = {
    'tokens': _column(lines, 'tokens'),
    'cpu': cpu + aside[0],
    'steady': steady(cpu, kinds) + aside[0],
    'wall': wall + aside[1],
  }
  return Curve(
    np.array([lines[i]['step'] + 1 for i in at], int),
    _column([lines[i] for i in at], LOSS) / math.log(2.0),
    _column([lines[i] for i in at], RECALL),
    {name: values[at] for name, values in costs.items()},
  )


def _column(lines: Lines, name: str) -> Float64[NDArray, ' lines']:
  """Values by line; NaN where a line has none."""
  values = [line.get(name) for line in lines]
  return np.array([np.nan if x is None else x for x in values], np.float64)


def steady(
  seconds: Float64[NDArray, ' steps'], kinds: Sequence[Any]
) -> Float64[NDArray, ' steps']:
  """Cumulative seconds if every step took the median of its kind.

  Steps that waited for a compile, a probe or another program are what a
  median leaves out.

  >>> seconds = np.array([9.0, 10.0, 11.0, 18.0, 20.0, 22.0])
  >>> steady(seconds, 'aaabbb').tolist()
  [1.0, 2.0, 3.0, 5.0, 7.0, 9.0]
  """
  each = np.diff(seconds, prepend=0.0)
  by_kind: dict[Any, list[float]] = {}
  for kind, cost in zip(kinds, each):
    by_kind.setdefault(kind, []).append(cost)
  medians = {kind: np.median(costs) for kind, costs in by_kind.items()}
  return np.cumsum([medians[kind] for kind in kinds])


def reach(
  costs: Float64[NDArray, ' probes'],
  loss: Float64[NDArray, ' probes'],
  target: float,
) -> float | None:
  """The cost from which on a curve stays at or below a target.

  Between two probes the loss is taken to be a straight line. A dip that does
  not last does not count. Where the first probe is there already the answer
  is its cost, for nothing is known before.

  Returns:
    The cost, or None if the last probe is above the target.

  >>> costs = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
  >>> loss = np.array([5.0, 2.0, 4.0, 2.0, 1.0])
  >>> reach(costs, loss, 3.0), reach(costs, loss, 0.5), reach(costs, loss, 9.0)
  (3.5, None, 1.0)
  """
  above = np.flatnonzero(~(loss <= target))
  if len(above) == 0:
    return float(costs[0])
  last = above[-1]
  if last == len(loss) - 1:
    return None
  part = (loss[last] - target) / (loss[last] - loss[last + 1])
  if not np.isfinite(part):  # a probe that failed is no point of a line
    return float(costs[last + 1])
  return float(costs[last] + part * (costs[last + 1] - costs[last]))


def after(
  costs: Float64[NDArray, ' probes'],
  values: Float64[NDArray, ' probes'],
  spent: float,
) -> float | None:
  """What one has after spending so much: the last value once a run has ended.

  Returns:
    The value on the straight line between two probes; None before the first.

  >>> costs, loss = np.array([1.0, 3.0]), np.array([4.0, 2.0])
  >>> [after(costs, loss, spent) for spent in (0.5, 2.0, 9.0)]
  [None, 3.0, 2.0]
  """
  if spent < costs[0]:
    return None
  return float(np.interp(spent, costs, values))


def over_seeds(values: Sequence[float | None]) -> Spread:
  """Median and range; None is beyond every number.

  >>> over_seeds([0.5, 0.75, 0.25])
  Spread(median=0.5, low=0.25, high=0.75, reached=3, of=3)
  >>> over_seeds([0.5, None, None])
  Spread(median=None, low=0.5, high=None, reached=1, of=3)
  """
  ordered = sorted(math.inf if x is None else x for x in values)
  return Spread(
    _finite(float(np.median(ordered))),
    _finite(ordered[0]),
    _finite(ordered[-1]),
    sum(x is not None for x in values),
    len(values),
  )


def _finite(value: float) -> float | None:
  return value if math.isfinite(value) else None


def ratios(
  runs: Sequence[Curve],
  references: Sequence[Curve],
  cost: str,
  read: Callable[[Curve], Float64[NDArray, ' probes']] = lambda c: c.loss,
) -> Spread:
  """Cost to come to where the reference ends / the reference's whole cost.

  Each run is held against the reference of its own seed.

  >>> steps = np.array([1, 2])
  >>> slow = Curve(steps, np.array([4.0, 2.0]), steps, {'cpu': 10.0 * steps})
  >>> fast = Curve(steps, np.array([3.0, 1.0]), steps, {'cpu': 8.0 * steps})
  >>> ratios([fast], [slow], 'cpu')
  Spread(median=0.6, low=0.6, high=0.6, reached=1, of=1)
  """
  found = []
  for run, reference in zip(runs, references, strict=True):
    spent = reach(run.costs[cost], read(run), float(read(reference)[-1]))
    whole = float(reference.costs[cost][-1])
    found.append(None if spent is None else spent / whole)
  return over_seeds(found)
