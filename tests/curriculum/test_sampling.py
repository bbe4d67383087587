"""Long and short rows: shares, chances, lengths by stage."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntk_jax.config import from_dict
from ntk_jax.curriculum.sampling import (
  LengthMix,
  RowPlan,
  SamplingConfig,
  length_shares,
  row_plan,
)
from ntk_jax.curriculum.stage import Stage
from ntk_jax.errors import ConfigError

TOKENS = 8 * 4096
GROWN = Stage(4096, before=1024, begun=10)
MIXES = (
  LengthMix(1024, (1024, 256), (0.75, 0.25)),
  LengthMix(2048, (512, 2048, 256), (0.5, 0.34, 0.16)),
)


def exactly(length: int) -> int:
  return length


def power(length: int) -> int:
  return 1 << (length - 1).bit_length()


def plan(config: SamplingConfig, step: int = 0, **options: Any) -> RowPlan:
  fields: dict[str, Any] = {'stage': GROWN, 'bucket': exactly, 'tokens': TOKENS}
  return row_plan(config, step=step, **(fields | options))


def windows(found: RowPlan, tokens: int = TOKENS) -> np.ndarray:
  """The window of every row, whole rows included."""
  count = tokens // found.length if found.rows is None else found.rows
  if found.windows is None:
    return np.full(count, found.length)
  assert found.windows.shape == (count,)
  assert found.windows.dtype == np.int32
  return found.windows


def same(x: RowPlan, y: RowPlan) -> bool:
  return x[::2] == y[::2] and np.array_equal(windows(x), windows(y))


def test_nothing_asked_is_whole_rows() -> None:
  assert plan(SamplingConfig()) == (4096, None, None)
  assert plan(SamplingConfig(), rows=6) == (4096, None, 6)
  first = Stage(512, before=512, begun=0)
  every = SamplingConfig(long_share=0.1, long_probability=0.0)
  assert plan(every, stage=first) == (512, None, None)


def test_growth_inside_a_bucket_is_a_window() -> None:
  stage = Stage(300, before=200, begun=0)
  found = plan(SamplingConfig(), stage=stage, bucket=power)
  assert (found.length, found.rows) == (512, None)
  assert (windows(found) == 300).all() and len(windows(found)) == TOKENS // 512


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(
  share=st.floats(0.01, 0.99),
  seed=st.integers(0, 2**32),
  first=st.integers(0, 10**7),
)
def test_a_share_holds_over_any_stretch(
  share: float, seed: int, first: int
) -> None:
  config = SamplingConfig(long_share=share, seed=seed)
  found = np.stack(
    [windows(plan(config, step)) for step in range(first, first + 40)]
  )
  assert set(np.unique(found)) <= {4096, 1024}
  long = (found == 4096).ravel()
  for stop in (8, 31, 100, 320):
    for start in (0, 5, 64):
      part = long[start : start + stop]
      assert abs(part.sum() - share * len(part)) < 3


def test_shares_are_of_tokens() -> None:
  """34 : 66, and the like: rows of a step have as many tokens each."""
  config = SamplingConfig(mixtures=MIXES)
  tokens = dict.fromkeys((4096, 512, 256), 0)
  for step in range(500):
    found = plan(config, step)
    assert found.length == 4096
    for window in windows(found).tolist():
      tokens[window] += found.length
  for length, share in ((4096, 0.34), (512, 0.5), (256, 0.16)):
    assert abs(tokens[length] / (500 * TOKENS) - share) < 0.002


@pytest.mark.parametrize('p', [0.0, 0.2, 0.5, 1.0])
def test_a_step_is_long_by_chance(p: float) -> None:
  config = SamplingConfig(long_probability=p, seed=3)
  found = [plan(config, step) for step in range(2000)]
  assert all(x.windows is None and x.rows is None for x in found)
  assert {x.length for x in found} <= {4096, 1024}
  long = np.mean([x.length == 4096 for x in found])
  assert abs(long - p) <= 3 * (p * (1 - p) / 2000) ** 0.5


def test_steps_are_drawn_apart() -> None:
  """Long steps do not come in turns, and not where long rows do."""
  config = SamplingConfig(long_probability=0.5)
  long = np.array([plan(config, s).length == 4096 for s in range(2000)])
  for lag in (1, 2, 3, 5, 8):
    assert abs(np.mean(long[lag:] == long[:-lag]) - 0.5) < 0.05


def test_a_short_step_has_the_other_lengths() -> None:
  config = SamplingConfig(mixtures=MIXES, long_probability=0.0)
  counts = dict.fromkeys((512, 256), 0)
  for step in range(100):
    found = plan(config, step)
    assert found.length == 512  # rows of the shorter bucket, as many tokens
    assert len(windows(found)) == TOKENS // 512
    for window in windows(found).tolist():
      counts[window] += 1
  assert abs(counts[256] / sum(counts.values()) - 0.16 / 0.66) < 0.005


def test_a_function_of_seed_and_step() -> None:
  config = SamplingConfig(long_share=0.4, long_probability=0.6, seed=7)
  plans = [plan(config, step) for step in range(50)]
  for step in reversed(range(50)):
    assert same(plan(config, step), plans[step])
  other = SamplingConfig(long_share=0.4, long_probability=0.6, seed=8)
  again = [plan(other, step) for step in range(50)]
  assert not all(map(same, plans, again))


def test_long_rows_and_retrieval_rows_are_chosen_apart() -> None:
  """Of long rows the same share is turned into retrieval rows as of all."""
  count, share = 8, 0.5
  long = np.concatenate(
    [
      windows(plan(SamplingConfig(long_share=0.34), step)) == 4096
      for step in range(2000)
    ]
  )
  golden = np.arange(2000 * count) * ((5**0.5 - 1) / 2) % 1
  assert abs(np.mean(golden[long] < share) - share) < 0.01


def test_where_nothing_is_shorter_all_rows_are_whole() -> None:
  config = SamplingConfig(long_share=0.2, short=1024)
  for length in (512, 1024):
    stage = Stage(length, before=256, begun=0)
    assert plan(config, stage=stage) == (length, None, None)
  stage = Stage(2048, before=256, begun=0)
  assert length_shares(config, stage) == ((2048, 0.2), (1024, 0.8))


@pytest.mark.parametrize(
  ('config', 'stage', 'expected'),
  [
    ({}, GROWN, {4096: 1.0}),
    ({}, GROWN._replace(full_share=0.25), {4096: 0.25, 1024: 0.75}),
    ({'long_share': 0.0}, GROWN, {1024: 1.0}),
    (
      {'long_share': 0.5, 'short': 64},
      GROWN._replace(full_share=0.5),
      {4096: 0.25, 1024: 0.25, 64: 0.5},
    ),
    (
      {'long_share': 0.5},
      GROWN._replace(full_share=0.5),
      {4096: 0.25, 1024: 0.75},
    ),
    ({'mixtures': MIXES}, Stage(512, 256, 0), {512: 1.0}),
    ({'mixtures': MIXES}, Stage(1024, 512, 0), {1024: 0.75, 256: 0.25}),
    # The stage has grown past the first of its mix.
    ({'mixtures': MIXES}, Stage(1500, 1024, 0), {1500: 0.75, 256: 0.25}),
    (
      {'mixtures': MIXES},
      Stage(3000, 2048, 0),
      {3000: 0.34, 512: 0.5, 256: 0.16},
    ),
    (
      {'mixtures': MIXES},
      Stage(2048, 512, 0, full_share=0.5),
      {2048: 0.17, 512: 0.67, 256: 0.16},
    ),
  ],
)
def test_shares_of_a_stage(
  config: dict[str, Any], stage: Stage, expected: dict[int, float]
) -> None:
  found = length_shares(SamplingConfig(**config), stage)
  assert [length for length, _ in found] == sorted(expected, reverse=True)
  assert dict(found) == pytest.approx(expected)


def test_constant_rows_read_fewer_tokens() -> None:
  config = SamplingConfig(long_share=0.5)
  found = [plan(config, step, rows=8) for step in range(20)]
  assert all((x.length, x.rows) == (4096, 8) for x in found)
  assert sum((windows(x) == 4096).sum() for x in found) == pytest.approx(
    80, abs=2
  )
  config = SamplingConfig(long_probability=0.0)
  assert plan(config, rows=8) == (1024, None, 8)


@pytest.mark.parametrize('bucket', [lambda n: n // 2, lambda n: n + 8])
def test_a_bucket_that_does_not_hold_it(bucket: Any) -> None:
  with pytest.raises(ConfigError, match='rows of 4096 tokens are put into'):
    plan(SamplingConfig(), bucket=bucket)


def mix(**change: Any) -> dict[str, Any]:
  fields: dict[str, Any] = {
    'from_length': 64,
    'lengths': (64, 16),
    'shares': (0.25, 0.75),
  }
  return {'mixtures': (LengthMix(**(fields | change)),)}


RIGHT: list[dict[str, Any]] = [
  {},
  {'long_share': 0, 'long_probability': 1, 'short': 2, 'seed': 9},
  {'mixtures': MIXES, 'long_probability': 0.5},
  mix(lengths=(64, 32, 16), shares=(1 / 3, 1 / 3, 1 / 3)),
]


def test_settings_that_are_right() -> None:
  for fields in RIGHT:
    assert SamplingConfig(**fields).problems(4096) == []


@pytest.mark.parametrize(
  ('fields', 'says'),
  [
    ({'long_share': 1.1}, 'long_share is 1.1: it lies in [0, 1]'),
    ({'long_share': -0.1}, 'long_share is -0.1'),
    ({'long_share': float('nan')}, 'long_share is nan'),
    ({'long_probability': 2.0}, 'long_probability is 2.0'),
    ({'long_probability': True}, 'long_probability is True'),
    ({'short': 1}, 'short is 1: rows have 2 to 4096 tokens'),
    ({'short': 5000}, 'short is 5000'),
    ({'seed': -1}, 'seed is -1, must be at least 0'),
    ({'mixtures': MIXES, 'short': 64}, 'mixtures say all lengths'),
    ({'mixtures': MIXES, 'long_share': 0.5}, 'mixtures say all lengths'),
    ({'mixtures': MIXES[::-1]}, 'begin at [2048, 1024]: give them in incr'),
    ({'mixtures': MIXES[:1] * 2}, 'begin at [1024, 1024]'),
    (mix(shares=(0.25, 0.7)), 'shares are (0.25, 0.7): each in [0, 1], tog'),
    (mix(shares=(1.5, -0.5)), 'shares are (1.5, -0.5)'),
    (mix(shares=(float('nan'), 1.0)), 'shares are (nan, 1.0)'),
    (mix(shares=(1.0,)), '2 lengths and 1 shares: one share for each'),
    (mix(lengths=(), shares=()), '0 lengths and 0 shares'),
    (mix(lengths=(64, 64)), 'lengths are (64, 64): each stands once'),
    (mix(lengths=(64, 1)), 'lengths are (64, 1): rows have 2 to 4096'),
    (mix(lengths=(8192, 64), from_length=8192), 'rows have 2 to 4096 tokens'),
    (mix(from_length=128), 'the longest of (64, 16) is not from_length, 128'),
  ],
)
def test_what_is_wrong_is_named(fields: dict[str, Any], says: str) -> None:
  (found,) = SamplingConfig(**fields).problems(4096)
  assert says in found


@pytest.mark.unchecked
def test_all_that_is_wrong_at_once() -> None:
  fields: dict[str, Any] = {'long_share': 3.0, 'short': 0, 'seed': -2}
  fields |= mix(shares=(0.0, 0.5))
  assert len(SamplingConfig(**fields).problems(64)) == 5


def test_from_plain_values() -> None:
  plain = {'mixtures': [{'from_length': 64, 'lengths': [64], 'shares': [1]}]}
  config = from_dict(SamplingConfig, plain)
  assert config == SamplingConfig(mixtures=(LengthMix(64, (64,), (1.0,)),))
