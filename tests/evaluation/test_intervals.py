"""Bootstrap intervals against theory and against what they must pair."""

from __future__ import annotations

import numpy as np
import pytest

from ntk_jax.evaluation.intervals import Bootstrap, Interval


def test_interval_of_a_mean_is_that_of_theory() -> None:
  values = np.random.default_rng(0).normal(5.0, 2.0, (1, 400))
  mean, low, high = Bootstrap(1, 400).mean(values)
  half = 1.96 * values.std() / np.sqrt(400)
  assert mean == pytest.approx(values.mean())
  # 2000 draws put each end within a few percent of the normal theory.
  assert mean - low == pytest.approx(half, rel=0.1)
  assert high - mean == pytest.approx(half, rel=0.1)


def test_95_of_100_intervals_cover_the_truth() -> None:
  boot, rng = Bootstrap(1, 32), np.random.default_rng(0)
  intervals = [boot.mean(rng.normal(size=(1, 32))) for _ in range(400)]
  covered = np.mean([i.low <= 0 <= i.high for i in intervals])
  # Percentile intervals of 32 rows cover a little less than 95%.
  assert 0.90 < covered < 0.97


def test_a_value_that_never_varies_is_certain() -> None:
  assert Bootstrap(3, 7).mean(np.full((3, 7), 0.625)) == Interval(
    0.625, 0.625, 0.625
  )


def test_the_same_draws_serve_every_value() -> None:
  rng = np.random.default_rng(0)
  row = rng.normal(0, 1, (1, 32))
  boot = Bootstrap(1, 32)
  worse = row + 0.05 + rng.normal(0, 0.01, (1, 32))
  paired = boot.mean(worse - row)
  assert paired.low > 0.04
  assert boot.mean(row).high - boot.mean(row).low > 0.5
  above, below = np.abs(row) + 1, np.abs(row) + 1
  assert boot.ratio(above, below) == Interval(1.0, 1.0, 1.0)
  assert boot.ratio(2 * above, below).mean == 2.0


def test_two_bootstraps_draw_alike() -> None:
  values = np.random.default_rng(0).normal(size=(2, 16))
  assert Bootstrap(2, 16).mean(values) == Bootstrap(2, 16).mean(values)


def test_several_seeds_widen_the_interval() -> None:
  rng = np.random.default_rng(0)
  seed = np.array([[-1.0], [0.0], [1.0]])
  values = seed + rng.normal(0, 0.1, (3, 32))
  one = Bootstrap(1, 32).mean(values[1:2])
  three = Bootstrap(3, 32).mean(values)
  assert one.high - one.low < 0.1
  assert three.low < -0.6
  assert three.high > 0.6


def test_a_hard_row_stays_hard_for_every_seed() -> None:
  row = np.random.default_rng(0).normal(0, 1, (1, 32))
  one = Bootstrap(1, 32).mean(row)
  eight = Bootstrap(8, 32).mean(np.repeat(row, 8, axis=0))
  # More models do not make 32 rows tell more about other text.
  assert eight.high - eight.low == pytest.approx(one.high - one.low, rel=0.1)


def test_a_ratio_leaves_out_draws_without_a_hit() -> None:
  below = np.array([[1.0, 0.0]])
  ratio = Bootstrap(1, 2).ratio(np.array([[1.0, 0.0]]), below)
  assert ratio == Interval(1.0, 1.0, 1.0)


def test_plain_rounds_to_six_digits() -> None:
  plain = Interval(1 / 3, 0.0, 2.0).plain()
  assert plain == {'mean': 0.333333, 'low': 0.0, 'high': 2.0}
