"""Makes interop/: random checkpoints and what transformers makes of them.

Versions: transformers 5.23.0, torch 2.13.0 (CPU), numpy 2.4. Command:

  python3 -m venv .venv-hf
  .venv-hf/bin/pip install torch==2.13.0 transformers==5.23.0 numpy
  .venv-hf/bin/python tests/golden/make_interop.py [NAME ...]

Each number comes from a freshly loaded model, float32, eager attention. The
script fails where the three spellings of a config differ, where float64 differs
by more than the tolerance, and where a mistake of the case would not be seen.
The same run gives the same bytes. interop/README.md describes the files.
"""

from __future__ import annotations

import copy
import json
import shutil
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch  # pyrefly: ignore[missing-import]
import transformers  # pyrefly: ignore[missing-import]
from interop_cases import (  # pyrefly: ignore[missing-import]
  CASES,
  PHI3_TYPES,
  SHAPE,
  Case,
  Config,
)

HERE = Path(__file__).resolve().parent / 'interop'
VERSIONS = {'transformers': '5.23.0', 'torch': '2.13.0'}
LENGTHS = (24, 32, 33, 96)
PROMPT, NEW = 24, 24
PADDED, REAL = 36, (36, 27)
TOLERANCE = 5e-5  # Half of what the tests allow.
SEEN = 0.05  # A mistake moves some logit by more.
ALWAYS = {
  'architectures',
  'hidden_size',
  'model_type',
  'num_attention_heads',
  'num_hidden_layers',
  'partial_rotary_factor',
  'torch_dtype',
}
GEMMA3 = ('full_attention', 'sliding_attention')


# --- the checkpoint --------------------------------------------------------


def hf_class(case: Case, kind: str) -> Any:
  """A class of the family: its `Config` or its `ForCausalLM`."""
  text = 'Text' if (case.family, kind) == ('Gemma3', 'Config') else ''
  return getattr(transformers, f'{case.family}{text}{kind}')


def hf_config(case: Case, **changes: Any) -> Any:
  return hf_class(case, 'Config')(
    **copy.deepcopy({**SHAPE, **case.config, **changes})
  )


def spread(name: str, shape: torch.Size, case: Case) -> tuple[float, float]:
  """Mean and standard deviation of a weight, so that logits are about 2."""
  if 'norm' in name:
    return (0.0 if case.family.startswith('Gemma') else 1.0), 0.15
  if name.endswith('bias'):
    return 0.0, 0.2
  width = shape[-1] ** -0.5
  tied = hf_config(case).tie_word_embeddings
  if 'embed_tokens' in name:
    return 0.0, 2 * width if tied else 1.0
  if 'lm_head' in name:
    return 0.0, 2 * width
  sharp = ('q_proj', 'k_proj', 'qkv_proj', 'mlp.gate.weight')
  return 0.0, (1.5 if any(s in name for s in sharp) else 1.0) * width


def save_model(name: str, case: Case, folder: Path) -> None:
  """Writes config.json and the weights as transformers saves them."""
  model = hf_class(case, 'ForCausalLM')(hf_config(case))
  rng = np.random.default_rng(zlib.crc32((case.weights or name).encode()))
  with torch.no_grad():
    for key, weight in sorted(model.named_parameters()):
      mean, std = spread(key, weight.shape, case)
      values = rng.normal(mean, std, tuple(weight.shape))
      weight.copy_(torch.from_numpy(values))
  shutil.rmtree(folder, ignore_errors=True)
  model = model.to(getattr(torch, case.dtype))
  model.save_pretrained(folder, max_shard_size=case.shard)
  (folder / 'generation_config.json').unlink()
  for path in folder.iterdir():
    path.chmod(0o644)


# --- the spellings ---------------------------------------------------------


def old_rope(case: Case, config: Config) -> Config:
  """The rope of a v5 config by the keys of v4."""
  rope = copy.deepcopy(config['rope_parameters'])
  old = {}
  if case.family == 'Gemma3':
    rope, local = (rope[layer_type] for layer_type in GEMMA3)
    old['rope_local_base_freq'] = local['rope_theta']
  old['rope_theta'] = rope.pop('rope_theta')
  if 'partial_rotary_factor' in rope:
    old['partial_rotary_factor'] = rope.pop('partial_rotary_factor')
  kind = rope.pop('rope_type')
  # These are older than the key `rope_type`. (transformers 5 drops the scaling
  # of a Gemma 3 that has the old key.)
  older = kind in ('linear', 'dynamic') and case.family != 'Gemma3'
  older |= case.family == 'Phi3'
  rope['type' if older else 'rope_type'] = kind
  if kind == 'longrope':
    # v4 looks for it at the top level only.
    key = 'original_max_position_embeddings'
    old[key] = rope[key]
  if case.family == 'Phi3':
    rope = {key: rope[key] for key in PHI3_TYPES if key in rope}
  old['rope_scaling'] = None if kind == 'default' else rope
  return old


def old_spelling(case: Case, config: Config) -> Config:
  """The config as v4 wrote it, less what transformers derives or assumes."""

  def whole(config: Config) -> Config:
    read = hf_class(case, 'Config')(**copy.deepcopy(config)).to_dict()
    for key in (
      'sliding_window_pattern',
      'rope_theta',
      'partial_rotary_factor',
    ):
      read.pop(key, None)
    return read

  new = ('rope_parameters', 'dtype', 'transformers_version')
  old = {key: value for key, value in config.items() if key not in new}
  old |= {**old_rope(case, config), **case.v4}
  old['torch_dtype'] = config['dtype']
  for key in sorted(set(old) - set(case.v4) - ALWAYS):
    less = {k: v for k, v in old.items() if k != key}
    if whole(less) == whole(old):
      old = less
  return old


def write_spellings(case: Case, folder: Path) -> None:
  """Writes config.v4.json and config.dual.json next to config.json."""
  config = json.loads((folder / 'config.json').read_text())
  # Gemma 3 saves its default pattern beside the layer types that win.
  config.pop('_sliding_window_pattern', None)
  pattern = {k: v for k, v in case.v4.items() if k == 'sliding_window_pattern'}
  dual = {**config, **old_rope(case, config), **pattern}
  dual['torch_dtype'] = config['dtype']
  spellings = {'v4': old_spelling(case, config), 'dual': dual}
  for form, spelt in spellings.items():
    text = json.dumps(spelt, indent=1, sort_keys=True)
    (folder / f'config.{form}.json').write_text(text + '\n')


# --- the numbers -----------------------------------------------------------


def fresh(folder: Path, config: Any = None, spelling: str = 'config') -> Any:
  """A model loaded anew: `dynamic` remembers the lengths that it saw."""
  if config is None:
    config = transformers.AutoConfig.from_pretrained(
      folder / f'{spelling}.json'
    )
  model = transformers.AutoModelForCausalLM.from_pretrained(
    folder,
    config=config,
    dtype=torch.float32,
    attn_implementation='eager',
    experts_implementation='eager',
  )
  return model.eval()


def logits(model: Any, ids: np.ndarray, **kwargs: Any) -> np.ndarray:
  """Logits [T, V] of ids [T]."""
  with torch.no_grad():
    out = model(torch.from_numpy(ids[None]).long(), use_cache=False, **kwargs)
  return out.logits[0].numpy()


def generated(folder: Path, prompt: np.ndarray) -> dict[str, np.ndarray]:
  """Greedy tokens with a cache, and what a full forward says at each."""
  model = fresh(folder)
  model.generation_config.eos_token_id = None
  prompt_1T = torch.from_numpy(prompt[None]).long()
  out = model.generate(
    prompt_1T,
    attention_mask=torch.ones_like(prompt_1T),
    max_new_tokens=NEW,
    do_sample=False,
    output_logits=True,
    return_dict_in_generate=True,
  )
  sequence = out.sequences[0].numpy().astype(np.int32)
  cached = torch.cat(out.logits).numpy()
  full = np.stack(
    [logits(fresh(folder), sequence[: PROMPT + i])[-1] for i in range(NEW)]
  )
  found = {'gen_sequence': sequence, 'gen_logits': cached}
  if abs(full - cached).max() > TOLERANCE:
    found['gen_logits_full_forward'] = full
  return found


def padded(folder: Path, ids: np.ndarray) -> dict[str, np.ndarray]:
  """Left padding, each row by a model of its own; 0 where padded."""
  pad_ids = np.zeros((len(REAL), PADDED), np.int32)
  mask = np.zeros_like(pad_ids)
  rows = []
  for row, real in enumerate(REAL):
    pad_ids[row, -real:] = ids[row : row + real]
    mask[row, -real:] = 1
    positions = np.clip(mask[row].cumsum() - 1, 0, None)
    found = logits(
      fresh(folder),
      pad_ids[row],
      attention_mask=torch.from_numpy(mask[row : row + 1]),
      position_ids=torch.from_numpy(positions[None]),
    )
    rows.append(np.where(mask[row][:, None], found, np.float32(0)))
  return {'pad_ids': pad_ids, 'pad_mask': mask, 'pad_logits': np.stack(rows)}


def forwards(folder: Path, ids: np.ndarray) -> dict[str, np.ndarray]:
  """The logits at each length, where they are not those of a longer one."""
  rows = {n: logits(fresh(folder), ids[:n]) for n in LENGTHS}
  longest = rows[LENGTHS[-1]]
  return {
    f'logits_{n}': found
    for n, found in rows.items()
    if n == LENGTHS[-1] or abs(found - longest[:n]).max() > TOLERANCE
  }


def check(case: Case, folder: Path, ids: np.ndarray, want: np.ndarray) -> float:
  """Spellings agree, mistakes are seen; returns the distance to float64."""
  for spelling in ('config.v4', 'config.dual'):
    same = logits(fresh(folder, spelling=spelling), ids)
    assert (same == want).all(), (folder.name, spelling)
  assert 1.5 < want.std() < 3, (folder.name, want.std())
  for mistake in case.mistakes:
    config = hf_config(case, **mistake)
    moved = abs(logits(fresh(folder, config), ids) - want).max()
    assert moved > SEEN, (folder.name, mistake, moved)
  if case.weights:
    other = np.load(HERE / case.weights / 'golden.npz')['logits_96']
    assert abs(other - want).max() < TOLERANCE, (folder.name, case.weights)
  noise = abs(logits(fresh(folder).double(), ids) - want).max()
  assert noise < TOLERANCE, (folder.name, noise)
  return float(noise)


def make(name: str, case: Case) -> str:
  """Writes one folder; returns a line about it."""
  folder = HERE / name
  save_model(name, case, folder)
  write_spellings(case, folder)
  seed = f'{case.weights or name} ids'
  rng = np.random.default_rng(zlib.crc32(seed.encode()))
  ids = rng.integers(3, SHAPE['vocab_size'], LENGTHS[-1]).astype(np.int32)
  arrays: dict[str, Any] = {'input_ids': ids, **forwards(folder, ids)}
  noise = check(case, folder, ids, arrays['logits_96'])
  arrays |= {**generated(folder, ids[:PROMPT]), **padded(folder, ids)}
  np.savez_compressed(folder / 'golden.npz', **arrays)
  size = sum(path.stat().st_size for path in folder.iterdir())
  extra = [k for k in arrays if k.startswith('logits_') and k != 'logits_96']
  extra += [k for k in arrays if k == 'gen_logits_full_forward']
  return f'{name:24} {size:7} bytes, float64 {noise:.1e} {" ".join(extra)}'


def main() -> None:
  versions = {
    'transformers': transformers.__version__,
    'torch': torch.__version__.partition('+')[0],
  }
  if versions != VERSIONS:
    sys.exit(f'needs {VERSIONS}, has {versions}')
  transformers.logging.set_verbosity_error()
  transformers.logging.disable_progress_bar()
  torch.set_num_threads(1)
  for name in sys.argv[1:] or CASES:
    print(make(name, CASES[name]), flush=True)


if __name__ == '__main__':
  main()
