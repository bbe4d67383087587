"""A diagnosis in words: for a terminal, and a short table for a report."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence

from ntk_jax.interop.doctor.compare import Verdict
from ntk_jax.interop.doctor.diagnosis import Diagnosis
from ntk_jax.interop.doctor.files import Files
from ntk_jax.interop.doctor.ropes import Rope

_WIDTH = 100  # columns of a terminal
_SHOWN = 4  # entries of a list of numbers


def text(found: Diagnosis) -> str:
  """A page for a terminal of 100 columns."""
  parts = [_architecture(found)]
  if found.files is not None:
    parts.append(_files(found.files, found.parameters))
  parts += [_rope(rope, found) for rope in found.ropes]
  parts += [_servers(found), _advice(found), _block(found)]
  return '\n\n'.join(part for part in parts if part)


def markdown(found: Diagnosis) -> str:
  """What each server makes of the config, as a Markdown table."""
  rows = [
    ['server', 'verdict', 'largest cos/sin error', 'from position', 'why']
  ]
  for name, verdict in found.verdicts.items():
    rows.append(
      [name, verdict.kind, _error(verdict), _position(verdict), verdict.why]
    )
  escaped = [[cell.replace('|', '\\|') for cell in row] for row in rows]
  lines = ['| ' + ' | '.join(row) + ' |' for row in escaped]
  return '\n'.join([lines[0], '|---' * len(rows[0]) + '|', *lines[1:]])


def _architecture(found: Diagnosis) -> str:
  heads = f'{found.heads} heads'
  if found.kv_heads != found.heads:
    heads += f' ({found.kv_heads} for keys and values)'
  spelling = {
    'v4': 'rope_theta and rope_scaling (transformers 4)',
    'v5': 'rope_parameters alone (transformers 5)',
    'dual': 'both spellings of rope',
    'none': 'nothing of rope: the defaults of the class',
  }[found.spelling]
  return (
    f'{found.family}: {found.layers} layers, {heads} of {found.head_dim} '
    f'channels, {found.parameters:,} parameters\n'
    f'max_position_embeddings {found.max_position_embeddings:,}; {spelling}'
  )


def _files(files: Files, parameters: int) -> str:
  if files.problem is not None:
    weights = f'weights: {files.problem}'
  else:
    kind = 'an index' if files.index else 'one file'
    weights = f'weights: {kind}, {files.tensors} tensors, headers readable'
    if files.parameters != parameters:
      weights += f'; they hold {files.parameters:,} entries, not as the shape'
  there = [
    ('tokenizer', files.tokenizer),
    ('generation_config.json', files.generation_config),
  ]
  parts = [f'{name} {"there" if has else "missing"}' for name, has in there]
  if files.tokenizer_length is not None:
    parts.append(f'model_max_length {_length(files.tokenizer_length)}')
  return _wrapped(weights) + '\n' + ', '.join(parts)


def _rope(rope: Rope, found: Diagnosis) -> str:
  count = len(rope.layers)
  which = 'all layers' if count == found.layers else f'{count} layers'
  which = '1 layer' if count == 1 else which
  if count < found.layers:
    which += f' ({_numbers(rope.layers)})'
  window = 'full attention'
  if rope.window is not None:
    window = f'window {rope.window:,}'
  settings = {'theta': rope.theta, 'factor': rope.factor, **rope.options}
  said = ', '.join(
    f'{name} {_value(value)}'
    for name, value in settings.items()
    if value is not None
  )
  lines = [
    f'{which}: {rope.method}, {window}',
    f'  {said}; attention factor {rope.attention_factor:.6g}',
    f'  original length {rope.original_length:,}, target '
    f'{rope.target_length:,}'
    + ('; frequencies change with length' if rope.per_length else ''),
    f'  critical dimension: {rope.critical_pairs} of {rope.rotary_dim // 2} '
    f'pairs have wavelengths beyond {rope.original_length:,}',
  ]
  if rope.critical_pairs:
    scaled = ''
    if rope.scaled_wavelengths != rope.wavelengths:
      scaled = f'; at the target {_waves(rope.scaled_wavelengths)}'
    lines.append(f'  wavelengths {_waves(rope.wavelengths)}{scaled}')
  return '\n'.join(_wrapped(line) for line in lines)


def _servers(found: Diagnosis) -> str:
  head = ('server', 'verdict', 'error', 'from')
  rows = [
    (name, v.kind, _error(v), _position(v))
    for name, v in found.verdicts.items()
  ]
  widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]

  def line(row: Sequence[str], last: str) -> str:
    cells = '  '.join(
      cell.ljust(width) for cell, width in zip(row, widths, strict=True)
    )
    return textwrap.fill(
      f'{cells}  {last}'.rstrip(),
      _WIDTH,
      subsequent_indent=' ' * (sum(widths) + 2 * len(widths)),
      break_on_hyphens=False,
    )

  lines = [
    f'Served up to {found.target_length:,} tokens (error: largest of cos and '
    'sin; from: first position that is affected)',
    line(head, 'why'),
  ]
  for row, verdict in zip(rows, found.verdicts.values(), strict=True):
    lines.append(line(row, verdict.why or '; '.join(verdict.notes)))
  return '\n'.join(lines)


def _advice(found: Diagnosis) -> str:
  if not found.advice:
    return 'Advice: nothing to change'
  lines = [
    textwrap.fill(
      f'- {item}', _WIDTH, subsequent_indent='  ', break_on_hyphens=False
    )
    for item in found.advice
  ]
  return '\n'.join(['Advice', *lines])


def _block(found: Diagnosis) -> str:
  block = found.block
  if block is None:
    return 'No form of these parameters is read by any server; see above.'
  kinds = ', '.join(f'{name} {kind}' for name, kind in block.verdicts.items())
  lines = [f'For config.json ({block.form}): {kinds}']
  if block.removed:
    lines.append(f'remove {", ".join(block.removed)}; set')
  return '\n'.join([*map(_wrapped, lines), _json(dict(block.keys))])


def _json(keys: dict[str, object]) -> str:
  """The keys as they stand in a file, long lists on one line."""
  lists: list[str] = []

  def folded(value: object) -> object:
    if isinstance(value, list):
      lists.append(json.dumps(value))
      return f'@{len(lists) - 1}@'
    if isinstance(value, dict):
      return {key: folded(item) for key, item in value.items()}
    return value

  page = json.dumps(folded(keys), indent=2)
  for number, line in enumerate(lists):
    page = page.replace(f'"@{number}@"', line)
  return page


def _error(verdict: Verdict) -> str:
  return '-' if verdict.error is None else f'{verdict.error:.3g}'


def _position(verdict: Verdict) -> str:
  return '-' if verdict.position is None else f'{verdict.position:,}'


def _waves(waves: Sequence[float | None]) -> str:
  known = [wave for wave in waves if wave is not None]
  if not known:
    return 'without end'
  if len(known) == 1:
    return f'{known[0]:.4g} tokens'
  return f'{min(known):.4g} to {max(known):.4g} tokens'


def _value(value: object) -> str:
  if isinstance(value, list):
    shown = ', '.join(f'{x:g}' for x in value[:_SHOWN])
    return f'[{shown}{", ..." if len(value) > _SHOWN else ""}]'
  return f'{value:g}' if isinstance(value, float) else str(value)


def _length(length: int) -> str:
  return f'{length:,}' if length < 10**12 else 'without bound'


def _numbers(numbers: Sequence[int]) -> str:
  shown = ', '.join(map(str, numbers[:_SHOWN]))
  return shown + (', ...' if len(numbers) > _SHOWN else '')


def _wrapped(line: str) -> str:
  indent = ' ' * (len(line) - len(line.lstrip()) + 2)
  return textwrap.fill(
    line, _WIDTH, subsequent_indent=indent, break_on_hyphens=False
  )
