"""Decoding with a cache equals a full forward at every step."""

from __future__ import annotations

import functools
from typing import Any

import chex
import jax
import numpy as np
import pytest

from generate.cases import (
  CONFIG,
  FORCED,
  LENGTHS,
  MASK,
  NEW,
  PROMPT,
  SCHEMES,
  VOCAB,
  WINDOWS,
  compiled,
  full_logits,
  model_of,
)
from ntk_jax.generate import generate, step
from ntk_jax.generate.loop import chunks
from ntk_jax.generate.step import layers_apart, read
from ntk_jax.model import Transformer, empty_cache, init_params
from ntk_jax.scheme import SchemeArrays

TOLERANCE = 1e-5  # logits are of order one
FORCE: dict[str, Any] = {
  'max_new_tokens': NEW,
  'force_tokens': FORCED,
  'return_logits': True,
  'chunk': 8,
  'stride': 4,
}


@functools.cache
def decoded(name: str) -> np.ndarray:
  """Logits of forced tokens after the padded prompts."""
  model = model_of((SCHEMES | WINDOWS)[name])
  tokens, logits = generate(model, PROMPT, prompt_mask=MASK, **FORCE)
  np.testing.assert_array_equal(tokens, FORCED)
  return logits


@pytest.mark.parametrize('name', [*SCHEMES, *WINDOWS])
def test_every_step_is_a_full_forward(name: str) -> None:
  model = model_of((SCHEMES | WINDOWS)[name])
  found = decoded(name)
  for b, length in enumerate(LENGTHS):
    row = np.concatenate([PROMPT[b, 20 - length :], FORCED[b]])
    wanted = full_logits(model, row, int(length), NEW)
    np.testing.assert_allclose(found[b], wanted, rtol=0, atol=TOLERANCE)


def test_crossing_the_original_length_changes_logits() -> None:
  """Else the test above could not fail where frequencies stay."""
  for name in ('dynamic', 'longrope'):
    schemes = SCHEMES[name]
    model = model_of(schemes)
    row = np.concatenate([PROMPT[0], FORCED[0]])
    short = np.asarray(model(row[None], length=20))[0, 19 : 19 + NEW]
    found = decoded(name)[0]
    np.testing.assert_allclose(found[:5], short[:5], rtol=0, atol=TOLERANCE)
    assert np.abs(found[5:] - short[5:]).max() > 0.01


def test_one_regime_is_that_of_its_length_throughout() -> None:
  model = model_of(SCHEMES['dynamic'])
  _, found = generate(model, PROMPT[:1], regime_length=40, **_forced_row(0))
  row = np.concatenate([PROMPT[0], FORCED[0]])
  whole = np.asarray(model(row[None], length=40))[0, 19 : 19 + NEW]
  np.testing.assert_allclose(found[0], whole, rtol=0, atol=TOLERANCE)
  assert np.abs(found[0] - decoded('dynamic')[0]).max() > 0.01


def _forced_row(b: int) -> dict[str, Any]:
  return FORCE | {'force_tokens': FORCED[b : b + 1]}


def test_chunks_and_strides_change_nothing() -> None:
  model = model_of(WINDOWS['local and global'])
  wanted = decoded('local and global')
  cut: list[dict[str, Any]]
  cut = [{'chunk': 32, 'stride': 9}, {'chunk': 3, 'stride': 1}]
  for settings in cut:
    _, found = generate(model, PROMPT, prompt_mask=MASK, **FORCE | settings)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=TOLERANCE)


def test_a_window_rolls_far_beyond_its_buffer() -> None:
  model = model_of(WINDOWS['windows'])
  forced = np.random.default_rng(3).integers(0, VOCAB, (1, 70))
  _, found = generate(
    model,
    PROMPT[:1],
    **FORCE | {'force_tokens': forced, 'max_new_tokens': 70},
  )
  row = np.concatenate([PROMPT[0], forced[0]])
  whole = np.asarray(model(row[None]))[0, 19 : 19 + 70]
  np.testing.assert_allclose(found[0], whole, rtol=0, atol=TOLERANCE)


def test_executables_serve_all_methods_and_lengths() -> None:
  run = functools.partial(generate, prompt_mask=MASK, **FORCE)
  run(model_of(SCHEMES['dynamic']), PROMPT)
  before = compiled()
  for name, schemes in SCHEMES.items():
    run(model_of(schemes), PROMPT)
    assert compiled() == before, name
  longer = MASK | (np.arange(20) >= 3)  # rows of 20, 17 and 17
  generate(model_of(SCHEMES['yarn']), PROMPT, prompt_mask=longer, **FORCE)
  assert compiled() == before


def test_tokens_of_one_run_are_traced_once() -> None:
  """Many steps, one trace: nothing of a step is part of the program."""
  jax.clear_caches()
  chex.clear_trace_counter()
  counted: Any = chex.assert_max_traces(lambda logits: logits.argmax(-1), n=2)

  def choose(logits: Any, *_: Any) -> Any:
    return counted(logits).astype(np.int32)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(step, 'choose', choose)
    # Once for the first token, once for all others.
    generate(model_of(SCHEMES['default']), PROMPT, max_new_tokens=9, stride=2)
    generate(model_of(SCHEMES['logn']), PROMPT, max_new_tokens=10, stride=2)
  jax.clear_caches()


def test_greedy_tokens_are_those_of_full_forwards() -> None:
  model = model_of(SCHEMES['yarn'])
  found = generate(model, PROMPT, max_new_tokens=6, chunk=8)
  row = PROMPT[:1]
  for i in range(6):
    token = int(np.asarray(model(row))[0, -1].argmax())
    assert found[0, i] == token
    row = np.concatenate([row, [[token]]], axis=1)


def test_padding_columns_of_all_rows_are_dropped() -> None:
  model = model_of(SCHEMES['default'])
  wide = np.pad(PROMPT, ((0, 0), (9, 0)), constant_values=-5)
  mask = np.pad(MASK, ((0, 0), (9, 0)))
  tokens, logits = generate(model, wide, prompt_mask=mask, **FORCE)
  np.testing.assert_allclose(logits, decoded('default'), atol=TOLERANCE)


def test_a_stopped_row_is_filled() -> None:
  model = model_of(SCHEMES['default'])
  run = functools.partial(
    generate, model, PROMPT, temperature=2.0, key=jax.random.key(3)
  )
  free = run(max_new_tokens=12)
  stop = [int(free[0, 4]), int(free[1, 7])]
  came: list[np.ndarray] = []
  found = run(max_new_tokens=12, stop=stop, on_tokens=came.append)
  for b, row in enumerate(free):
    ends = np.flatnonzero(np.isin(row, stop))
    end = ends[0] if len(ends) else 12
    np.testing.assert_array_equal(found[b, :end], row[:end])
    assert (found[b, end:] == (row[end] if len(ends) else 0)).all()
  np.testing.assert_array_equal(np.concatenate(came, axis=1), found)
  one = run(max_new_tokens=12, stop=int(free[0, 0]), stride=5)
  assert (one[0] == free[0, 0]).all()


def test_nothing_is_written_after_all_rows_have_stopped() -> None:
  model = model_of(SCHEMES['default'])
  first = int(generate(model, PROMPT[:1], max_new_tokens=1)[0, 0])
  came: list[np.ndarray] = []
  found = generate(
    model,
    PROMPT[:1],
    max_new_tokens=1000,
    stop=[first],
    on_tokens=came.append,
  )
  assert (found == first).all()
  assert [a.shape for a in came] == [(1, 1), (1, 999)]


def test_memory_beside_the_cache_does_not_grow_with_the_prompt() -> None:
  def temporary(slots: int, chunk: int) -> tuple[int, int, int]:
    params = jax.eval_shape(
      functools.partial(init_params, config=CONFIG), jax.random.key(0)
    )
    cache = jax.eval_shape(lambda: empty_cache(CONFIG, 1, slots, (), chunk))
    ids = jax.ShapeDtypeStruct((1, chunk), np.int32)
    one = SchemeArrays(
      jax.ShapeDtypeStruct((1, 4, 2), np.uint32),  # pyrefly: ignore[bad-argument-type]
      jax.ShapeDtypeStruct((1,), np.float32),  # pyrefly: ignore[bad-argument-type]
      jax.ShapeDtypeStruct((1, chunk), np.float32),  # pyrefly: ignore[bad-argument-type]
      jax.ShapeDtypeStruct((), np.int32),  # pyrefly: ignore[bad-argument-type]
    )
    lowered = read.lower(
      params, cache, ids, ids, ids, (one,) * 2, config=CONFIG
    )
    memory: Any = lowered.compile().memory_analysis()
    size = sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(cache))
    return memory.temp_size_in_bytes, memory.alias_size_in_bytes, size

  short, long = temporary(4096, 512), temporary(131_072, 512)
  assert long[1] >= long[2]  # the cache is written in place
  # Positions and segments of the slots, 8 bytes each, are looked at as copies;
  # of keys and values, here 128 bytes a layer and slot, there is none.
  assert long[0] - short[0] < (long[2] - short[2]) / 20
  assert short[0] < 4e6


def test_reads_are_few_sizes_that_hold_all() -> None:
  for columns in range(1, 70):
    sizes = chunks(columns, 16)
    assert sum(sizes) >= columns > sum(sizes) - 8
    assert set(sizes) <= {4, 8, 16}
    assert set(sizes[1:]) <= {16}


def test_parameters_are_not_copied_for_decoding() -> None:
  model: Transformer = model_of(SCHEMES['default'])
  apart: Any = layers_apart(model.params)
  stack = model.params.layers['gate']
  size = stack.nbytes // CONFIG.layers
  at = stack.unsafe_buffer_pointer()
  for i, layer in enumerate(apart.layers):
    np.testing.assert_array_equal(layer['gate'], stack[i])
    if (at + i * size) % 64 == 0:
      assert layer['gate'].unsafe_buffer_pointer() == at + i * size
