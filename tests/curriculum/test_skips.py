"""Skipped positions: their draws, and training with every rope method."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from typing import Any

import jax
import numpy as np
import pytest
from model.oracle import OraclePlan, decoder

from ntk_jax.curriculum.skips import (
  document_spans,
  pose_rows,
  random_rows,
  skipped_arrays,
)
from ntk_jax.data.batch import Batch
from ntk_jax.errors import ConfigError
from ntk_jax.model import ModelConfig, Params, forward, init_params
from ntk_jax.objective import Objective
from ntk_jax.optimizer import adamw
from ntk_jax.rope import METHODS, RopeSpec, pose_positions
from ntk_jax.scheme import Scheme, SchemeArrays
from ntk_jax.step import StepConfig, init_state, train_step
from ntk_jax.temperature import Temperature

DRAWS = {'pose': pose_rows, 'random': random_rows}


def packed(lengths: list[list[int]], T: int) -> tuple[Any, Any]:
  """Positions and segments of rows of documents of these lengths."""
  positions, segments = np.zeros((2, len(lengths), T), np.int32)
  for b, row in enumerate(lengths):
    at = 0
    for number, n in enumerate(row, start=1):
      positions[b, at : at + n] = np.arange(n)
      segments[b, at : at + n] = number
      at += n
  return positions, segments


def documents(found: np.ndarray, segments: np.ndarray) -> list[np.ndarray]:
  """Positions of each document, found by a loop."""
  return [
    row[segment == number]
    for row, segment in zip(found, segments)
    for number in range(1, segment.max() + 1)
  ]


def random_packing(rng: np.random.Generator) -> tuple[Any, Any]:
  """Rows of documents of 1 to 20 tokens, the last with padding behind."""
  rows, T = [], 40
  for _ in range(4):
    row = rng.integers(1, 21, 12).tolist()
    while sum(row) > T:
      row.pop()
    rows.append(row)
  return packed(rows, T)


def test_spans_of_documents() -> None:
  positions, segments = packed([[3, 4], [], [8]], 8)
  del positions
  starts, stops = document_spans(segments)
  assert starts.tolist() == [0, 3, 16] and stops.tolist() == [3, 7, 24]


@pytest.mark.parametrize('chunks', [1, 2, 3, 7])
@pytest.mark.parametrize('target', [20, 21, 64, 2**31 - 1])
def test_pose_by_document(chunks: int, target: int) -> None:
  rng, jumped = np.random.default_rng(chunks), 0
  for step in range(20):
    positions, segments = random_packing(rng)
    found = pose_rows((0, step), positions, segments, target, chunks)
    assert found.dtype == np.int32
    assert (found[segments == 0] == 0).all()
    for places in documents(found, segments):
      steps = np.diff(places)
      assert places[0] == 0 and places[-1] < target
      assert (steps >= 1).all()
      assert (steps > 1).sum() < chunks
      jumped += (steps > 1).sum()
      if len(places) < chunks:
        assert (steps == 1).all()
  assert (jumped > 0) == (chunks > 1)


@pytest.mark.parametrize('target', [20, 21, 30, 64, 2**31 - 1])
def test_random_positions_by_document(target: int) -> None:
  rng = np.random.default_rng(1)
  for step in range(20):
    positions, segments = random_packing(rng)
    found = random_rows((0, step), positions, segments, target)
    assert found.dtype == np.int32
    assert (found[segments == 0] == 0).all()
    for places in documents(found, segments):
      assert (np.diff(places) >= 1).all()
      assert places[0] >= 0 and places[-1] < target


def test_nothing_moves_where_there_is_no_room() -> None:
  positions, segments = packed([[8], [8]], 8)
  for chunks in (1, 2, 5):
    found = pose_rows((0,), positions, segments, 8, chunks)
    np.testing.assert_array_equal(found, positions)
  found = random_rows((0,), positions, segments, 8)
  np.testing.assert_array_equal(found, positions)


@pytest.mark.parametrize('draw', DRAWS.values(), ids=DRAWS)
def test_a_row_is_a_function_of_seed_and_number(draw: Any) -> None:
  positions, segments = packed([[9, 20], [30], [4, 4, 4], [17, 11]] * 2, 32)
  whole = draw((3, 5), positions, segments, 500)
  np.testing.assert_array_equal(whole, draw((3, 5), positions, segments, 500))
  halves = [
    draw((3, 5), positions[at], segments[at], 500, first_row=at.start)
    for at in (slice(0, 3), slice(3, 8))
  ]
  np.testing.assert_array_equal(whole, np.concatenate(halves))
  for seed, first in (((3, 6), 0), ((4, 5), 0), ((3, 5), 8)):
    other = draw(seed, positions, segments, 500, first_row=first)
    assert (other != whole).any(axis=1).all()
  one = draw((3, 5), positions[4:5], segments[4:5], 500, first_row=4)
  assert (one != whole[:1]).any()  # equal documents, another number
  alone = draw((3, 5), positions[2:3, :4], None, 500, first_row=2)
  shared = draw((3, 5), positions[2:3, :4], segments[2:3, :4], 500, first_row=2)
  np.testing.assert_array_equal(alone, shared)  # no segments: one document


def test_documents_of_a_row_have_draws_of_their_own() -> None:
  positions, segments = packed([[16, 16]] * 64, 32)
  found = pose_rows((0, 0), positions, segments, 1000)
  assert (found[:, :16] != found[:, 16:]).any(axis=1).sum() > 60
  ends = found[:, 15], found[:, 31]
  assert abs(np.corrcoef(*ends)[0, 1]) < 0.4


def chances(length: int, target: int, chunks: int) -> dict[Any, float]:
  """Of each row of positions, by going through all cuts and skips."""
  found: Counter[Any] = Counter()
  skips = range(target - length + 1)
  for cuts in itertools.combinations(range(1, length), chunks - 1):
    for drawn in itertools.product(skips, repeat=chunks - 1):
      by_chunk = [0, *sorted(drawn)]
      chunk = [sum(t >= cut for cut in cuts) for t in range(length)]
      found[tuple(t + by_chunk[c] for t, c in enumerate(chunk))] += 1
  return {row: count / found.total() for row, count in found.items()}


def far(rows: np.ndarray, chance: dict[Any, float]) -> float:
  """Standard deviations of chi-squared that the rows' frequencies lie off."""
  seen = Counter(map(tuple, rows.tolist()))
  assert set(seen) <= set(chance)
  odd = sum(
    (seen[row] - p * len(rows)) ** 2 / (p * len(rows))
    for row, p in chance.items()
  )
  free = len(chance) - 1
  return (odd - free) / math.sqrt(2 * free)


@pytest.mark.parametrize('chunks', [2, 3, 4])
def test_pose_draws_as_the_rows_of_rope_do(chunks: int) -> None:
  rows = 6000
  positions = np.tile(np.arange(5, dtype=np.int32), (rows, 1))
  here = pose_rows((7,), positions, None, 8, chunks)
  there = pose_positions(jax.random.key(chunks), rows, 5, 8, chunks)
  exact = chances(5, 8, chunks)
  for found in (here, np.asarray(there)):
    assert abs(far(found, exact)) < 4
  assert far(here, chances(5, 8, chunks) | {tuple(range(5)): 0.5}) > 100


@pytest.mark.parametrize('size', [3, 4, 6])
def test_every_set_of_random_positions_is_as_likely(size: int) -> None:
  positions = np.tile(np.arange(size, dtype=np.int32), (6000, 1))
  found = random_rows((1,), positions, None, 7)
  every = list(itertools.combinations(range(7), size))
  assert abs(far(found, dict.fromkeys(every, 1 / len(every)))) < 4


def test_more_chunks_cover_more_distances() -> None:
  positions, segments = packed([[64, 64]], 128)

  def covered(found: np.ndarray) -> int:
    return len(
      {
        int(d)
        for places in documents(found, segments)
        for d in (places[:, None] - places)[np.tril_indices(len(places))]
      }
    )

  by_chunks = [
    covered(pose_rows((0, 0), positions, segments, 4096, chunks))
    for chunks in (1, 2, 4, 8, 16)
  ]
  assert by_chunks[0] == 64
  assert all(b > 1.5 * a for a, b in itertools.pairwise(by_chunks))
  everywhere = covered(random_rows((0, 0), positions, segments, 4096))
  assert everywhere > by_chunks[-1]


# Training with skips.

MODEL = ModelConfig(
  vocab=19, dim=12, layers=2, heads=2, kv_heads=1, head_dim=8, mlp_dim=16
)
L0, T, TARGET = 16, 24, 96
LISTS = {'short_factor': [1.0, 1.0, 1.5, 2.0], 'long_factor': [1.0, 2, 3, 4]}
OPTIONS: dict[str, dict[str, Any]] = {
  'longrope': LISTS,
  'dynamic_longrope': {'long_factor': LISTS['long_factor']},
  'mixed_longrope': {'long_factor': LISTS['long_factor'], 'start_token': 0},
  'llama3': {'low_freq_factor': 1.0, 'high_freq_factor': 4.0},
}


def spec(method: str) -> RopeSpec:
  """A spec of a method that takes 16 tokens to 96."""
  fields: dict[str, Any] = {}
  if method not in ('default', 'proportional'):
    fields = {'factor': 6.0, 'original_length': L0}
  if method == 'proportional':
    fields = {'partial_rotary_factor': 0.5}
  return RopeSpec(method, 8, options=OPTIONS.get(method, {}), **fields)


def batch() -> Batch:
  """A row of one document, and one of three and padding, with skips."""
  rng = np.random.default_rng(0)
  positions, segments = packed([[T], [11, 2, 9]], T)
  tokens, targets = rng.integers(0, 19, (2, 2, T)).astype(np.int32)
  weights = rng.random((2, T)).astype(np.float32) * (segments > 0)
  positions = pose_rows((0, 0), positions, segments, TARGET, 3)
  none = np.zeros((2, T), np.bool_)
  return Batch(tokens, targets, weights, none, positions, segments)


@pytest.fixture(scope='module')
def params() -> Params:
  shapes = jax.eval_shape(lambda: init_params(jax.random.key(0), MODEL))
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda x: rng.normal(0, 0.4, x.shape).astype(np.float32), shapes
  )


STEP = StepConfig(Objective(MODEL), adamw())


def stepped(params: Params, rows: Batch, arrays: Any) -> Any:
  state = init_state(params, STEP)
  return train_step(state, rows, arrays, np.float32(1e-2), config=STEP)


def oracle_loss(
  params: Params, rows: Batch, frequencies: tuple[Any, Any]
) -> float:
  """The mean loss of skipped rows, by the decoder in float64."""
  total, (inv_freq, factor) = 0.0, frequencies
  for b, row in enumerate(np.asarray(rows.tokens)):
    logn = np.maximum(np.log(rows.positions[b] + 1) / np.log(L0), 1)
    at = OraclePlan(inv_freq, float(factor), logn)
    logits = decoder(
      params, MODEL, row, [at], rows.positions[b], rows.segments[b]
    )
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    total -= (rows.weights[b] * logp[np.arange(T), rows.targets[b]]).sum()
  return float(total / rows.weights.sum())


@pytest.mark.parametrize('method', METHODS)
def test_every_method_trains_with_skips(params: Params, method: str) -> None:
  """The loss of a step is the float64 decoder's at the target's length."""
  scheme = Scheme(spec(method), Temperature('logn', length=L0))
  rows = batch()
  arrays = skipped_arrays([scheme], TARGET, rows.positions)
  after, metrics = stepped(params, rows, arrays)
  assert metrics.good
  assert (np.asarray(after.params.embed) != params.embed).any()

  wanted = oracle_loss(params, rows, spec(method).frequencies(TARGET))
  np.testing.assert_allclose(metrics.loss, wanted, rtol=2e-5)
  if scheme.per_length:  # as a short text it would be something else
    other = oracle_loss(params, rows, spec(method).frequencies(None))
    assert abs(other - wanted) > 1e-4


def test_one_executable_for_all_methods_and_draws(params: Params) -> None:
  rows = batch()
  for method in ('default', 'dynamic', 'yarn'):
    stepped(params, rows, skipped_arrays([Scheme(spec(method))], 96, PLAIN))
  program: Any = train_step
  count = program._cache_size()
  for step, method in enumerate(METHODS):
    moved = pose_rows((1, step), PLAIN, rows.segments, TARGET, 1 + step % 4)
    arrays = skipped_arrays([Scheme(spec(method))], TARGET, moved)
    stepped(params, rows._replace(positions=moved), arrays)
  assert program._cache_size() == count


PLAIN = packed([[T], [11, 2, 9]], T)[0]


def test_one_chunk_at_its_own_length_is_plain_training(params: Params) -> None:
  rows = batch()
  segments = rows.segments
  same = pose_rows((0, 0), PLAIN, segments, T, 1)
  np.testing.assert_array_equal(same, PLAIN)
  scheme = Scheme(spec('dynamic'), Temperature('logn', length=L0))
  plain = (scheme.arrays(T, PLAIN),)
  skipped = skipped_arrays([scheme], T, same)
  for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(skipped)):
    np.testing.assert_array_equal(a, b)


def logits(
  params: Params, tokens: Any, positions: Any, scheme: SchemeArrays
) -> np.ndarray:
  return np.asarray(FORWARD(params, MODEL, tokens, positions, None, scheme))


FORWARD = jax.jit(forward, static_argnums=1)


@pytest.mark.parametrize(('skip', 'sees'), [(3, True), (9, False)])
def test_a_window_compares_skipped_positions(
  params: Params, skip: int, sees: bool
) -> None:
  """Across a skip of the window or more nothing is seen, else less is."""
  at = np.arange(T)[None] + skip * (np.arange(T) >= 10)
  tokens = batch().tokens[:1]
  other = tokens.copy()
  other[0, :10] = (other[0, :10] + 1) % MODEL.vocab

  def changed(window: int | None) -> np.ndarray:
    scheme = Scheme(spec('default'), window=window)
    arrays = skipped_arrays([scheme], TARGET, at)[0]
    one, two = (logits(params, x, at, arrays) for x in (tokens, other))
    return np.abs(one - two)[0].max(axis=-1) > 0

  assert changed(9)[:10].all() and changed(9)[10:].any() == sees
  assert changed(None).all()  # a layer without a window sees across
  # Two layers of window 9 reach 16 positions back, skips included.
  if sees:
    assert not changed(9)[10 + 16 - skip :].any()


ERRORS: dict[str, Any] = {
  'chunks is 0, must be': lambda p, s: pose_rows((0,), p, s, 50, 0),
  'target_length is 0, must be': lambda p, s: random_rows((0,), p, s, 0),
  'has position 7, target_length is 7': lambda p, s: pose_rows((0,), p, s, 7),
  'has position 7, target_length is 4': lambda p, s: random_rows((0,), p, s, 4),
  'do not rise within': lambda p, s: pose_rows((0,), p, np.ones_like(s), 50),
}


@pytest.mark.parametrize('says', ERRORS)
def test_refusals(says: str) -> None:
  with pytest.raises(ConfigError, match=says):
    ERRORS[says](*packed([[8, 3]], 12))


def test_rows_without_documents_stay() -> None:
  positions, segments = packed([[], []], 6)
  for draw in DRAWS.values():
    found: Any = draw((0,), positions, segments, 9)
    np.testing.assert_array_equal(found, positions)
