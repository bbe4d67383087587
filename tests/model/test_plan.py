"""Layer plans: every layer once, in order, with least to compile."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntk_jax.model.plan import Segment, segments


def cost(found: tuple[Segment, ...]) -> int:
  return sum(len(segment.pattern) for segment in found)


def best(kinds: tuple[int, ...]) -> int:
  """The least number of layers to compile, by trying every cut."""
  if not kinds:
    return 0
  found = []
  for size, repeats in itertools.product(range(1, len(kinds) + 1), repeat=2):
    if kinds[: size * repeats] == kinds[:size] * repeats:
      found.append(size + best(kinds[size * repeats :]))
  return min(found)


@settings(max_examples=80, deadline=None, derandomize=True, database=None)
@given(kinds=st.lists(st.integers(0, 2), min_size=1, max_size=9).map(tuple))
def test_segments_cover_the_plan_at_least_cost(kinds: tuple[int, ...]) -> None:
  found = segments(kinds)
  joined = [kind for s in found for kind in s.pattern * s.repeats]
  assert tuple(joined) == kinds
  assert [s.start for s in found[1:]] == [s.stop for s in found[:-1]]
  assert cost(found) == best(kinds)


@pytest.mark.parametrize(
  ('name', 'kinds', 'compiled'),
  [
    ('uniform', (0,) * 80, 1),
    ('gemma 2', (0, 1) * 13, 2),
    ('gemma 3', (0, 0, 0, 0, 0, 1) * 4 + (0, 0), 7),
    ('qwen 2, the last layers windowed', (0,) * 21 + (1,) * 7, 2),
  ],
)
def test_real_plans(name: str, kinds: tuple[int, ...], compiled: int) -> None:
  assert cost(segments(kinds)) == compiled, name
