"""Distances against loops over the papers' rules, and PoSE's draws."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntk_jax.errors import ConfigError
from ntk_jax.rope.remap import (
  dual_chunk,
  leaky_rerope,
  pose_positions,
  rerope,
  self_extend,
)

GOLDEN = Path(__file__).parent.parent / 'golden' / 'rope_golden.npz'
SIZE = 48
QUERY, KEY = np.arange(SIZE)[:, None], np.arange(SIZE)[None]
Rule = Callable[[int, int], float]


def by_loop(rule: Rule) -> np.ndarray:
  """A rule for each pair, -1 in the future."""
  rows = [
    [rule(i, j) if j <= i else -1 for j in range(SIZE)] for i in range(SIZE)
  ]
  return np.array(rows, np.float32)


def self_extend_rule(
  i: int, j: int, group: int, near: int, whole: bool
) -> float:
  """Neighbours exact; groups shifted so that they follow on."""
  if i - j < near:
    return i - j
  shift = near - near // group if whole else near - near / group
  return i // group - j // group + shift


def leaky_rule(i: int, j: int, window: int, k: float) -> float:
  """Slower beyond the window."""
  return i - j if i - j < window else window + (i - j - window) / k


def dual_chunk_rule(i: int, j: int, chunk: int, local: int) -> float:
  """ChunkLlama's three tables of query positions, one per kind of key."""
  c = chunk - local
  intra = list(range(c))
  successive = [min(q + c, chunk) for q in range(c)]
  table = [intra, successive][i // c - j // c] if i // c - j // c < 2 else None
  q = table[i % c] if table else successive[c - 1]
  return q - j % c


@pytest.mark.parametrize(
  ('key', 'found'),
  [
    ('rerope_w8', functools.partial(rerope, window=8)),
    (
      'self_extend_g4_w8_int',
      functools.partial(self_extend, group=4, neighbors=8),
    ),
  ],
)
def test_golden(key: str, found: Callable[..., jax.Array]) -> None:
  truth = np.load(GOLDEN)[f'relpos/{key}']
  for i, j in ((QUERY, KEY), (jnp.asarray(QUERY), jnp.asarray(KEY))):
    distance = found(i, j)
    assert distance.dtype == jnp.float32
    np.testing.assert_array_equal(distance, truth)
  np.testing.assert_array_equal(jax.jit(found)(QUERY, KEY), truth)
  np.testing.assert_array_equal(found(20, np.arange(SIZE)), truth[20])


@pytest.mark.parametrize('whole', [True, False])
@pytest.mark.parametrize(('group', 'near'), [(1, 5), (4, 8), (4, 10), (7, 3)])
def test_self_extend(group: int, near: int, whole: bool) -> None:
  found = self_extend(QUERY, KEY, group=group, neighbors=near, integer=whole)
  rule = by_loop(lambda i, j: self_extend_rule(i, j, group, near, whole))
  np.testing.assert_allclose(found, rule, rtol=1e-6)


def test_self_extend_differs_where_the_group_does_not_divide() -> None:
  found = [
    self_extend(40, 0, group=4, neighbors=10, integer=whole)
    for whole in (True, False)
  ]
  assert [float(x) for x in found] == [18.0, 17.5]


@pytest.mark.parametrize('window', [1, 7, 100])
def test_rerope(window: int) -> None:
  rule = by_loop(lambda i, j: min(i - j, window))
  np.testing.assert_array_equal(rerope(QUERY, KEY, window=window), rule)


@pytest.mark.parametrize(
  ('window', 'k'), [(1, 2.0), (7, 1.0), (8, 16), (5, 3.0)]
)
def test_leaky_rerope(window: int, k: float) -> None:
  found = leaky_rerope(QUERY, KEY, window=window, k=k)
  rule = by_loop(lambda i, j: leaky_rule(i, j, window, k))
  np.testing.assert_allclose(found, rule, rtol=1e-6)


def test_leaky_rerope_ends_in_rerope() -> None:
  limit = leaky_rerope(QUERY, KEY, window=6, k=float('inf'))
  np.testing.assert_array_equal(limit, rerope(QUERY, KEY, window=6))


@pytest.mark.parametrize(
  ('chunk', 'local'), [(12, 3), (12, 7), (9, 8), (64, 8)]
)
def test_dual_chunk(chunk: int, local: int) -> None:
  found = np.asarray(dual_chunk(QUERY, KEY, chunk=chunk, local=local))
  rule = by_loop(lambda i, j: dual_chunk_rule(i, j, chunk, local))
  np.testing.assert_array_equal(found, rule)
  causal = KEY <= QUERY
  seen = found[causal]
  assert seen.min() >= 0 and seen.max() <= chunk
  distance = QUERY - KEY
  near = causal & (distance <= min(local, chunk - local))
  np.testing.assert_array_equal(found[near], distance[near])


# PoSE.


@pytest.mark.parametrize(
  ('length', 'target', 'chunks'),
  [(16, 64, 2), (16, 17, 2), (16, 16, 2), (16, 64, 5), (7, 40, 7), (9, 99, 1)],
)
def test_pose_positions_increase_below_the_target(
  length: int, target: int, chunks: int
) -> None:
  draw = jax.jit(pose_positions, static_argnums=(1, 2, 3, 4))
  positions = np.asarray(draw(jax.random.key(0), 500, length, target, chunks))
  assert positions.dtype == np.int32 and positions.shape == (500, length)
  assert (positions[:, 0] == 0).all()
  assert (np.diff(positions, axis=1) >= 1).all()
  assert positions.max() < target
  assert ((np.diff(positions, axis=1) > 1).sum(axis=1) < chunks).all()
  skips = positions[:, -1] - (length - 1)
  assert (len(set(skips.tolist())) > 1) == (chunks > 1 and target > length)


def test_pose_draws_are_uniform() -> None:
  length, target, rows = 5, 10, 40_000
  positions = np.asarray(
    pose_positions(jax.random.key(1), rows, length, target)
  )
  skip = positions[:, -1] - (length - 1)
  counts = np.bincount(skip, minlength=target - length + 1)
  assert counts.size == 6  # a skip of target - length is drawn too
  assert np.abs(counts / rows - 1 / 6).max() < 0.01
  jumps = np.diff(positions, axis=1) > 1
  cut = np.argmax(jumps, axis=1)[skip > 0]
  assert np.abs(np.bincount(cut, minlength=4) / cut.size - 1 / 4).max() < 0.01
  # The cut and the skip are drawn apart.
  assert abs(np.corrcoef(cut, skip[skip > 0])[0, 1]) < 0.02


def test_pose_chunks_have_random_cuts_and_sorted_skips() -> None:
  positions = np.asarray(pose_positions(jax.random.key(2), 2000, 6, 1000, 4))
  assert all(
    (np.diff(positions, axis=1) > 1)[:, t].mean()
    == pytest.approx(0.6, abs=0.05)
    for t in range(5)
  )
  last = positions[:, -1] - 5  # the largest of three uniform draws
  assert last.mean() == pytest.approx(995 * 3 / 4, rel=0.03)


def test_pose_is_a_function_of_the_key() -> None:
  args = 8, 16, 64
  one = pose_positions(jax.random.key(0), *args)
  np.testing.assert_array_equal(one, pose_positions(jax.random.key(0), *args))
  assert (one != pose_positions(jax.random.key(1), *args)).any()
  assert len({tuple(row) for row in one.tolist()}) == 8  # rows differ


def test_pose_is_int32_and_the_same_with_x64() -> None:
  one = pose_positions(jax.random.key(0), 4, 16, 64)
  with jax.enable_x64(True):
    wide = pose_positions(jax.random.key(0), 4, 16, 64)
  assert wide.dtype == jnp.int32
  np.testing.assert_array_equal(one, wide)


def test_pose_of_one_token() -> None:
  positions = pose_positions(jax.random.key(0), 3, 1, 9, 1)
  np.testing.assert_array_equal(positions, np.zeros((3, 1)))


RANDOM = jax.random.key(0)
ERRORS: dict[str, Callable[[], object]] = {
  'group is 0, must be an integer >= 1': lambda: self_extend(
    QUERY, KEY, group=0, neighbors=4
  ),
  'neighbors is 0, must be': lambda: self_extend(
    QUERY, KEY, group=2, neighbors=0
  ),
  'window is 0, must be': lambda: rerope(QUERY, KEY, window=0),
  'k is 0.5, must be': lambda: leaky_rerope(QUERY, KEY, window=3, k=0.5),
  'k is nan, must be': lambda: leaky_rerope(
    QUERY, KEY, window=3, k=float('nan')
  ),
  'local is 4, must be less than chunk, 4': lambda: dual_chunk(
    QUERY, KEY, chunk=4, local=4
  ),
  'local is 0, must be an integer >= 1': lambda: dual_chunk(
    QUERY, KEY, chunk=4, local=0
  ),
  'length is 9, must be at most target_length, 8': lambda: pose_positions(
    RANDOM, 1, 9, 8
  ),
  'chunks is 0, must be': lambda: pose_positions(RANDOM, 1, 4, 8, 0),
  'chunks is 5, must be at most length, 4': lambda: pose_positions(
    RANDOM, 1, 4, 8, 5
  ),
  'batch is 0, must be': lambda: pose_positions(RANDOM, 0, 4, 8),
}


@pytest.mark.parametrize('message', ERRORS)
def test_errors(message: str) -> None:
  with pytest.raises(ConfigError, match=message):
    ERRORS[message]()
