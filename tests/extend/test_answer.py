"""Which method to take, on standings written by hand."""

from __future__ import annotations

import pytest

from ntk_jax.evaluation.intervals import Interval
from ntk_jax.extend.answer import Answer, choose, to_show, to_tune
from ntk_jax.extend.methods import Setting, candidate
from ntk_jax.extend.rank import Standing


def at(value: float) -> Interval:
  return Interval(value, value, value)


def row(
  name: str, group: int | None, change: float = 0.5, status: str = 'pass'
) -> Standing:
  return Standing(name, status, at(2.0), at(change), at(1.0), group)


def test_first_alone_is_the_winner() -> None:
  answer = choose([row('a', 1), row('b', 2, change=0.0)], ())
  assert answer == Answer('winner', 'a', 'alone', ('a',))


@pytest.mark.parametrize(
  ('changes', 'take', 'why'),
  [
    ({'a': 0.5, 'b': 0.4, 'c': 0.45}, 'b', 'least_change'),
    ({'a': 0.5, 'b': 0.42, 'c': 0.4}, 'b', 'least_change'),  # b and c alike
    ({'a': 0.42, 'b': 0.41, 'c': 0.4}, 'a', 'loss'),
    ({'a': 0.4, 'b': 0.4, 'per_length': 0.39}, 'a', 'fixed'),
    ({'per_length': 0.4, 'b': 0.4, 'c': 0.4}, 'b', 'fixed'),
    ({'per_length': 0.3, 'b': 0.4, 'c': 0.4}, 'per_length', 'least_change'),
  ],
)
def test_of_a_tie_the_least_harm_is_taken(
  changes: dict[str, float], take: str, why: str
) -> None:
  rows = [row(name, 1, change) for name, change in changes.items()]
  answer = choose([*rows, row('last', 2, change=0.0)], {'per_length'})
  assert answer == Answer('tie', take, why, tuple(changes))


def test_an_undecided_method_is_never_taken() -> None:
  doubt = row('doubt', 1, change=0.0, status='undecided')
  assert choose([doubt, row('b', 1)], ()) == Answer(
    'tie', 'b', 'alone', ('doubt', 'b')
  )
  assert choose([doubt, row('b', 2), row('c', 2, change=0.1)], ()) == Answer(
    'undecided', 'c', 'least_change', ('doubt',)
  )
  excluded = row('x', None, status='excluded')
  assert choose([doubt, excluded], ()) == Answer(
    'undecided', None, None, ('doubt',)
  )


def test_nothing_is_taken_of_nothing() -> None:
  excluded = row('x', None, status='excluded')
  assert choose([excluded], ()) == Answer('none_passes', None, None, ())
  unranked = row('x', None, status='not_ranked')
  assert choose([unranked], ()) == Answer('not_learned', None, None, ())


def tuned(*rows: Standing) -> list[str]:
  """Names to tune, of methods that stand so."""
  setting = Setting(head_dim=32, theta=1e4, train_length=128, factor=8.0)
  candidates = [candidate(standing.name, setting) for standing in rows]
  return [c.name for c in to_tune(list(rows), candidates)]


def test_the_one_taken_and_another_family_are_tuned_beside_the_control() -> (
  None
):
  rows = (
    row('yarn', 1),
    row('yarn_scaled', 1, change=0.1),
    row('by_parts', 2),
    row('linear', 3),
    row('ntk', None, status='excluded'),
    row('none', None, status='excluded'),
  )
  assert tuned(*rows) == ['yarn_scaled', 'linear', 'none']


def test_where_one_family_passes_the_best_of_the_excluded_joins() -> None:
  out = [row(n, None, status='excluded') for n in ('window', 'ntk', 'linear')]
  rows = (row('yarn', 1), *out, row('none', None, status='excluded'))
  assert tuned(*rows) == ['yarn', 'ntk', 'none']


def test_the_model_itself_and_windows_are_not_tuned() -> None:
  rows = (row('none', 1), row('yarn+window', 2), row('linear', 3))
  assert tuned(*rows) == ['linear', 'none']


def shown(*rows: Standing) -> str:
  """The method whose line stands beside that of none."""
  setting = Setting(head_dim=32, theta=1e4, train_length=128, factor=8.0)
  candidates = [candidate(standing.name, setting) for standing in rows]
  return to_show(list(rows), candidates).name


def test_the_problem_is_shown_with_what_is_taken() -> None:
  none = row('none', None, status='excluded')
  assert shown(row('yarn', 1), row('linear', 1, change=0.1), none) == 'linear'
  assert shown(row('yarn+window', 1), row('yarn', 2), none) == 'yarn+window'
  assert shown(row('none', 1), row('yarn', 2)) == 'none'


def test_where_nothing_is_taken_the_first_to_tune_is_shown() -> None:
  names = ('window', 'ntk', 'linear', 'none')
  rows = [row(name, None, status='excluded') for name in names]
  assert shown(*rows) == 'ntk'
  assert shown(rows[-1]) == 'none'
