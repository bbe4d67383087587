"""Which tokens of a row are kept, forgotten or replaced: the exact rules."""

from __future__ import annotations

import numpy as np
import pytest

from ntk_jax.curriculum.thinning import (
  document_starts,
  kept_keys,
  kept_places,
  masked_inputs,
  of_documents_with,
  row_rng,
  tokens_seen,
)
from ntk_jax.mask import Mask

PACKED = np.array([1] * 9 + [2] * 6 + [3] * 1 + [4] * 10 + [0] * 6)
STARTS = [0, 9, 15, 16]


def rng(seed: int = 0) -> np.random.Generator:
  return np.random.default_rng(seed)


def test_starts_and_context_are_of_documents() -> None:
  assert np.flatnonzero(document_starts(PACKED)).tolist() == STARTS
  wanted = [*range(1, 10), *range(1, 7), 1, *range(1, 11), *[0] * 6]
  assert tokens_seen(PACKED).tolist() == wanted
  both = np.stack([PACKED, PACKED[::-1]])
  assert tokens_seen(both)[0].tolist() == wanted
  assert tokens_seen(both)[1].max() == 10
  marked = np.isin(np.arange(len(PACKED)), [10, 31])  # one in padding
  assert np.array_equal(of_documents_with(PACKED, marked), PACKED == 2)


@pytest.mark.parametrize('count', [5, 12, 26, 29, 32])
def test_kept_places_rise_and_hold_every_start(count: int) -> None:
  for seed in range(50):
    places = kept_places(rng(seed), PACKED, count)
    assert places.dtype == np.int32
    assert len(places) == count
    assert (np.diff(places) > 0).all()
    assert places.min() >= 0
    assert places.max() < len(PACKED)
    assert set(STARTS) <= set(places.tolist())
    padding = int((PACKED[places] == 0).sum())
    assert padding == max(0, count - 26)  # only when nothing else is left


def test_more_documents_than_room_keep_some_of_their_starts() -> None:
  segments = np.repeat(np.arange(1, 9), 2)
  drawn = [kept_places(rng(seed), segments, 4) for seed in range(1000)]
  assert all((places % 2 == 0).all() for places in drawn)
  shares = np.bincount(np.concatenate(drawn), minlength=16)[::2] / 1000
  assert (np.abs(shares - 0.5) < 4 * np.sqrt(0.25 / 1000)).all()


def test_other_tokens_are_kept_alike() -> None:
  segments, draws = np.ones(20, int), 4000
  seen = np.zeros(20)
  pairs = 0
  for seed in range(draws):
    places = kept_places(rng(seed), segments, 8)
    seen[places] += 1
    pairs += {3, 17} <= set(places.tolist())
  assert seen[0] == draws
  share = 7 / 19
  sigma = np.sqrt(share * (1 - share) / draws)
  assert (np.abs(seen[1:] / draws - share) < 4 * sigma).all()
  share = share * 6 / 18  # without replacement
  sigma = np.sqrt(share * (1 - share) / draws)
  assert abs(pairs / draws - share) < 3 * sigma


def test_every_query_sees_a_key_and_starts_are_never_hidden() -> None:
  positions = np.maximum(tokens_seen(PACKED) - 1, 0)
  hidden = 0
  for seed in range(100):
    keep = kept_keys(rng(seed), PACKED, 0.9)
    assert keep[STARTS].all()
    assert keep[PACKED == 0].all()
    hidden += (~keep).sum()
    seen = np.asarray(
      Mask(document=True).visible(positions, q_segments=PACKED, kv_keep=keep)
    )
    for i, own in enumerate(PACKED):
      # Word by word: the kept ones of its document before it, and itself.
      wanted = [
        own != 0 and PACKED[j] == own and j <= i and (keep[j] or j == i)
        for j in range(len(PACKED))
      ]
      assert seen[i].tolist() == wanted
      assert seen[i].any() == (own != 0)
  assert hidden > 100


def test_shares_forgotten_are_uniform_up_to_the_largest() -> None:
  rows, n, most = 600, 400, 0.15
  segments = np.ones(n, int)
  drawn = [kept_keys(rng(seed), segments, most) for seed in range(rows)]
  shares = 1 - np.stack(drawn)[:, 1:].mean(axis=1)
  noise = most / 2 * (1 - most / 2) / n
  sigma = np.sqrt((most**2 / 12 + noise) / rows)
  assert abs(shares.mean() - most / 2) < 3 * sigma
  # One share for all would have the variance of the noise alone.
  spread = shares.var() - noise
  assert abs(spread - most**2 / 12) < 0.15 * most**2 / 12
  assert shares.max() < most + 4 * np.sqrt(most * (1 - most) / n)


def test_each_document_draws_its_own_share() -> None:
  segments = np.repeat([1, 2], 500)
  drawn = [kept_keys(rng(seed), segments, 0.9) for seed in range(200)]
  shares = 1 - np.stack(drawn).reshape(200, 2, 500).mean(axis=-1)
  assert abs(np.corrcoef(shares.T)[0, 1]) < 3 / np.sqrt(200)
  assert shares.std(0).min() > 0.2


def test_nothing_is_forgotten_at_rate_0_or_where_spared() -> None:
  assert kept_keys(rng(), PACKED, 0.0).all()
  spared = PACKED == 4
  for seed in range(20):
    keep = kept_keys(rng(seed), PACKED, 0.9, spared)
    assert keep[spared].all()
    same = kept_keys(rng(seed), PACKED, 0.9)
    assert np.array_equal(keep[~spared], same[~spared])


def test_replaced_inputs_are_counted_and_never_starts() -> None:
  tokens = np.arange(100, 132, dtype=np.int32)
  spared = PACKED == 2
  counts = []
  for seed in range(400):
    found = masked_inputs(
      rng(seed), tokens, PACKED, 0.3, mask_token=7, spared=spared
    )
    places = np.flatnonzero(found != tokens)
    assert (found[places] == 7).all()
    assert not set(STARTS) & set(places.tolist())
    assert not (spared | (PACKED == 0))[places].any()
    counts.append(len(places))
  assert tokens[0] == 100  # not changed in place
  # 17 may be replaced, 5.1 of them on average, rounded by chance.
  assert set(counts) == {5, 6}
  assert abs(np.mean(counts) - 5.1) < 3 * 0.3 / 20
  same = masked_inputs(rng(), tokens, PACKED, 0.0, mask_token=7)
  assert np.array_equal(same, tokens)


def test_a_random_token_is_any_id_or_an_earlier_one() -> None:
  tokens = np.arange(100, 132, dtype=np.int32)
  ids = np.concatenate(
    [
      masked_inputs(rng(seed), tokens, PACKED, 0.9, vocab=5)
      for seed in range(50)
    ]
  )
  assert set(ids[ids < 100].tolist()) == set(range(5))
  seen = tokens_seen(PACKED)
  for seed in range(200):
    found = masked_inputs(rng(seed), tokens, PACKED, 0.9)
    for i in np.flatnonzero(found != tokens):
      source = int(found[i]) - 100
      assert i - seen[i] < source < i  # of its document, and not to come
  # The whole of the document before it, its first token too.
  sources = {
    int(masked_inputs(rng(s), tokens, PACKED, 0.9)[24]) - 100
    for s in range(400)
  }
  assert sources == set(range(16, 25))


def test_generators_differ_by_seed_use_step_and_row() -> None:
  draws = [
    row_rng(seed, use, step, row).integers(2**60)
    for seed in (0, 1)
    for use in ('keep', 'forget', 'mask')
    for step in (0, 1)
    for row in (0, 1)
  ]
  assert len(set(draws)) == 24
