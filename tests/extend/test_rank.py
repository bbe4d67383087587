"""The rules of ranking, each on scores made to meet or to break it."""

from __future__ import annotations

import numpy as np
import pytest

from ntk_jax.evaluation.intervals import Bootstrap
from ntk_jax.evaluation.score import Scores
from ntk_jax.extend.rank import Standing, rank, stack

ROWS = 32
ROW = np.random.default_rng(0).normal(0, 0.5, ROWS)  # how hard each row is
ROW -= ROW.mean()
TARGET = 1


def made(
  loss: float,
  *,
  found: float = 1.0,
  found_at_start: float = 1.0,
  change: float = 0.0,
  noise: float = 0.0,
  sure: bool = True,
) -> Scores:
  """One seed: mean loss at the target, share found, and how far rows differ.

  `sure` puts as many hits into every row, so that the share is certain.
  """
  own = np.random.default_rng(round(1000 * loss)).normal(0, 1, ROWS)
  own -= own.mean()
  losses = np.stack([2.0 + change + ROW, loss + ROW + noise * own], axis=1)
  hits = np.zeros((ROWS, 2, 20))
  draw = np.random.default_rng(1).random((ROWS, 20))
  for length, rate in enumerate((found_at_start, found)):
    even = np.arange(20) < round(20 * rate)
    hits[:, length] = even if sure else draw < rate
  return stack([Scores(losses, hits, losses)])


def ranked(**methods: Scores) -> dict[str, Standing]:
  """Standings by name, in order."""
  base = methods.pop('base', made(3.0))
  return {s.name: s for s in rank(methods, base, TARGET)}


def places(standings: dict[str, Standing]) -> dict[str, str | None]:
  return {name: s.place for name, s in standings.items()}


@pytest.mark.parametrize(
  ('found', 'sure', 'status'),
  [
    (0.85, True, 'excluded'),
    (0.95, True, 'pass'),
    (0.80, False, 'excluded'),
    (0.89, False, 'undecided'),  # the mean is below
    (0.91, False, 'undecided'),  # and above
    (0.97, False, 'pass'),
  ],
)
def test_retrieval_decides_who_is_ranked(
  found: float, sure: bool, status: str
) -> None:
  standing = ranked(a=made(2.0, found=found, sure=sure))['a']
  assert standing.status == status
  assert (standing.group is None) == (status == 'excluded')


def test_retrieval_is_relative_to_the_base_at_its_own_length() -> None:
  base = made(3.0, found_at_start=0.6, found=0.1)
  keeps, loses = made(2.0, found=0.55), made(2.1, found=0.5)
  standings = ranked(base=base, keeps=keeps, loses=loses)
  relative = standings['keeps'].relative
  assert relative is not None
  assert relative.mean == pytest.approx(0.55 / 0.6)
  assert standings['keeps'].status == 'pass'
  assert standings['loses'].status == 'excluded'


def test_the_lowest_loss_without_retrieval_comes_last() -> None:
  standings = ranked(window=made(1.5, found=0.1), a=made(2.5), b=made(2.0))
  assert places(standings) == {'b': '1', 'a': '2', 'window': None}
  behind = standings['window'].behind
  assert behind is not None
  assert behind.mean == pytest.approx(-0.5)
  assert standings['window'].difference is None


def test_less_than_three_hundredths_is_a_tie_however_sure() -> None:
  standings = ranked(a=made(2.0), b=made(2.029), c=made(2.031))
  assert places(standings) == {'a': '1=', 'b': '1=', 'c': '3'}
  difference = standings['b'].difference
  assert difference is not None
  assert difference.low > 0.02
  assert [s.leader for s in standings.values()] == [True, False, True]


def test_a_difference_that_may_be_zero_is_a_tie_however_large() -> None:
  standings = ranked(a=made(2.0), b=made(2.1, noise=0.5))
  assert places(standings) == {'a': '1=', 'b': '1='}
  difference = standings['b'].difference
  assert difference is not None
  assert difference.low < 0 < difference.high
  assert difference.mean == pytest.approx(0.1)


def test_rows_are_compared_in_pairs() -> None:
  # Rows differ by 0.5 bits, ten times as much as the methods do.
  standings = ranked(a=made(2.0), b=made(2.05, noise=0.02))
  assert places(standings) == {'a': '1', 'b': '2'}
  a, b = standings['a'].loss, standings['b'].loss
  assert b.low < a.mean < b.high


def test_a_group_is_those_that_tie_with_its_leader() -> None:
  # Each ties with the one before it; c does not tie with a.
  standings = ranked(a=made(2.0), b=made(2.02), c=made(2.04), d=made(2.06))
  assert places(standings) == {'a': '1=', 'b': '1=', 'c': '3=', 'd': '3='}
  assert [s.group for s in standings.values()] == [1, 1, 2, 2]
  difference, behind = standings['d'].difference, standings['d'].behind
  assert difference is not None and behind is not None
  assert difference.mean == pytest.approx(0.02)  # to c
  assert behind.mean == pytest.approx(0.06)  # to a


def test_an_unsure_row_ties_past_a_sure_one() -> None:
  standings = ranked(a=made(2.0), b=made(2.05), c=made(2.1, noise=0.5))
  assert places(standings) == {'a': '1=', 'c': '1=', 'b': '3'}


def test_undecided_rows_are_ranked_and_can_lead() -> None:
  standings = ranked(a=made(2.0, found=0.9, sure=False), b=made(2.5))
  assert places(standings) == {'a': '1', 'b': '2'}
  assert standings['a'].status == 'undecided'


def test_nothing_is_ranked_if_retrieval_was_not_learned() -> None:
  methods = {'a': made(2.5), 'b': made(2.0)}
  standings = ranked(base=made(3.0, found_at_start=0.45), **methods)
  assert list(standings) == ['b', 'a']  # by loss
  for standing in standings.values():
    assert standing.status == 'not_ranked'
    assert standing.place is standing.relative is standing.behind is None
  standings = ranked(base=made(3.0, found_at_start=0.5), **methods)
  assert places(standings) == {'b': '1', 'a': '2'}


def test_change_is_paired_with_the_unextended_model() -> None:
  change = ranked(a=made(2.0, change=0.3))['a'].change
  assert change.mean == pytest.approx(0.3)
  assert change.high - change.low < 1e-9


def test_seeds_that_disagree_make_a_tie() -> None:
  def seeds(*losses: float) -> Scores:
    each = [made(loss) for loss in losses]
    return Scores(*(np.concatenate(arrays) for arrays in zip(*each)))

  base = seeds(3.0, 3.0, 3.0)
  apart = ranked(base=base, a=seeds(2.0, 2.0, 2.0), b=seeds(2.1, 2.1, 2.1))
  assert places(apart) == {'a': '1', 'b': '2'}
  unsure = ranked(base=base, a=seeds(2.0, 2.0, 2.0), b=seeds(2.4, 1.9, 2.0))
  assert places(unsure) == {'a': '1=', 'b': '1='}


def test_no_method_stands_behind_one_that_it_ties_with() -> None:
  rng = np.random.default_rng(0)
  sizes = zip(rng.uniform(2, 2.3, 12), rng.random(12))
  methods = {
    f'm{i}': made(float(loss), noise=0.3 * float(noise))
    for i, (loss, noise) in enumerate(sizes)
  }
  standings = list(ranked(**methods).values())
  groups = [s.group or 0 for s in standings]
  assert groups == sorted(groups)
  assert max(groups) > 2
  boot = Bootstrap(1, ROWS)
  for leader in (s for s in standings if s.leader):
    for other in standings:
      if (other.group or 0) > (leader.group or 0):
        loss, best = (methods[s.name].loss[:, :, 1] for s in (other, leader))
        difference = boot.mean(loss - best)
        assert difference.low > 0
        assert difference.mean >= 0.03
