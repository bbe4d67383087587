"""How llama.cpp's converter and graphs read rope and windows.

What a GGUF of its own making can say beyond that (`rope_freqs.weight`, an
attention factor) is `interop.save_gguf`'s.
"""

from __future__ import annotations

from ntk_jax.interop.servers.parameters import (
  Parameters,
  one_regime,
  standardised,
  transformers_spec,
  without_su,
)
from ntk_jax.interop.servers.reading import (
  FULL,
  ORIGINAL,
  SLIDING,
  YARN_OPTIONS,
  Decoder,
  Layer,
  Reading,
  Unsupported,
)
from ntk_jax.rope import RopeSpec

# Families of its llama graph, whose converter writes llama3's divisors.
_LLAMA = ('llama', 'mistral', 'mixtral')
# Every k-th layer is global, whatever the config says.
_PATTERNS = {'gemma2': 2, 'gemma3_text': 6}
_WIDE = {'gemma2': 46, 'gemma3_text': 62}  # layers of the 27B models


def llama_cpp(decoder: Decoder) -> Reading:
  """What `convert_hf_to_gguf.py` writes and the graphs then compute.

  Source: llama.cpp 0c1e57098.
  """
  if decoder.family == 'ministral':
    raise Unsupported('its converter knows no MinistralForCausalLM')
  params = standardised(decoder)
  notes: list[str] = []
  if decoder.config.get('rope_condense_ratio') not in (None, 1):
    notes.append('rope_condense_ratio is not read')
  window, kinds = _windows(decoder, notes)
  specs = {FULL: _spec(decoder, params[FULL], notes)}
  if decoder.family == 'gemma3_text':  # a base alone, no scaling
    theta = params[SLIDING]['rope_theta']
    specs[SLIDING] = decoder.spec('default', {'rope_theta': theta})
  layers = tuple(
    Layer(specs.get(kind, specs[FULL]), window if kind == SLIDING else None)
    for kind in kinds
  )
  return Reading(
    layers,
    max_length=decoder.length,
    faults=_scalar(decoder),
    notes=tuple(dict.fromkeys(notes)),
  )


def _windows(
  decoder: Decoder, notes: list[str]
) -> tuple[int | None, tuple[str, ...]]:
  """The window, and which layers slide in its graph."""
  count, pattern = len(decoder.kinds), _PATTERNS.get(decoder.family)
  if pattern is None:
    if SLIDING in decoder.kinds:
      notes.append(
        f'the window is not read by its graph of {decoder.family}: full '
        'attention in all layers'
      )
    return None, (FULL,) * count
  window = decoder.config.get('sliding_window', 4096)
  if window is None and decoder.family == 'gemma2':
    raise Unsupported('its converter needs the sliding_window of gemma2')
  if window is None or decoder.config.get('sliding_window_pattern') == 1:
    return None, (FULL,) * count
  kinds = tuple(SLIDING if (i + 1) % pattern else FULL for i in range(count))
  if kinds != decoder.kinds:
    notes.append(
      f'layer_types is not read: {pattern - 1} of {pattern} layers slide, the '
      'last of each group is global'
    )
  return window, kinds


def _spec(decoder: Decoder, params: Parameters, notes: list[str]) -> RopeSpec:
  """The frequencies of all layers, or of the global ones."""
  params = without_su(decoder, params)
  kind = params['rope_type']
  spec = transformers_spec(decoder, params)
  if spec.partial_rotary_factor != 1 and decoder.family != 'phi3':
    notes.append('partial_rotary_factor is not read: the whole head turns')
    params = {**params, 'partial_rotary_factor': 1.0}
  if kind in ('default', 'linear'):
    return decoder.spec(kind, params, factor=spec.factor)
  if kind == 'yarn':
    return _yarn(decoder, params, notes)
  if kind == 'llama3' and decoder.family in _LLAMA:
    if params.get('partial_rotary_factor') in (None, 1.0):
      return spec
    raise Unsupported('llama3 with a partial_rotary_factor')
  if kind == 'longrope' and decoder.family == 'phi3':
    if params.get('attention_factor') is not None:
      notes.append("longrope's attention_factor is not read")
    return one_regime(decoder, spec, params, notes)
  words = {
    'dynamic': 'its converter writes no scaling for dynamic',
    'llama3': f'its converter writes no llama3 divisors for {decoder.family}',
    'longrope': 'its converter writes neither the divisors nor the attention '
    f'factor of longrope for {decoder.family}',
  }
  notes.append(words.get(kind, f'its converter does not know rope type {kind}'))
  return decoder.spec('default', params)


def _yarn(decoder: Decoder, params: Parameters, notes: list[str]) -> RopeSpec:
  """Betas 32 and 1, whole ends of the ramp, temperature 0.1 ln s + 1."""
  for key in (*YARN_OPTIONS, 'attention_factor'):
    if params.get(key) is not None:
      notes.append(f"yarn's {key} is not read")
  factor = params['factor']
  if factor is None:
    raise Unsupported('its converter writes no yarn with a null factor')
  return decoder.spec(
    'yarn', params, factor=factor, original_length=params[ORIGINAL]
  )


def _scalar(decoder: Decoder) -> tuple[str, ...]:
  """Gemma's divisor of q . k, which is not read from the config."""
  config = decoder.config
  if decoder.family not in _PATTERNS:
    return ()
  scalar = config.get('query_pre_attn_scalar') or 256
  used = decoder.model.head_dim
  if len(decoder.kinds) == _WIDE[decoder.family]:
    used = decoder.model.dim // decoder.model.heads
  if scalar == used:
    return ()
  return (
    f'query_pre_attn_scalar {scalar} is not read: scores are divided by the '
    f'root of {used}',
  )
