"""The chunked loss against the plain one: time of a gradient, and memory.

The plain form makes the logits of all tokens. Both run in turns in one
process; ratios are taken turn by turn. Scratch is the compiled program's, as
XLA plans it. Run from the root of a clone:

  python -m benchmarks.loss --out=benchmarks/results/loss_cpu.md
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import page
from ntk_jax.loss import chunked_cross_entropy, cross_entropy
from ntk_jax.typing import Array, NDArray

# Vocabulary, width, tokens: the default job, wider, and a large vocabulary.
SIZES = (
  (408, 128, 4096),
  (408, 512, 4096),
  (32768, 128, 4096),
  (32768, 512, 2048),
)
DTYPES = ('float32', 'bfloat16')


def plain(x: Array, embed: Array, targets: Array, weights: Array) -> Array:
  """The logits of all tokens, then the loss."""
  z = jnp.dot(x, embed.T, preferred_element_type=jnp.float32)
  return jnp.sum(cross_entropy(z, targets) * weights)


def chunked(x: Array, embed: Array, targets: Array, weights: Array) -> Array:
  """The same number by chunks."""
  return chunked_cross_entropy(x, embed.T, targets, weights).loss


def operands(vocab: int, dim: int, tokens: int, dtype: str) -> tuple[Any, ...]:
  """Hidden states, a tied embedding, targets and weights."""
  rng = np.random.default_rng(0)
  return (
    jnp.asarray(rng.normal(size=(tokens, dim)), dtype),
    jnp.asarray(rng.normal(size=(vocab, dim)) * dim**-0.5, dtype),
    jnp.asarray(rng.integers(0, vocab, tokens), jnp.int32),
    jnp.full(tokens, 1 / tokens, jnp.float32),
  )


def seconds(
  programs: list[Callable[..., object]], inputs: tuple[Any, ...], repeats: int
) -> NDArray:
  """Times [repeats, programs], in turns, after one unmeasured turn."""
  times = np.zeros((repeats + 1, len(programs)))
  for turn in range(repeats + 1):
    for k, run in enumerate(programs):
      start = time.perf_counter()
      jax.block_until_ready(run(*inputs))
      times[turn, k] = time.perf_counter() - start
  return times[1:]


def row(size: tuple[int, int, int], dtype: str, repeats: int) -> str:
  """A line of the table: forward, gradient and scratch of both forms."""
  inputs = operands(*size, dtype)
  cells = [f'{size[0]:,}', f'{size[1]}', f'{size[2]:,}', dtype]
  for gradient in (False, True):
    programs: list[Any] = []
    for loss in (plain, chunked):
      f = jax.value_and_grad(loss, argnums=(0, 1)) if gradient else loss
      programs.append(jax.jit(f).lower(*inputs).compile())
    times = seconds(programs, inputs, repeats)
    ms = 1e3 * np.median(times, axis=0)
    low, middle, high = np.quantile(
      times[:, 0] / times[:, 1], (0.25, 0.5, 0.75)
    )
    cells += [
      f'{ms[0]:.1f} / {ms[1]:.1f}',
      f'**{middle:.2f}x** ({low:.2f} to {high:.2f})',
    ]
  mib = [p.memory_analysis().temp_size_in_bytes / 2**20 for p in programs]
  return f'| {" | ".join([*cells, f"{mib[0]:.0f} / {mib[1]:.0f}"])} |'


def report(repeats: int) -> str:
  """The whole page."""
  lines = [
    '# The chunked loss on a CPU',
    '',
    f'`python -m benchmarks.loss --repeats={repeats}`, '
    f'{page.conditions(page.load())}.',
    '',
    'Plain / chunked, a tied embedding, default chunk. Milliseconds are '
    f'medians of {repeats} turns; ratios are plain / chunked within a turn, '
    'with quartiles: above 1, chunks are faster. Scratch of the gradient.',
    '',
    '| V | D | tokens | dtype | forward ms | | gradient ms | | scratch MiB |',
    '|---|---|---|---|---|---|---|---|---|',
  ]
  for dtype in DTYPES:
    for size in SIZES:
      lines.append(row(size, dtype, repeats))
      print(lines[-1], flush=True)
  return '\n'.join(lines) + '\n'


if __name__ == '__main__':
  page.main(report, __doc__, repeats=11)
