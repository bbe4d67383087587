"""Makes hf_rope.npz and hf_rope.json: RoPE as transformers computes it.

Versions: transformers 5.23.0, torch 2.13.0 (CPU), numpy 2.4. Command:

  python3 -m venv .venv-hf
  .venv-hf/bin/pip install torch==2.13.0 transformers==5.23.0 numpy
  .venv-hf/bin/python tests/golden/make_hf_rope.py

Every number comes twice: from transformers' own functions in float32, and
from the float64 formulas below, which share no code with either side; the
script fails where they differ by more than 1e-6. The output is deterministic
and does not depend on any other file. README.md describes it.
"""

from __future__ import annotations

import copy
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch  # pyrefly: ignore[missing-import]
import transformers  # pyrefly: ignore[missing-import]
from hf_rope_cases import (  # pyrefly: ignore[missing-import]
  NESTED,
  Config,
  all_cases,
  odd_spellings,
  odd_values,
  spellings,
  without_null_factor,
)
from transformers import (  # pyrefly: ignore[missing-import]
  Gemma3TextConfig,
  GlmConfig,
  LlamaConfig,
)
from transformers.modeling_rope_utils import (  # pyrefly: ignore[missing-import]
  ROPE_INIT_FUNCTIONS,
)
from transformers.models.gemma3.modeling_gemma3 import (  # pyrefly: ignore[missing-import]
  Gemma3RotaryEmbedding,
)
from transformers.models.glm.modeling_glm import (  # pyrefly: ignore[missing-import]
  GlmRotaryEmbedding,
)
from transformers.models.llama.modeling_llama import (  # pyrefly: ignore[missing-import]
  LlamaRotaryEmbedding,
)

HERE = Path(__file__).resolve().parent
VERSIONS = {'transformers': '5.23.0', 'torch': '2.13.0'}
TOLERANCE = 1e-6
ODD_LENGTHS = [None, 100]
WRONG_IN_TRANSFORMERS = {
  'nested_yarn_betas_16_2_uncut': (
    'truncate is looked up beside the layer types, not among their keys, so '
    'a nested one is ignored; ref_inv_freq is what the config says'
  )
}


# --- transformers ----------------------------------------------------------


def hf_config(given: Config, nested: bool) -> Any:
  """The config object that a model of one layer would get."""
  given = copy.deepcopy(given)
  rope = given.get('rope_parameters') or given.get('rope_scaling') or {}
  partial = {**given, **rope}.get('partial_rotary_factor') is not None
  size = {'hidden_size': given['head_dim'], 'num_attention_heads': 1}
  if nested:
    types = [NESTED, 'sliding_attention']
    return Gemma3TextConfig(
      num_hidden_layers=2, layer_types=types, **size, **given
    )
  # Llama's own default ignores a partial rotary factor, GLM's does not.
  return (GlmConfig if partial else LlamaConfig)(**size, **given)


def hf(
  given: Config, length: int | None, layer_type: str | None = None
) -> tuple[np.ndarray, float]:
  """Inverse frequencies and attention factor by transformers."""
  config = hf_config(given, layer_type is not None)
  rope = config.rope_parameters
  rope_type = (rope[layer_type] if layer_type else rope)['rope_type']
  if rope_type == 'default':
    classes = {
      GlmConfig: GlmRotaryEmbedding,
      LlamaConfig: LlamaRotaryEmbedding,
      Gemma3TextConfig: Gemma3RotaryEmbedding,
    }
    module = classes[type(config)](config)
    prefix = f'{layer_type}_' if layer_type else ''
    inv_freq = getattr(module, f'{prefix}inv_freq')
    factor = getattr(module, f'{prefix}attention_scaling')
  else:
    make = ROPE_INIT_FUNCTIONS[rope_type]
    kwargs = {'layer_type': layer_type} if layer_type else {}
    inv_freq, factor = make(config, None, seq_len=length, **kwargs)
  assert inv_freq.dtype == torch.float32
  return inv_freq.numpy(), float(factor)


# --- the independent formulas ----------------------------------------------


def temperature(scale: float, k: float = 1.0) -> float:
  """YaRN's 0.1 k ln(s) + 1."""
  return 0.1 * k * math.log(scale) + 1 if scale > 1 else 1.0


def yarn(
  rope: Config, plain: np.ndarray, d: int, ratio: float
) -> tuple[np.ndarray, float]:
  s = ratio if rope['factor'] is None else rope['factor']
  span = math.log(rope['rope_theta'])
  original = rope['original_max_position_embeddings']

  def pair_turning(times: float) -> float:
    """The fractional pair index that turns so often over the length."""
    return d / 2 * math.log(original / (2 * math.pi * times)) / span

  low = pair_turning(rope.get('beta_fast', 32))
  high = pair_turning(rope.get('beta_slow', 1))
  if rope.get('truncate', True):
    low, high = math.floor(low), math.ceil(high)
  low, high = max(low, 0), min(high, d - 1)
  if low == high:
    high += 0.001
  share = np.clip((np.arange(d // 2) - low) / (high - low), 0.0, 1.0)
  pair = rope.get('mscale', 0), rope.get('mscale_all_dim', 0)
  value = temperature(s)
  if all(pair):
    value = temperature(s, pair[0]) / temperature(s, pair[1])
  value = rope.get('attention_factor', value)
  return plain * (1 - share + share / s), value


def longrope(
  rope: Config, plain: np.ndarray, length: int | None, ratio: float
) -> tuple[np.ndarray, float]:
  original = rope['original_max_position_embeddings']
  s = rope.get('factor') or ratio
  value = math.sqrt(1 + math.log(s) / math.log(original)) if s > 1 else 1.0
  side = 'long_factor' if (length or 0) > original else 'short_factor'
  return plain / np.array(rope[side]), rope.get('attention_factor', value)


def llama3(rope: Config, plain: np.ndarray) -> np.ndarray:
  s, low, high = (
    rope[k] for k in ('factor', 'low_freq_factor', 'high_freq_factor')
  )
  turns = rope['original_max_position_embeddings'] * plain / (2 * math.pi)
  if low == high:
    return np.where(turns >= low, plain, plain / s)
  keep = np.clip((turns - low) / (high - low), 0.0, 1.0)
  return plain * keep + plain / s * (1 - keep)


def reference(config: Config, length: int | None) -> tuple[np.ndarray, float]:
  """The float64 formulas, one branch for each type."""
  rope, head_dim = config['rope_parameters'], config['head_dim']
  maximum = config['max_position_embeddings']
  kind, theta = rope['rope_type'], rope['rope_theta']
  part = rope.get('partial_rotary_factor', 1.0)
  if kind == 'proportional':
    w = theta ** -(np.arange(0, head_dim, 2) / head_dim)
    w[int(part * head_dim // 2) :] = 0.0
    return w / rope.get('factor', 1.0), 1.0
  d = int(head_dim * part)
  exponent = -(np.arange(0, d, 2) / d)
  plain = theta**exponent
  ratio = maximum / rope.get('original_max_position_embeddings', maximum)
  if kind == 'default':
    return plain, 1.0
  if kind == 'linear':
    return plain / rope['factor'], 1.0
  if kind == 'dynamic':
    s, n = rope['factor'], max(length or 0, maximum)
    alpha = s * n / maximum - (s - 1)
    return (theta * alpha ** (d / (d - 2))) ** exponent, 1.0
  if kind == 'yarn':
    return yarn(rope, plain, d, ratio)
  if kind == 'longrope':
    return longrope(rope, plain, length, ratio)
  assert kind == 'llama3', kind
  return llama3(rope, plain), 1.0


def difference(got: np.ndarray, want: np.ndarray) -> float:
  """The largest relative difference; zeros must be the same."""
  assert got.shape == want.shape
  assert (got[want == 0] == 0).all()
  return float(
    np.max(
      np.abs(got / np.where(want == 0, 1.0, want) - 1)[want != 0], initial=0.0
    )
  )


# --- files -----------------------------------------------------------------


def numbers(name: str, given: Config) -> tuple[Config, dict[str, np.ndarray]]:
  """One case: its entry in the json file and its two arrays."""
  config, nested = given['config'], given['layer_type']
  flat = copy.deepcopy(config)
  if nested:
    flat['rope_parameters'] = flat['rope_parameters'][nested]
  spelt = {'v5': config} if nested else spellings(config)
  wrong = name in WRONG_IN_TRANSFORMERS
  rows, formula, factors, worst = [], [], [], 0.0
  for length in given['seq_lens']:
    row, factor = hf(config, length, nested)
    want, want_factor = reference(flat, length)
    assert math.isclose(factor, want_factor, rel_tol=1e-14), name
    worst = max(worst, difference(row, want))
    assert (worst < TOLERANCE) != wrong, (name, length, worst)
    for key, other in spelt.items():
      again, again_factor = hf(other, length, nested)
      assert (again == row).all() and again_factor == factor, (name, key)
    rows.append(row)
    formula.append(want)
    factors.append(factor)
  missing = without_null_factor(config)
  if missing is not None:
    # transformers refuses this for yarn; a null means the same.
    spelt = {**spelt, 'factor_missing': missing}
  entry = {
    'layer_type': nested,
    'seq_lens': given['seq_lens'],
    'attention_factor': factors,
    'worst': float(f'{worst:.2e}'),
    'spellings': spelt,
  }
  if wrong:
    entry['wrong_in_transformers'] = WRONG_IN_TRANSFORMERS[name]
  arrays = {'hf_inv_freq': np.stack(rows), 'ref_inv_freq': np.stack(formula)}
  return entry, {f'{name}/{key}': value for key, value in arrays.items()}


def outcome(config: Config) -> Config:
  """What transformers does with an odd config: numbers or its error."""
  try:
    found = [hf(config, length) for length in ODD_LENGTHS]
  except Exception as error:
    return {
      'config': config,
      'outcome': type(error).__name__,
      'message': ' '.join(str(error).split())[:160],
    }
  finite = all(
    np.isfinite(inv_freq).all() and math.isfinite(factor)
    for inv_freq, factor in found
  )
  entry: Config = {'config': config, 'outcome': 'ok', 'finite': finite}
  if finite:
    entry['inv_freq'] = [[float(f'{w:.9g}') for w in row] for row, _ in found]
    entry['attention_factor'] = [factor for _, factor in found]
  return entry


def write_json(path: Path, sections: dict[str, Config]) -> None:
  """Json with one entry a line, so that a change is one line of a diff."""
  parts = []
  for title, entries in sections.items():
    lines = [f'  {json.dumps(k)}: {json.dumps(v)}' for k, v in entries.items()]
    parts.append(f' {json.dumps(title)}: {{\n' + ',\n'.join(lines) + '\n }')
  path.write_text('{\n' + ',\n'.join(parts) + '\n}\n')


def main() -> None:
  versions = {
    'transformers': transformers.__version__,
    'torch': torch.__version__.partition('+')[0],
  }
  if versions != VERSIONS:
    sys.exit(f'needs {VERSIONS}, has {versions}')
  transformers.logging.set_verbosity_error()
  torch.set_num_threads(1)
  made = {
    'script': 'tests/golden/make_hf_rope.py',
    **VERSIONS,
    'hf_inv_freq': 'by transformers, float32, on the CPU',
    'ref_inv_freq': 'by the float64 formulas of the script',
    'odd_lengths': ODD_LENGTHS,
  }
  cases, arrays = {}, {}
  for name, given in all_cases().items():
    cases[name], found = numbers(name, given)
    arrays |= found
  odd = {**odd_spellings(), **odd_values()}
  odd = {name: outcome(config) for name, config in odd.items()}
  np.savez_compressed(HERE / 'hf_rope.npz', **arrays)
  sections = {'made': made, 'cases': cases, 'odd': odd}
  write_json(HERE / 'hf_rope.json', sections)
  spelt = sum(len(entry['spellings']) for entry in cases.values())
  print(f'{len(cases)} cases in {spelt} spellings, {len(odd)} odd configs')


if __name__ == '__main__':
  main()
