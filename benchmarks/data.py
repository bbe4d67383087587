"""What a running data pipeline costs a train step on a CPU.

The same train step runs on batches of the pipeline and on one batch again and
again, in turns in one process; what is reported is the ratio of their times,
turn by turn, and of the CPU seconds of all turns, those of worker processes
included (they tell most where other programs run too), and how long each step
waited for its batch. Run from the root of a clone:

  python -m benchmarks.data --out=benchmarks/results/data.md
"""

from __future__ import annotations

import dataclasses
import itertools
import multiprocessing
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import page
from ntk_jax.attention import attention
from ntk_jax.data import retrieval
from ntk_jax.data.batch import Batch
from ntk_jax.data.pipeline import Pipeline
from ntk_jax.data.settings import DataConfig
from ntk_jax.data.text import Corpus, load_corpus
from ntk_jax.loss import cross_entropy
from ntk_jax.typing import Array

LENGTH = 512
CONFIG = DataConfig(max_length=2048, batch_rows=2, key_value=0.25, passkey=0.25)
READERS: dict[str, dict[str, Any]] = {
  'nothing read ahead': {'threads': 0},
  'one thread (the default)': {},
  'two worker processes': {'workers': 2},
}
LAYERS, DIM, HEADS = 4, 128, 4
Params = dict[str, Array]


def init_params() -> Params:
  """A decoder of 0.7M parameters."""
  shapes = {'embedding': (retrieval.VOCAB, DIM)}
  for i in range(LAYERS):
    shapes |= {f'qkv{i}': (DIM, 3 * DIM), f'out{i}': (DIM, DIM)}
    shapes |= {f'up{i}': (DIM, 4 * DIM), f'down{i}': (4 * DIM, DIM)}
  keys = jax.random.split(jax.random.key(0), len(shapes))
  return {
    name: jax.random.normal(key, shape) / shape[0] ** 0.5
    for key, (name, shape) in zip(keys, shapes.items())
  }


def loss_fn(params: Params, batch: Batch) -> Array:
  """Mean loss of what a batch weighs.

  Under a causal mask only: with documents apart, the time of a step would
  depend on its batch.
  """
  x = params['embedding'][batch.tokens]
  B, T, D = x.shape
  for i in range(LAYERS):
    qkv = (x.reshape(-1, D) @ params[f'qkv{i}']).reshape(B, T, 3, HEADS, -1)
    q, k, v = (qkv[:, :, j] for j in range(3))
    seen = attention(q, k, v)
    x = x + (seen.reshape(-1, D) @ params[f'out{i}']).reshape(x.shape)
    hidden = jax.nn.silu(x.reshape(-1, D) @ params[f'up{i}'])
    x = x + (hidden @ params[f'down{i}']).reshape(x.shape)
  nll = cross_entropy(x @ params['embedding'].T, batch.targets)
  return jnp.sum(nll * batch.weights) / jnp.sum(batch.weights)


@jax.jit
def train_step(params: Params, batch: Batch) -> tuple[Params, Array]:
  """One step of gradient descent, of a rate that changes next to nothing."""
  loss, grads = jax.value_and_grad(loss_fn)(params, batch)
  return jax.tree.map(lambda p, g: p - 1e-6 * g, params, grads), loss


@dataclasses.dataclass
class Turns:
  """What the turns of one kind took, in seconds.

  Attributes:
    steps: of a step, the mean of each turn.
    waits: of every step, for its batch.
    cpu: of all turns, on all cores.
  """

  steps: list[float] = dataclasses.field(default_factory=list)
  waits: list[float] = dataclasses.field(default_factory=list)
  cpu: float = 0.0

  def run(self, params: Params, batches: Iterator[Batch], steps: int) -> None:
    """Takes one turn more."""
    start, cpu = time.perf_counter(), time.process_time()
    for _ in range(steps):
      asked = time.perf_counter()
      batch = next(batches)
      self.waits.append(time.perf_counter() - asked)
      params, loss = train_step(params, batch)
      jax.block_until_ready(loss)
    self.steps.append((time.perf_counter() - start) / steps)
    self.cpu += time.process_time() - cpu


def workers_cpu() -> float:
  """CPU seconds of the worker processes so far (0 where /proc is none)."""
  total = 0
  for process in multiprocessing.active_children():
    stat = Path(f'/proc/{process.pid}/stat')
    if stat.exists():
      total += sum(map(int, stat.read_text().rsplit(')')[-1].split()[11:13]))
  return total / os.sysconf('SC_CLK_TCK')


def compare(
  name: str, config: DataConfig, corpus: Corpus, repeats: int, steps: int
) -> str:
  """A row of the table: ratios of times, and the waits."""
  params = init_params()
  still, moving = Turns(), Turns()
  with Pipeline.of(config, corpus).batches(length=LENGTH) as batches:
    repeated = itertools.repeat(next(batches))
    Turns().run(params, repeated, steps)
    Turns().run(params, batches, steps)
    workers = workers_cpu()
    for repeat in range(repeats):
      pair = [(still, repeated), (moving, batches)]
      # Whoever goes second finds other caches.
      for turns, source in pair if repeat % 2 else reversed(pair):
        turns.run(params, source, steps)
    moving.cpu += workers_cpu() - workers
  return describe(name, still, moving)


def describe(name: str, still: Turns, moving: Turns) -> str:
  """A row of the table, printed too."""
  ratios = 100 * (np.array(moving.steps) / np.array(still.steps) - 1)
  low, middle, high = np.percentile(ratios, (25, 50, 75))
  step = np.median(still.steps)
  waits = 100 * np.array(moving.waits) / step
  row = (
    f'| {name} | {1e3 * step:.0f} | {1e3 * np.median(moving.steps):.0f} '
    f'| **{middle:+.1f}%** | {low:+.1f}% to {high:+.1f}% '
    f'| **{100 * (moving.cpu / still.cpu - 1):+.1f}%** '
    f'| {np.median(waits):.2f}% | {np.percentile(waits, 95):.2f}% '
    f'| {waits.max():.1f}% |'
  )
  print(row, flush=True)
  return row


def report(repeats: int, steps: int) -> str:
  """Runs everything; the results as Markdown."""
  load = page.load()
  corpus = load_corpus(shortest=1)
  rows = [
    compare(name, dataclasses.replace(CONFIG, **change), corpus, repeats, steps)
    for name, change in READERS.items()
  ]
  tokens = CONFIG.batch_rows * CONFIG.max_length
  return '\n'.join(
    [
      '# What the data pipeline costs a train step',
      '',
      f'`python -m benchmarks.data --repeats={repeats} --steps={steps}`, '
      f'{page.conditions(load, f"grain {grain.__version__}")}.',
      '',
      f'A step of a small decoder on {tokens} tokens in rows of {LENGTH}, cut '
      f'from packed rows of {CONFIG.max_length}; half of the rows are '
      'retrieval rows. "One batch": the same batch again and again. Median '
      f'milliseconds of {repeats} turns of {steps} steps each; the stall is '
      'pipeline / one batch - 1 within a turn, with its quartiles; CPU is that '
      'of the CPU seconds of all turns, workers included; the wait is what '
      '`next(batches)` took, as a share of a step.',
      '',
      '| what makes the batches | one batch | pipeline | stall | quartiles '
      '| CPU | median wait | 95% of waits below | longest wait |',
      '|---|---|---|---|---|---|---|---|---|',
      *rows,
      '',
    ]
  )


if __name__ == '__main__':
  page.main(report, __doc__, repeats=15, steps=8)
