"""A small byte-level model on the standard library's sources, for a CPU.

Half an hour on two cores; --config.optimizer.steps=200 shows the way.
"""

from __future__ import annotations

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  """0.8M parameters, rows of 512 tokens, key-value recall in half of them."""
  return ConfigDict(
    {
      'model': {
        'vocab': 408,  # 256 bytes and the symbols of key-value recall
        'dim': 128,
        'layers': 4,
        'heads': 4,
        'kv_heads': 4,
        'head_dim': 32,
        'mlp_dim': 344,
        'rope_theta': 1e4,
        'layer_plan': (),
        'remat': 'none',
        'precision': {'params': 'float32', 'compute': 'float32'},
      },
      'data': {
        'corpus': None,
        'tokenizer': None,
        'max_length': 512,
        'batch_rows': 8,
        'key_value': 0.5,
        'seed': 0,
      },
      'optimizer': {
        'peak': 3e-3,
        'steps': 2000,
        'warmup': 100,
        'schedule': 'cosine',
      },
      'schemes': ({'method': 'default'},),
      'mesh': {'data': 1, 'fsdp': 1, 'context': 1, 'tensor': 1},
      'microbatches': 1,
      'seed': 0,
      'save_every': 100,
      'log_every': 10,
    }
  )
