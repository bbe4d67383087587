"""Which method to take, from where all of them stand."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from ntk_jax.extend.methods import Candidate
from ntk_jax.extend.rank import SAME, Standing

_NOT_TUNED = ('none', 'window')  # families that are no methods to tune


@dataclasses.dataclass(frozen=True)
class Answer:
  """What a ranking says to someone who must choose.

  Attributes:
    kind: 'winner' (first alone), 'tie' (first with others), 'undecided' (no
      method of the first group is sure to keep retrieval), 'none_passes' (all
      are excluded) or 'not_learned' (nothing could be ranked).
    take: the method to take, never one that is undecided; None if none is
      sure to keep retrieval.
    why: 'alone' (the only one to choose from), 'least_change' (at L0),
      'fixed' (frequencies that do not depend on the length) or 'loss';
      None if there is nothing to take.
    group: names of the first group, the lowest loss first.
  """

  kind: str
  take: str | None
  why: str | None
  group: tuple[str, ...]


def choose(standings: list[Standing], per_length: Collection[str]) -> Answer:
  """The method to take.

  Of the first group with a method that is sure to keep retrieval, those that
  are sure; of these, the ones with the least change at L0 (within 0.03
  bits); of these, fixed methods before per-length ones, whose cached keys go
  stale as the text grows; of these, the lowest loss.

  Args:
    standings: as `rank` orders them.
    per_length: names of the methods whose frequencies depend on the length.

  Returns:
    The answer.
  """
  first = [s for s in standings if s.group == 1]
  names = tuple(s.name for s in first)
  if not first:
    learned = standings[0].status != 'not_ranked'
    return Answer('none_passes' if learned else 'not_learned', None, None, ())
  sure = [s for s in standings if s.status == 'pass']
  choice = [s for s in sure if s.group == sure[0].group]
  take, why = _pick(choice, per_length) if choice else (None, None)
  if all(s.status == 'undecided' for s in first):
    return Answer('undecided', take, why, names)
  return Answer('winner' if len(first) == 1 else 'tie', take, why, names)


def to_tune(
  standings: list[Standing], candidates: list[Candidate]
) -> list[Candidate]:
  """The best of two different families, and plain continuation.

  The best is what `choose` takes; then methods in the order of their standing,
  those that keep retrieval before those that lose it.
  """
  by_name = {c.name: c for c in candidates}
  per_length = {c.name for c in candidates if c.scheme.per_length}
  taken = choose(standings, per_length).take
  best: dict[str, Candidate] = {}
  for standing in sorted(standings, key=lambda s: s.name != taken):
    candidate = by_name[standing.name]
    windowed = candidate.scheme.window is not None
    if candidate.family not in _NOT_TUNED and not windowed:
      best.setdefault(candidate.family, candidate)
  return [*list(best.values())[:2], by_name['none']]


def to_show(
  standings: list[Standing], candidates: list[Candidate]
) -> Candidate:
  """The method to show the problem with: what `choose` takes.

  If it takes none, the first to tune; 'none' if there is no method at all.
  """
  per_length = {c.name for c in candidates if c.scheme.per_length}
  taken = choose(standings, per_length).take
  first, *_ = to_tune(standings, candidates)
  return next((c for c in candidates if c.name == taken), first)


def _pick(
  choice: list[Standing], per_length: Collection[str]
) -> tuple[str, str]:
  if len(choice) == 1:
    return choice[0].name, 'alone'
  least = min(s.change.mean for s in choice)
  near = [s for s in choice if s.change.mean < least + SAME]
  if len(near) == 1:
    return near[0].name, 'least_change'
  fixed = [s for s in near if s.name not in per_length]
  if fixed and len(fixed) < len(near):
    return fixed[0].name, 'fixed'
  return near[0].name, 'least_change' if len(near) < len(choice) else 'loss'
