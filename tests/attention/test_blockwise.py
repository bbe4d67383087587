"""Attention in O(n) memory equals the oracle, skips, and stays O(n)."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from attention.cases import (
  NO_WINDOW,
  TOLERANCE,
  Attention,
  Case,
  assert_close,
  cases,
  operands,
  run,
)
from ntk_jax.attention import blocks, prefix
from ntk_jax.attention.blocks import Rows
from ntk_jax.attention.blockwise import blockwise_attention
from ntk_jax.attention.reference import reference_attention
from ntk_jax.mask import Mask


def compare(case: Case) -> None:
  found = run(blockwise_attention, case)
  assert_close(found, run(reference_attention, case), TOLERANCE)


# One tile, tiles with a remainder, and one key.
@settings(max_examples=14, deadline=None, derandomize=True, database=None)
@given(cases(lengths=(1, 61, 300), plain=False))
def test_any_call_equals_the_oracle(case: Case) -> None:
  compare(case)


@settings(max_examples=6, deadline=None, derandomize=True, database=None)
@given(cases(lengths=(1, 61, 300), plain=True))
def test_a_plain_call_equals_the_oracle(case: Case) -> None:
  compare(case)


# Tiles in a loop over heads; a prime number of heads; long rows.
@pytest.mark.parametrize(
  ('sizes', 'mask'),
  [
    ((5, 389, 389, 3, 1, 2, 2), Mask()),
    ((2, 601, 601, 2, 3, 5, 5), Mask(window=130)),
    ((17, 353, 353, 1, 1, 3, 3), Mask(window=np.array(200))),
    ((1, 2100, 2100, 2, 1, 3, 3), Mask(window=300, sink_tokens=2)),
  ],
)
def test_long_rows_equal_the_oracle(sizes: tuple, mask: Mask) -> None:
  compare(Case(*_plain(sizes, mask)))


def _plain(sizes: tuple, mask: Mask) -> tuple:
  floats, cotangents = operands(np.random.default_rng(0), sizes)
  return floats, {}, mask, {}, cotangents


def test_each_row_keeps_its_own_segments_in_a_loop_over_heads(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  monkeypatch.setattr(blocks, '_SCORES', 1)
  assert blocks.loops(2, 3, 2, 41, 41) == 6  # one kv head of a row at a time
  floats, cotangents = operands(
    np.random.default_rng(7), (2, 41, 41, 3, 2, 3, 3)
  )
  segments = 1 + (np.arange(41) >= np.array([[9], [30]]))
  rows = {'q_segments': segments}
  compare(Case(floats, rows, Mask(document=True), {}, cotangents))


@pytest.mark.parametrize(
  ('heads', 'group', 'length', 'at_once'),
  [
    (128, 1, 128, 128),  # the default's training: small, no loop
    (16, 1, 1024, 2),  # tile 128 x prefix 1024 x 2 heads fill the cache
    (8, 1, 2048, 1),
    (8, 4, 1024, 1),  # one kv head with its group is the least
    (15, 1, 512, 3),  # 4 would fit and does not divide 15
    (17, 1, 353, 1),  # 5 would fit, 17 is prime
  ],
)
def test_heads_at_once(
  heads: int, group: int, length: int, at_once: int
) -> None:
  assert prefix._heads_at_once(heads, group, length) == at_once


def test_one_executable_serves_every_window_and_packing() -> None:
  rng = np.random.default_rng(3)
  floats, _ = operands(rng, (1, 300, 300, 2, 2, 5, 5))
  floats = jax.tree.map(jnp.asarray, floats)
  traces = []

  @jax.jit
  def call(mask: Mask, positions: jax.Array, segments: jax.Array) -> jax.Array:
    traces.append(mask)
    rows = {
      'q_positions': positions,
      'kv_positions': positions,
      'q_segments': segments,
      'kv_segments': segments,
    }
    return blockwise_attention(**floats, **rows, mask=mask)[0]

  for window, documents in ((NO_WINDOW, 1), (17, 3), (130, 2), (0, 2)):
    segments = np.sort(rng.integers(1, documents + 1, (1, 300)), axis=1)
    positions = np.arange(300)[None]
    # Within a trace a window may be any int32; 0 hides everything.
    mask = Mask(window=jnp.int32(window), document=True)
    found = call(mask, positions, segments)
    expected, _ = reference_attention(
      **floats,
      q_segments=segments,
      mask=mask,
    )
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)
  assert len(traces) == 1


def test_an_empty_row_gives_zero_and_no_gradient() -> None:
  floats, cotangents = operands(np.random.default_rng(2), (1, 5, 5, 1, 2, 3, 4))
  floats['sink_logits'] = np.ones(2, np.float32)
  # What merging two empty rows by their log-sum-exps sends back.
  cotangents[1][:, 2:] = np.nan
  rows = {'q_segments': np.array([[1, 1, 0, 0, 0]])}
  found = run(blockwise_attention, Case(floats, rows, Mask(), {}, cotangents))
  assert np.isneginf(found['lse'][:, 2:]).all()
  for name in ('out', 'd_q', 'd_k', 'd_v'):
    assert (found[name][:, 2:] == 0).all(), name
    assert (found[name][:, :2] != 0).any(), name
  cotangents[1][:] = np.nan
  rows = {'q_segments': np.zeros((1, 5), int)}
  found = run(blockwise_attention, Case(floats, rows, Mask(), {}, cotangents))
  del found['lse']
  assert all((x == 0).all() for x in found.values())


@pytest.mark.parametrize('rows', [False, True])
@pytest.mark.parametrize('length', [64, 260])  # one tile, and several
def test_bfloat16_sums_in_float32(rows: bool, length: int) -> None:
  floats, cotangents = operands(
    np.random.default_rng(4), (4, length, length, 2, 2, 8, 8)
  )
  floats = {
    n: np.asarray(jnp.bfloat16(x), np.float32) for n, x in floats.items()
  }
  floats['sink_logits'] = np.ones(4, np.float32)
  p = np.arange(length)[None]
  given = {'q_positions': p, 'kv_positions': p} if rows else {}
  case = Case(floats, given, Mask(), {}, cotangents)
  found = run(blockwise_attention, case, jnp.bfloat16)
  assert {
    x.dtype.name for n, x in found.items() if n in ('out', 'd_q', 'd_k', 'd_v')
  } == {'bfloat16'}
  assert found['lse'].dtype == np.float32
  # Eight bits of mantissa in weights and in each result.
  assert_close(found, run(reference_attention, case), 1.2e-2)


def test_extreme_positions_do_not_wrap() -> None:
  floats, cotangents = operands(np.random.default_rng(5), (1, 4, 4, 1, 1, 2, 2))
  p = np.array([[-(2**31), -5, 7, 2**31 - 1]], np.int32)
  rows = {'q_positions': p, 'kv_positions': p}
  for mask, seen in ((Mask(window=100), [1, 1, 2, 1]), (Mask(), [1, 2, 3, 4])):
    visible = np.asarray(mask.visible(p))
    assert visible.sum(axis=-1).tolist() == [seen]
    compare(Case(floats, rows, mask, {}, cotangents))


# Keys that no query may see, to be poisoned: a block that is not skipped
# makes NaN of them, whatever weight it gives them.
def _poison(mask: Mask, n: int, **rows: np.ndarray) -> dict[str, np.ndarray]:
  floats, cotangents = operands(np.random.default_rng(6), (1, n, n, 2, 1, 4, 4))
  for name in 'kv':
    floats[name][:, : n // 4] = np.nan
  case = Case(floats, rows, mask, {}, cotangents)
  # Only the last quarter of the queries is asked for.
  cotangents[0][:, : -n // 4], cotangents[1][:, : -n // 4] = 0, 0
  found = run(blockwise_attention, case)
  return {
    'out': found['out'][:, -n // 4 :],
    'd_q': found['d_q'][:, -n // 4 :],
    'd_k': found['d_k'][:, -n // 4 :],
  }


@pytest.mark.parametrize(
  ('mask', 'rows'),
  [
    (Mask(window=64), ()),
    (Mask(window=np.array(64)), ('positions',)),
    (Mask(window=64), ('positions', 'segments')),
    (Mask(document=True), ('segments',)),
    (Mask(causal=False, document=True), ('segments',)),
  ],
)
def test_what_is_hidden_is_not_visited(mask: Mask, rows: tuple) -> None:
  n = 1024
  given = {}
  if 'positions' in rows:
    p = np.arange(n)[None] - 100
    given = {'q_positions': p, 'kv_positions': p}
  if 'segments' in rows:
    given['q_segments'] = 1 + np.arange(n)[None] // (n // 4)
  for name, x in _poison(mask, n, **given).items():
    assert np.isfinite(x).all(), name


def test_the_poison_is_poison() -> None:
  assert np.isnan(_poison(Mask(), 1024)['out']).any()


def _visited(mask: Mask, rows: Rows) -> np.ndarray:
  """Which tile of queries visits which block of keys, by index."""
  n = rows.q_positions_BT.shape[1]
  tile, block = blocks._sizes(n, n)
  q, kv = (blocks._ranges(x) for x in blocks._by_block(rows, tile, block))
  q = type(q)(*(x[0, :, None] for x in q))
  kv = type(kv)(*(x[0] for x in kv))
  visited = np.asarray(blocks._may_see(mask, q, kv))
  return np.broadcast_to(visited, (-(-n // tile), -(-n // block)))


@pytest.mark.parametrize(
  'mask',
  [
    Mask(),
    Mask(causal=False),
    Mask(causal=False, document=True),
    *(Mask(window=w) for w in (1, 2, 127, 128, 129, 130, 257)),
    *(Mask(window=5, sink_tokens=s) for s in (1, 56, 57)),
  ],
)
def test_exactly_the_blocks_with_a_visible_key_are_visited(mask: Mask) -> None:
  n, first = 512, -200  # blocks start at -200, -72, 56 and 184
  p = first + jnp.arange(n)[None]
  # Documents end within blocks and at the end of one; then padding.
  segments = jnp.repeat(jnp.array([1, 2, 3, 0]), jnp.array([70, 186, 100, 156]))
  s = segments[None] if mask.document else None
  seen = np.asarray(mask.visible(p, q_segments=s))[0]
  tile, block = blocks._sizes(n, n)
  seen = seen.reshape(n // tile, tile, n // block, block).any(axis=(1, 3))
  np.testing.assert_array_equal(_visited(mask, Rows(p, p, s, s)), seen)


@pytest.mark.parametrize('sinks', [0, 4])
def test_visits_within_a_window_are_linear(sinks: int) -> None:
  def visits(n: int, mask: Mask) -> int:
    positions = jnp.arange(n)[None]
    return int(_visited(mask, Rows(positions, positions)).sum())

  window = Mask(window=jnp.int32(256), sink_tokens=sinks)
  short, long = visits(4096, window), visits(8192, window)
  assert 1.8 < long / short < 2.2
  assert visits(8192, Mask()) > 3.5 * visits(4096, Mask())


def _bytes(attend: Attention, n: int, backward: bool) -> int:
  """What a compiled call holds at its peak, as its buffers were assigned."""

  def out(*qkv: jax.Array) -> jax.Array:
    return attend(*qkv)[0]

  def grads(*qkv: jax.Array) -> tuple[jax.Array, ...]:
    return jax.grad(lambda *x: out(*x).sum(), argnums=(0, 1, 2))(*qkv)

  q = jax.ShapeDtypeStruct((1, n, 8, 16), jnp.float32)
  call: Callable = grads if backward else out
  memory = jax.jit(call).lower(q, q, q).compile().memory_analysis()
  assert memory is not None
  return (
    memory.argument_size_in_bytes
    + memory.output_size_in_bytes
    + memory.temp_size_in_bytes
    - memory.alias_size_in_bytes
  )


# Tiles unrolled, and blocks.
@pytest.mark.parametrize('length', [1024, 8192])
@pytest.mark.parametrize('backward', [False, True])
def test_memory_is_linear_in_length(length: int, backward: bool) -> None:
  short, long = (
    _bytes(blockwise_attention, n, backward) for n in (length, 2 * length)
  )
  assert long < 2.2 * short


def test_memory_of_the_oracle_is_not() -> None:
  short, long = (_bytes(reference_attention, n, True) for n in (512, 1024))
  assert long > 3 * short  # the ruler measures


def test_memory_of_long_rows_is_a_few_arrays_like_q() -> None:
  n = 16384
  assert _bytes(blockwise_attention, n, backward=True) < 16 * 4 * n * 8 * 16
