"""Checks that transformers computes from exported folders what the model does.

Two steps in two environments, as torch is not installed beside jax:

  python -m tests.golden.check_export write DIR
  .venv-hf/bin/python tests/golden/check_export.py read DIR

`write` makes small random models, one for each way of exporting, saves each to
a folder and its own logits beside it. `read` loads each folder by
transformers' AutoModelForCausalLM, prints the largest difference in logits and
fails where one is above 1e-4 or where a folder is refused.

Run with transformers 5.23.0 and 4.57.6 on torch 2.13.0 (CPU).
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np

TOLERANCE = 1e-4
LENGTHS = (24, 33, 96)
# Transformers 4 does not have their rope type, and says so.
NOT_IN_4 = ('llama_p_rope',)


def write(folder: Path) -> None:
  """Models, their folders and their logits."""
  import jax
  from flax import nnx

  from ntk_jax import interop
  from ntk_jax.interop.config_file import read_json
  from ntk_jax.model import ModelConfig, Transformer
  from tests.golden.export_cases import SHAPE, cases

  tokens = np.random.default_rng(0).integers(0, 64, 96, np.int32)[None]
  for name, (fields, schemes, arguments) in cases().items():
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
    found = read_json(folder / name / 'config.json')
    print(f'{name}: {found["model_type"]}')


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
