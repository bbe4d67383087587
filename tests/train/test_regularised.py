"""Regularisation of batches: the same on any hosts, and nothing when off."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ntk_jax import evaluation
from ntk_jax.curriculum.regularize import (
  RegularizeConfig,
  kept_counts,
  loss_factor,
)
from ntk_jax.curriculum.thinning import document_starts, tokens_seen
from ntk_jax.data.batch import NO_TARGET, Batch
from ntk_jax.long_ce import LongCE
from ntk_jax.train.regularised import long_ce_of, regularised

B, T = 8, 64
EVERYTHING = RegularizeConfig(
  keep_start=0.25,
  forget=0.5,
  mask_inputs=0.3,
  mask_token=7,
  weight='distance',
  weight_context=8,
  long_ce=True,
  long_short=16,
  long_from=0.7,
  positions='pose',
  target_length=1000,
  seed=3,
)


def packed() -> Batch:
  """Rows of three documents and padding; each third document of every second
  row is asked for something."""
  rng = np.random.default_rng(0)
  tokens = rng.integers(100, 200, (B, T)).astype(np.int32)
  segments = np.tile([1] * 30 + [2] * 18 + [3] * 10 + [0] * 6, (B, 1))
  segments = segments.astype(np.int32)
  targets = np.full_like(tokens, NO_TARGET)
  same = segments[:, 1:] == segments[:, :-1]
  targets[:, :-1] = np.where(same, tokens[:, 1:], NO_TARGET)
  targets[segments == 0] = NO_TARGET
  answers = np.zeros((B, T), bool)
  answers[::2, 55] = True
  weights = (targets >= 0).astype(np.float32)
  positions = np.maximum(tokens_seen(segments) - 1, 0)
  return Batch(tokens, targets, weights, answers, positions, segments)


def applied(
  config: RegularizeConfig,
  batch: Batch,
  fraction: float = 0.0,
  step: int = 5,
  first_row: int = 40,
) -> Any:
  return regularised(
    config, batch, fraction=fraction, step=step, first_row=first_row
  )


def test_off_is_the_very_same_batch() -> None:
  batch = packed()
  found, controls = applied(RegularizeConfig(), batch)
  assert found is batch
  assert controls is None


def test_each_alone_changes_what_it_names() -> None:
  batch = packed()
  fields: dict[str, tuple[dict[str, Any], set[str]]] = {
    'keep': ({'keep_start': 0.5}, {'kept'}),
    'forget': ({'forget': 0.5}, {'kv_keep'}),
    'mask': ({'mask_inputs': 0.3}, {'tokens'}),
    'weight': ({'weight': 'position'}, {'emphasis'}),
    'long': ({'long_ce': True}, {'long_ce'}),
    'pose': ({'positions': 'pose', 'target_length': 99}, {'positions'}),
    'random': ({'positions': 'random', 'target_length': 99}, {'positions'}),
  }
  for settings, names in fields.values():
    found, controls = applied(RegularizeConfig(**settings), batch)
    changed = {
      name
      for name in Batch._fields
      if not np.array_equal(getattr(found, name), getattr(batch, name))
    }
    told = {n for n, v in controls._asdict().items() if v is not None}
    assert changed | told == names


@pytest.mark.parametrize('parts', [2, 4, 8])
def test_hosts_share_rows_without_a_trace(parts: int) -> None:
  batch = packed()
  whole, told = applied(EVERYTHING, batch)
  size = B // parts
  for part in range(parts):
    mine = slice(part * size, (part + 1) * size)
    own = Batch(*(x[mine] for x in batch))
    found, controls = applied(EVERYTHING, own, first_row=40 + part * size)
    for a, b in zip(whole, found):
      np.testing.assert_array_equal(a[mine], b)
    for name in ('kept', 'kv_keep', 'emphasis'):
      np.testing.assert_array_equal(
        getattr(told, name)[mine], getattr(controls, name)
      )
  # Other steps, rows and seeds are other draws.
  for other in (
    applied(EVERYTHING, batch, step=6),
    applied(EVERYTHING, batch, first_row=41),
    applied(dataclasses.replace(EVERYTHING, seed=4), batch),
  ):
    assert not np.array_equal(other[0].tokens, whole.tokens)
    assert not np.array_equal(other[0].positions, whole.positions)
    assert not np.array_equal(other[1].kept, told.kept)
    assert not np.array_equal(other[1].kv_keep, told.kv_keep)


def test_one_does_not_move_the_draws_of_another() -> None:
  batch = packed()
  whole, told = applied(EVERYTHING, batch)
  alone = RegularizeConfig(forget=0.5, seed=3)
  assert np.array_equal(applied(alone, batch)[1].kv_keep, told.kv_keep)
  alone = RegularizeConfig(keep_start=0.25, seed=3)
  assert np.array_equal(applied(alone, batch)[1].kept, told.kept)
  alone = RegularizeConfig(mask_inputs=0.3, mask_token=7, seed=3)
  assert np.array_equal(applied(alone, batch)[0].tokens, whole.tokens)


def test_shapes_are_those_of_the_bucket() -> None:
  """All that may change within a bucket are values."""
  batch, seen = packed(), {}
  for step in range(40):
    found, controls = applied(EVERYTHING, batch, step / 40, step)
    count = None if controls.kept is None else controls.kept.shape[1]
    shape = [
      None if x is None else (x.shape, x.dtype)
      for x in (*found, *controls._replace(kept=None))
    ]
    assert seen.setdefault(count, shape) == shape
    for a, b in zip(found, batch):
      assert (a.shape, a.dtype) == (b.shape, b.dtype)
  assert tuple(seen) == kept_counts(EVERYTHING, T)
  assert len(seen) == 4


def test_packed_documents_keep_their_starts_and_their_context() -> None:
  batch = packed()
  starts = document_starts(batch.segments)
  for step in range(30):
    found, controls = applied(EVERYTHING, batch, step=step)
    assert (found.tokens == batch.tokens)[starts].all()
    assert controls.kv_keep[starts].all()
    rows = np.arange(B)[:, None]
    kept = np.zeros((B, T), bool)
    kept[rows, controls.kept] = True
    assert kept[starts].all()
    assert not kept[batch.segments == 0].any()
    # By the tokens that stand there, not by positions that were moved.
    assert not np.array_equal(found.positions, batch.positions)
    wanted = loss_factor(EVERYTHING, tokens_seen(batch.segments))
    assert np.array_equal(controls.emphasis, wanted)
    for name in ('targets', 'weights', 'answers', 'segments'):
      assert getattr(found, name) is getattr(batch, name)


def test_documents_that_are_asked_stay_whole() -> None:
  batch = packed()
  asked = (np.arange(B) % 2 == 0)[:, None] & (batch.segments == 3)
  hits = dict.fromkeys(('spared', 'other', 'not spared'), 0)
  for step in range(30):
    found, controls = applied(EVERYTHING, batch, step=step)
    hit = (found.tokens != batch.tokens) | ~controls.kv_keep
    hits['spared'] += hit[asked].sum()
    hits['other'] += hit[~asked & (batch.segments == 3)].sum()
    config = dataclasses.replace(EVERYTHING, spare_answers=False)
    found, controls = applied(config, batch, step=step)
    hit = (found.tokens != batch.tokens) | ~controls.kv_keep
    hits['not spared'] += hit[asked].sum()
  assert hits['spared'] == 0
  assert min(hits['other'], hits['not spared']) > 100


def test_rows_of_one_document_need_no_segments() -> None:
  batch = packed()
  bare = batch._replace(positions=None, segments=None)
  config = dataclasses.replace(EVERYTHING, spare_answers=False)
  found, controls = applied(config, bare)
  ones = np.ones((B, T), np.int32)
  plain = np.tile(np.arange(T, dtype=np.int32), (B, 1))
  wanted, told = applied(config, bare._replace(positions=plain, segments=ones))
  assert found.segments is None
  np.testing.assert_array_equal(found.tokens, wanted.tokens)
  np.testing.assert_array_equal(found.positions, wanted.positions)
  for a, b in zip(controls, told):
    np.testing.assert_array_equal(a, b)


def test_long_ce_begins_by_a_value() -> None:
  batch = packed()
  on = [
    bool(applied(EVERYTHING, batch, f)[1].long_ce) for f in (0.0, 0.69, 0.7)
  ]
  assert on == [False, False, True]
  assert long_ce_of(EVERYTHING) == LongCE(16)
  assert long_ce_of(RegularizeConfig()) is None


def test_evaluation_knows_nothing_of_it() -> None:
  """Off there because nothing there can turn it on."""
  for path in Path(evaluation.__file__).parent.glob('*.py'):
    text = path.read_text()
    for word in ('regulari', 'long_ce', 'emphasis', 'kv_keep', 'thinning'):
      assert word not in text, (path, word)
