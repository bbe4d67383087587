"""Buffers that hold all columns or roll over a window, exact either way."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest

from ntk_jax.errors import ConfigError
from ntk_jax.model import (
  Controls,
  ModelConfig,
  empty_cache,
  forward,
  init_params,
)
from ntk_jax.model.cache import write
from ntk_jax.rope.spec import RopeSpec
from ntk_jax.scheme import Scheme, SchemeArrays

CONFIG = ModelConfig(
  vocab=13,
  dim=10,
  layers=4,
  heads=4,
  kv_heads=2,
  head_dim=4,
  mlp_dim=7,
  layer_plan=(0, 1, 0, 0),
)
FORWARD = jax.jit(forward, static_argnums=1)
WRITE = jax.jit(write)
PARAMS = init_params(jax.random.key(0), CONFIG)
TOKENS = np.random.default_rng(0).integers(0, 13, (2, 40)).astype(np.int32)
WINDOWS = 5, None
SCHEMES = [Scheme(RopeSpec('default', 4), window=w) for w in WINDOWS]
CHUNK = 4


def arrays(start: int, stop: int) -> tuple[SchemeArrays, ...]:
  return tuple(s.arrays(None, np.arange(start, stop)) for s in SCHEMES)


@pytest.mark.parametrize('slots', [1, 3, 4, 7])
def test_a_column_lies_in_its_slot(slots: int) -> None:
  """Any chunk from any column, against one assignment per column."""
  rng = np.random.default_rng(0)
  for size in range(1, slots + 1):
    for column in range(2 * slots + 1):
      rows, keys = rng.random((2, slots)), rng.random((2, 3, slots, 5))
      new, more = rng.random((2, size)), rng.random((2, 3, size, 5))
      found = WRITE(rows, new, column)
      found_keys = WRITE(keys, more, column)
      for t in range(size):
        rows[:, (column + t) % slots] = new[:, t]
        keys[:, :, (column + t) % slots] = more[:, :, t]
      np.testing.assert_array_equal(found, rows.astype(np.float32))
      np.testing.assert_array_equal(found_keys, keys.astype(np.float32))


@pytest.mark.parametrize('parts', [(4,) * 10, (1,) * 40, (3, 4, 1, 2) * 4])
def test_rolling_buffers_are_exact_far_beyond_them(
  parts: tuple[int, ...],
) -> None:
  whole = FORWARD(PARAMS, CONFIG, TOKENS, None, None, arrays(0, 40))
  cache = empty_cache(CONFIG, 2, 40, WINDOWS, CHUNK)
  assert [k.shape[2] for k in cache.k] == [8, 40, 8, 8]
  start = 0
  for size in parts:
    few = TOKENS[:, start : start + size]
    logits, cache = FORWARD(
      PARAMS, CONFIG, few, None, None, arrays(start, start + size), cache=cache
    )
    wanted = whole[:, start : start + size]
    np.testing.assert_allclose(logits, wanted, rtol=0, atol=1e-5)
    start += size


def test_one_slot_less_is_not_enough() -> None:
  """The buffer is as small as it can be: the first of a chunk sees it all."""
  whole = FORWARD(PARAMS, CONFIG, TOKENS, None, None, arrays(0, 40))
  cache = empty_cache(CONFIG, 2, 40, WINDOWS, CHUNK)

  def cut(layers: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    return tuple(
      a[:, :, :7] if n == 0 else a for a, n in zip(layers, CONFIG.plan)
    )

  cache = dataclasses.replace(
    cache,
    k=cut(cache.k),
    v=cut(cache.v),
    positions=(cache.positions[0][:, :7], cache.positions[1]),
    segments=(cache.segments[0][:, :7], cache.segments[1]),
  )
  outs = []
  for start in range(0, 40, 4):
    logits, cache = FORWARD(
      PARAMS,
      CONFIG,
      TOKENS[:, start : start + 4],
      None,
      None,
      arrays(start, start + 4),
      cache=cache,
    )
    outs.append(logits)
  assert np.abs(np.concatenate(outs, 1) - whole)[:, 8:].max() > 1e-3


def test_windows_of_run_time_are_narrower() -> None:
  controls = Controls(window=np.array([3, 9, 2, 7], np.int32))
  whole = FORWARD(
    PARAMS, CONFIG, TOKENS, None, None, arrays(0, 40), controls=controls
  )
  cache, start = empty_cache(CONFIG, 2, 40, WINDOWS, CHUNK), 0
  for size in (4, 4, 1, 3, 4):
    logits, cache = FORWARD(
      PARAMS,
      CONFIG,
      TOKENS[:, start : start + size],
      None,
      None,
      arrays(start, start + size),
      cache=cache,
      controls=controls,
    )
    wanted = whole[:, start : start + size]
    np.testing.assert_allclose(logits, wanted, rtol=0, atol=1e-5)
    start += size


def test_padding_on_the_left_is_never_seen() -> None:
  row = TOKENS[:1, :9]
  wanted = FORWARD(PARAMS, CONFIG, row, None, None, arrays(0, 9))
  padded = np.concatenate([TOKENS[1:, :7], row], axis=1)
  segments = (np.arange(16) >= 7).astype(np.int32)[None]
  positions = np.clip(segments.cumsum(1) - 1, 0, None)
  cache = empty_cache(CONFIG, 1, 16, WINDOWS, CHUNK)
  outs = []
  for at in (slice(start, start + 4) for start in range(0, 16, 4)):
    schemes = tuple(s.arrays(None, positions[:, at]) for s in SCHEMES)
    logits, cache = FORWARD(
      PARAMS,
      CONFIG,
      padded[:, at],
      positions[:, at],
      segments[:, at],
      schemes,
      cache=cache,
    )
    outs.append(logits)
  found = np.concatenate(outs, 1)[:, 7:]
  np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)


def test_what_the_buffers_cannot_serve_is_refused() -> None:
  cache = empty_cache(CONFIG, 2, 40, WINDOWS, CHUNK)
  with pytest.raises(ConfigError, match='5 tokens at once for a cache of'):
    forward(
      PARAMS, CONFIG, TOKENS[:, :5], None, None, arrays(0, 5), cache=cache
    )
  wide = tuple(
    Scheme(RopeSpec('default', 4), window=w).arrays(None, np.arange(4))
    for w in (6, None)
  )
  with pytest.raises(ConfigError, match='has a window of 6, the cache was'):
    forward(PARAMS, CONFIG, TOKENS[:, :4], None, None, wide, cache=cache)
  # Without a limit on chunks every layer holds all: anything goes.
  assert empty_cache(CONFIG, 2, 40, WINDOWS).windows == (None, None)


def test_a_donated_cache_is_written_in_place() -> None:
  cache = empty_cache(CONFIG, 2, 40, WINDOWS, CHUNK)
  size = sum(a.nbytes for a in jax.tree.leaves(cache))
  step = jax.jit(
    lambda tokens, cache: forward(
      PARAMS, CONFIG, tokens, None, None, arrays(0, 1), cache=cache
    ),
    donate_argnums=1,
  )
  memory: Any = step.lower(TOKENS[:, :1], cache).compile().memory_analysis()
  assert memory.alias_size_in_bytes == size
