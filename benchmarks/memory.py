"""How long a row trains in a GiB: remat, chunked loss, tiled MLP, microbatches.

Bytes are the compiled train step's, arguments + outputs - donated +
temporaries; nothing of that size runs. Lengths between those compiled are by
a straight line, and none beyond them is guessed. Times are of steps at the
shortest length, in turns in one process. Run from the root of a clone:

  python -m benchmarks.memory --out=benchmarks/results/memory.md
"""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from benchmarks import page
from ntk_jax.data.batch import Batch
from ntk_jax.data.settings import DataConfig
from ntk_jax.memory import GIB
from ntk_jax.model import ModelConfig, parameter_count
from ntk_jax.optimizer import OptimizerConfig
from ntk_jax.step import train_step
from ntk_jax.train import TrainConfig
from ntk_jax.train.forecast import Compiled, forecast
from ntk_jax.train.job import initial_state
from ntk_jax.typing import NDArray

ROWS = 2  # of a batch: one for each of two microbatches
SHORT, LONG = 1024, 32768
MIDDLE = 4096  # where a TPU's program is compiled
BUDGETS = (1, 4)  # GiB
MODEL = ModelConfig(
  vocab=16384,
  dim=256,
  layers=6,
  heads=4,
  kv_heads=2,
  head_dim=64,
  mlp_dim=1024,
  rope_theta=5e5,
)
TILE = 1024  # tokens whose hidden channels exist at a time
TPU = 'v5e:2x2'


@dataclasses.dataclass(frozen=True)
class Setting:
  """One combination; the defaults save nothing."""

  remat: str = 'none'
  chunked: bool = False
  tiled: bool = False
  microbatches: int = 1

  def config(self, length: int) -> TrainConfig:
    """The run of the model with rows of this length."""
    tile = TILE if self.tiled else None
    return TrainConfig(
      model=dataclasses.replace(MODEL, remat=self.remat, mlp_chunk=tile),
      data=DataConfig(max_length=length, batch_rows=ROWS),
      optimizer=OptimizerConfig(peak=1e-3, steps=100, warmup=10),
      loss_chunk=None if self.chunked else ROWS * length,
      microbatches=self.microbatches,
    )

  def cells(self) -> list[str]:
    """Its part of a line of a table."""
    on = {True: 'yes', False: ''}
    many = str(self.microbatches) if self.microbatches > 1 else ''
    return [self.remat, on[self.chunked], on[self.tiled], many]


COMBINATIONS = tuple(
  Setting(*chosen)
  for chosen in itertools.product(
    ('none', 'dots', 'attention', 'full'), (False, True), (False, True), (1, 2)
  )
)
TIMED = (
  Setting(),
  Setting(chunked=True),
  Setting(tiled=True),
  Setting(microbatches=2),
  Setting('dots'),
  Setting('attention'),
  Setting('full'),
  Setting('offload'),
  Setting('full', True, True, 2),
)
OFFLOADED = tuple(
  Setting(remat, True, True) for remat in ('attention', 'offload')
)


def compiled(
  setting: Setting, length: int, target: str | None = None
) -> Compiled:
  """What the compiler says of a step; refused ones end the bench."""
  [found] = forecast(setting.config(length), target=target)
  if found.compiled is None:
    raise SystemExit(f'{setting} at {length}: {found.refused}')
  return found.compiled


def longest(budget: float, points: Sequence[tuple[int, float]]) -> str:
  """The longest row that a budget holds, by a line between two lengths.

  >>> points = [(1000, 100.0), (3000, 300.0)]
  >>> [longest(budget, points) for budget in (99, 250, 300, 301)]
  ['< 1,000', '2,500', '3,000', '> 3,000']
  """
  (short, least), (long, most) = points
  if budget < least:
    return f'< {short:,}'
  if budget > most:
    return f'> {long:,}'
  return f'{short + (budget - least) / (most - least) * (long - short):,.0f}'


def row(setting: Setting, points: Sequence[tuple[int, float]]) -> str:
  """A line of the table of lengths."""
  (short, least), (long, most) = points
  cells = [
    *setting.cells(),
    *(f'{size / GIB:.2f}' for size in (least, most)),
    *(longest(budget * GIB, points) for budget in BUDGETS),
    f'**{(long - short) / (most - least) * GIB:,.0f}**',
  ]
  return f'| {" | ".join(cells)} |'


def measured_lengths() -> tuple[list[str], list[str]]:
  """The table of all combinations, and a check of its straight lines."""
  lines, found = [], {}
  for setting in COMBINATIONS:
    found[setting] = [
      (length, float(compiled(setting, length).total))
      for length in (SHORT, LONG)
    ]
    lines.append(row(setting, found[setting]))
    print(lines[-1], flush=True)
  checks = []
  for setting in (COMBINATIONS[0], COMBINATIONS[-1]):
    length = (SHORT + LONG) // 2
    line = np.mean([size for _, size in found[setting]])
    there = compiled(setting, length).total
    checks.append(f'{line / there:.3f} ({", ".join(named(setting))})')
  return lines, checks


def named(setting: Setting) -> list[str]:
  """What a combination has, in words.

  >>> named(Setting('full', tiled=True))
  ['remat full', 'tiled MLP']
  """
  return [
    f'remat {setting.remat}',
    *['chunked loss'] * setting.chunked,
    *['tiled MLP'] * setting.tiled,
    *[f'{setting.microbatches} microbatches'] * (setting.microbatches > 1),
  ]


def offloading() -> list[str]:
  """Where offloaded activations are: a TPU's host; on a CPU nowhere."""
  lines = [
    '| compiled for | remat | GiB | of them temporaries | GiB on the host |',
    '|---|---|---|---|---|',
  ]
  here = [compiled(setting, MIDDLE) for setting in OFFLOADED]
  lines += map(_offload_row, itertools.repeat('this CPU'), OFFLOADED, here)
  if importlib.util.find_spec('libtpu') is None:
    return [*lines, '', f'No {TPU}: libtpu is not installed.']
  there = [compiled(setting, MIDDLE, TPU) for setting in OFFLOADED]
  where = f'one chip of {TPU}'
  lines += map(_offload_row, itertools.repeat(where), OFFLOADED, there)
  return [*lines, '', plain_on_a_cpu(*here)]


def _offload_row(where: str, setting: Setting, said: Compiled) -> str:
  sizes = said.total, said.temporaries, said.host
  numbers = ' | '.join(f'{size / GIB:.3f}' for size in sizes)
  return f'| {where} | {setting.remat} | {numbers} |'


def plain_on_a_cpu(attention: Compiled, offload: Compiled) -> str:
  """What offload is on a CPU, beside the policy that keeps the same."""
  if offload.host:
    return f'On this CPU {offload.host} bytes are on a host.'
  return (
    'On this CPU nothing is on a host, and `offload` takes '
    f'{offload.total / attention.total:.3f} of the bytes of `attention`, which '
    'keeps the same: there it is plain rematerialisation.'
  )


def batch() -> Batch:
  """Random packed rows of the shortest length, a document each."""
  rng = np.random.default_rng(0)
  shape = 2, ROWS, SHORT
  tokens, targets = rng.integers(0, MODEL.vocab, shape).astype(np.int32)
  positions = np.tile(np.arange(SHORT, dtype=np.int32), (ROWS, 1))
  weights, ones = np.ones((ROWS, SHORT), np.float32), np.ones_like(positions)
  answers = np.zeros((ROWS, SHORT), bool)
  return Batch(tokens, targets, weights, answers, positions, ones)


class Steps:
  """A run that can be stepped and timed."""

  def __init__(self, setting: Setting) -> None:
    """Draws parameters and compiles."""
    config = setting.config(SHORT)
    self._config = config.step
    self._state = initial_state(config.step, 0, None)
    self._schemes = tuple(
      s.arrays(SHORT, np.arange(SHORT)) for s in config.build_schemes()
    )
    self._batch = batch()
    self.seconds()

  def seconds(self) -> float:
    """Of one step."""
    start = time.perf_counter()
    self._state, metrics = train_step(
      self._state,
      self._batch,
      self._schemes,
      np.float32(1e-4),
      config=self._config,
    )
    jax.block_until_ready((self._state, metrics))
    return time.perf_counter() - start


def times(repeats: int) -> NDArray:
  """Seconds [repeats, settings], in turns."""
  runs: list[Any] = [Steps(setting) for setting in TIMED]
  found = np.zeros((repeats, len(runs)))
  for turn in range(repeats):
    for k in range(len(runs))[:: -1 if turn % 2 else 1]:
      found[turn, k] = runs[k].seconds()
  return found


def time_rows(found: NDArray) -> list[str]:
  """Lines of the table of times; ratios to the first within a turn."""
  lines = []
  for setting, own in zip(TIMED, found.T):
    low, middle, high = np.quantile(own / found[:, 0], (0.25, 0.5, 0.75))
    cells = [*setting.cells(), f'{np.median(own):.2f}', f'**{middle:.2f}**']
    lines.append(f'| {" | ".join(cells)} | {low:.2f} to {high:.2f} |')
  return lines


def report(repeats: int) -> str:
  """The whole page."""
  load, start = page.load(), time.perf_counter()
  lengths, checks = measured_lengths()
  offloaded = offloading()
  timed = time_rows(times(repeats))
  took = time.perf_counter() - start
  m, head = MODEL, '| remat | chunked loss | tiled MLP | microbatches |'
  return '\n'.join(
    [
      '# How long a row trains in a GiB',
      '',
      f'`python -m benchmarks.memory --repeats={repeats}`, '
      f'{page.conditions(load)}; {took:.0f} s in all.',
      '',
      f'{parameter_count(m) / 1e6:.1f}M parameters (V {m.vocab:,}, D {m.dim}, '
      f'{m.layers} layers, {m.heads} heads over {m.kv_heads} of {m.head_dim}, '
      f'F {m.mlp_dim:,}), float32, AdamW, {ROWS} packed rows a batch. GiB of '
      'the compiled step of this CPU: arguments + outputs - donated + '
      f'temporaries, at {SHORT:,} and {LONG:,} tokens a row. What a budget '
      'holds is on the straight line between the two, nothing beyond them is '
      'guessed; the last column is its slope, the tokens of a row that one '
      f'more GiB holds. Half way the line is at {" and ".join(checks)} of '
      'what is compiled there. Without the chunked loss all logits exist at '
      f'once; a tile of the MLP has {TILE:,} tokens.',
      '',
      f'{head} GiB at {SHORT:,} | at {LONG:,} '
      f'| longest in {BUDGETS[0]} GiB | in {BUDGETS[1]} GiB '
      '| **tokens of a row per GiB** |',
      '|---|---|---|---|---|---|---|---|---|',
      *lengths,
      '',
      '## Host offload',
      '',
      f'Rows of {MIDDLE:,}, chunked loss and tiled MLP, one microbatch. The '
      'TPU is not there: its program is compiled by libtpu and not run. '
      '`offload` keeps the layer inputs and the results of attention in host '
      'memory.',
      '',
      *offloaded,
      '',
      '## Time of a step on this CPU',
      '',
      f'{ROWS} rows of {SHORT:,}; medians of {repeats} turns in one process, '
      'ratios to the first line within a turn, with quartiles.',
      '',
      f'{head} seconds | ratio | quartiles |',
      '|---|---|---|---|---|---|---|',
      *timed,
      '',
    ]
  )


if __name__ == '__main__':
  page.main(report, __doc__, repeats=5)
