"""The peer of `train_cpu`: transformers and torch, asked over a pipe.

A process of its own, so that it needs neither jax nor this project's other
dependencies, and so that the threads of one do not wait in the other's cores.
It reads weights and tokens, takes one step, prints its first loss, then takes
as many steps as each line of its input says and prints how long they took.
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

# Our names of matrices [in, out]; torch holds them [out, in].
_MATRICES = {
  'q': 'self_attn.q_proj',
  'k': 'self_attn.k_proj',
  'v': 'self_attn.v_proj',
  'out': 'self_attn.o_proj',
  'gate': 'mlp.gate_proj',
  'up': 'mlp.up_proj',
  'down': 'mlp.down_proj',
}
_NORMS = {
  'attention_norm': 'input_layernorm',
  'mlp_norm': 'post_attention_layernorm',
}

Step = Callable[[], float]


def llama(shape: dict[str, Any], arrays: dict[str, Any], torch: Any) -> Any:
  """A LlamaForCausalLM of that shape which holds these weights.

  Args:
    shape: fields of LlamaConfig.
    arrays: ours by name, stacked over layers.
    torch: the module.
  """
  transformers = importlib.import_module('transformers')
  config = transformers.LlamaConfig(**shape)
  config._attn_implementation = 'sdpa'
  model = transformers.LlamaForCausalLM(config).to(torch.float32)
  state = {
    'model.embed_tokens.weight': arrays['embed'],
    'lm_head.weight': arrays['embed'],
    'model.norm.weight': arrays['final_norm'],
  }
  for layer in range(config.num_hidden_layers):
    for name, theirs in _MATRICES.items():
      key = f'model.layers.{layer}.{theirs}.weight'
      state[key] = arrays[name][layer].T
    for name, theirs in _NORMS.items():
      key = f'model.layers.{layer}.{theirs}.weight'
      state[key] = arrays[name][layer]
  state = {
    key: torch.from_numpy(np.array(array, order='C'))
    for key, array in state.items()
  }
  model.load_state_dict(state, strict=True)
  return model.train()


def stepper(
  model: Any, tokens: Any, adamw: dict[str, Any], bf16: bool, torch: Any
) -> Step:
  """A train step on one batch: loss, gradient, clip to 1, AdamW."""
  matrices = [p for p in model.parameters() if p.ndim > 1]
  vectors = [p for p in model.parameters() if p.ndim < 2]
  optimizer = torch.optim.AdamW(
    [{'params': matrices}, {'params': vectors, 'weight_decay': 0.0}],
    fused=True,
    **adamw,
  )
  ids = torch.from_numpy(tokens.astype(np.int64))

  def step() -> float:
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast('cpu', torch.bfloat16, enabled=bf16):
      loss = model(input_ids=ids, labels=ids, use_cache=False).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()

  return step


def serve(step: Step, about: dict[str, Any]) -> None:
  """Says the first loss, then times as many steps as it is asked for."""
  print(json.dumps({'loss': step(), **about}), flush=True)
  for line in sys.stdin:
    start, cpu = time.perf_counter(), time.process_time()
    loss = [step() for _ in range(int(line))][-1]
    taken = {
      'seconds': time.perf_counter() - start,
      'cpu': time.process_time() - cpu,
      'loss': loss,
    }
    print(json.dumps(taken), flush=True)


def main() -> None:
  """Serves one model."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--inputs', required=True, help='an npz of train_cpu')
  parser.add_argument('--shape', required=True, help='of the model, as JSON')
  parser.add_argument('--adamw', required=True, help='its settings, as JSON')
  parser.add_argument('--bf16', action='store_true', help='autocast')
  args = parser.parse_args()
  torch = importlib.import_module('torch')
  torch.set_num_threads(len(os.sched_getaffinity(0)))
  arrays = dict(np.load(args.inputs))
  model = llama(json.loads(args.shape), arrays, torch)
  step = stepper(
    model, arrays['tokens'], json.loads(args.adamw), args.bf16, torch
  )
  versions = (
    f'torch {torch.__version__}, transformers '
    f'{importlib.import_module("transformers").__version__}'
  )
  serve(step, {'versions': versions})


if __name__ == '__main__':
  main()
