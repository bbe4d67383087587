"""Compile time by depth: a plan of layers compiles as its patterns do.

Each plan is compiled shallow and deep, in turns, from nothing: traces are
forgotten before every turn. Shapes stand for arrays, so that depth costs no
memory. Run from the root of a clone:

  python -m benchmarks.compile --out=benchmarks/results/compile_cpu.md
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import page
from ntk_jax.data import retrieval
from ntk_jax.data.batch import Batch
from ntk_jax.model import ModelConfig, forward, init_params
from ntk_jax.model.plan import segments
from ntk_jax.objective import Objective
from ntk_jax.optimizer import adamw
from ntk_jax.rope.spec import RopeSpec
from ntk_jax.scheme import Scheme
from ntk_jax.step import StepConfig, init_state, train_step
from ntk_jax.typing import NDArray

ROWS, LENGTH = 8, 512
GLOBAL, LOCAL = 0, 1
UNIFORM, MIXED = (GLOBAL,), (LOCAL, LOCAL, LOCAL, GLOBAL)
GEMMA3 = (LOCAL,) * 5 + (GLOBAL,)
# A name, the plan's pattern, and the depths to compare. Once through a mixed
# pattern compiles as less than the pattern: its local layers are alike. Gemma 3
# has 26 layers at 1B and 62 at 27B: both end in the middle of their pattern.
PLANS = (
  ('uniform', UNIFORM, (4, 64)),
  ('3 local, 1 global', MIXED, (4, 64)),
  ('3 local, 1 global', MIXED, (8, 64)),
  ('Gemma 3', GEMMA3, (26, 62)),
)
WHAT = ('forward', 'train step')

Lower = Callable[[], Any]


def plan(pattern: tuple[int, ...], layers: int) -> tuple[int, ...]:
  """The pattern again and again, cut where the layers end.

  >>> plan((1, 1, 0), 5)
  (1, 1, 0, 1, 1)
  """
  return (pattern * -(-layers // len(pattern)))[:layers]


def bodies(numbers: tuple[int, ...]) -> int:
  """The layers of a plan that are compiled.

  >>> bodies((1, 1, 0) * 4), bodies((1, 1, 0) * 4 + (1,))
  (3, 4)
  """
  return sum(len(segment.pattern) for segment in segments(numbers))


def schemes(config: ModelConfig) -> tuple[Any, ...]:
  """Arrays of the global scheme, then of one with a window and another base."""
  full = Scheme(RopeSpec('default', config.head_dim, theta=1e6))
  local = Scheme(RopeSpec('default', config.head_dim), window=128)
  used = (full, local)[: max(config.plan) + 1]
  return tuple(s.arrays(LENGTH, np.arange(LENGTH)) for s in used)


def lowered(what: str, layer_plan: tuple[int, ...]) -> Lower:
  """A function that traces and lowers a program, from shapes alone."""
  config = ModelConfig(
    vocab=retrieval.VOCAB, layers=len(layer_plan), layer_plan=layer_plan
  )
  step_config = StepConfig(Objective(config), adamw())
  params = jax.eval_shape(lambda: init_params(jax.random.key(0), config))
  ids, weights, answers = (
    jax.ShapeDtypeStruct((ROWS, LENGTH), dtype)
    for dtype in (jnp.int32, jnp.float32, jnp.bool_)
  )
  arrays = schemes(config)
  if what == 'forward':

    def logits(params: Any, tokens: Any, arrays: Any) -> Any:
      return forward(params, config, tokens, None, None, arrays)

    return lambda: jax.jit(logits).lower(params, ids, arrays)
  state = jax.eval_shape(lambda p: init_state(p, step_config), params)
  rows: Any = Batch
  batch = rows(ids, ids, weights, answers, positions=ids, segments=ids)
  rate = jax.ShapeDtypeStruct((), jnp.float32)
  return lambda: train_step.lower(
    state, batch, arrays, rate, config=step_config
  )


def seconds(lower: Lower) -> tuple[float, float]:
  """Of tracing and lowering, and of compiling."""
  jax.clear_caches()
  start = time.perf_counter()
  program = lower()
  middle = time.perf_counter()
  program.compile()
  return middle - start, time.perf_counter() - middle


def measure(lowers: list[Lower], repeats: int) -> NDArray:
  """Times [repeats, programs, 2], in turns, after one unmeasured turn."""
  times = np.zeros((repeats + 1, len(lowers), 2))
  for turn in range(repeats + 1):
    for k in range(len(lowers))[:: -1 if turn % 2 else 1]:
      times[turn, k] = seconds(lowers[k])
  return times[1:]


def row(
  name: str,
  what: str,
  pattern: tuple[int, ...],
  depths: tuple[int, int],
  times: NDArray,
) -> str:
  """A line of the table: both depths, and the ratio of their totals."""
  shallow, deep = np.median(times, axis=0)
  totals = times.sum(axis=2)
  low, middle, high = np.percentile(totals[:, 1] / totals[:, 0], (25, 50, 75))
  compiled = ' / '.join(str(bodies(plan(pattern, n))) for n in depths)
  return (
    f'| {name} | {what} | {depths[0]} / {depths[1]} | {compiled} '
    f'| {shallow[0]:.2f} / {deep[0]:.2f} | {shallow[1]:.2f} / {deep[1]:.2f} '
    f'| **{middle:.2f}** | {low:.2f} to {high:.2f} |'
  )


def report(repeats: int) -> str:
  """Runs everything; the results as Markdown."""
  load = page.load()
  rows = []
  for name, pattern, depths in PLANS:
    for what in WHAT:
      lowers = [lowered(what, plan(pattern, n)) for n in depths]
      times = measure(lowers, repeats)
      rows.append(row(name, what, pattern, depths, times))
      print(rows[-1], flush=True)
  return '\n'.join(
    [
      '# Compile time by depth',
      '',
      f'`python -m benchmarks.compile --repeats={repeats}`, '
      f'{page.conditions(load)}.',
      '',
      f'The default model but for its depth, {ROWS} rows of {LENGTH}; the '
      'train step has packed rows, the forward pass plain ones. Seconds, '
      f'median of {repeats} turns, shallow / deep; the ratio is deep / shallow '
      'of both together within a turn, with its quartiles. A plan compiles as '
      'many layers as the patterns of its segments have.',
      '',
      '| plan | program | layers | layers compiled | trace and lower '
      '| compile | ratio | quartiles |',
      '|---|---|---|---|---|---|---|---|',
      *rows,
      '',
    ]
  )


if __name__ == '__main__':
  page.main(report, __doc__, repeats=5)
