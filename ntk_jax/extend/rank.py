"""Ranking by retrieval and loss, with intervals; ties stay ties."""

from __future__ import annotations

import dataclasses

import numpy as np

from ntk_jax.evaluation.intervals import Bootstrap, Interval
from ntk_jax.evaluation.score import Scores

KEEPS = 0.9  # share of the base model's retrieval that a method must keep
LEARNED = 0.5  # base retrieval below this says nothing of methods
SAME = 0.03  # bits: two trainings of one model differ by this much


@dataclasses.dataclass(frozen=True)
class Standing:
  """Where a method stands.

  Attributes:
    status: 'pass', 'undecided', 'excluded', or 'not_ranked'.
    group: 1 for the best and all tied with it, and so on; None if not ranked.
    leader: whether this row has the lowest loss of its group.
    difference: paired bits above the group's leader; None for a leader.
    loss: bits per byte at the target.
    change: paired bits at L0 against the unextended model.
    relative: retrieval at the target / the unextended model's at L0.
  """

  name: str
  status: str
  group: int | None
  leader: bool
  difference: Interval | None
  loss: Interval
  change: Interval
  relative: Interval


def stack(scores: list[Scores]) -> Scores:
  """Scores of several seeds, with a leading axis of seeds."""
  return Scores(*(np.stack(arrays).astype(np.float64) for arrays in zip(*scores)))


def base_retrieval(base: Scores, boot: Bootstrap) -> Interval:
  """Accuracy of the unextended model at L0 (chance is 1/16)."""
  return boot.mean(base.hits[:, :, 0].mean(-1))


def rank(
  scores: dict[str, Scores], base: Scores, target: int
) -> list[Standing]:
  """Orders methods: ranked ones by group and loss, then the excluded.

  A method is excluded if its retrieval at the target, relative to the base
  model's at L0, has a 95% interval wholly below 0.9, and undecided if the
  interval spans it. The others are ranked by loss at the target; one ties
  with its group's leader if the interval of the paired difference contains 0
  or the difference is below 0.03 bits. If the base model did not learn
  retrieval (below 0.5) nothing is ranked.

  Args:
    scores: by method, stacked over seeds.
    base: scores of the unextended model.
    target: index of the target among the lengths.

  Returns:
    One standing per method, in order.
  """
  seeds, rows = base.loss.shape[:2]
  boot = Bootstrap(seeds, rows)
  learned = base_retrieval(base, boot).mean >= LEARNED
  standings = [
    _judge(name, method, base, target, boot, learned)
    for name, method in scores.items()
  ]
  standings.sort(key=lambda s: (s.status == 'excluded', s.loss.mean))
  leader, group = None, 0
  for i, standing in enumerate(standings):
    if standing.status in ('excluded', 'not_ranked'):
      continue
    difference = None
    if leader is not None:
      ours, best = (scores[n].loss[:, :, target] for n in (standing.name, leader))
      difference = boot.mean(ours - best)
    if difference is None or not _tied(difference):
      leader, group, difference = standing.name, group + 1, None
    standings[i] = dataclasses.replace(
      standing,
      group=group,
      leader=standing.name == leader,
      difference=difference,
    )
  return standings


def _judge(
  name: str,
  scores: Scores,
  base: Scores,
  target: int,
  boot: Bootstrap,
  learned: bool,
) -> Standing:
  relative = boot.ratio(
    scores.hits[:, :, target].mean(-1), base.hits[:, :, 0].mean(-1)
  )
  if not learned:
    status = 'not_ranked'
  elif relative.high < KEEPS:
    status = 'excluded'
  else:
    status = 'pass' if relative.low >= KEEPS else 'undecided'
  change = boot.mean(scores.loss[:, :, 0] - base.loss[:, :, 0])
  loss = boot.mean(scores.loss[:, :, target])
  return Standing(name, status, None, False, None, loss, change, relative)


def _tied(difference: Interval) -> bool:
  return difference.low <= 0.0 <= difference.high or difference.mean < SAME
