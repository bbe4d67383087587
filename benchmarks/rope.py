"""What exact angles cost against float32 angles, alone and in a train step.

Both forms run in turns in one process, and what is reported is the ratio of
their times, turn by turn. Run from the root of a clone:

  python -m benchmarks.rope --out=benchmarks/results/rope_cpu.md
"""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import page
from ntk_jax.data import retrieval
from ntk_jax.data.batch import Batch
from ntk_jax.model import ModelConfig, init_params, parameter_count, transformer
from ntk_jax.objective import Objective
from ntk_jax.optimizer import adamw
from ntk_jax.rope.phase import cos_sin, phases
from ntk_jax.rope.spec import RopeSpec
from ntk_jax.scheme import Scheme
from ntk_jax.step import StepConfig, init_state, train_step
from ntk_jax.typing import Array

TABLE_LENGTHS = (4096, 32768, 131072)
STEP_LENGTHS = (512, 2048)
TOKENS_PER_STEP = 4096
Run = Callable[[], None]


def float32_cos_sin(
  positions: Array, words: Array, *, attention_factor: Array
) -> tuple[Array, Array]:
  """In place of `cos_sin`: float32 angles of the same frequencies.

  They are made from the words inside the program: a constant would let the
  compiler compute the table once and for all.
  """
  w = words[..., 0].astype(jnp.float32) * np.float32(2 * np.pi / 2**32)
  return cos_sin(
    positions, w, attention_factor=attention_factor, precision='float32'
  )


def table_runs(length: int) -> tuple[Run, Run]:
  """Makers of a table for one head dim of 128, float32 and exact."""
  p = jnp.arange(length, dtype=jnp.int32)
  w, _ = RopeSpec('default', 128).frequencies()
  words, w32 = jnp.asarray(phases(w)), jnp.asarray(w, jnp.float32)
  exact = jax.jit(cos_sin)
  plain = jax.jit(functools.partial(cos_sin, precision='float32'))
  return (
    lambda: jax.block_until_ready(plain(p, w32)),
    lambda: jax.block_until_ready(exact(p, words)),
  )


def step_runs(length: int, config: ModelConfig) -> tuple[Run, Run]:
  """Makers of a train step, with float32 and with exact angles."""
  with mock.patch.object(transformer, 'cos_sin', float32_cos_sin):
    plain = step_run(length, config)
  return plain, step_run(length, config)


def step_run(length: int, config: ModelConfig) -> Run:
  """One train step, compiled here with the `cos_sin` the model has now."""
  rng = np.random.default_rng(0)
  shape = (TOKENS_PER_STEP // length, length)
  tokens, targets = rng.integers(0, 256, (2, *shape)).astype(np.int32)
  weight = np.full(shape, 1 / TOKENS_PER_STEP, np.float32)
  batch = Batch(tokens, targets, weight, np.zeros(shape, bool))
  spec = RopeSpec('default', config.head_dim)
  scheme = Scheme(spec).arrays(length, np.arange(length))
  rate = jnp.float32(1e-3)
  how = StepConfig(Objective(config), adamw())

  def fresh(*args: Any) -> Any:  # its own function, thus its own trace
    return inspect.unwrap(train_step)(*args, config=how)

  state = init_state(init_params(jax.random.key(0), config), how)
  step = jax.jit(fresh, donate_argnums=0)
  step = step.lower(state, batch, scheme, rate).compile()

  def run() -> None:
    nonlocal state
    state, metrics = step(state, batch, scheme, rate)
    jax.block_until_ready(metrics)

  return run


def seconds(run: Run, calls: int) -> float:
  """Seconds of one call, the mean of some."""
  start = time.perf_counter()
  for _ in range(calls):
    run()
  return (time.perf_counter() - start) / calls


def compare(name: str, runs: tuple[Run, Run], repeats: int, calls: int) -> str:
  """A row of the table: median times, and quartiles of exact / float32."""
  plain, exact = runs
  for run in runs:
    run()
  times = []
  for repeat in range(repeats):
    if repeat % 2:  # whoever goes second finds other caches
      pair = seconds(plain, calls), seconds(exact, calls)
    else:
      pair = tuple(reversed((seconds(exact, calls), seconds(plain, calls))))
    times.append(pair)
  times = np.array(times)
  low, middle, high = np.percentile(times[:, 1] / times[:, 0], (25, 50, 75))
  plain_ms, exact_ms = 1e3 * np.median(times, axis=0)
  row = (
    f'| {name} | {plain_ms:.2f} | {exact_ms:.2f} | **{middle:.3f}** '
    f'| {low:.3f} to {high:.3f} |'
  )
  print(row, flush=True)
  return row


def report(repeats: int) -> str:
  """Runs everything; the results as Markdown."""
  load = page.load()
  rows = [
    compare(
      f'table, T = {length}, P = 64',
      table_runs(length),
      repeats,
      max(1, 65536 // length),
    )
    for length in TABLE_LENGTHS
  ]
  config = ModelConfig(vocab=retrieval.VOCAB)
  size = parameter_count(init_params(jax.random.key(0), config)) / 1e6
  rows += [
    compare(
      f'train step, {size:.2f}M parameters, {TOKENS_PER_STEP // length} rows, '
      f'T = {length}',
      step_runs(length, config),
      repeats,
      1,
    )
    for length in STEP_LENGTHS
  ]
  return '\n'.join(
    [
      '# Exact angles against float32 angles',
      '',
      f'`python -m benchmarks.rope --repeats={repeats}`, '
      f'{page.conditions(load)}.',
      '',
      f'Median of {repeats} turns in milliseconds; the ratio is exact / '
      'float32 within a turn, with its quartiles. Below 1, exact is faster.',
      '',
      '| what | float32 | exact | ratio | quartiles |',
      '|---|---|---|---|---|',
      *rows,
      '',
    ]
  )


if __name__ == '__main__':
  page.main(report, __doc__, repeats=21)
