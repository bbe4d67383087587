"""Attention on a CPU: time and peak memory against what else there is.

Peers are `jax.nn.dot_product_attention`, the float32 oracle and, where torch
can be imported, its `scaled_dot_product_attention`. All run in turns in one
process: in each turn every one runs once unmeasured, so that it finds its
memory, then is timed. Peak memory is arguments + outputs + temporaries -
aliases of the compiled program; a program that needs more than the budget is
not run. Run from the root of a clone:

  python -m benchmarks.attention_cpu --out=benchmarks/results/attention_cpu.md
"""

from __future__ import annotations

import functools
import importlib
import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import page
from ntk_jax.attention import attention
from ntk_jax.mask import Mask
from ntk_jax.typing import Array, NDArray

HEADS, HEAD_DIM = 8, 64
BARS = ((8, 512), (2, 2048))  # rows and length: 4096 tokens in all
LENGTHS = (512, 2048, 4096, 8192, 32768)
WINDOW = 1024
BUDGET = 4 * 2**30

Run = Callable[[], object]


class Program(NamedTuple):
  """What is timed, and the bytes it needs at its peak (None: not known)."""

  run: Run | None
  peak: int | None


def operands(batch: int, length: int) -> list[NDArray]:
  """q, k, v and a cotangent, float32."""
  rng = np.random.default_rng(0)
  shape = (batch, length, HEADS, HEAD_DIM)
  return [rng.normal(size=shape).astype(np.float32) for _ in range(4)]


def program(
  attend: Callable[..., Array],
  inputs: list[NDArray],
  backward: bool,
  *rows: Any,
) -> Program:
  """A compiled call, or one with its gradients."""

  def forward(q: Array, k: Array, v: Array, d_out: Array, *rows: Array) -> Any:
    out, pull = jax.vjp(lambda *x: attend(*x, *rows), q, k, v)
    return (out, *pull(d_out)) if backward else out

  args = [jnp.asarray(x) for x in inputs] + [jnp.asarray(x) for x in rows]
  compiled = jax.jit(forward).lower(*args).compile()
  memory = compiled.memory_analysis()
  assert memory is not None
  peak = (
    memory.argument_size_in_bytes
    + memory.output_size_in_bytes
    + memory.temp_size_in_bytes
    - memory.alias_size_in_bytes
  )
  if peak > BUDGET:
    return Program(None, peak)
  return Program(lambda: jax.block_until_ready(compiled(*args)), peak)


def packed(
  q: Array, k: Array, v: Array, positions: Array, segments: Array, window: Array
) -> Array:
  """Everything that changes at run time, as training passes it."""
  return attention(
    q,
    k,
    v,
    mask=Mask(window=window, document=True),
    q_positions=positions,
    kv_positions=positions,
    q_segments=segments,
    kv_segments=segments,
  )


def imported_torch() -> Any:
  """The module, or None; it lives in the benchmark's environment alone."""
  try:
    return importlib.import_module('torch')
  except ImportError:
    return None


def torch_program(inputs: list[NDArray], backward: bool) -> Program | None:
  """torch's scaled_dot_product_attention in its own layout, if there is one."""
  torch = imported_torch()
  if torch is None:
    return None
  torch.set_num_threads(os.cpu_count() or 1)
  q, k, v, d_out = (
    torch.from_numpy(x).transpose(1, 2).contiguous() for x in inputs
  )
  for x in (q, k, v):
    x.requires_grad_(backward)

  def run() -> None:
    out = torch.nn.functional.scaled_dot_product_attention(
      q, k, v, is_causal=True
    )
    if backward:
      torch.autograd.grad(out, (q, k, v), d_out)

  return Program(run, None)


def times(programs: dict[str, Program], repeats: int) -> dict[str, NDArray]:
  """Milliseconds of each turn of each program that can run."""
  runs = {name: p.run for name, p in programs.items() if p.run}
  found: dict[str, list[float]] = {name: [] for name in runs}
  for turn in range(repeats):
    for name in list(runs)[:: -1 if turn % 2 else 1]:
      run = runs[name]
      run()
      start = time.perf_counter()
      run()
      found[name].append(1e3 * (time.perf_counter() - start))
  return {name: np.array(ms) for name, ms in found.items()}


def bar_rows(batch: int, length: int, repeats: int) -> list[str]:
  """4096 tokens: the default and the packed call against the peers."""
  inputs = operands(batch, length)
  positions = np.tile(np.arange(length, dtype=np.int32), (batch, 1))
  rows = positions, np.ones_like(positions), np.int32(2**31 - 1)
  ms: dict[str, dict[bool, NDArray]] = {}
  for backward in (False, True):
    dot_product = functools.partial(
      jax.nn.dot_product_attention, is_causal=True
    )
    programs = {
      'attention': program(attention, inputs, backward),
      'attention, packed': program(packed, inputs, backward, *rows),
      'dot_product_attention': program(dot_product, inputs, backward),
    }
    torch = torch_program(inputs, backward)
    if torch:
      programs['torch sdpa'] = torch
    for name, found in times(programs, repeats).items():
      ms.setdefault(name, {})[backward] = found

  def ratio(peer: str, ours: str) -> str:
    if peer not in ms or peer == ours:
      return ''
    low, middle, high = np.percentile(
      ms[peer][True] / ms[ours][True], (25, 50, 75)
    )
    return f'**{middle:.2f}x** ({low:.2f} to {high:.2f})'

  table = []
  for name, found in ms.items():
    ours = name.startswith('attention')
    table.append(
      f'| {batch} x {length} | {name} | {np.median(found[False]):.0f} '
      f'| {np.median(found[True]):.0f} '
      f'| {ratio("dot_product_attention", name) if ours else ""} '
      f'| {ratio("torch sdpa", name) if ours else ""} |'
    )
    print(table[-1], flush=True)
  cost = np.median(ms['attention, packed'][True] / ms['attention'][True])
  table.append(f'| {batch} x {length} | packed / default | | {cost:.2f}x | | |')
  print(table[-1], flush=True)
  return table


def length_rows(length: int, window: int | None, repeats: int) -> list[str]:
  """One row of a length: time and peak memory of ours and the JAX peers."""
  inputs = operands(1, length)
  mask = Mask(window=window)
  peers: dict[str, Callable[..., Array]] = {
    'attention': functools.partial(attention, mask=mask),
    'dot_product_attention': functools.partial(
      jax.nn.dot_product_attention,
      is_causal=True,
      local_window_size=window and (window - 1, 0),
    ),
    'reference': functools.partial(
      attention, mask=mask, implementation='reference'
    ),
  }
  cells: dict[str, list[str]] = {name: [] for name in peers}
  for backward in (False, True):
    programs = {n: program(f, inputs, backward) for n, f in peers.items()}
    ms = times(programs, repeats)
    for name, p in programs.items():
      found = f'{np.median(ms[name]):.0f}' if name in ms else 'does not fit'
      cells[name] += [found, f'{(p.peak or 0) / 2**20:,.0f}']
  what = 'causal' if window is None else f'window {window}'
  table = [
    f'| {length} | {what} | {name} | {" | ".join(found)} |'
    for name, found in cells.items()
  ]
  print('\n'.join(table), flush=True)
  return table


def torch_version() -> str:
  """Of the peer, if it is installed."""
  torch = imported_torch()
  return 'no torch' if torch is None else f'torch {torch.__version__}'


def report(repeats: int) -> str:
  """Runs everything; the results as Markdown."""
  load = page.load()
  bars = [row for bar in BARS for row in bar_rows(*bar, repeats)]
  lengths = [
    row
    for length in LENGTHS
    for window in (None, WINDOW)
    if window is None or length > window
    for row in length_rows(length, window, 3 if length > 2048 else repeats)
  ]
  return '\n'.join(
    [
      '# Attention on a CPU',
      '',
      f'`python -m benchmarks.attention_cpu --repeats={repeats}`, '
      f'{page.conditions(load, torch_version())}.',
      '',
      f'{HEADS} heads of {HEAD_DIM}, float32, causal. Milliseconds, median of '
      f'{repeats} turns; ratios are time of the peer / time of ours, forward + '
      'backward, within a turn, with quartiles: above 1, ours is faster. '
      '"Packed" has positions, segments and window as arrays, one executable '
      'for all of them.',
      '',
      '| rows x length | what | forward | forward + backward '
      '| against dot_product_attention | against torch sdpa |',
      '|---|---|---|---|---|---|',
      *bars,
      '',
      'One row by length (3 turns above 2048); MiB are the peak of the '
      f'compiled program. Above {BUDGET / 2**30:.0f} GiB it is not run.',
      '',
      '| length | mask | what | forward ms | MiB | forward + backward ms '
      '| MiB |',
      '|---|---|---|---|---|---|---|',
      *lengths,
      '',
    ]
  )


if __name__ == '__main__':
  page.main(report, __doc__, repeats=11)
