"""Slopes against a solver of normal equations; detectors on simulated runs."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ntk_jax.curriculum.plateau import flattened, slope_per_efold

CHECKS = 128
RUNS = 1000


def simulated(slope: float, noise: float, correlated: float) -> tuple:
  """Losses that fall by a slope per e-fold, over a doubling of tokens."""
  free = np.random.default_rng(0).standard_normal((RUNS, CHECKS))
  errors = free.copy()
  for i in range(1, CHECKS):
    fresh = math.sqrt(1 - correlated**2) * free[:, i]
    errors[:, i] = correlated * errors[:, i - 1] + fresh
  tokens = np.linspace(1e6, 2e6, CHECKS)
  return tokens, 3 - slope * np.log(tokens / 1e6) + noise * errors


def twice(tokens: np.ndarray, losses: np.ndarray, window: int, **how) -> float:
  """Share of runs in which the slope test holds at two checks in a row."""
  windows = np.lib.stride_tricks.sliding_window_view
  flat = flattened(windows(tokens, window), windows(losses, window, 1), **how)
  return float((flat[:, 1:] & flat[:, :-1]).any(1).mean())


def best_so_far(losses: np.ndarray) -> float:
  """Share of runs in which ReduceLROnPlateau acts in the first half.

  Its defaults: better is below 0.9999 of the best, more than 10 others act.
  """
  best, bad, acted = np.full(RUNS, np.inf), np.zeros(RUNS), np.zeros(RUNS, bool)
  for loss in losses.T[: CHECKS // 2]:
    better = loss < best * (1 - 1e-4)
    best = np.where(better, loss, best)
    bad = np.where(better, 0, bad + 1)
    acted |= bad > 10
    bad = np.where(bad > 10, 0, bad)
  return float(acted.mean())


@pytest.mark.parametrize('n', [3, 8, 64])
def test_slope_and_error_are_those_of_least_squares(n: int) -> None:
  rng = np.random.default_rng(n)
  tokens = np.sort(rng.uniform(1e5, 1e7, n))
  values = np.cumsum(rng.standard_normal((4, n)), 1)  # neighbours alike
  found = slope_per_efold(tokens, values)
  design = np.stack([np.ones(n), np.log(tokens)], 1)
  for i, y in enumerate(values):
    fit, _, _, _ = np.linalg.lstsq(design, y, rcond=None)
    rest = y - design @ fit
    rho = np.sum(rest[1:] * rest[:-1]) / np.sum(rest**2)
    variance = rest @ rest / (n - 2) * np.linalg.inv(design.T @ design)[1, 1]
    rho = min(max(rho, 0.0), 0.8)
    error = math.sqrt(variance * (1 + rho) / (1 - rho))
    assert found.value[i] == pytest.approx(fit[1], rel=1e-9)
    assert found.error[i] == pytest.approx(error, rel=1e-7)


def test_what_says_nothing_has_an_infinite_error() -> None:
  for tokens, values in (
    (np.array([1.0, 2.0]), np.array([3.0, 2.0])),
    (np.array([5.0, 5.0, 5.0]), np.array([3.0, 2.0, 1.0])),
  ):
    assert slope_per_efold(tokens, values).error == math.inf
    assert not flattened(tokens, values)


def test_a_constant_is_flat() -> None:
  assert flattened(np.arange(1.0, 9.0), np.full(8, 2.5))


@pytest.mark.parametrize(
  ('noise', 'slope'), [(0.01, 0.1), (0.02, 0.2)], ids=['quiet', 'loud']
)
def test_a_falling_loss_fools_the_usual_detector_not_the_slope(
  noise: float, slope: float
) -> None:
  tokens, losses = simulated(slope, noise, 0.3)
  assert best_so_far(losses) > 0.9
  assert twice(tokens, losses, 64) < 0.01


def test_shorter_windows_are_fooled_more_often_and_plateaus_are_found() -> None:
  tokens, losses = simulated(0.1, 0.02, 0.3)
  assert twice(tokens, losses, 64) < 0.05
  assert 0.25 < twice(tokens, losses, 32) < 0.6
  tokens, losses = simulated(0.02, 0.02, 0.3)
  assert 0.8 < twice(tokens, losses, 64) < 0.98
  assert twice(tokens, losses, 64, doubt=0.1) > 0.8  # it is surely known


@pytest.mark.parametrize('noise', [0.01, 0.05, 0.1, 0.3, 1.0])
def test_free_noise_on_a_falling_loss_fires_in_under_a_hundredth(
  noise: float,
) -> None:
  """However loud: of a slope that is not known, nothing is said."""
  tokens, losses = simulated(0.2, noise, 0.0)
  assert twice(tokens, losses, 64, doubt=0.1) < 0.01
  if noise == 0.3:
    assert twice(tokens, losses, 64) > 0.1
