"""Systems as rows: decoder, length, and how positions enter its layers.

  from ntk_jax.model.presets import preset

  row = preset('longchat')  # .model, .schemes, .base_schemes at real size
  small = row.tiny()        # the same row for a CPU

Each says what the system really did, and what of that the row is.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from ntk_jax.errors import unknown
from ntk_jax.model import rules
from ntk_jax.model.params import parameter_count
from ntk_jax.model.preset import Preset
from ntk_jax.model.published import MODELS

_QWEN = (
  'LongChat did none of this: the row is what Qwen-7B did, trained at 2,048, '
  'without training: dynamic NTK in steps of powers of two, log-n, and windows '
  'that grow from lower to upper layers (sizes unpublished). Perplexity on '
  'arXiv at 1k, 2k, 4k, 8k, 16k: 4.23 3.78 3.58 3.49 4.32; with nothing 4.23 '
  '3.78 39.35 469.81 2645.09'
)
_CLOSED = (
  'Closed systems such as Claude have not published how they reach their '
  'length: the row is what open ones are known to do'
)
_ROWS = (
  Preset(
    'llama2',
    'arXiv 2307.09288; meta-llama/llama model.py',
    'RoPE of base 10,000, trained at 4,096, with no scaling at all',
    'the same',
    MODELS['llama2-7b'],
    4096,
    4096,
    rules.plain,
  ),
  Preset(
    'llama2-dynamic',
    'transformers PR 24653',
    'Not of Meta: transformers added dynamic NTK for Llama checkpoints, to be '
    'used without training',
    'dynamic NTK of factor 1: the last frequency is divided by L / L0, for '
    'each sequence by its own length',
    MODELS['llama2-7b'],
    4096,
    32768,
    rules.dynamic,
    rules.plain,
  ),
  Preset(
    'llama2-abf',
    'arXiv 2309.16039 (Llama 2 Long)',
    'Went on training Llama 2 7B and 13B at 32,768 with base 500,000',
    'the same base; Meta trained for 400B tokens',
    MODELS['llama2-7b'],
    4096,
    32768,
    rules.based(5e5),
    rules.plain,
    tuned=True,
  ),
  Preset(
    'llama2-abf-code',
    'arXiv 2308.12950 (Code Llama)',
    'Fine-tuned at 16,384 with base 1,000,000, read up to 100,000',
    'the same base, and the 7B vocabulary of 32,016',
    MODELS['code-llama-7b'],
    4096,
    16384,
    rules.based(1e6),
    rules.plain,
    tuned=True,
  ),
  Preset(
    'longchat',
    'LongChat 7B v1.5 32k; DachengLi1/LongChat',
    'Fine-tuned Llama 2 at 32,768 with positions divided by 8 '
    '(rope_condense_ratio 8): linear interpolation; no window, no NTK',
    'linear interpolation by 8',
    MODELS['llama2-7b'],
    4096,
    32768,
    rules.linear,
    rules.plain,
    tuned=True,
  ),
  Preset(
    'longchat-v1',
    'LongChat 7B 16k; DachengLi1/LongChat',
    'The same on LLaMA 1: 2,048 to 16,384',
    'linear interpolation by 8',
    MODELS['llama-7b'],
    2048,
    16384,
    rules.linear,
    rules.plain,
    tuned=True,
  ),
  Preset(
    'longchat-ntk-logn-window',
    'arXiv 2309.16609; QwenLM/Qwen README',
    _QWEN,
    'dynamic NTK of factor 2, which equals the steps at powers of two (between '
    'them give `stepped_length`), log-n, a window of 2,048 in the lower half '
    'of the layers and none in the upper half',
    MODELS['qwen-7b'],
    2048,
    16384,
    rules.ntk_logn_window,
    rules.plain_by_halves,
  ),
  Preset(
    'yi',
    'arXiv 2403.04652; 01-ai/Yi README',
    'Trained at 4,096 with base 5,000,000, which can read up to 32,768 as it '
    'is; grouped queries',
    'the same',
    MODELS['yi-6b'],
    4096,
    32768,
    rules.plain,
  ),
  Preset(
    'yi-200k',
    'Yi-34B-200K config.json; arXiv 2403.04652',
    'Went on training at long lengths with base 5,000,000: max positions '
    '200,000, rope_scaling null; no interpolation',
    'the same base',
    MODELS['yi-34b'],
    4096,
    200000,
    rules.plain,
    tuned=True,
  ),
  Preset(
    'yi-200k-1e7',
    'Yi 200K, update of March 2024',
    'Trained on for 5B tokens of long text (needle test 89.3% to 99.8%); base '
    '10,000,000 by memory, not confirmed',
    'base 10,000,000',
    MODELS['yi-34b'],
    4096,
    200000,
    rules.based(1e7),
    rules.plain,
    tuned=True,
  ),
  Preset(
    'yi-ntk-linear',
    'arXiv 2306.15595 and 2309.00071, combined',
    'Not of 01.AI, who interpolate nothing',
    'linear interpolation by 2 and NTK by the remaining 4: the first frequency '
    'is divided by 2, the last by 8',
    MODELS['yi-6b'],
    4096,
    32768,
    rules.ntk_linear,
    rules.plain,
    tuned=True,
  ),
  Preset(
    'mistral-v0.1',
    'arXiv 2310.06825; Mistral-7B-v0.1 config.json',
    'Base 10,000, trained at 8,192, a sliding window of 4,096 in every layer '
    'with a rolling cache; max positions 32,768',
    'the same; query i sees keys 0 <= i - j < 4,096',
    MODELS['mistral-7b'],
    8192,
    32768,
    rules.window,
  ),
  Preset(
    'mistral-v0.2',
    'Mistral-7B-Instruct-v0.2 model card',
    'Base 1,000,000, 32,768, no window',
    'the same',
    MODELS['mistral-7b-v0.2'],
    32768,
    32768,
    rules.plain,
  ),
  Preset(
    'mistral-v0.3',
    'Mistral-7B-v0.3 model card',
    'As v0.2 with a vocabulary of 32,768',
    'the same',
    MODELS['mistral-7b-v0.3'],
    32768,
    32768,
    rules.plain,
  ),
  Preset(
    'mistral-window-yarn',
    'arXiv 2309.00071; Yarn-Mistral-7b-128k',
    'Not of Mistral: Nous Research fine-tuned v0.1 with YaRN by 16 from 8,192, '
    'attention factor 0.07 ln s + 1, and turned the window off',
    'YaRN by 16, attention factor 0.1 ln s + 1, with a window that is widened '
    'by 16 too: within 4,096 no distance is new, and nothing needs scaling',
    MODELS['mistral-7b'],
    8192,
    131072,
    rules.window_yarn,
    rules.window,
    tuned=True,
  ),
  Preset(
    'best_known',
    'Gemma 3 and 4, Llama 4, Cohere 2, Qwen 3; arXiv 2410.06205',
    _CLOSED,
    'three layers with RoPE of base 10,000 and a window of 1,024 to one global '
    'layer with p-RoPE (a quarter of the pairs, base 1,000,000), which alone '
    "is scaled and takes Llama 4's log temperature; QK-norm",
    MODELS['hybrid-8b'],
    8192,
    65536,
    rules.local_and_global,
    tuned=True,
  ),
  Preset(
    'best_known-nope',
    'Cohere 2, SmolLM3, Llama 4; arXiv 2504.08719, 2501.18795',
    _CLOSED,
    'the same layers with a window, global layers without position embedding: '
    'their log temperature is all that changes with length',
    MODELS['hybrid-8b'],
    8192,
    65536,
    rules.local_and_nope,
  ),
)
PRESETS: Mapping[str, Preset] = MappingProxyType({p.name: p for p in _ROWS})


def preset(name: str) -> Preset:
  """The row of that name.

  Raises:
    ConfigError: an unknown name; lists all.

  >>> row = preset('llama2')
  >>> parameter_count(row.model), row.schemes[0].spec.theta
  (6738415616, 10000.0)
  """
  if name not in PRESETS:
    raise unknown('preset', name, PRESETS)
  return PRESETS[name]


def stepped_length(length: int, original_length: int) -> int:
  """The length at which Qwen-1 takes its frequencies: L0 2^k, rounded up.

  Its `alpha = 2^ceil(log2(L / L0) + 1) - 1` is dynamic NTK's `2 L / L0 - 1`
  there, so a cache stays right until the length doubles.

  Source: `get_ntk_alpha` of Qwen-7B's modeling_qwen.py.

  >>> [stepped_length(n, 2048) for n in (100, 2048, 2049, 4096, 10000)]
  [2048, 2048, 4096, 4096, 16384]
  """
  reached = original_length
  while reached < length:
    reached *= 2
  return reached


def table() -> str:
  """The rows as a Markdown table: what was done, and what the row is."""
  lines = [
    '| row | parameters | length | what the system did | the row |',
    '| --- | --- | --- | --- | --- |',
  ]
  for p in PRESETS.values():
    length = f'{p.original_length:,}'
    if p.target_length != p.original_length:
      length += f' to {p.target_length:,}'
    cells = (
      f'`{p.name}`',
      f'{parameter_count(p.model):,}',
      length,
      f'{p.did} ({p.source})',
      p.here,
    )
    lines.append(f'| {" | ".join(cells)} |')
  return '\n'.join(lines)
