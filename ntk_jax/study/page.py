"""The page of a study, its table for a terminal, and its spreadsheet."""

from __future__ import annotations

import csv
import io

from ntk_jax.report.phrases import Plain, counted, loss, points, share, signed
from ntk_jax.report.tables import aligned_table, markdown_table
from ntk_jax.study.findings import (
  bar,
  limits,
  lists,
  near_readers,
  recall_learned,
  times,
)

_COSTS = {
  'cpu': 'CPU-seconds',
  'steady': 'without compiling',
  'wall': 'on the clock',
  'tokens': 'tokens',
}


def study_page(result: Plain) -> str:
  """The text of study.md, which shows the plots beside it."""
  full = f'{result["full"]:,}'
  sections = [
    '# Does growing the length help, and what else does?',
    bar(result),
    recall_learned(result),
    _bullets([*lists(result), *near_readers(result)]),
    '![Held-out loss against time, and length over steps](study.png)',
    '## How this was done',
    _bullets(_done(result)),
    f'## Time to the loss at {full} tokens with which constant length ends',
    'As a multiple of all that constant length takes, seed by seed: median '
    'and range. A curve is there from where on it stays below; constant '
    'length itself may be so a little before its end. The last columns tell '
    'when half of the hidden values are found for good, and what one has when '
    'constant length ends, in bits above it.',
    markdown_table(_reached(result)),
    f'## At equal tokens, at {full}',
    'Bits per byte of held-out text in the second half of positions, the '
    'share of hidden values found, and both against constant length: paired '
    'differences with 95% intervals over seeds and rows. A tie is an interval '
    'that contains 0, or less than '
    f'{result["rules"]["same"]} bits or '
    f'{100 * result["rules"]["same_recall"]:g} points.',
    markdown_table(_scored(result)),
    '## Against what each arm stands on',
    'A regulariser changes `steps`, PoSE changes `short`; `shuffled` is the '
    'control of `steps`: the same lengths as often, in no order.',
    markdown_table(_over_base(result)),
    '![Differences with intervals](differences.png)',
    '## Where so small a study says nothing',
    _bullets(limits(result)),
    '## How to do it again',
    f'```bash\n{result["command"]}\n```',
    _bullets(_source(result)),
  ]
  return '\n\n'.join(sections) + '\n'


def study_table(result: Plain) -> str:
  """The arms and the answer, for a terminal."""
  head = ['arm', 'loss', 'recall', 'CPU-s', 'to constant', 'on its base']
  rows = [
    [
      row['name'],
      f'{row["loss"]["mean"]:.3f}',
      f'{row["recall"]["mean"]:.2f}',
      _seconds(row['ends']['cpu']),
      times(row['reach']['cpu']),
      _on_base(row),
    ]
    for row in result['arms']
  ]
  words = bar(result).replace('*', '').replace('`', '')
  return f'{aligned_table([head, *rows])}\n\n{words}'


def study_csv(result: Plain) -> str:
  """Every probe of every run, one a row, with what produced it."""
  source = {
    'protocol': result['protocol'],
    'config': result['config_fingerprint'],
    'corpus': result['corpus']['fingerprint'],
    'versions': ' '.join(f'{k}={v}' for k, v in result['versions'].items()),
  }
  text = io.StringIO()
  columns = ['steps', 'tokens', 'loss', 'recall', 'cpu', 'steady', 'wall']
  writer = csv.writer(text, lineterminator='\n')
  writer.writerow(['arm', 'seed', *columns, *source])
  for row in result['arms']:
    for seed, found in zip(result['seeds'], row['curves']):
      for values in zip(*(found[name] for name in columns)):
        writer.writerow([row['name'], seed, *values, *source.values()])
  return text.getvalue()


def _bullets(lines: list[str]) -> str:
  return '\n'.join(f'- {line}' for line in lines)


def _done(result: Plain) -> list[str]:
  config, plan = result['config'], result['plan']
  lines = [f'`{row["name"]}`: {row["what"]}.' for row in result['arms']]
  lines.append(
    f'Every arm takes {plan["steps"]} steps of {config["tokens_per_step"]:,} '
    f'tokens on the same text under the same learning rate, with '
    f'{counted(config["seeds"], "seed")} of parameters and order; half of the '
    'rows hide values and ask for them, and the answers of a row weigh half as '
    'much as its tokens.'
  )
  if plan['steps'] < plan['asked']:
    lines.append(
      f'{plan["asked"]} steps were asked for; {plan["steps"]} fit into '
      f'{config["minutes"]:g} minutes, so all arms were shortened alike.'
    )
  lines.append(
    f'Curves are of {config["probe_rows"]} held-out rows every '
    f'{config["probe_every"]} steps, in the second half of the full length '
    f'whatever the arm trains at; the end is scored on {config["rows"]} rows '
    f'and {result["rules"]["questions"]} questions. The time of these '
    'measurements is counted only in arms that decide by them (`quality`); '
    'programs are compiled anew in every run, and that time is counted unless '
    'it says otherwise.'
  )
  if any(row['family'] == 'regulariser' for row in result['arms']):
    lines.append(
      'Regularisers stand on `steps`, not on `constant`: in this budget '
      'constant length hardly learns to recall, so they would be judged by a '
      'model that does not look back yet.'
    )
  return lines


def _reached(result: Plain) -> list[list[str]]:
  head = [
    'arm',
    *_COSTS.values(),
    'CPU-seconds in all',
    'waited for compiling (s)',
    'recall at CPU-seconds',
    'at equal time',
  ]
  rows = [
    [
      f'`{row["name"]}`',
      *(times(row['reach'][cost]) for cost in _COSTS),
      _seconds(row['ends']['cpu']),
      _seconds(row['compile_seconds']),
      _seconds(row['learned']['cpu']),
      _bits(row['equal_time']),
    ]
    for row in result['arms']
  ]
  return [head, *rows]


def _scored(result: Plain) -> list[list[str]]:
  head = ['arm', 'loss', 'over all positions', 'recall', 'loss over constant']
  head += ['recall over constant', 'verdict']
  rows = []
  for row in result['arms']:
    over = row['over'].get('constant')
    rows.append(
      [
        f'`{row["name"]}`',
        loss(row['loss']),
        f'{row["whole_loss"]["mean"]:.3f}',
        share(row['recall']),
        signed(over['loss']) if over else '-',
        points(over['recall']) if over else '-',
        over['verdict'] if over else '-',
      ]
    )
  return [head, *rows]


def _over_base(result: Plain) -> list[list[str]]:
  head = ['arm', 'on', 'loss', 'recall', 'verdict']
  rows = []
  for row in result['arms']:
    over = row['over'].get('base')
    if over:
      rows.append(
        [
          f'`{row["name"]}`',
          f'`{row["base"]}`',
          f'{signed(over["loss"])} ({over["loss_verdict"]})',
          f'{points(over["recall"])} ({over["recall_verdict"]})',
          over['verdict'],
        ]
      )
  return [head, *rows]


def _on_base(row: Plain) -> str:
  if not row['base']:
    return '-'
  return f'{row["over"]["base"]["verdict"]} ({row["base"]})'


def _seconds(spread: Plain) -> str:
  if spread['median'] is None:
    return f'never ({spread["reached"]} of {spread["of"]})'
  if spread['of'] == 1:
    return f'{spread["median"]:.0f}'
  high = 'never' if spread['high'] is None else f'{spread["high"]:.0f}'
  return f'{spread["median"]:.0f} ({spread["low"]:.0f} to {high})'


def _bits(spread: Plain) -> str:
  if spread['median'] is None:
    return 'not measured by then'
  return f'{spread["median"]:+.3f}'


def _source(result: Plain) -> list[str]:
  corpus, plan = result['corpus'], result['plan']
  return [
    f'Protocol {result["protocol"]}, config `{result["config_fingerprint"]}` '
    '(in full in `study.json`), seeds '
    f'{", ".join(map(str, result["seeds"]))}.',
    f'Corpus: {corpus["name"]}, {corpus["bytes"]:,} bytes in '
    f'{corpus["files"]:,} files, fingerprint `{corpus["fingerprint"]}`.',
    'Versions: '
    + ', '.join(f'{k} {v}' for k, v in result['versions'].items())
    + '.',
    f'Projected: {plan["minutes"]:.0f} minutes. Trained: '
    f'{result["seconds"] / 60:.0f} minutes on the clock, scoring '
    f'{result["scoring_seconds"] / 60:.0f}.',
  ]
