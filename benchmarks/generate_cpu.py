"""Tokens per second of generation on a CPU against transformers and torch.

Both programs live in processes of their own and take turns, with the same
weights and prompts, in float32, greedily: their tokens are compared before
anything is timed. torch may live in another environment. Run from the root of
a clone:

  python -m benchmarks.generate_cpu --peer_python=ENV/bin/python \
    --out=benchmarks/results/generate_cpu.md
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks import page
from benchmarks.generate_torch import Write, serve
from benchmarks.others import Patience, Timed
from benchmarks.train_cpu import against, llama, named
from ntk_jax.model import ModelConfig, init_params, parameter_count
from ntk_jax.typing import NDArray

# Rows and prompt tokens.
PROMPTS = ((1, 512), (4, 512), (1, 2048))
BARS = {'read': 0.9, 'written': 1.0}  # of the peer's tokens/s
STRIDE = 32
CONFIG = ModelConfig(
  vocab=2048,
  dim=768,
  layers=8,
  heads=12,
  kv_heads=4,
  head_dim=64,
  mlp_dim=2048,
  scale_embed=False,
)
LLAMA = llama(CONFIG, 4096)
NAMES = 'ours', 'transformers'


def writer() -> Write:
  """Ours: the public call, timed by the tokens that it hands out."""
  from ntk_jax.generate import generate
  from ntk_jax.model.shell import with_params

  model = with_params(CONFIG, init_params(jax.random.key(0), CONFIG))

  def write(prompt: Any, new: int) -> tuple[float, float, Any]:
    times: list[float] = []
    start = time.perf_counter()
    tokens = generate(
      model,
      prompt,
      max_new_tokens=new,
      stride=STRIDE,
      on_tokens=lambda _: times.append(time.perf_counter()),
    )
    return times[0] - start, times[-1] - times[0], tokens

  return write


class Program:
  """A process that generates when it is told to."""

  def __init__(self, name: str, inputs: Path, peer_python: str) -> None:
    """Starts it."""
    module = 'benchmarks.generate_cpu', '--serve'
    python = sys.executable
    if name != 'ours':
      shape = f'--shape={json.dumps(LLAMA)}'
      module = 'benchmarks.generate_torch', f'--inputs={inputs}', shape
      python = peer_python
    self.process = subprocess.Popen(
      [python, '-m', *module],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
      env={**os.environ, 'JAX_PLATFORMS': 'cpu'},
    )
    self.about = self.read()

  def read(self) -> dict[str, Any]:
    """The next line that it prints."""
    assert self.process.stdout is not None
    return json.loads(self.process.stdout.readline())

  def ask(self, rows: int, length: int, new: int) -> dict[str, Any]:
    """One generation, and its times."""
    assert self.process.stdin is not None
    self.process.stdin.write(json.dumps([rows, length, new]) + '\n')
    self.process.stdin.flush()
    return self.read()

  def close(self) -> None:
    """Ends the process: it has no more to read."""
    assert self.process.stdin is not None
    self.process.stdin.close()
    self.process.wait()


def check_alike(tokens: dict[str, NDArray]) -> float:
  """The share of tokens that are the same before the first that is not.

  Exits if it says that these are not the same model: random weights have near
  ties, where two programs may part.
  """
  ours, theirs = (np.asarray(tokens[name]) for name in NAMES)
  share = float(np.cumprod(ours == theirs, axis=1).mean())
  if share < 0.5 or not (ours[:, 0] == theirs[:, 0]).all():
    sys.exit(f'not the same model: {share:.0%} of greedy tokens agree')
  return share


class Measured(NamedTuple):
  """Times of one prompt.

  Attributes:
    seconds: by what ('read', 'written') and program, of each turn.
    others: cores that other programs used meanwhile.
    share: of greedy tokens that agree.
  """

  seconds: dict[str, dict[str, NDArray]]
  others: NDArray
  share: float


def measure(
  programs: dict[str, Program], rows: int, length: int, args: Any
) -> Measured:
  """Both programs, in turns."""
  patience = Patience(args.patience, args.others)
  first = {n: p.ask(rows, length, args.new) for n, p in programs.items()}
  share = check_alike({n: found['tokens'] for n, found in first.items()})
  seconds = {what: {name: [] for name in NAMES} for what in BARS}
  others = []
  for turn in range(args.repeats):
    for name in NAMES[:: -1 if turn % 2 else 1]:
      last: dict[str, Any] = {}

      def run(name: str = name, last: dict[str, Any] = last) -> Any:
        last.update(programs[name].ask(rows, length, args.new))
        return last['read'] + last['written'], last['cpu']

      timed: Timed = patience.timed(run)
      others.append(timed.others)
      for what in BARS:
        seconds[what][name].append(last[what])
  arrays = {
    what: {name: np.array(s) for name, s in by_name.items()}
    for what, by_name in seconds.items()
  }
  return Measured(arrays, np.array(others), share)


def lines(
  rows: int, length: int, new: int, found: Measured
) -> tuple[list[str], list[str]]:
  """The table of a prompt, and whether the bars are met."""
  table, verdicts = [], []
  for what, bar in BARS.items():
    tokens = rows * (length if what == 'read' else new - 1)
    by_name = found.seconds[what]
    for name, s in by_name.items():
      ratio = against(by_name['transformers'], s) if name == 'ours' else ''
      label = 'prefill' if what == 'read' else 'decode'
      table.append(
        f'| {rows} x {length} | {label} | {name} | {np.median(s):.3f} | '
        f'{s.min():.3f} | {tokens / np.median(s):,.1f} | {ratio} |'
      )
    reached = np.median(by_name['transformers'] / by_name['ours'])
    verdicts.append(
      f'{label} of {rows} x {length}: {reached:.2f}x, the bar of {bar}x is '
      f'{"met" if reached >= bar else "missed"}.'
    )
  return table, verdicts


def report(args: argparse.Namespace) -> str:
  """Runs everything; the results as Markdown."""
  load = page.load()
  table, verdicts, notes = [], [], []
  with tempfile.TemporaryDirectory() as folder:
    inputs = Path(folder) / 'inputs.npz'
    params = named(init_params(jax.random.key(0), CONFIG))
    np.savez(inputs, **params)  # pyrefly: ignore[bad-argument-type]
    programs = {n: Program(n, inputs, args.peer_python) for n in NAMES}
  try:
    for rows, length in PROMPTS:
      found = measure(programs, rows, length, args)
      some, said = lines(rows, length, args.new, found)
      table += some
      verdicts += said
      low, middle, high = np.percentile(found.others, (25, 50, 75))
      notes.append(
        f'{rows} x {length}: {found.share:.0%} of greedy tokens agree, others '
        f'used {middle:.2f} ({low:.2f} to {high:.2f}) cores'
      )
      print('\n'.join([*some, *said]), flush=True)
  finally:
    for program in programs.values():
      program.close()
  return text(
    args, load, programs['transformers'].about, table, verdicts, notes
  )


def text(
  args: argparse.Namespace,
  load: float,
  about: dict[str, Any],
  table: list[str],
  verdicts: list[str],
  notes: list[str],
) -> str:
  """The page."""
  return '\n'.join(
    [
      '# Generation on a CPU against transformers and torch',
      '',
      f'`python -m benchmarks.generate_cpu --repeats={args.repeats} '
      f'--new={args.new} --patience={args.patience:g} --cores={args.cores}`, '
      f'{page.conditions(load, about["versions"])}.',
      '',
      f'{parameter_count(CONFIG) / 1e6:.1f}M parameters in float32 (D '
      f'{CONFIG.dim}, L {CONFIG.layers}, N {CONFIG.heads}, K '
      f'{CONFIG.kv_heads}, H {CONFIG.head_dim}, F {CONFIG.mlp_dim}, V '
      f'{CONFIG.vocab}, tied), greedy. Prefill is all until the first token is '
      f'there, decode the other {args.new - 1}. Ours is `generate`, '
      f'{STRIDE} tokens a call; the peer is LlamaForCausalLM with sdpa, its '
      'own cache and a plain loop around it, not compiled. Each is a process '
      f'of its own; they take turns, {args.repeats} times. {"; ".join(notes)}.',
      '',
      'Ratios are time of the peer / time of ours within a turn, with '
      'quartiles: above 1, ours is faster.',
      '',
      '| rows x prompt | what | whose | median s | least s | tokens/s | '
      'against transformers |',
      '|---|---|---|---|---|---|---|',
      *table,
      '',
      ' '.join(verdicts),
      '',
    ]
  )


def main() -> None:
  """Prints the results, and writes them where --out says."""
  parser = page.peer_parser(__doc__, repeats=7, new=65)
  parser.add_argument('--serve', action='store_true', help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.serve:
    # Here, since in tests `experiments` is the folder of its own tests.
    from experiments.launch import keep_freed_memory

    keep_freed_memory()
    serve(writer(), CONFIG.vocab, {})
    return
  os.sched_setaffinity(0, range(args.cores))  # programs inherit it
  page.publish(report(args), args.out)


if __name__ == '__main__':
  main()
