"""What to do about a config: keys to paste, tried before they are offered."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ntk_jax.errors import ConfigError
from ntk_jax.interop.doctor.compare import Verdict
from ntk_jax.interop.doctor.files import Files
from ntk_jax.interop.doctor.ropes import Rope
from ntk_jax.interop.servers import Layer
from ntk_jax.rope import RopeSpec

Config = Mapping[str, Any]
Try = Callable[[Config, tuple[Layer, ...], int], dict[str, Verdict]]

_MAX = 'max_position_embeddings'
_LLAMA = ('llama', 'mistral', 'mixtral')  # those of its llama graph
_ORIGINAL = 'original_max_position_embeddings'
_OF_ROPE = (
  'rope_scaling',
  'rope_parameters',
  'rope_theta',
  'rope_condense_ratio',
  'rope_local_base_freq',
  'partial_rotary_factor',
  _ORIGINAL,
)


@dataclasses.dataclass(frozen=True)
class Block:
  """Keys to put into a config.json in place of all that speak of rope.

  Attributes:
    form: how it is written: dual, carrier, or that of a family; and whether
      it is another meaning, fixed at the target length.
    keys: the keys.
    removed: keys of the config that have to go.
    verdicts: server -> kind of verdict with these keys.
  """

  form: str
  keys: Mapping[str, Any]
  removed: tuple[str, ...]
  verdicts: Mapping[str, str]


def best_block(
  config: Config,
  ropes: Sequence[Rope],
  meant: tuple[Layer, ...],
  target: int,
  attempt: Try,
) -> Block | None:
  """The form that most servers get exactly right; native before carrier.

  Where none does, because frequencies change with length, the frequencies of
  the target length at all lengths: another meaning, and called so.
  """
  best = _most_exact(config, ropes, meant, target, attempt)
  if best is not None and 'exact' in best.verdicts.values():
    return best
  fixed = tuple(Layer(_fixed(x.spec, target), x.window) for x in meant)
  if fixed == meant:
    return best
  other = _most_exact(config, ropes, fixed, target, attempt)
  if other is None:
    return best
  return dataclasses.replace(
    other, form=f'{other.form}, fixed at {target} tokens'
  )


def _most_exact(
  config: Config,
  ropes: Sequence[Rope],
  meant: tuple[Layer, ...],
  target: int,
  attempt: Try,
) -> Block | None:
  best, most = None, -1
  rest = {k: v for k, v in config.items() if k not in _OF_ROPE}
  for form, keys in _forms(config, ropes, meant):
    try:
      verdicts = attempt(rest | keys, meant, target)
    except ConfigError:
      continue
    kinds = {name: verdict.kind for name, verdict in verdicts.items()}
    exact = list(kinds.values()).count('exact')
    if exact > most:
      removed = tuple(k for k in config if k in _OF_ROPE and k not in keys)
      best, most = Block(form, keys, removed, kinds), exact
  return best


def _fixed(spec: RopeSpec, target: int) -> RopeSpec:
  """What a spec is at the target length, at all lengths."""
  if spec.method == 'dynamic' and spec.factor and spec.original_length:
    alpha = spec.factor * target / spec.original_length - (spec.factor - 1)
    return dataclasses.replace(
      spec, method='ntk', factor=alpha, original_length=None
    )
  if spec.method == 'longrope':
    long = dict(spec.options)['long_factor']
    options = {'short_factor': long, 'long_factor': long}
    return dataclasses.replace(spec, options=options)
  return spec


def _forms(
  config: Config, ropes: Sequence[Rope], meant: tuple[Layer, ...]
) -> Iterator[tuple[str, dict[str, Any]]]:
  specs = list(dict.fromkeys(_writable(r, meant[r.layers[0]]) for r in ropes))
  family = config.get('model_type')
  if family == 'gemma3_text':
    yield from _attempt('dual', lambda: _by_type(ropes, meant))
    return
  if len(specs) != 1:
    return
  spec, target = specs[0], max(rope.target_length for rope in ropes)
  if family == 'phi3' and spec.method == 'longrope':
    yield 'three keys, for Phi3Config', _three_keys(spec, target)
  for form, carrier in (('dual', False), ('carrier', True)):
    for name, keys in _attempt(form, _writer(spec, carrier)):
      raised = spec.method == 'ntk' or keys['rope_parameters'].get(_ORIGINAL)
      yield name, keys | {_MAX: target} if raised else keys


def _writer(spec: RopeSpec, carrier: bool) -> Callable[[], dict[str, Any]]:
  return lambda: spec.to_hf('dual', carrier=carrier)


def _attempt(
  form: str, write: Callable[[], dict[str, Any]]
) -> Iterator[tuple[str, dict[str, Any]]]:
  try:
    yield form, write()
  except ConfigError:  # what this form cannot express
    return


def _writable(rope: Rope, layer: Layer) -> RopeSpec:
  """The spec with its lengths, and with the factor that servers differ on."""
  spec = layer.spec
  others: dict[str, Any] = {}
  if spec.method == 'ntk':  # a base alone; servers take the length as it is
    return spec
  if spec.method != 'default':
    others['original_length'] = rope.original_length
  if spec.method == 'longrope':
    others['attention_factor'] = rope.attention_factor
    others['factor'] = spec.factor or rope.target_length / rope.original_length
  return dataclasses.replace(spec, **others)


def _by_type(ropes: Sequence[Rope], meant: tuple[Layer, ...]) -> dict[str, Any]:
  """Gemma 3: a base for sliding layers, base and scaling for the others."""
  keys: dict[str, Any] = {'rope_parameters': {}}
  for rope in ropes:
    spec = _writable(rope, meant[rope.layers[0]])
    if spec.method == 'linear':  # its length stands extended
      spec = dataclasses.replace(spec, original_length=None)
    written = spec.to_hf('dual')
    if rope.window is None:
      keys['rope_parameters']['full_attention'] = written['rope_parameters']
      keys['rope_theta'] = written['rope_theta']
      keys['rope_scaling'] = written['rope_scaling']
    else:
      keys['rope_parameters']['sliding_attention'] = written['rope_parameters']
      keys['rope_local_base_freq'] = written['rope_theta']
  return keys


def _three_keys(spec: RopeSpec, target: int) -> dict[str, Any]:
  """Phi 3: the scaling that the class of transformers 4 insists on."""
  options = {name: list(value) for name, value in spec.options}
  share = spec.partial_rotary_factor
  return {
    _MAX: target,
    _ORIGINAL: spec.original_length,
    'rope_theta': spec.theta,
    'rope_scaling': {'type': 'longrope', **options},
    **({'partial_rotary_factor': share} if share != 1 else {}),
  }


def advise(
  config: Config,
  ropes: Sequence[Rope],
  verdicts: Mapping[str, Verdict],
  block: Block | None,
  files: Files | None,
) -> tuple[str, ...]:
  """What to do, in words."""
  target = max(rope.target_length for rope in ropes)
  advice = []
  better = [
    name
    for name, verdict in verdicts.items()
    if block and verdict.kind != 'exact' and block.verdicts[name] == 'exact'
  ]
  if block and better:
    advice.append(_of_block(block, better, target))
  advice += _of_method(ropes)
  family = config.get('model_type')
  mended = block is not None and block.verdicts['llama.cpp'] == 'exact'
  advice += _of_llama_cpp(family, ropes, verdicts['llama.cpp'], target, mended)
  advice += _of_lengths(config, ropes, verdicts['vLLM'], target)
  if files is not None:
    advice += files.advice(target)
  return tuple(advice)


def _of_block(block: Block, better: list[str], target: int) -> str:
  read = 'reads' if len(better) == 1 else 'read'
  if 'fixed' in block.form:
    return (
      f'the keys below ({block.form}) are another meaning: the frequencies of '
      f'{target} tokens at every length. {_listed(better)} {read} them alike; '
      'compare the model under them before serving'
    )
  return (
    f'put the keys below into config.json ({block.form}): {_listed(better)} '
    f'{read} it exactly then'
  )


def _of_method(ropes: Sequence[Rope]) -> list[str]:
  advice = []
  for rope in ropes:
    if rope.method == 'dynamic':
      advice.append(
        'dynamic changes all keys with every token, which no server follows: '
        f'fix it for {rope.target_length} tokens as another rope_theta without '
        'scaling, which all read alike'
      )
    elif rope.per_length:
      advice.append(
        f'{rope.method} has two sets of frequencies, and most servers keep to '
        'one: equal short and long divisors are read alike at every length'
      )
  return advice


def _of_llama_cpp(
  family: Any,
  ropes: Sequence[Rope],
  verdict: Verdict,
  target: int,
  mended: bool,
) -> list[str]:
  advice = []
  static = not any(rope.per_length for rope in ropes)
  angles = verdict.kind == 'wrong' and verdict.error is not None
  if angles and static and family in _LLAMA and not mended:
    advice.append(
      'for llama.cpp write the GGUF with ntk_jax.interop.save_gguf: it stores '
      'the frequencies themselves and the attention factor'
    )
  window = min((r.window for r in ropes if r.window), default=target)
  if window < target and 'window is not read' in verdict.why:
    advice.append(
      f'llama.cpp has no setting for this window: use it up to {window} '
      'tokens, or accept full attention beyond'
    )
  return advice


def _of_lengths(
  config: Config, ropes: Sequence[Rope], vllm: Verdict, target: int
) -> list[str]:
  advice = []
  linear = any(rope.method == 'linear' for rope in ropes)
  told = config.get('rope_condense_ratio') or _ORIGINAL in config
  if linear and not told and config.get('model_type') != 'gemma3_text':
    advice.append(
      f'linear: {_MAX} is taken as the trained length, as vLLM takes it; if '
      'yours is already multiplied, write the trained length'
    )
  served = vllm.max_length
  if served is not None and served < target:
    longrope = any(rope.method == 'longrope' for rope in ropes)
    advice.append(
      f'vLLM serves {served} tokens unless told: start it with '
      f'--max-model-len {target}'
      if longrope
      else f'vLLM serves no more than {_MAX}, {served}; write {target} there'
    )
  return advice


def _listed(names: list[str]) -> str:
  return (
    names[0]
    if len(names) == 1
    else (f'{", ".join(names[:-1])} and {names[-1]}')
  )
