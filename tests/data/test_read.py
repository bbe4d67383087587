"""Batches by a plan of rows: the same tokens however windows are made."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from ntk_jax.curriculum.sampling import RowPlan
from ntk_jax.data.batch import Batch
from ntk_jax.data.pack import cut
from ntk_jax.data.pipeline import Batches, Pipeline
from ntk_jax.data.settings import DataConfig
from ntk_jax.errors import ConfigError
from tests.data.test_pipeline import CORPUS, assert_same

CONFIG = DataConfig(
  max_length=256, batch_rows=4, seed=5, key_value=0.5, threads=0
)
ROWS = 256 * 4


def all_of(length: int, window: int, rows: int | None = None) -> RowPlan:
  """Rows that all have one window."""
  count = ROWS // length if rows is None else rows
  return RowPlan(length, np.full(count, window, np.int32), rows)


def mixed(length: int, windows: Sequence[int]) -> RowPlan:
  return RowPlan(length, np.array(windows, np.int32))


PLANS = [
  RowPlan(64),
  all_of(256, 64),
  mixed(128, [32, 128, 50, 64, 128, 100, 32, 128]),
  RowPlan(64, rows=4),
  RowPlan(64, rows=8),  # begins at a multiple of 128
  RowPlan(32, rows=4),
  RowPlan(64, rows=4),  # passes over 32 tokens, ends within a batch
  RowPlan(256),  # passes over the rest of it
  all_of(128, 40, rows=4),
  RowPlan(128, rows=4),
  RowPlan(256, rows=4),
  RowPlan(128, rows=4),
]


def read(
  plans: Sequence[RowPlan], host: int = 0, hosts: int = 1, **change: Any
) -> list[Batch]:
  config = dataclasses.replace(CONFIG, **change)
  pipeline = Pipeline.of(config, CORPUS, host=host, hosts=hosts)
  with pipeline.batches() as batches:
    return [batches.read(plan) for plan in plans]


@pytest.fixture(scope='module')
def plain() -> list[Batch]:
  """What one host reads by all plans, in turn."""
  return read(PLANS)


@pytest.mark.parametrize(('bucket', 'window'), [(256, 64), (128, 64), (64, 32)])
def test_both_executors_read_the_same(bucket: int, window: int) -> None:
  """Rows of w, and rows of L in windows of w: two epochs and more."""
  short = read([RowPlan(window)] * 8)
  inside = read([all_of(bucket, window)] * 8)
  assert sum(batch.answers.any(axis=1).sum() for batch in short) > 50
  assert_same([cut(batch, window) for batch in inside], short)
  for found, batch in zip(inside, short):
    assert found.tokens.shape == (ROWS // bucket, bucket)
    for name in ('tokens', 'targets', 'weights', 'answers'):
      expected = getattr(batch, name).reshape(-1, bucket)
      assert np.array_equal(getattr(found, name), expected), name
    for row in found.segments:
      numbers = np.unique(row[row > 0])
      assert np.array_equal(numbers, np.arange(len(numbers)) + 1)


def test_a_row_does_not_depend_on_the_windows_of_others() -> None:
  windows = [32, 256, 64, 50]
  (batch,) = read([mixed(256, windows)])
  for i, window in enumerate(windows):
    (alike,) = read([all_of(256, window)])
    for name in Batch._fields:
      found, expected = getattr(batch, name)[i], getattr(alike, name)[i]
      assert np.array_equal(found, expected), name


def test_windows_that_do_not_divide() -> None:
  """No question looks out of its block, and the last is text if too short."""
  (batch,) = read([all_of(256, 100)])
  (text,) = read([all_of(256, 100)], key_value=0.0)
  turned = 0
  for row in range(4):
    for start in (0, 100, 200):
      block = slice(start, min(start + 100, 256))
      asked = batch.answers[row, block].any()
      turned += asked
      if asked:
        assert len(np.unique(batch.segments[row, block])) <= 2  # padding
        assert batch.positions[row, start] == 0
      else:
        expected = text.tokens[row, block]
        assert np.array_equal(batch.tokens[row, block], expected)
  assert 4 <= turned <= 8


@pytest.mark.parametrize('hosts', [2, 4])
def test_hosts_change_nothing(plain: list[Batch], hosts: int) -> None:
  shares = [read(PLANS, host, hosts) for host in range(hosts)]
  whole = [
    Batch(*(np.concatenate(arrays) for arrays in zip(*parts)))
    for parts in zip(*shares)
  ]
  assert_same(whole, plain)


@pytest.mark.parametrize('stop', range(1, len(PLANS)))
def test_resuming_at_any_step(plain: list[Batch], stop: int) -> None:
  pipeline = Pipeline.of(CONFIG, CORPUS)
  with pipeline.batches() as batches:
    first = [batches.read(plan) for plan in PLANS[:stop]]
    state = json.loads(json.dumps(batches.state()))
  other = Pipeline.of(dataclasses.replace(CONFIG, threads=2), CORPUS)
  with other.restore(state) as batches:
    second = [batches.read(plan) for plan in PLANS[stop:]]
  assert_same([*first, *second], plain)


def test_resuming_with_workers(plain: list[Batch]) -> None:
  pipeline = Pipeline.of(dataclasses.replace(CONFIG, workers=2), CORPUS)
  state = {'row': 12, 'column': 64, 'batch_rows': 4}
  with pipeline.restore(state | {'fingerprint': pipeline.fingerprint}) as found:
    assert_same([found.read(plan) for plan in PLANS[4:]], plain[4:])


def test_where_the_plans_end() -> None:
  """After each plan: packed row and column, tokens, and what was read."""
  places = [
    *((4 * n, 0) for n in (1, 2, 3)),
    *((12, 64), (16, 0), (16, 32), (16, 128)),
    *((24, 0), (24, 128), (28, 0), (32, 0), (32, 128)),
  ]
  pipeline = Pipeline.of(CONFIG, CORPUS)
  with pipeline.batches() as batches:
    for plan, place in zip(PLANS, places, strict=True):
      batch = batches.read(plan)
      assert (batches.row, batches.column) == place
      row, column = place
      assert pipeline.tokens(batches.state()) == row * 256 + column * 4
      rows = ROWS // plan.length if plan.rows is None else plan.rows
      assert batch.tokens.shape == (rows, plan.length)


def test_fewer_rows_read_every_token_once() -> None:
  """Columns of the packed rows, one after the other."""
  text = {'key_value': 0.0}
  whole = read([RowPlan(256)] * 2, **text)
  parts = read([RowPlan(32, rows=4)] * 16, **text)
  for name in ('tokens', 'targets', 'weights'):
    found = np.concatenate([getattr(part, name) for part in parts], axis=1)
    expected = np.concatenate([getattr(batch, name) for batch in whole], axis=1)
    assert np.array_equal(found, expected), name
  twice = read([RowPlan(32, rows=8)] * 8, **text)
  short = read([RowPlan(32)] * 2, **text)
  for i, batch in enumerate(short):
    rows = np.stack([part.tokens for part in parts[8 * i :][:8]], axis=1)
    assert np.array_equal(rows.reshape(-1, 32), batch.tokens)
  for i, batch in enumerate(twice):
    rows = np.stack([part.tokens for part in parts[2 * i :][:2]], axis=1)
    assert np.array_equal(rows.reshape(-1, 32), batch.tokens)


def test_the_same_questions_in_columns() -> None:
  """A short row has one number, whether its step reads little or much."""
  (whole,) = read([RowPlan(64)])
  parts = read([RowPlan(64, rows=4)] * 4)
  for name in Batch._fields:
    rows = np.stack([getattr(part, name) for part in parts], axis=1)
    assert np.array_equal(rows.reshape(-1, 64), getattr(whole, name)), name


@pytest.mark.parametrize(
  ('plan', 'says'),
  [
    (RowPlan(100), 'length is 100: it divides max_length, 256, and is at le'),
    (RowPlan(512), 'length is 512: it divides'),
    (RowPlan(16), 'at least 32 with these shares of retrieval'),
    (RowPlan(64, rows=6), 'rows is 6: it is batch_rows, 4, times a divisor of'),
    (RowPlan(64, rows=0), 'rows is 0: it is batch_rows'),
    (RowPlan(64, rows=12), 'max_length / length, 4'),
    (RowPlan(64, rows=32), 'rows is 32: it is'),
    (mixed(256, [64] * 3), r'shape \(3,\): one for each of the 4 rows'),
    (mixed(64, [64] * 4), 'one for each of the 16 rows'),
    (mixed(256, [64, 31, 64, 64]), 'windows are 31 to 64: at least 32'),
    (mixed(256, [64, 64, 64, 257]), 'at most the length of rows, 256'),
  ],
)
def test_rows_that_do_not_fit(plan: RowPlan, says: str) -> None:
  with Pipeline.of(CONFIG, CORPUS).batches(column=64) as batches:
    with pytest.raises(ConfigError, match=says):
      batches.read(plan)
    assert (batches.row, batches.column) == (0, 64)


def resume(**state: Any) -> Batches:
  pipeline = Pipeline.of(CONFIG, CORPUS)
  return pipeline.restore(
    {'fingerprint': pipeline.fingerprint, 'row': 4} | state
  )


@pytest.mark.parametrize(
  ('state', 'says'),
  [
    ({'column': 64, 'batch_rows': 8}, 'batch_rows is 4, and the checkpoint'),
    ({'column': 64}, 'within a batch of None packed rows'),
    ({'column': 256, 'batch_rows': 4}, 'column is 256: it counts tokens'),
    ({'column': -1, 'batch_rows': 4}, 'column is -1: it counts'),
    ({'column': 1.5, 'batch_rows': 4}, 'column is 1.5: it counts'),
  ],
)
def test_states_that_do_not_fit(state: dict[str, Any], says: str) -> None:
  with pytest.raises(ConfigError, match=says):
    resume(**state)


def test_between_batches_their_rows_may_change() -> None:
  with resume(column=0, batch_rows=8) as batches:
    assert (batches.row, batches.column) == (4, 0)
