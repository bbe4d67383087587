"""The peer of `generate_cpu`: transformers and torch, asked over a pipe.

A process of its own, which needs neither jax nor this project's other
dependencies. It reads weights, then for each line of its input, a number of
rows, of prompt tokens and of new ones, reads that prompt and writes greedily,
and prints how long each took.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.train_torch import llama

# (prompt [B, T], new tokens) -> seconds to the first token, seconds of the
# others, new tokens [B, new].
Write = Callable[[Any, int], tuple[float, float, Any]]


def writer(model: Any, torch: Any) -> Write:
  """Greedy decoding with the cache that transformers takes by itself.

  The loop is written out: `model.generate` does more between the steps.
  """

  def write(prompt: Any, new: int) -> tuple[float, float, Any]:
    ids = torch.from_numpy(prompt.astype(np.int64))
    with torch.inference_mode():
      start = time.perf_counter()
      out = model(ids, use_cache=True, logits_to_keep=1)
      tokens = [out.logits[:, -1:].argmax(-1)]
      read = time.perf_counter()
      for _ in range(new - 1):
        out = model(
          tokens[-1], past_key_values=out.past_key_values, use_cache=True
        )
        tokens.append(out.logits[:, -1:].argmax(-1))
      end = time.perf_counter()
    return read - start, end - read, torch.cat(tokens, 1).numpy()

  return write


def prompt_of(rows: int, length: int, vocab: int) -> Any:
  """Random ids, the same for every program."""
  rng = np.random.default_rng(length)
  return rng.integers(0, vocab, (rows, length)).astype(np.int32)


def serve(write: Write, vocab: int, about: dict[str, Any]) -> None:
  """Times what each line of the input asks for."""
  print(json.dumps(about), flush=True)
  for line in sys.stdin:
    rows, length, new = json.loads(line)
    cpu = time.process_time()
    read, written, tokens = write(prompt_of(rows, length, vocab), new)
    taken = {
      'read': read,
      'written': written,
      'cpu': time.process_time() - cpu,
      'tokens': tokens.tolist(),
    }
    print(json.dumps(taken), flush=True)


def main() -> None:
  """Serves one model."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--inputs', required=True, help='an npz of weights')
  parser.add_argument('--shape', required=True, help='of the model, as JSON')
  args = parser.parse_args()
  torch = importlib.import_module('torch')
  torch.set_num_threads(len(os.sched_getaffinity(0)))
  shape = json.loads(args.shape)
  model = llama(shape, dict(np.load(args.inputs)), torch).eval()
  versions = (
    f'torch {torch.__version__}, transformers '
    f'{importlib.import_module("transformers").__version__}'
  )
  serve(writer(model, torch), shape['vocab_size'], {'versions': versions})


if __name__ == '__main__':
  main()
