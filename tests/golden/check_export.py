"""Checks that transformers computes from exported folders what the model does.

Two steps in two environments, as torch is not installed beside jax:

  python -m tests.golden.check_export write DIR
  .venv-hf/bin/python tests/golden/check_export.py read DIR

`write` makes small random models, one for each way of exporting, saves each to
a folder and its own logits beside it. `read` loads each folder by
transformers' AutoModelForCausalLM, prints the largest difference in logits and
fails where one is above 1e-4 or where a folder is refused. README.md names the
versions it was run with.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

TOLERANCE = 1e-4
LENGTHS = (24, 33, 96)
ORIGINAL = 32
SHAPE: dict[str, Any] = {
  'vocab': 64,
  'dim': 64,
  'layers': 4,
  'heads': 4,
  'kv_heads': 2,
  'head_dim': 16,
  'mlp_dim': 96,
  'tied': False,
  'scale_embed': False,
}
GEMMA: dict[str, Any] = {
  'norm_offset': True,
  'post_norms': True,
  'qk_norm': True,
  'scale_embed': True,
  'tied': True,
  'activation': 'gelu',
}
MIXED = (0, 1, 0, 1)
METHODS = (
  'default',
  'linear',
  'ntk',
  'ntk_by_parts',
  'ntk_fixed',
  'ntk_mixed',
  'theta_scale',
  'yarn',
  'yarn_harmonic',
  'yarn_log',
  'yarn_paper',
)
# Transformers 4 does not have their rope type, and says so.
NOT_IN_4 = ('llama_p_rope',)


def cases() -> dict[str, tuple[dict[str, Any], list[Any], dict[str, Any]]]:
  """Name -> fields of the shape, schemes, arguments of save."""
  from ntk_jax.rope.spec import RopeSpec
  from ntk_jax.scheme import Scheme
  from ntk_jax.temperature import Temperature

  def spec(method: str, **settings: Any) -> RopeSpec:
    settings = {'original_length': ORIGINAL, 'factor': 4.0, **settings}
    if method == 'default':
      settings['factor'] = None
    return RopeSpec(method, 16, **settings)

  def rope(method: str, window: int | None = None, **settings: Any) -> Scheme:
    return Scheme(spec(method, **settings), window=window)

  plain = Scheme(spec('default'))
  local = Scheme(spec('default'), window=16)
  logn = Temperature('logn', length=ORIGINAL)
  divisors = np.linspace(1.0, 3.0, 8)
  sides = {'short_factor': divisors, 'long_factor': 2 * divisors}
  found: dict[str, Any] = {
    f'llama_{method}': ({}, [rope(method)], {}) for method in METHODS
  }
  frozen = {'freeze_length': 96}
  llama3 = {'low_freq_factor': 1.0, 'high_freq_factor': 4.0}
  turned = {'partial_rotary_factor': 0.5}
  half = {'short_factor': divisors[:4], 'long_factor': 2 * divisors[:4]}
  return found | {
    'llama_llama3': ({}, [rope('llama3', options=llama3)], {}),
    'llama_longrope_short': ({}, [rope('longrope', options=sides)], {}),
    'llama_dynamic': ({}, [rope('dynamic')], {}),
    'llama_dynamic_frozen': ({}, [rope('dynamic')], frozen),
    'llama_dynamic_yarn_frozen': ({}, [rope('dynamic_yarn')], frozen),
    'llama_longrope_frozen': ({}, [rope('longrope', options=sides)], frozen),
    'llama_uncut': ({}, [rope('yarn', options={'truncate': False})], {}),
    'llama_resonance': ({}, [rope('yarn', modifiers=('resonance',))], {}),
    'llama_linear_attention': ({}, [rope('linear', attention_factor=1.2)], {}),
    'llama_p_rope': (
      {},
      [Scheme(RopeSpec('proportional', 16, partial_rotary_factor=0.5))],
      {},
    ),
    'llama_divisor': ({'divisor': 'linear'}, [rope('yarn')], {}),
    'llama_scale': ({'attention_scale': 0.3, 'tied': True}, [plain], {}),
    'llama_biased_scale': (
      {'attention_scale': 0.3, 'qkv_bias': True, 'out_bias': True},
      [plain],
      {},
    ),
    'llama_scaled_embedding': (
      {'tied': True, 'scale_embed': True},
      [plain],
      {},
    ),
    'llama_logn_frozen': ({}, [Scheme(spec('ntk'), logn)], frozen),
    'mistral_window': ({}, [local], {}),
    'mistral_window_yarn': ({}, [rope('yarn', 16)], {}),
    'ministral_mixed': ({'layer_plan': MIXED}, [local, plain], {}),
    'qwen2': ({'qkv_bias': True, 'layer_plan': MIXED}, [plain, local], {}),
    'qwen3_divisor': (
      {'qk_norm': True, 'divisor': 'linear', 'layer_plan': MIXED},
      [rope('ntk_by_parts', 16), rope('ntk_by_parts')],
      {},
    ),
    'gemma2': (
      GEMMA
      | {
        'qk_norm': False,
        'attention_scale': 24**-0.5,
        'attention_soft_cap': 5.0,
        'logit_soft_cap': 8.0,
        'layer_plan': MIXED,
      },
      [rope('yarn', 16), rope('yarn')],
      {},
    ),
    'gemma3_linear': (
      GEMMA | {'layer_plan': MIXED},
      [local, rope('linear')],
      {},
    ),
    'gemma3_yarn_theta': (
      GEMMA | {'layer_plan': (0, 0, 1, 0)},
      [rope('default', 16, theta=500.0), rope('yarn')],
      {},
    ),
    'gemma3_carrier_scale': (
      GEMMA | {'layer_plan': MIXED, 'attention_scale': 0.3},
      [local, rope('yarn', options={'truncate': False})],
      {},
    ),
    'gemma3_temperature': (
      GEMMA | {'layer_plan': MIXED},
      [local, Scheme(spec('ntk'), Temperature('constant', scale=1.3))],
      {},
    ),
    'phi3_partial': ({}, [rope('default', **turned)], {}),
    'phi3_partial_yarn': ({}, [rope('yarn', **turned)], {}),
    'phi3_longrope': ({}, [rope('longrope', options=half, **turned)], {}),
    'mixtral': ({'experts': 4, 'experts_per_token': 2}, [rope('yarn')], {}),
  }


def write(folder: Path) -> None:
  """Models, their folders and their logits."""
  import jax
  from flax import nnx

  from ntk_jax import interop
  from ntk_jax.model import ModelConfig, Transformer

  tokens = np.random.default_rng(0).integers(0, 64, 96, np.int32)[None]
  known = {field.name for field in dataclasses.fields(ModelConfig)}
  for name, (fields, schemes, arguments) in cases().items():
    if not known >= fields.keys():
      print(f'{name}: the decoder has no {sorted(fields.keys() - known)} yet')
      continue
    config = ModelConfig(**{**SHAPE, **fields})
    model = Transformer(config, rngs=nnx.Rngs(1), schemes=schemes)
    shaken = jax.tree.map(
      lambda x: x + 0.1 * jax.random.normal(jax.random.key(x.size), x.shape),
      model.params,
    )
    model.hold(shaken)
    interop.save(model, folder / name, **arguments)
    frozen = arguments.get('freeze_length')
    for length in LENGTHS if frozen is None else (frozen,):
      at_last = [_of_last_position(scheme, length) for scheme in schemes]
      logits = model(tokens[:, :length], length=length, schemes=at_last)
      np.save(folder / name / f'logits_{length}.npy', np.asarray(logits)[0])
    np.save(folder / name / 'tokens.npy', tokens)
    model_type = json.loads((folder / name / 'config.json').read_text())
    print(f'{name}: {model_type["model_type"]}')


def _of_last_position(scheme: Any, length: int) -> Any:
  """The scheme with the temperature of one position everywhere."""
  if scheme.temperature is None:
    return scheme
  value = float(scheme.temperature(np.array([length - 1]))[0])
  return dataclasses.replace(
    scheme, temperature=lambda p: np.full(p.shape, value)
  )


def read(folder: Path) -> None:
  """The largest difference of each folder's logits."""
  import torch  # pyrefly: ignore[missing-import]
  import transformers  # pyrefly: ignore[missing-import]

  print(f'transformers {transformers.__version__}, torch {torch.__version__}')
  wrong = []
  for path in sorted(p.parent for p in folder.glob('*/config.json')):
    try:
      worst = max(_differences(path, transformers, torch))
      shown = f'{worst:.1e}'
    except Exception as error:
      worst, shown = np.inf, f'refused: {type(error).__name__}: {error}'[:200]
    print(f'{path.name:28} {shown}')
    if transformers.__version__.startswith('4') and path.name in NOT_IN_4:
      continue
    wrong += [path.name] * (not worst <= TOLERANCE)
  print('all agree' if not wrong else f'differ: {", ".join(wrong)}')
  sys.exit(bool(wrong))


def _differences(path: Path, transformers: Any, torch: Any) -> list[float]:
  tokens = torch.tensor(np.load(path / 'tokens.npy'), dtype=torch.long)
  found = []
  for file in sorted(path.glob('logits_*.npy')):
    length = int(file.stem.split('_')[1])
    # A fresh one for each length: dynamic rope remembers the last.
    model = transformers.AutoModelForCausalLM.from_pretrained(
      path, attn_implementation='eager'
    ).eval()
    with torch.no_grad():
      logits = model(tokens[:, :length]).logits[0].float().numpy()
    wanted = np.load(file)
    found.append(float(np.abs(logits - wanted).max()))
  return found


if __name__ == '__main__':
  {'write': write, 'read': read}[sys.argv[1]](Path(sys.argv[2]))
