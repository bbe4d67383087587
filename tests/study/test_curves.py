"""Curves with known answers: when a loss is reached, and when it never is."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ntk_jax.study.curves import (
  Curve,
  after,
  curve,
  over_seeds,
  ratios,
  reach,
  steady,
)
from study.made_study import EVERY, STEPS, Made, lines


def line_of(loss: list[float]) -> tuple[np.ndarray, np.ndarray]:
  return np.arange(1.0, len(loss) + 1), np.array(loss)


def test_a_straight_line_is_reached_where_it_crosses() -> None:
  costs = np.linspace(10, 100, 10)
  loss = 6 - costs / 20
  for target in (5.3, 3.0, 1.75):
    assert reach(costs, loss, target) == pytest.approx(20 * (6 - target))


def test_it_is_reached_at_a_probe_that_meets_it() -> None:
  assert reach(*line_of([4, 3, 2]), 3.0) == 2.0
  assert reach(*line_of([4, 3, 2]), 2.0) == 3.0


def test_what_ends_above_is_never_reached() -> None:
  assert reach(*line_of([4, 2, 3]), 2.5) is None
  assert reach(*line_of([4, 3, float('nan')]), 3.5) is None


def test_a_dip_that_does_not_last_does_not_count() -> None:
  assert reach(*line_of([4, 1, 3, 2, 1]), 2.0) == 4.0


def test_a_probe_that_failed_is_no_point_of_a_line() -> None:
  assert reach(*line_of([4, float('nan'), 2]), 3.0) == 3.0


def test_what_one_has_after_the_end_is_the_end() -> None:
  costs, loss = line_of([4, 2])
  assert after(costs, loss, 1.5) == 3.0
  assert after(costs, loss, 7.0) == 2.0
  assert after(costs, loss, 0.5) is None


def test_probes_come_with_their_costs() -> None:
  found = curve(lines(Made(0.1, 2.0, 1.0, seconds=0.5), seed=2))
  assert found.steps.tolist() == list(range(EVERY, STEPS + 1, EVERY))
  np.testing.assert_allclose(found.loss, 5.02 - 0.1 * found.steps)
  np.testing.assert_allclose(found.recall, found.steps / STEPS)
  np.testing.assert_allclose(found.costs['tokens'], 256 * found.steps)
  np.testing.assert_allclose(found.costs['cpu'], 0.5 * found.steps + 2)
  np.testing.assert_allclose(found.costs['wall'], 0.25 * found.steps + 2)


def test_probes_cost_what_decides_by_them() -> None:
  every = lines(Made(0.1, 2.0, 1.0, seconds=0.5))
  plain, charged = curve(every), curve(every, measures=True)
  before = np.arange(len(plain.steps))  # probes before each
  for name, each in (('cpu', 0.5), ('steady', 0.5), ('wall', 0.25)):
    np.testing.assert_allclose(
      charged.costs[name] - plain.costs[name], each * before
    )
  np.testing.assert_array_equal(charged.costs['tokens'], plain.costs['tokens'])


def test_steady_leaves_out_what_waits() -> None:
  """A compile at each length, one probe, and a step beside other work."""
  found = curve(lines(Made(0.1, 2.0, 1.0, seconds=0.5, begins=(8, 16))))
  np.testing.assert_allclose(found.costs['steady'], 0.5 * found.steps)
  each = np.array([7.0, 1, 1, 4, 1, 9, 2, 2, 2, 5])
  sums = steady(np.cumsum(each), [64] * 5 + [128] * 5)
  np.testing.assert_allclose(np.diff(sums, prepend=0), [1] * 5 + [2] * 5)


def test_steps_of_other_programs_have_other_medians() -> None:
  every = lines(Made(0.1, 2.0, 1.0, begins=(8, 16)))
  assert {line['length'] for line in every} == {32, 64, 128}
  for line in every[16:]:
    line['cpu_seconds'] += 3 * (line['step'] - 15)
  found = curve(every)
  np.testing.assert_allclose(found.costs['steady'][-1], 16 + 8 * 4)


def test_each_seed_is_held_against_its_own_reference() -> None:
  steps = np.array([1, 2, 3])

  def run(loss: list[float], cost: float) -> Curve:
    values = np.array(loss)
    return Curve(steps, values, values, {'cpu': cost * steps})

  slow = [run([4, 3, 2], 10.0), run([4, 3, 2.5], 10.0)]
  quick = [run([3, 2, 1], 5.0), run([3, 2, 1], 5.0)]
  found = ratios(quick, slow, 'cpu')
  assert found.low == pytest.approx(5 * 1.5 / 30)
  assert found.high == pytest.approx(10 / 30)
  assert (found.reached, found.of) == (2, 2)
  never = ratios(slow, quick, 'cpu')
  assert never.median is None
  assert never.reached == 0


@pytest.mark.parametrize(
  ('values', 'median', 'reached'),
  [
    ([1.0, 2.0, 4.0], 2.0, 3),
    ([1.0, None, 4.0], 4.0, 2),
    ([1.0, None, None], None, 1),
    ([None], None, 0),
  ],
)
def test_never_is_beyond_every_number(
  values: list[float | None], median: float | None, reached: int
) -> None:
  found = over_seeds(values)
  assert found.median == median
  assert found.reached == reached
  assert (found.high is None) == (None in values)
  assert not any(
    isinstance(x, float) and not math.isfinite(x)
    for x in found.plain().values()
  )
