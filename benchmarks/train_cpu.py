"""A train step on a CPU against the same model in transformers and torch.

Every program lives in a process of its own and takes its steps in turns with
the others, from the same weights and on the same tokens: their first losses
are compared before anything is timed. Ours keeps freed memory as our commands
do (`experiments.launch.keep_freed_memory`); torch runs as it comes, and once
more with the same settings of the allocator. torch may live in another
environment. Run from the root of a clone:

  python -m benchmarks.train_cpu --peer_python=ENV/bin/python \
    --out=benchmarks/results/train_cpu.md
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import page
from benchmarks.others import Patience, Timed
from benchmarks.train_torch import Step, serve
from ntk_jax.data.batch import NO_TARGET, Batch
from ntk_jax.model import (
  ModelConfig,
  Params,
  Precision,
  init_params,
  parameter_count,
)
from ntk_jax.objective import Objective
from ntk_jax.optimizer import adamw
from ntk_jax.rope.spec import RopeSpec
from ntk_jax.scheme import Scheme
from ntk_jax.step import StepConfig, init_state, train_step
from ntk_jax.typing import NDArray

TOKENS = 4096
BARS = {512: 0.95, 2048: 0.85}  # of torch's tokens/s, by length
AIMS = {512: 1.0, 2048: 0.9}
RATE = 1e-4
# 13.7M parameters. Llama does not scale its embedding.
CONFIG = ModelConfig(
  vocab=2048,
  dim=512,
  layers=4,
  heads=8,
  kv_heads=8,
  head_dim=64,
  mlp_dim=1376,
  scale_embed=False,
)


def llama(config: ModelConfig, longest: int) -> dict[str, Any]:
  """A decoder as the arguments of transformers' LlamaConfig."""
  return {
    'vocab_size': config.vocab,
    'hidden_size': config.dim,
    'num_hidden_layers': config.layers,
    'num_attention_heads': config.heads,
    'num_key_value_heads': config.kv_heads,
    'head_dim': config.head_dim,
    'intermediate_size': config.mlp_dim,
    'rms_norm_eps': config.norm_eps,
    'tie_word_embeddings': config.tied,
    'max_position_embeddings': longest,
  }


LLAMA = llama(CONFIG, max(BARS))
ADAMW = {'lr': RATE, 'betas': [0.9, 0.98], 'eps': 1e-8, 'weight_decay': 0.1}
# What `keep_freed_memory` sets, as glibc reads it at the start of a process.
ALLOCATOR = {
  'MALLOC_ARENA_MAX': '1',
  'MALLOC_MMAP_MAX_': '0',
  'MALLOC_TRIM_THRESHOLD_': str(2**31 - 1),
  'MALLOC_TOP_PAD_': str(2**28),
}


class Case(NamedTuple):
  """One of the programs: whose, its dtype, and how it is run.

  Attributes:
    ours: or torch's.
    bf16: compute in bfloat16, parameters in float32.
    packed: rows come with positions and segments; one document a row.
    tuned: keeps freed memory.
  """

  ours: bool
  bf16: bool = False
  packed: bool = False
  tuned: bool = True


CASES = {
  'ours': Case(True),
  'ours, packed rows': Case(True, packed=True),
  'torch': Case(False, tuned=False),
  'torch, allocator as ours': Case(False),
  'ours, bf16 compute': Case(True, bf16=True),
  'torch, bf16 autocast': Case(False, bf16=True, tuned=False),
}


def batch(tokens: NDArray, packed: bool) -> Batch:
  """Rows whose every token but the last has a target."""
  targets = np.roll(tokens, -1, axis=1)
  targets[:, -1] = NO_TARGET
  rows = Batch(
    tokens,
    targets,
    (targets >= 0).astype(np.float32),
    np.zeros(tokens.shape, np.bool_),
  )
  if not packed:
    return rows
  positions = np.arange(tokens.shape[1], dtype=np.int32)
  return rows._replace(
    positions=np.broadcast_to(positions, tokens.shape),
    segments=np.ones_like(tokens),
  )


def named(params: Params) -> dict[str, NDArray]:
  """The arrays of a model by name, as the peer reads them."""
  arrays = {
    'embed': params.embed,
    'final_norm': params.final_norm,
    **params.layers,
  }
  return {name: np.asarray(array) for name, array in arrays.items()}


def stepper(tokens: NDArray, case: Case) -> Step:
  """Our train step on one batch."""
  precision = Precision(compute='bfloat16' if case.bf16 else 'float32')
  model = dataclasses.replace(CONFIG, precision=precision)
  config = StepConfig(Objective(model), adamw())
  state = init_state(init_params(jax.random.key(0), model), config)
  length = tokens.shape[1]
  scheme = Scheme(RopeSpec('default', model.head_dim))
  args = jax.tree.map(
    jnp.asarray,
    (
      batch(tokens, case.packed),
      scheme.arrays(length, np.arange(length)),
      np.float32(RATE),
    ),
  )

  def step() -> float:
    nonlocal state
    state, metrics = train_step(state, *args, config=config)
    jax.block_until_ready(state)
    return float(metrics.loss)

  return step


def command(name: str, inputs: Path, peer_python: str) -> list[str]:
  """What starts the process of a case."""
  case = CASES[name]
  if case.ours:
    return [
      sys.executable,
      '-m',
      'benchmarks.train_cpu',
      f'--serve={name}',
      f'--inputs={inputs}',
    ]
  return [
    peer_python,
    '-m',
    'benchmarks.train_torch',
    f'--inputs={inputs}',
    f'--shape={json.dumps(LLAMA)}',
    f'--adamw={json.dumps(ADAMW)}',
    *(['--bf16'] if case.bf16 else []),
  ]


class Program:
  """A process that takes train steps when it is told to."""

  def __init__(self, name: str, inputs: Path, peer_python: str) -> None:
    """Starts it; its first step, which compiles, runs on."""
    case = CASES[name]
    tuned = ALLOCATOR if case.tuned and not case.ours else {}
    self.process = subprocess.Popen(
      command(name, inputs, peer_python),
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
      env={**os.environ, 'JAX_PLATFORMS': 'cpu', **tuned},
    )
    self.about = self.read()

  def read(self) -> dict[str, Any]:
    """The next line that it prints."""
    assert self.process.stdout is not None
    return json.loads(self.process.stdout.readline())

  def seconds(self, steps: int) -> tuple[float, float]:
    """Of some steps, on the wall and on the CPU."""
    assert self.process.stdin is not None
    self.process.stdin.write(f'{steps}\n')
    self.process.stdin.flush()
    found = self.read()
    return found['seconds'], found['cpu']

  def close(self) -> None:
    """Ends the process: it has no more to read."""
    assert self.process.stdin is not None
    self.process.stdin.close()
    self.process.wait()


def check_alike(losses: dict[str, float]) -> None:
  """Exits if the first losses say that these are not the same model."""
  for name, loss in losses.items():
    allowed = 2e-2 if CASES[name].bf16 else 1e-4
    if not abs(loss - losses['torch']) < allowed:
      sys.exit(f'not the same model: first losses are {losses}')


class Measured(NamedTuple):
  """What one length gave.

  Attributes:
    seconds: of a step, by case and turn.
    cpu: seconds of a step on all cores.
    others: cores that other programs used, at each of these times.
    abouts: what each process says of itself.
  """

  seconds: dict[str, NDArray]
  cpu: dict[str, NDArray]
  others: NDArray
  abouts: dict[str, dict[str, Any]]


def measure(length: int, args: argparse.Namespace) -> Measured:
  """All cases, in turns."""
  tokens = np.random.default_rng(0).integers(
    0, CONFIG.vocab, (TOKENS // length, length), dtype=np.int32
  )
  found: dict[str, list[Timed]] = {name: [] for name in CASES}
  patience = Patience(args.patience, args.others)
  with tempfile.TemporaryDirectory() as folder:
    inputs = Path(folder) / 'inputs.npz'
    params = named(init_params(jax.random.key(0), CONFIG))
    np.savez(inputs, tokens=tokens, **params)  # pyrefly: ignore[bad-argument-type]
    programs = {n: Program(n, inputs, args.peer_python) for n in CASES}
  try:
    check_alike({name: p.about['loss'] for name, p in programs.items()})
    for turn in range(args.repeats):
      for name in list(CASES)[:: -1 if turn % 2 else 1]:
        take = functools.partial(programs[name].seconds, args.steps)
        found[name].append(patience.timed(take))
  finally:
    for program in programs.values():
      program.close()
  seconds, cpu, others = np.moveaxis(
    np.array([found[name] for name in CASES]), 2, 0
  )
  return Measured(
    dict(zip(CASES, seconds / args.steps)),
    dict(zip(CASES, cpu / args.steps)),
    others,
    {name: p.about for name, p in programs.items()},
  )


def against(theirs: NDArray, ours: NDArray) -> str:
  """The ratio of speeds, with quartiles over the turns."""
  low, middle, high = np.percentile(theirs / ours, (25, 50, 75))
  return f'**{middle:.2f}x** ({low:.2f} to {high:.2f})'


def rows(
  length: int, seconds: dict[str, NDArray], cpu: dict[str, NDArray]
) -> list[str]:
  """The table of a length."""
  table = []
  for name, s in seconds.items():
    cells = [
      f'{TOKENS // length} x {length}',
      name,
      f'{np.median(s):.2f}',
      f'{s.min():.2f}',
      f'{np.median(cpu[name]):.2f}',
      f'{TOKENS / np.median(s):,.0f}',
    ]
    for peer in [n for n, case in CASES.items() if not case.ours]:
      cells.append(against(seconds[peer], s) if CASES[name].ours else '')
    table.append(f'| {" | ".join(cells)} |')
  return table


def verdict(
  length: int, seconds: dict[str, NDArray], cpu: dict[str, NDArray]
) -> str:
  """Whether float32 against float32 is at the bar, and at the aim."""
  ratio = np.median(seconds['torch'] / seconds['ours'])
  work = np.median(cpu['torch'] / cpu['ours'])
  bar, aim = BARS[length], AIMS[length]
  return (
    f'T = {length}: {ratio:.2f}x, the bar of {bar}x is '
    f'{"met" if ratio >= bar else "missed"}, the aim of {aim}x is '
    f'{"met" if ratio >= aim else "missed"}; '
    f'by CPU seconds {work:.2f}x.'
  )


def quietness(length: int, others: NDArray) -> str:
  """What other programs took of the machine."""
  low, middle, high = np.percentile(others, (25, 50, 75))
  return f'{middle:.2f} ({low:.2f} to {high:.2f}) at T = {length}'


def report(args: argparse.Namespace) -> str:
  """Runs everything; the results as Markdown."""
  load = page.load()
  table, verdicts, quiet, abouts = [], [], [], {}
  for length in BARS:
    seconds, on_cpu, others, abouts = measure(length, args)
    table += rows(length, seconds, on_cpu)
    verdicts.append(verdict(length, seconds, on_cpu))
    quiet.append(quietness(length, others))
    print('\n'.join([*table, verdicts[-1]]), flush=True)
  losses = {name: round(about['loss'], 5) for name, about in abouts.items()}
  size = parameter_count(CONFIG) / 1e6
  return '\n'.join(
    [
      '# A train step on a CPU against torch and transformers',
      '',
      f'`python -m benchmarks.train_cpu --repeats={args.repeats} '
      f'--steps={args.steps} --patience={args.patience:g} '
      f'--cores={args.cores}`, '
      f'{page.conditions(load, abouts["torch"]["versions"])}.',
      '',
      f'{size:.1f}M parameters (D {CONFIG.dim}, L {CONFIG.layers}, '
      f'H {CONFIG.heads} x {CONFIG.head_dim}, F {CONFIG.mlp_dim}, '
      f'V {CONFIG.vocab}, tied), {TOKENS} tokens a step, loss, gradient, clip '
      'and AdamW. torch is LlamaForCausalLM with sdpa and fused AdamW, not '
      f'compiled. Each program is a process of its own; they take {args.steps} '
      f'steps in turn, {args.repeats} times, from the same weights '
      f'(first losses at T = {max(BARS)}: {losses}). Ours keeps freed '
      'memory as our commands do; torch runs as it comes, and with the same '
      'settings of glibc. "Packed" has positions and segments as arrays, and '
      'still one document a row. bf16 is of the compute, beside float32 '
      'parameters. '
      f'Cores that other programs used meanwhile: {"; ".join(quiet)}.',
      '',
      'Seconds are those of a step; CPU seconds are summed over cores, and '
      'count threads that spin while they wait. Ratios are time of the peer / '
      'time of ours within a turn, with quartiles: above 1, ours is faster.',
      '',
      '| rows x length | what | median s | least s | CPU s | tokens/s | '
      'against torch | against torch, allocator as ours '
      '| against torch, bf16 autocast |',
      '|---|---|---|---|---|---|---|---|---|',
      *table,
      '',
      'float32 against float32, torch as it comes: ' + ' '.join(verdicts),
      '',
    ]
  )


def main() -> None:
  """Prints the results, and writes them where --out says."""
  parser = page.peer_parser(__doc__, repeats=11, steps=2)
  parser.add_argument('--serve', choices=CASES, help=argparse.SUPPRESS)
  parser.add_argument('--inputs', help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.serve:
    # Here, since in tests `experiments` is the folder of its own tests.
    from experiments.launch import keep_freed_memory

    keep_freed_memory()
    tokens = np.load(args.inputs)['tokens']
    serve(stepper(tokens, CASES[args.serve]), {})
    return
  os.sched_setaffinity(0, range(args.cores))  # programs inherit it
  page.publish(report(args), args.out)


if __name__ == '__main__':
  main()
