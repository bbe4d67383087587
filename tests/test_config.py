"""Plain values and their fingerprint."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from ntk_jax.config import fingerprint, to_plain


@dataclasses.dataclass(frozen=True)
class Inner:
  size: int
  names: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Outer:
  inner: Inner
  table: dict[int, float | None]
  on: bool = True


def test_nested_values_become_json() -> None:
  plain = to_plain(Outer(Inner(2, ('a', 'b')), {1: 0.5, 2: None}))
  assert plain == {
    'inner': {'size': 2, 'names': ['a', 'b']},
    'table': {'1': 0.5, '2': None},
    'on': True,
  }
  assert json.loads(json.dumps(plain)) == plain


@pytest.mark.parametrize(
  'value', [np.ones(2), np.float64, Inner, {1, 2}, b'', lambda: None]
)
def test_what_has_no_plain_form_is_refused(value: Any) -> None:
  with pytest.raises(TypeError, match='has no plain form'):
    to_plain({'x': [value]})


def test_equal_values_have_one_fingerprint() -> None:
  first = fingerprint(Inner(1, ('a',)), {'x': 1, 'y': 2.5})
  assert first == fingerprint(Inner(1, ('a',)), {'y': 2.5, 'x': 1})
  assert len(first) == 12
  assert int(first, 16) >= 0


def test_other_values_have_another_fingerprint() -> None:
  values = [
    (1,),
    (1.5,),
    ('1',),
    (None,),
    (True,),
    ([1],),
    (1, 2),
    ([1, 2],),
    ({'a': 1},),
    (Inner(1),),
    (Inner(1, ('a',)),),
  ]
  assert len({fingerprint(*value) for value in values}) == len(values)
