"""Speed under a clock of our own, and operations counted one by one."""

from __future__ import annotations

import time

import numpy as np
import pytest

from ntk_jax.metrics import Throughput, flops_per_token, peak_flops


@pytest.mark.parametrize(
  ('kind', 'teraflops'),
  [
    ('TPU v4', 275),
    ('TPU v5 lite', 197),
    ('TPU v5e', 197),
    ('TPU v5', 459),
    ('TPU v5p', 459),
    ('TPU v6 lite', 918),
    ('TPU v6e', 918),
    ('TPU7x', 1153.5),
    ('NVIDIA A100-SXM4-40GB', 312),
    ('NVIDIA A100 80GB PCIe', 312),
    ('NVIDIA H100 80GB HBM3', 989.4),
    ('NVIDIA H100 PCIe', 756),
    ('NVIDIA H100 NVL', 835.5),
    ('NVIDIA H200', 989.4),
    ('NVIDIA H200 NVL', 835.5),
    ('NVIDIA B200', 2250),
    ('NVIDIA GB200', 2500),
  ],
)
def test_peaks_by_the_names_that_devices_give(
  kind: str, teraflops: float
) -> None:
  assert peak_flops(kind) == pytest.approx(teraflops * 1e12)


@pytest.mark.parametrize(
  'kind',
  [
    'cpu',
    '',
    'TPU v4 lite',
    'TPU8i',
    'NVIDIA T4',
    'NVIDIA H100 80GB HBM3 MIG 1g.10gb',
    'Radeon',
  ],
)
def test_other_devices_have_no_known_peak(kind: str) -> None:
  assert peak_flops(kind) is None


@pytest.mark.parametrize('length', [1, 5, 8])
@pytest.mark.parametrize('windows', [[None], [3], [None, 1, 5, 100]])
def test_operations_counted_pair_by_pair(
  length: int, windows: list[int | None]
) -> None:
  N, H, parameters = 3, 4, 1000
  i, j = np.indices((length, length))
  multiplications = 0
  for window in windows:
    seen = (j <= i) & (i - j < (window or length))
    # Every visible pair: H of q k and H of p v, in each of N heads.
    multiplications += seen.sum() * 2 * H * N
  forward = 2 * (parameters + multiplications / length)
  found = flops_per_token(parameters, N * H, length, windows)
  np.testing.assert_allclose(found, 3 * forward, rtol=1e-12)


def test_the_formula_of_palm() -> None:
  """Which counts what causal attention does not do: twice ours, at length."""
  parameters, layers, heads, dim, length = 7_000_000_000, 32, 32, 128, 131072
  ours = flops_per_token(parameters, heads * dim, length, [None] * layers)
  palm = 6 * parameters + 12 * layers * heads * dim * length
  np.testing.assert_allclose(
    (ours - 6 * parameters) / (palm - 6 * parameters), 0.5, rtol=1e-5
  )


class Clock:
  """A monotonic clock that is told the time."""

  now = 5000.0

  def __call__(self) -> float:
    return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
  clock = Clock()
  monkeypatch.setattr(time, 'monotonic', clock)
  return clock


def test_speed_between_readings(clock: Clock) -> None:
  speed = Throughput('cpu', 1)
  clock.now += 60  # compiles
  speed.restart()
  clock.now += 2
  assert speed.measure(500, 1e9) == {'tokens_per_second': 250.0}
  clock.now += 4
  assert speed.measure(500, 1e9) == {'tokens_per_second': 125.0}
  clock.now += 100  # evaluates
  speed.restart()
  clock.now += 1
  assert speed.measure(500, 1e9) == {'tokens_per_second': 500.0}


def test_share_of_the_peak_of_all_devices(clock: Clock) -> None:
  speed = Throughput('TPU v5p', 64)
  clock.now += 0.5
  found = speed.measure(131072, 56e9)
  assert found['tokens_per_second'] == 262144
  assert found['mfu'] == pytest.approx(262144 * 56e9 / (64 * 459e12))


def test_no_time_is_no_division_by_zero(clock: Clock) -> None:
  assert np.isfinite(Throughput('cpu', 1).measure(1, 1)['tokens_per_second'])
