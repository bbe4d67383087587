"""The page of a diagnosis: each table, and in words what it means."""

from __future__ import annotations

from typing import Any

from ntk_jax.diagnostics import variants as kinds
from ntk_jax.diagnostics.findings import Findings
from ntk_jax.diagnostics.tables import (
  as_markdown,
  as_text,
  entropy_rows,
  gradient_rows,
  head_rows,
  kernel_rows,
  variance_rows,
)
from ntk_jax.diagnostics.words import Reader, temperature_words

_FORMS = (
  f'`{kinds.NAIVE}` and `{kinds.AWARE}` multiply the attention output (n0 is '
  'the reference; the second is `length_aware_gain` with the rho that is '
  f'measured in each layer); `{kinds.NORM}` is an RMS norm over each head; '
  f'`{kinds.LOGN}` multiplies q by ln n / ln n0, `{kinds.FLAT_ENTROPY}` by '
  f'sqrt(ln n / ln n0), `{kinds.FLAT_VARIANCE}` by sqrt(1 + ln(n / n0) / '
  's^2), at n above n0; the fits are those of the last section.'
)


def diagnosis_page(result: dict[str, Any], found: Findings) -> str:
  """The text of diagnose.md.

  Args:
    result: what diagnose.json holds.
    found: all measurements.
  """
  subject = result['subject']
  parts = [
    f'# What length does to {subject["name"]}',
    _about(result),
  ]
  for stage in found.stages():
    parts += _stage(result, found, stage)
  parts += ['## How to do it again', f'```bash\n{result["command"]}\n```']
  parts += [_bullets(_conditions(result))]
  return '\n\n'.join(parts) + '\n'


def diagnosis_text(result: dict[str, Any], found: Findings) -> str:
  """The tables that matter most, for a terminal."""
  parts = []
  for stage in found.stages():
    parts += [
      f'{stage}: Var(out) / Var(v) of attention, by length',
      as_text(variance_rows(found, stage)),
      f'{stage}: neural tangent kernel, from ' + _span(found, stage, 'trace'),
      as_text(kernel_rows(found, stage)),
    ]
    parts += temperature_words(result['suggested'][stage], result['reference'])
  return '\n\n'.join(parts).replace('**', '').replace('`', '')


def _about(result: dict[str, Any]) -> str:
  subject, settings = result['subject'], result['settings']
  state = (
    f'trained on rows of {subject["trained_length"]:,} tokens'
    if subject['trained_length']
    else f'not trained yet ({settings["seeds"]} x drawn)'
  )
  return (
    f'A decoder of {subject["parameters"]:,} parameters, {state}; held-out '
    f'text ({result["corpus"]["name"]}). Every length reads the ends of the '
    f'same {settings["rows"]} rows: the last 8 queries are the same, what '
    'changes is how much stands before them. Temperatures and gains change '
    f'nothing at the reference n0 = {result["reference"]}. {_FORMS}'
  )


def _stage(result: dict[str, Any], found: Findings, stage: str) -> list[str]:
  reader = Reader(found, stage)
  trained = _how_trained(result) if stage.startswith('after') else []
  slug = stage.replace(' ', '_')
  pairs = f'{result["pairs_alike"]} of {result["pairs"]} pairs'
  return [
    f'## {stage.capitalize()}: the variance of attention outputs',
    *trained,
    _bullets(reader.variance()),
    as_markdown(variance_rows(found, stage)),
    'Var(out) / Var(v), gains counted; the slope is that of its logarithm over '
    'ln n, in brackets its standard deviation between draws.',
    f'![Variance by length](variance_{slug}.png)',
    f'## {stage.capitalize()}: gradients',
    _bullets(reader.gradients()),
    as_markdown(gradient_rows(found, stage)),
    'Norm of the gradient of the mean loss, from the first to the last length, '
    'over the same targets.',
    f'## {stage.capitalize()}: the neural tangent kernel',
    _bullets(reader.kernel()),
    as_markdown(kernel_rows(found, stage)),
    f'From {_span(found, stage, "trace")}: last position, one random output '
    f'direction, {result["settings"]["contexts"]} contexts. Trace: mean '
    'diagonal, how far a step moves an output. Correlation: how alike samples '
    'look to training. Condition: how much slower the slowest combination of '
    'samples is learnt than the fastest. `attention` is wq, wk, wv and wo '
    f'together. {pairs} of contexts end in the same token, which makes them '
    'alike in the MLP and the embedding at any length and sets the condition '
    'number of `all`: compare it between rows of this table only.',
    f'![Kernel by length](kernel_{slug}.png)',
    f'## {stage.capitalize()}: heads',
    _bullets(reader.heads()),
    as_markdown(head_rows(found, stage, reader.own)),
    f'Of the model as it is, from {_span(found, stage, "ratio")}; "branch / '
    'stream" is the mean square of what attention adds over that of the '
    'residual stream. Heads one by one (of the first draw) are in '
    'measurements.csv.',
    f'![Heads by length](heads_{slug}.png)',
    f'## {stage.capitalize()}: a temperature from measurement',
    _bullets(
      temperature_words(result['suggested'][stage], result['reference'])
    ),
    'H / ln n by length, mean over layers and heads, the whole model under '
    'each:',
    as_markdown(entropy_rows(found, stage)),
  ]


def _how_trained(result: dict[str, Any]) -> list[str]:
  run = result['subject']['config']
  optimizer, data = run['optimizer'], run['data']
  return [
    'Each way to start was trained for as many steps: a run of its own of '
    f'{data["batch_rows"]} rows of {data["max_length"]:,} tokens, warm-up and '
    f'decay included, peak {optimizer["peak"]:g}. Gains were those of that '
    'length (or the longest measured one below it), one for all layers, and '
    'are in the parameters since. Temperatures are put on the first one '
    'afterwards.'
  ]


def _span(found: Findings, stage: str, quantity: str) -> str:
  variant = found.variants(stage, quantity)[0]
  lengths = found.lengths(stage, variant, quantity)
  return f'{lengths[0]:,} to {lengths[-1]:,} tokens'


def _bullets(lines: list[str]) -> str:
  return '\n'.join(f'- {line}' for line in lines)


def _conditions(result: dict[str, Any]) -> list[str]:
  corpus, settings = result['corpus'], result['settings']
  return [
    f'Protocol {result["protocol"]}; settings: '
    + ', '.join(f'{k} {v}' for k, v in settings.items())
    + '; seed '
    + str((result['subject'].get('config') or {}).get('seed', 'of the model'))
    + ' and on; the whole config is in diagnose.json.',
    f'Corpus: {corpus["name"]}, fingerprint `{corpus["fingerprint"]}`. '
    'Another gives other numbers.',
    'Versions: '
    + ', '.join(f'{k} {v}' for k, v in result['versions'].items())
    + f'; {result["seconds"]:,.0f} s.',
  ]
