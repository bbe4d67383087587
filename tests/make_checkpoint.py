"""Makes a tiny llama checkpoint: random weights, a byte-level tokenizer.

  python tests/make_checkpoint.py OUT [--sharded] [--seed=0]

The folder is as from the hub (config.json, safetensors, tokenizer), so that
what reads a checkpoint can be tried without a download. It takes numpy and
safetensors; the same seed gives the same bytes.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

TOKENIZER = Path(__file__).resolve().parent / 'golden/interop/tokenizer'
TOKENIZER_FILES = ('tokenizer.json', 'tokenizer_config.json')
# Both spellings of the rope and the dtype: transformers 4 and 5 read it.
CONFIG: dict[str, Any] = {
  'architectures': ['LlamaForCausalLM'],
  'attention_bias': False,
  'bos_token_id': 0,
  'dtype': 'float32',
  'eos_token_id': 1,
  'head_dim': 16,
  'hidden_act': 'silu',
  'hidden_size': 64,
  'intermediate_size': 128,
  'max_position_embeddings': 128,
  'mlp_bias': False,
  'model_type': 'llama',
  'num_attention_heads': 4,
  'num_hidden_layers': 2,
  'num_key_value_heads': 2,
  'pad_token_id': 2,
  'rms_norm_eps': 1e-5,
  'rope_parameters': {'rope_theta': 10000.0, 'rope_type': 'default'},
  'rope_scaling': None,
  'rope_theta': 10000.0,
  'tie_word_embeddings': False,
  'torch_dtype': 'float32',
  'vocab_size': 346,
}
EMBED, LAST = 'model.embed_tokens.weight', 'lm_head.weight'


def shapes() -> dict[str, tuple[int, ...]]:
  """The tensors by name, matrices as [out, in]."""
  d, f, v = (
    CONFIG[key] for key in ('hidden_size', 'intermediate_size', 'vocab_size')
  )
  heads, kv_heads = (
    CONFIG[f'num_{which}_heads'] * CONFIG['head_dim']
    for which in ('attention', 'key_value')
  )
  found: dict[str, tuple[int, ...]] = {
    EMBED: (v, d),
    'model.norm.weight': (d,),
    LAST: (v, d),
  }
  for layer in range(CONFIG['num_hidden_layers']):
    each = {
      'input_layernorm': (d,),
      'post_attention_layernorm': (d,),
      'self_attn.q_proj': (heads, d),
      'self_attn.k_proj': (kv_heads, d),
      'self_attn.v_proj': (kv_heads, d),
      'self_attn.o_proj': (d, heads),
      'mlp.gate_proj': (f, d),
      'mlp.up_proj': (f, d),
      'mlp.down_proj': (d, f),
    }
    for name, shape in each.items():
      found[f'model.layers.{layer}.{name}.weight'] = shape
  return found


def weights(seed: int) -> dict[str, NDArray[np.float32]]:
  """Normal weights of variance 1 / in, those into the residual smaller."""
  rng = np.random.default_rng(seed)
  residual = (2 * CONFIG['num_hidden_layers']) ** -0.5
  found = {}
  for name, shape in shapes().items():
    values = rng.normal(size=shape)
    if len(shape) == 1:
      values = 1 + 0.1 * values
    elif name != EMBED:
      into = name.endswith(('o_proj.weight', 'down_proj.weight'))
      values *= shape[1] ** -0.5 * (residual if into else 1.0)
    found[name] = values.astype(np.float32)
  return found


def write_json(path: Path, content: dict) -> None:
  path.write_text(json.dumps(content, indent=2, sort_keys=True) + '\n')


def write_weights(out: Path, tensors: dict, shards: int) -> None:
  """One file, or shards of about as many tensors with their index."""
  metadata = {'format': 'pt'}
  if shards == 1:
    save_file(tensors, out / 'model.safetensors', metadata)
    return
  names, files = list(tensors), {}
  for shard in range(shards):
    file = f'model-{shard + 1:05}-of-{shards:05}.safetensors'
    part = {name: tensors[name] for name in names[shard::shards]}
    save_file(part, out / file, metadata)
    files |= dict.fromkeys(part, file)
  size = sum(tensor.nbytes for tensor in tensors.values())
  index = {'metadata': {'total_size': size}, 'weight_map': files}
  write_json(out / 'model.safetensors.index.json', index)


def make(out: Path, *, sharded: bool = False, seed: int = 0) -> None:
  """Writes the folder, which must not be there yet."""
  out.mkdir(parents=True)
  write_json(out / 'config.json', CONFIG)
  write_weights(out, weights(seed), shards=3 if sharded else 1)
  special = {key: CONFIG[key] for key in CONFIG if key.endswith('_token_id')}
  write_json(out / 'generation_config.json', special)
  for name in TOKENIZER_FILES:
    shutil.copyfile(TOKENIZER / name, out / name)


def main(arguments: Sequence[str] | None = None) -> None:
  parser = argparse.ArgumentParser(description=(__doc__ or '').split('\n')[0])
  parser.add_argument('out', type=Path, help='the folder to make')
  parser.add_argument(
    '--sharded', action='store_true', help='three files with an index'
  )
  parser.add_argument('--seed', type=int, default=0, help='of the weights')
  given = parser.parse_args(arguments)
  if given.out.exists():
    parser.error(f'{given.out} is there already; name a new folder')
  make(given.out, sharded=given.sharded, seed=given.seed)
  print(given.out)


if __name__ == '__main__':
  main()
