"""Numbers and lists as a report prints them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Plain = dict[str, Any]  # a part of what report.json holds


def listed(items: Iterable[str]) -> str:
  """Items as a sentence names them.

  >>> listed(['a', 'b', 'c'])
  'a, b and c'
  """
  *most, last = items
  return f'{", ".join(most)} and {last}' if most else last


def counted(number: int, what: str) -> str:
  """A number of things.

  >>> counted(1, 'row'), counted(1024, 'row')
  ('one row', '1,024 rows')
  """
  return f'one {what}' if number == 1 else f'{number:,} {what}s'


def percent(value: float) -> str:
  """A share in percent, to a tenth where there is one.

  >>> percent(0.9), percent(1 / 16)
  ('90%', '6.2%')
  """
  return f'{100 * value:.1f}'.removesuffix('.0') + '%'


def share(interval: Plain) -> str:
  """A share in percent with its interval.

  >>> share({'mean': 0.957, 'low': 0.91, 'high': 1.0})
  '95.7% [91.0, 100.0]'
  """
  low, high = 100 * interval['low'], 100 * interval['high']
  return f'{100 * interval["mean"]:.1f}% [{low:.1f}, {high:.1f}]'


def loss(interval: Plain) -> str:
  """A loss with its interval.

  >>> loss({'mean': 2.85, 'low': 2.7312, 'high': 2.98})
  '2.850 [2.731, 2.980]'
  """
  return (
    f'{interval["mean"]:.3f} [{interval["low"]:.3f}, {interval["high"]:.3f}]'
  )


def bits(interval: Plain) -> str:
  """A difference in bits, whose direction the words around it tell.

  >>> bits({'mean': -0.0719, 'low': -0.0931, 'high': -0.0512})
  '0.072 bits [0.051, 0.093]'
  """
  ends = interval['low'], interval['high']
  low, high = ends if interval['mean'] >= 0 else (-ends[1], -ends[0])
  return f'{abs(interval["mean"]):.3f} bits [{low:.3f}, {high:.3f}]'


def signed(interval: Plain) -> str:
  """A difference in bits with its sign and interval.

  >>> signed({'mean': 0.0719, 'low': -0.0001, 'high': 0.0931})
  '+0.072 [+0.000, +0.093]'
  """
  mean, low, high = (with_sign(interval[k], 3) for k in ('mean', 'low', 'high'))
  return f'{mean} [{low}, {high}]'


def points(interval: Plain) -> str:
  """A difference of shares in percentage points, with sign and interval.

  >>> points({'mean': -0.05, 'low': -0.061, 'high': 0.01})
  '-5.0 points [-6.1, +1.0]'
  """
  mean, low, high = (
    with_sign(100 * interval[k], 1) for k in ('mean', 'low', 'high')
  )
  return f'{mean} points [{low}, {high}]'


def with_sign(value: float, digits: int) -> str:
  """A number with its sign; what rounds to zero is +0.

  >>> with_sign(-0.0001, 3), with_sign(-0.5, 1)
  ('+0.000', '-0.5')
  """
  return f'{round(value, digits) + 0.0:+.{digits}f}'
