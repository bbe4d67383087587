"""Shapes of growth against their formulas, written again in numpy."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntk_jax.curriculum import cycles, shapes

# The same examples every time.
FEW = settings(max_examples=50, deadline=None, derandomize=True, database=None)
Shape = Callable[[float, int, int], float]


def _root(x: float, start: int, full: int) -> float:
  return shapes.root_length(x, start, full, 2.0)


def _stairs(x: float, start: int, full: int) -> float:
  return shapes.stepwise_length(x, start, full, 128)


SMOOTH: dict[str, tuple[Shape, Callable]] = {
  'linear': (
    shapes.linear_length,
    lambda x, a, b: np.interp(x, [0, 1], [a, b]),
  ),
  'root': (_root, lambda x, a, b: a + (b - a) * np.sqrt(x)),
  'exponential': (
    shapes.exponential_length,
    lambda x, a, b: np.exp(np.log(a) + x * np.log(b / a)),
  ),
  'cosine': (
    shapes.cosine_length,
    lambda x, a, b: a + (b - a) * np.sin(np.pi * x / 2) ** 2,
  ),
  'sine': (
    shapes.sine_length,
    lambda x, a, b: a + (b - a) * np.cos(np.pi / 2 * (1 - x)),
  ),
}


@pytest.mark.parametrize('name', SMOOTH)
@pytest.mark.parametrize(('start', 'full'), [(32, 8192), (8, 1000), (2, 3)])
def test_shapes_are_their_formulas(name: str, start: int, full: int) -> None:
  shape, formula = SMOOTH[name]
  x = np.linspace(0, 1, 101)
  ours = [shape(float(one), start, full) for one in x]
  np.testing.assert_allclose(ours, formula(x, start, full), rtol=1e-12)
  assert ours[0] == start
  assert math.isclose(ours[-1], full, rel_tol=1e-12)


@given(x=st.fractions(0, 1, max_denominator=999))
@FEW
def test_stairs_are_the_ramp_rounded_down(x: Fraction) -> None:
  start, full, step = 32, 8192, 1024
  ramp = start + (full - start) * x
  ours = shapes.stepwise_length(float(x), start, full, step)
  assert ours in {
    max(start, step * math.floor(ramp / step)),
    # A stair that begins at exactly x may begin one float later.
    max(start, step * math.floor((ramp - Fraction(1, 10**9)) / step)),
  }


@given(
  raw=st.floats(1, 5000),
  start=st.integers(1, 300),
  more=st.integers(1, 5000),
  multiple=st.integers(1, 128),
)
@FEW
def test_a_snapped_length_is_a_multiple_within_bounds(
  raw: float, start: int, more: int, multiple: int
) -> None:
  full = start + more
  length = shapes.snapped(raw, start, full, multiple)
  assert min(start, full) <= length <= full
  assert length % multiple == 0 or length == full
  if start + multiple <= length < full:
    assert raw - multiple < length <= raw


def test_no_length_is_zero() -> None:
  """Rows of no token: 8 rounded down to a multiple of 16."""
  assert shapes.snapped(8.0, 8, 1024, 16) == 16
  assert shapes.snapped(1.0, 1, 4, 64) == 4


@given(start=st.integers(1, 500), times=st.integers(0, 12))
@FEW
def test_doublings_divide_the_full_length(start: int, times: int) -> None:
  full = start * 2**times
  found = shapes.doublings(start, full)
  assert found == tuple(start * 2**k for k in range(times + 1))
  assert all(full % length == 0 for length in found)


@given(
  lengths=st.lists(st.integers(1, 10**6), min_size=1, max_size=8, unique=True),
  over=st.floats(1e-3, 1e9),
)
@FEW
def test_stages_share_the_growth_by_length(
  lengths: list[int], over: float
) -> None:
  lengths.sort()
  starts = shapes.stage_starts(lengths, over)
  assert len(starts) == len(lengths) - 1
  shares = np.diff([0.0, *starts])
  if starts:
    assert starts[-1] == pytest.approx(over)
    np.testing.assert_allclose(
      shares / over, np.array(lengths[:-1]) / sum(lengths[:-1]), atol=1e-9
    )


def test_sub_cycle_weights_of_six_lengths() -> None:
  """The table of the published schedule: a peak that moves to the right."""
  found = cycles.sub_cycle_weights(6)
  assert found[0].tolist() == [32, 16, 8, 4, 2, 1]
  assert found[1].tolist() == [16, 32, 8, 4, 2, 1]
  assert found[5].tolist() == [1, 2, 4, 8, 16, 32]
  assert (found.argmax(axis=1) == np.arange(6)).all()
  assert (np.sort(found, axis=1) == 2 ** np.arange(6)).all()


@given(steps=st.integers(1, 3000), count=st.integers(1, 8))
@FEW
def test_a_cycle_gives_each_length_its_share(steps: int, count: int) -> None:
  counts = cycles.cycle_counts(steps, count)
  assert counts.min() >= 0
  assert counts.sum() == steps
  shares = counts.sum(axis=1)
  assert set(shares) <= {steps // count, steps // count + 1}
  assert (np.diff(shares) >= 0).all()  # what is left over goes to the longest


@given(
  steps=st.integers(12, 2000),
  parts=st.integers(1, 4),
  count=st.integers(1, 3),
  seed=st.integers(0, 9),
)
@FEW
def test_every_cycle_has_every_length_by_its_share(
  steps: int, parts: int, count: int, seed: int
) -> None:
  which = np.array(
    [cycles.cycled(step, steps, parts, count, seed) for step in range(steps)]
  )
  for cycle in range(parts):
    begin, end = cycle * steps // parts, (cycle + 1) * steps // parts
    uses = np.bincount(which[begin:end], minlength=count)
    assert uses.max() - uses.min() <= 1
  again = [cycles.cycled(s, steps, parts, count, seed) for s in (steps - 1, 0)]
  assert again == [which[-1], which[0]]


def test_length_grows_within_a_cycle_and_falls_to_the_next() -> None:
  steps, count = 4 * 630, 6
  which = np.array([cycles.cycled(s, steps, 4, count, 1) for s in range(steps)])
  parts = which.reshape(4, 6, 105).mean(axis=2)
  assert (np.diff(parts, axis=1) > 0).all()
  assert (parts[:, 0] < 1.5).all() and (parts[:, -1] > 3.5).all()


def test_order_depends_on_the_seed_and_the_cycle() -> None:
  orders = [cycles.cycle_order(60, 3, seed, c) for seed, c in [(0, 0), (1, 0)]]
  assert orders[0] != orders[1]
  assert cycles.cycle_order(60, 3, 0, 1) != orders[0]
  assert cycles.cycle_order(60, 3, 0, 0) == orders[0]
