"""Which frequencies hold at which step: those of each row's own length."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ntk_jax.rope.phase import phases
from ntk_jax.scheme import NO_WINDOW, Scheme, SchemeArrays
from ntk_jax.typing import NDArray

# Of each scheme: inverse frequencies [B, P] and attention factors [B].
Frequencies = list[tuple[NDArray, NDArray]]


class Regime:
  """The frequencies that a cache was made with, and how long they hold.

  A row's length at a step is its highest position + 1. Where a method's
  frequencies change with it, what a cache holds was computed under others.
  """

  def __init__(
    self, schemes: Sequence[Scheme], rows: int, length: int | None
  ) -> None:
    """With a length, frequencies are always those of that one."""
    self.schemes, self.rows, self.length = schemes, rows, length
    self.changes = length is None and any(s.per_length for s in schemes)
    self._held: Frequencies = []

  def enter(self, lengths: NDArray) -> None:
    """Takes the frequencies of these lengths [B]."""
    self._held = self._frequencies(lengths)
    words = [np.asarray(phases(w)) for w, _ in self._held]
    self._arrays = [
      SchemeArrays(
        p,
        factor.astype(np.float32),
        np.ones((), np.float32),
        np.asarray(scheme.window or NO_WINDOW, np.int32),
      )
      for p, (_, factor), scheme in zip(words, self._held, self.schemes)
    ]

  def steady(self, lengths: NDArray, steps: int, alive: NDArray) -> int:
    """For how many of the next steps the frequencies are those it has.

    Args:
      lengths: [B], of the first step; each one more adds 1.
      steps: how many to look at.
      alive: bool [B], rows that count.
    """
    if not self.changes:
      return steps
    alive = np.flatnonzero(alive)
    every = lengths[alive, None] + np.arange(steps)
    for scheme, (held, factor) in zip(self.schemes, self._held):
      if not scheme.per_length or not len(alive):
        continue
      w, a = scheme.spec.frequencies(every)
      same = (w == held[alive, None]).all(-1) & (a == factor[alive, None])
      good = same.all(axis=0)
      steps = min(steps, len(good) if good.all() else int(good.argmin()))
    return steps

  def arrays(self, positions: NDArray) -> tuple[SchemeArrays, ...]:
    """What enters jit for query positions [B, T]: alike for all methods."""
    return tuple(
      arrays._replace(q_scale=_q_scale(scheme, positions))
      for arrays, scheme in zip(self._arrays, self.schemes)
    )

  def _frequencies(self, lengths: NDArray) -> Frequencies:
    if self.length is not None:
      lengths = np.full(self.rows, self.length)
    found = []
    for scheme in self.schemes:
      w, factor = scheme.spec.frequencies(
        lengths if scheme.per_length else None
      )
      found.append(
        (
          np.broadcast_to(w, (self.rows, w.shape[-1])),
          np.broadcast_to(factor, (self.rows,)),
        )
      )
    return found


def _q_scale(scheme: Scheme, positions: NDArray) -> NDArray:
  if scheme.temperature is None:
    return np.ones(positions.shape, np.float32)
  return np.asarray(scheme.arrays(1, positions).q_scale)
