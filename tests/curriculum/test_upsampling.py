"""Long documents upsampled: shares within sources, and of sources."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntk_jax.curriculum.upsampling import upsample_long
from ntk_jax.errors import ConfigError

LONG = 4096


def documents(seed: int, count: int = 4000) -> tuple[np.ndarray, np.ndarray]:
  """Lengths as they come, of three sources; in two of them few are long."""
  rng = np.random.default_rng(seed)
  sources = rng.integers(3, size=count)
  scale = np.array([6.0, 7.0, 8.5])[sources]
  return np.exp(rng.normal(scale, 1.0)).astype(int) + 1, sources


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(seed=st.integers(0, 2**32), share=st.floats(0.05, 1.0))
def test_shares_are_exact_to_a_document(seed: int, share: float) -> None:
  lengths, sources = documents(seed)
  counts = upsample_long(
    lengths, sources, longer_than=LONG, share=share, seed=seed
  )
  assert counts.shape == lengths.shape and counts.min() >= 0
  read = counts * lengths
  for source in range(3):
    here, long = sources == source, lengths > LONG
    total, held = lengths[here].sum(), lengths[here & long].sum()
    if held >= share * total:
      assert (counts[here] == 1).all()
      continue
    # The nearest sum of a random prefix: within half of a document.
    long_slack, slack = lengths[here].max() / 2 + 1, LONG / 2 + 1
    assert abs(read[here & long].sum() - share * total) <= long_slack
    assert abs(read[here & ~long].sum() - (1 - share) * total) <= slack
    assert abs(read[here].sum() - total) <= long_slack + slack
    for part in (here & long, here & ~long):
      assert np.ptp(counts[part]) <= 1


def test_sources_keep_their_shares() -> None:
  """Chi-square of expected against found tokens: far below any doubt."""
  lengths, sources = documents(1)
  counts = upsample_long(lengths, sources, longer_than=LONG, share=0.7, seed=0)
  before = np.bincount(sources, lengths) / lengths.sum()
  after = np.bincount(sources, counts * lengths) / (counts * lengths).sum()
  documents_read = counts.sum()
  chi_square = documents_read * ((after - before) ** 2 / before).sum()
  assert chi_square < 0.1  # of 2 degrees of freedom, 5% are above 5.99
  assert np.abs(after - before).max() < 2e-3


def test_which_are_repeated_is_drawn_by_lot() -> None:
  """Long documents all have the same chance: chi-square over seeds."""
  lengths, sources = np.array([100] * 20 + [10] * 300), np.zeros(320, int)
  runs = [
    upsample_long(lengths, sources, longer_than=50, share=0.6, seed=seed)[:20]
    for seed in range(300)
  ]
  extra = np.sum(runs, axis=0) - 300  # 30 of 20 documents: half of them twice
  assert extra.sum() == 300 * 10
  chi_square = ((extra - 150) ** 2 / (150 * 0.5)).sum()
  assert chi_square < 43.8  # 19 degrees of freedom, 0.1%
  assert len({tuple(run) for run in runs}) > 290


def test_what_cannot_be_raised_stays() -> None:
  lengths = np.array([10, 20, 100, 200, 10, 100])
  sources = np.array([0, 0, 1, 1, 2, 2])  # short ones; long ones; both
  counts = upsample_long(lengths, sources, longer_than=50, share=0.9, seed=0)
  assert counts.tolist() == [1] * 6
  lengths = np.append(lengths, [10] * 50)
  sources = np.append(sources, [2] * 50)
  counts = upsample_long(lengths, sources, longer_than=50, share=0.9, seed=0)
  assert counts[:4].tolist() == [1] * 4
  assert counts[5] == 5 or counts[5] == 6  # 0.9 of 610, in hundreds
  assert counts[[4, *range(6, 56)]].sum() == 6


def test_long_is_longer() -> None:
  lengths, sources = np.array([50, 51, 50, 50]), np.zeros(4, int)
  counts = upsample_long(lengths, sources, longer_than=50, share=0.5, seed=0)
  assert counts[1] == 2 and counts.sum() == 4


def test_all_long() -> None:
  lengths, sources = np.array([100, 10, 10]), np.zeros(3, int)
  counts = upsample_long(lengths, sources, longer_than=50, share=1.0, seed=0)
  assert counts.tolist() == [1, 0, 0]


@pytest.mark.parametrize('share', [0.0, -0.5, 1.01, float('nan')])
def test_a_share_that_is_none(share: float) -> None:
  with pytest.raises(ConfigError, match=f'share is {share}: of the tokens'):
    upsample_long(
      np.array([9]), np.array([0]), longer_than=3, share=share, seed=0
    )
