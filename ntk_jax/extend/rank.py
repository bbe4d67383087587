"""Ranking by retrieval and loss, with intervals; ties stay ties."""

from __future__ import annotations

import dataclasses

import numpy as np

from ntk_jax.evaluation.intervals import Bootstrap, Interval
from ntk_jax.evaluation.score import Scores
from ntk_jax.typing import Float64, NDArray

KEEPS = 0.9  # share of the base model's retrieval that a method must keep
LEARNED = 0.5  # base retrieval below this says nothing of methods
SAME = 0.03  # bits: two trainings of one model differ by this much


@dataclasses.dataclass(frozen=True)
class Standing:
  """Where a method stands.

  Attributes:
    name: the method.
    status: 'pass', 'undecided', 'excluded', or 'not_ranked'.
    loss: bits per byte at the target.
    change: paired bits at L0 above the unextended model.
    relative: retrieval at the target / the unextended model's at L0; None if
      that model did not learn retrieval.
    group: 1 for the best and all tied with it, and so on; None if not ranked.
    place: as printed: '1', or '1=' in a group of several.
    leader: whether this row has the lowest loss of its group.
    difference: paired bits at the target above the group's leader; None for
      a leader.
    behind: paired bits at the target above the first of the ranking, for
      excluded methods too; None for the first, and if nothing is ranked.
  """

  name: str
  status: str
  loss: Interval
  change: Interval
  relative: Interval | None
  group: int | None = None
  place: str | None = None
  leader: bool = False
  difference: Interval | None = None
  behind: Interval | None = None


def stack(scores: list[Scores]) -> Scores:
  """Scores of several seeds, with a leading axis of seeds."""
  return Scores(
    *(np.stack(arrays).astype(np.float64) for arrays in zip(*scores))
  )


def base_retrieval(base: Scores, boot: Bootstrap) -> Interval:
  """Accuracy of the unextended model at L0 (chance is 1/16)."""
  return boot.mean(base.hits[:, :, 0].mean(-1))


def rank(
  scores: dict[str, Scores], base: Scores, target: int
) -> list[Standing]:
  """Orders methods: ranked ones by group and loss, then the others by loss.

  A method is excluded if its retrieval at the target, relative to the base
  model's at L0, has a 95% interval wholly below 0.9, and undecided if the
  interval spans it. The others are ranked by loss at the target. The lowest
  loss leads the first group, and all that tie with it belong to that group:
  the 95% interval of the paired difference contains 0, or the difference is
  below 0.03 bits. The lowest of the rest leads the second group, and so on,
  so no method stands behind one from which it cannot be told apart. If the
  base model did not learn retrieval (below 0.5) nothing is ranked.

  Args:
    scores: by method, stacked over seeds.
    base: scores of the unextended model.
    target: index of the target among the lengths.

  Returns:
    One standing per method, in order.
  """
  boot = Bootstrap(*base.loss.shape[:2])
  learned = base_retrieval(base, boot).mean >= LEARNED
  standings = [
    _judge(name, method, base, target, boot, learned)
    for name, method in scores.items()
  ]
  standings.sort(key=lambda s: s.loss.mean)
  losses = {name: method.loss[:, :, target] for name, method in scores.items()}
  rest = [s for s in standings if s.status in ('pass', 'undecided')]
  others = [s for s in standings if s.status in ('excluded', 'not_ranked')]
  groups: list[list[Standing]] = []
  while rest:
    tied, rest = _first_group(rest, losses, boot)
    groups.append(tied)
  return _compare_with_first(_number(groups) + others, losses, boot)


def _judge(
  name: str,
  scores: Scores,
  base: Scores,
  target: int,
  boot: Bootstrap,
  learned: bool,
) -> Standing:
  loss = boot.mean(scores.loss[:, :, target])
  change = boot.mean(scores.loss[:, :, 0] - base.loss[:, :, 0])
  if not learned:
    return Standing(name, 'not_ranked', loss, change, None)
  relative = boot.ratio(
    scores.hits[:, :, target].mean(-1), base.hits[:, :, 0].mean(-1)
  )
  if relative.high < KEEPS:
    status = 'excluded'
  else:
    status = 'pass' if relative.low >= KEEPS else 'undecided'
  return Standing(name, status, loss, change, relative)


def _first_group(
  standings: list[Standing],
  losses: dict[str, Float64[NDArray, 'seeds rows']],
  boot: Bootstrap,
) -> tuple[list[Standing], list[Standing]]:
  """The first of some standings with all that tie with it, and the rest."""
  leader, *others = standings
  tied, rest = [dataclasses.replace(leader, leader=True)], []
  for standing in others:
    difference = boot.mean(losses[standing.name] - losses[leader.name])
    if _is_tie(difference):
      tied.append(dataclasses.replace(standing, difference=difference))
    else:
      rest.append(standing)
  return tied, rest


def _is_tie(difference: Interval) -> bool:
  return difference.low <= 0.0 <= difference.high or difference.mean < SAME


def _number(groups: list[list[Standing]]) -> list[Standing]:
  """All standings of the groups in order, with group and place."""
  ranked: list[Standing] = []
  for group, tied in enumerate(groups, start=1):
    place = f'{len(ranked) + 1}{"=" if len(tied) > 1 else ""}'
    ranked += [dataclasses.replace(s, group=group, place=place) for s in tied]
  return ranked


def _compare_with_first(
  standings: list[Standing],
  losses: dict[str, Float64[NDArray, 'seeds rows']],
  boot: Bootstrap,
) -> list[Standing]:
  """Adds the difference from the first of the ranking, if there is one."""
  first, *others = standings
  if first.group is None:
    return standings
  return [
    first,
    *(
      dataclasses.replace(
        s, behind=boot.mean(losses[s.name] - losses[first.name])
      )
      for s in others
    ),
  ]
