"""How vLLM reads rope and windows from a config.json."""

from __future__ import annotations

import dataclasses

from ntk_jax.interop.servers.hugging_face import transformers5
from ntk_jax.interop.servers.parameters import (
  Parameters,
  one_regime,
  standardised,
  transformers_spec,
  without_su,
)
from ntk_jax.interop.servers.reading import (
  ORIGINAL,
  Decoder,
  Layer,
  Reading,
  Unsupported,
)
from ntk_jax.rope import RopeSpec

_EXTENDED = ('yarn', 'llama3', 'longrope')  # their length counts as it stands
_NEVER_NULL = ('beta_fast', 'beta_slow', 'factor')


def vllm(decoder: Decoder) -> Reading:
  """Transformers' parameters, in its own classes of fixed tables.

  The tables are those that a server needs which is started for the target
  length; `max_length` is what it takes when it is not told.

  Source: vLLM 0.32.0, `rotary_embedding` and `_get_and_verify_max_len`.
  """
  if decoder.family == 'ministral':
    reading = transformers5(decoder)
    note = "no class of its own: served through transformers' modules"
    return dataclasses.replace(
      reading, max_length=decoder.length, notes=(*reading.notes, note)
    )
  _check_windows(decoder)
  params = standardised(decoder)
  notes: list[str] = []
  if decoder.config.get('rope_condense_ratio') not in (None, 1):
    notes.append('rope_condense_ratio is not read')
  served = {
    kind: _table(decoder, params[kind], notes) for kind in set(decoder.kinds)
  }
  return Reading(
    tuple(
      Layer(served[kind][0], window)
      for kind, window in zip(decoder.kinds, decoder.windows, strict=True)
    ),
    max_length=_max_length(decoder, [params[k] for k in set(decoder.kinds)]),
    rows=min(rows for _, rows in served.values()),
    notes=tuple(dict.fromkeys(notes)),
  )


def _check_windows(decoder: Decoder) -> None:
  mixed = len(set(decoder.kinds)) > 1
  first = decoder.config.get('max_window_layers', 28)
  qwen = decoder.family in ('qwen2', 'qwen3')
  if qwen and mixed and first != len(decoder.kinds):
    raise Unsupported(
      f'its {decoder.family} takes one window for all layers or none, but '
      'some layers slide (AssertionError)'
    )


def _table(
  decoder: Decoder, params: Parameters, notes: list[str]
) -> tuple[RopeSpec, int]:
  """The spec that a table is made of, and the positions that it holds."""
  params = without_su(decoder, params)
  kind = params['rope_type']
  spec = transformers_spec(decoder, params)
  if kind == 'yarn':
    for key in _NEVER_NULL:
      if key in params and not params[key]:
        raise Unsupported(
          f'{key} of yarn is {params[key]}, which its arithmetic refuses; '
          'leave it out'
        )
    return spec, int(params[ORIGINAL] * params['factor'])
  if kind == 'linear':
    if not isinstance(params['factor'], float):
      raise Unsupported(
        f'factor of linear is the whole number {params["factor"]}: TypeError '
        "'int' object is not iterable; write a float"
      )
    return spec, int(decoder.length * params['factor'])
  if kind == 'dynamic' and 'alpha' in params:
    spec = decoder.spec('ntk', params, factor=params['alpha'])
    return spec, decoder.length
  if kind == 'dynamic':
    notes.append('dynamic is the unscaled base at every length')
    return decoder.spec('default', params), decoder.length
  if kind == 'longrope':
    return _longrope(decoder, spec, params, notes), decoder.length
  if kind == 'proportional' and spec.factor not in (None, 1.0):
    notes.append('factor of proportional is not read')
    spec = dataclasses.replace(spec, factor=None)
  return spec, decoder.length


def _longrope(
  decoder: Decoder, spec: RopeSpec, params: Parameters, notes: list[str]
) -> RopeSpec:
  """One set of divisors, with an attention factor of its own, or mscale."""
  served = one_regime(decoder, spec, params, notes)
  long = decoder.length > params[ORIGINAL]
  mscale = params.get('long_mscale' if long else 'short_mscale')
  served = dataclasses.replace(served, attention_factor=mscale)
  wanted, used = (float(s.frequencies(None)[1]) for s in (spec, served))
  if wanted != used:
    notes.append(
      f'attention factor {used:.6g}, not {wanted:.6g}: longrope reads neither '
      'attention_factor nor factor, only short_mscale and long_mscale, and '
      'without them takes sqrt(1 + ln s / ln L0) with '
      's = max_position_embeddings / L0'
    )
  return served


def _max_length(decoder: Decoder, params: list[Parameters]) -> int:
  """What it serves without --max-model-len."""
  if any(p['rope_type'] == 'longrope' for p in params):
    outside = decoder.config.get(ORIGINAL)
    if outside is None and decoder.family == 'phi3':
      outside = 4096
    return int(outside or decoder.length)
  factor = 1.0
  for p in params:
    if p['rope_type'] not in _EXTENDED and decoder.family != 'gemma3_text':
      factor = p.get('factor') or factor
  return int(decoder.length * factor)
