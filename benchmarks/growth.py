"""Growing length: what is compiled, and what it costs the steps.

A small run grows twice, three times over, each in a process of its own:

  one shape   rows stay at the full length, and the window within grows at
              every step: nothing may be compiled after the first step
  waiting     each length has its rows, compiled when it comes
  beside      the same, compiled beside the steps of the length before

A stall is what the first step of a length waits for, as a share of compiling
the same program while nothing else runs. Steps beside a compile are compared
with the steps of the same length after it. Run from the root of a clone:

  python -m benchmarks.growth --out=benchmarks/results/growth_cpu.md
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import page
from ntk_jax.config import from_dict, to_plain
from ntk_jax.curriculum import GrowthConfig
from ntk_jax.data import retrieval
from ntk_jax.data.settings import DataConfig
from ntk_jax.metrics.jsonl import read_lines
from ntk_jax.model import ModelConfig
from ntk_jax.optimizer import OptimizerConfig
from ntk_jax.train import TrainConfig, run

LENGTHS, AT = (128, 512, 2048), (0.45, 0.9)
Line = dict[str, Any]


def configs(steps: int) -> dict[str, TrainConfig]:
  """The three runs."""
  rows = TrainConfig(
    model=ModelConfig(vocab=retrieval.VOCAB),
    data=DataConfig(max_length=LENGTHS[-1], batch_rows=2, key_value=0.5),
    optimizer=OptimizerConfig(peak=3e-3, steps=steps, warmup=10),
    growth=GrowthConfig('discrete', LENGTHS, at=AT),
    save_every=steps,
    log_every=1,
  )
  ramp = GrowthConfig('linear', start=32, over=0.9)
  change = dataclasses.replace
  return {
    'one shape': change(rows, growth=ramp),
    'waiting': change(rows, compile_ahead=False),
    'beside': rows,
  }


def lines_of(config: TrainConfig) -> list[Line]:
  """What a run in a process of its own writes of its steps."""
  with tempfile.TemporaryDirectory() as folder:
    told = json.dumps(to_plain(config))
    subprocess.run(
      [sys.executable, '-m', 'benchmarks.growth', '--run', folder, told],
      check=True,
      stderr=subprocess.DEVNULL,
    )
    return read_lines(Path(folder) / 'metrics.jsonl')


def seconds_of(lines: list[Line]) -> list[float]:
  """The time of each step but the first, what it waited for left out."""
  ends = [line['seconds'] for line in lines]
  waited = [line['compile_seconds'] for line in lines[1:]]
  return [
    after - before - w for before, after, w in zip(ends, ends[1:], waited)
  ]


def grown(lines: list[Line]) -> list[int]:
  """The steps at which the row length changes.

  >>> grown([{'row_length': n} for n in (8, 8, 16, 32)])
  [2, 3]
  """
  lengths = [line['row_length'] for line in lines]
  return [i for i in range(1, len(lengths)) if lengths[i] != lengths[i - 1]]


def slower(lines: list[Line], length: int) -> float:
  """Median step beside a compile over the median one without, at a length."""
  timed = list(zip(lines[1:], seconds_of(lines)))
  at = [(line, s) for line, s in timed if line['row_length'] == length]
  beside, alone = (
    np.median([s for line, s in at if line['compiling'] == flag])
    for flag in (1, 0)
  )
  return float(beside / alone)


def report(steps: int) -> str:
  """Runs everything; the results as Markdown."""
  load = page.load()
  found = {name: lines_of(config) for name, config in configs(steps).items()}
  one, waiting, beside = found.values()
  effective = {line['length'] for line in one}
  rows = []
  for k, (at, later) in enumerate(zip(grown(waiting), grown(beside))):
    cold = waiting[at]['compile_seconds']
    stall = beside[later]['compile_seconds']
    rows.append(
      f'| {LENGTHS[k]} to {LENGTHS[k + 1]} | {cold:.2f} | {stall:.2f} '
      f'| **{stall / cold:.1%}** | {slower(beside, LENGTHS[k]):.2f} |'
    )
  return '\n'.join(
    [
      '# Growing length: compiles, stalls, and steps beside a compile',
      '',
      f'`python -m benchmarks.growth --steps={steps}`, '
      f'{page.conditions(load)}.',
      '',
      f'The default model, 4,096 tokens a step, {steps} steps. In one row '
      f'shape of {LENGTHS[-1]:,} tokens the window took {len(effective)} '
      f'lengths from {min(effective)} to {max(effective):,}: '
      f'**{sum(line["compiles"] for line in one[1:])} compiles** after the '
      'first step.',
      '',
      'With rows of their own for each length: seconds that the first step of '
      'a length waits for its program, compiled then, and compiled beside the '
      'steps before; and the median step beside a compile, over those of the '
      'same length after it.',
      '',
      '| growth | compiled when it comes | compiled beside | stall / cold '
      '| steps meanwhile |',
      '|---|---|---|---|---|',
      *rows,
      '',
    ]
  )


if __name__ == '__main__':
  if sys.argv[1:2] == ['--run']:
    run(from_dict(TrainConfig, json.loads(sys.argv[3])), sys.argv[2])
  else:
    page.main(report, __doc__, steps=100)
