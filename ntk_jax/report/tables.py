"""Tables of a report: the ranking, by length, and what each method is."""

from __future__ import annotations

import re
import textwrap

from ntk_jax.report.answer import answer
from ntk_jax.report.imported import in_units
from ntk_jax.report.part import Part
from ntk_jax.report.phrases import Plain, loss, share, signed, with_sign

_VERDICTS = {
  'pass': 'passes',
  'undecided': 'undecided',
  'excluded': 'excluded',
  'not_ranked': 'not ranked',
}
_WIDTH = 100  # columns of a terminal
_CLOSE = 1e-6  # relative; a multiplier this close to another equals it
_IDLE = {'extrapolation_factor': 1.0, 'ntk_factor': 1.0}  # have no effect


def table(result: Plain) -> str:
  """The ranked tables and the answer, for a terminal of 100 columns."""
  compared, tuned = Part.compared(result), Part.fine_tuned(result)
  steps = result['config']['tune_steps']
  words = re.sub(r'[*`]', '', answer(compared))
  text = '\n'.join(
    [
      f'Without training, at {compared.target} (bits per byte, 95% intervals)',
      aligned_table(_ranking(compared, wide=False)),
      '',
      f'After {steps} steps at {tuned.target}',
      aligned_table(_ranking(tuned, wide=False)),
      '',
      textwrap.fill(words, _WIDTH),
    ]
  )
  return in_units(text, result)


def ranking(part: Part) -> str:
  """The ranked table, in Markdown."""
  return markdown_table(_ranking(part, wide=True))


def by_length(part: Part, measure: str) -> str:
  """Loss or retrieval, methods by lengths, in Markdown."""
  lengths = [f'{length:,}' for length in part.result['lengths']['all']]
  rows = [
    [part.short(row), *(_cell(measure, interval) for interval in row[measure])]
    for row in part.rows
  ]
  return markdown_table([['method', *lengths], *rows])


def schemes(part: Part) -> str:
  """What each method comes to at the target, in Markdown."""
  head = ['method', 'formula', 'settings', 'attention', 'pairs']
  rows = [
    [
      part.short(row),
      _code(row['rope']['formula']),
      settings(row),
      f'{row["rope"]["attention_factor"]:.4g}',
      _pairs(row, part.result['lengths']),
    ]
    for row in part.rows
  ]
  return markdown_table([head, *rows])


def settings(row: Plain) -> str:
  """The settings of a row's scheme in one line."""
  rope = row['rope']
  parts = {'theta': rope['theta']}
  if rope['factor'] is not None:
    parts['factor'] = rope['factor']
  if rope['original_length'] is not None:
    parts['L0'] = rope['original_length']
  parts |= {k: v for k, v in rope['options'].items() if _IDLE.get(k) != v}
  words = [f'{name} {_number(value)}' for name, value in parts.items()]
  words += [str(modifier) for modifier in rope['modifiers']]
  if row['temperature']:
    about = ', '.join(f'{k} {v}' for k, v in row['temperature'].items())
    words.append(f'temperature ({about.removeprefix("kind ")})')
  if row['window']:
    words.append(f'window {row["window"]}')
  if row['per_length']:
    words.append('per length')
  return ', '.join(words)


def _ranking(part: Part, wide: bool) -> list[list[str]]:
  """Header and rows of the ranked table; the wide one is for a page."""
  lengths = part.result['lengths']
  head = [
    'rank',
    'method',
    f'loss at {lengths["target"]:,}' if wide else 'loss',
    'behind the first',
    'retrieval kept',
    f'change at {lengths["train"]:,}' if wide else f'at {lengths["train"]:,}',
    'verdict',
  ]
  rows = [
    [
      row['place'] or '-',
      part.full(row) if wide else part.short(row).strip('`'),
      loss(part.loss(row)) if wide else f'{part.loss(row)["mean"]:.3f}',
      signed(row['behind']) if row['behind'] else '-',
      share(row['relative']) if row['relative'] else '-',
      signed(row['change']) if wide else with_sign(row['change']['mean'], 3),
      _VERDICTS[row['status']],
    ]
    for row in part.rows
  ]
  return [head, *rows]


def _cell(measure: str, interval: Plain) -> str:
  if measure == 'loss':
    return f'{interval["mean"]:.3f}'
  return f'{100 * interval["mean"]:.1f}%'


def _pairs(row: Plain, lengths: Plain) -> str:
  """How many pairs a method leaves alone, slows, slows by target / L0."""
  multipliers, most = row['multipliers'], lengths['train'] / lengths['target']
  kept = sum(m > 1 - _CLOSE for m in multipliers)
  divided = sum(m < most * (1 + _CLOSE) for m in multipliers)
  return f'{kept} / {len(multipliers) - kept - divided} / {divided}'


def _number(value: object) -> str:
  return f'{value:.6g}' if isinstance(value, float) else str(value)


def _code(text: str) -> str:
  return f'`{text}`'


def markdown_table(rows: list[list[str]]) -> str:
  """A table in Markdown; its first row is the head.

  >>> print(markdown_table([['a', 'b'], ['1|2', '3']]))
  | a | b |
  | --- | --- |
  | 1\\|2 | 3 |
  """
  head, *body = rows
  lines = [head, ['---'] * len(head), *body]
  return '\n'.join(
    '| ' + ' | '.join(cell.replace('|', '\\|') for cell in line) + ' |'
    for line in lines
  )


def aligned_table(rows: list[list[str]]) -> str:
  """A table for a terminal, its columns two spaces apart.

  >>> print(aligned_table([['arm', 'loss'], ['steps', '2']]))
  arm    loss
  steps  2
  """
  widths = [max(map(len, column)) for column in zip(*rows)]
  return '\n'.join(
    '  '.join(cell.ljust(w) for cell, w in zip(row, widths)).rstrip()
    for row in rows
  )
