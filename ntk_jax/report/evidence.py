"""What was done, what was excluded, and how sure all of it is."""

from __future__ import annotations

from ntk_jax.report.imported import how_tuned, imported
from ntk_jax.report.part import CONTROL, Part
from ntk_jax.report.phrases import Plain, bits, counted, listed, percent, share

_FEW_SEEDS = 5  # a bootstrap over fewer models gives too narrow intervals


def sure_in_short(result: Plain) -> str:
  """One sentence on what the intervals cover."""
  rules, seeds = result['rules'], result['seeds']
  read = f'{rules["rows"]} held-out rows and {rules["questions"]} questions'
  if len(seeds) == 1:
    return (
      '**How sure is that?** The 95% intervals in brackets cover the choice '
      f'of {read} per length. {_one_model(result)}'
    )
  return (
    '**How sure is that?** The 95% intervals in brackets cover training again '
    f'({len(seeds)} models) and the choice of {read} per length.'
  )


def what_was_done(result: Plain) -> list[str]:
  """The job in three lines."""
  base, lengths, config = result['base'], result['lengths'], result['config']
  corpus, compared = result['corpus'], Part.compared(result)
  models = counted(len(result['seeds']), 'model')
  tuned = Part.fine_tuned(result)
  methods = [tuned.short(r) for r in tuned.rows if r['name'] != CONTROL]
  start = imported(result)
  start = start or [
    f'**Trained**: {models} of {base["parameters"] / 1e6:.2f} million '
    f'parameters for {base["steps"]:,} steps ({base["tokens"]:,} bytes) at '
    f'{lengths["train"]:,} tokens, a token being a byte, on '
    f'{corpus["name"]}: {corpus["files"]:,} files, {corpus["held_out_files"]:,}'
    ' of them held out.',
  ]
  return [
    *start,
    f'**Compared**: {counted(len(compared.rows), "method")} without training, '
    f'all set for {lengths["target"]:,} tokens, at {lengths["all"][0]:,} to '
    f'{lengths["all"][-1]:,}: by the loss on held-out text, in bits per byte '
    'over the second half of each length (lower is better), and by retrieval, '
    'the share of values hidden in the text that the model finds (chance is '
    f'{percent(result["rules"]["chance"])}).',
    f'**Fine-tuned**: {listed([*methods, "plain continuation"])} for '
    f'{counted(config["tune_steps"], "step")} at {tuned.target}, and measured '
    f'again{how_tuned(result)}.',
  ]


def excluded(part: Part) -> list[str]:
  """One line for each method that lost retrieval, and why that matters."""
  lowest = min(part.rows, key=lambda row: part.loss(row)['mean'])
  lines = []
  for row in part.rows:
    if row['status'] != 'excluded':
      continue
    line = f'{part.short(row)} keeps {share(row["relative"])} of retrieval.'
    if row is lowest:
      line += ' It has the lowest loss of all'
      if part.ranked:
        first = part.short(part.ranked[0])
        line += f', {bits(row["behind"])} below {first}'
      line += ': perplexity alone would have chosen it.'
    if row['window']:
      line += (
        f' A query sees the last {row["window"]:,} tokens only; what stands '
        'before them is out of reach.'
      )
    lines.append(line)
  return lines


def how_sure(result: Plain) -> list[str]:
  """What the numbers do and do not say."""
  rules, base, seeds = result['rules'], result['base'], result['seeds']
  train = f'{result["lengths"]["train"]:,}'
  lines = [
    f'The unextended model finds {share(base["retrieval"])} of the hidden '
    f'values at {train} tokens; what a method keeps is relative to that. A '
    f'method is excluded if the whole interval is below '
    f'{percent(rules["keeps"])}, undecided if the interval spans it.',
    'Losses are compared row by row. Two methods tie if the 95% interval of '
    'the paired difference contains 0, or if they are less than '
    f'{rules["same"]} bits apart: about what two trainings of one model '
    'differ by.',
  ]
  if result.get('checkpoint'):
    lines.append(
      'The intervals resample test rows; they do not say what fine-tuning '
      'again would change.'
    )
  elif len(seeds) == 1:
    lines.append(
      f'One model was trained (seed {seeds[0]}): the intervals resample test '
      'rows and do not say what training again would change. `--seeds=3` '
      'trains three.'
    )
  else:
    by_seed = listed(percent(found) for found in base['retrieval_by_seed'])
    lines.append(
      f'{len(seeds)} models were trained (seeds {listed(map(str, seeds))}): '
      'the intervals resample models, then rows. The unextended ones find '
      f'{by_seed} at {train} tokens.'
    )
  if 1 < len(seeds) < _FEW_SEEDS:
    lines.append(
      f'{len(seeds)} models are few to resample: the intervals are rather too '
      'narrow.'
    )
  if _has_certainty(result):
    off = 300 / rules['questions']
    lines.append(
      'Where all questions were answered alike the interval has no width; by '
      f'the rule of three the share may still be {off:.1f} points off.'
    )
  lines.append(
    f'{_one_kind(result)} is of one kind; other models and texts may order the '
    'methods otherwise. `--corpus=PATH` takes your own text.'
  )
  return [*lines, *result['notes']]


def _one_model(result: Plain) -> str:
  if result.get('checkpoint'):
    return 'One model is extended: they do not say what another would show.'
  return (
    'One model was trained, so they do not say what training again would '
    'change.'
  )


def _one_kind(result: Plain) -> str:
  if result.get('checkpoint'):
    return 'The text'
  return 'The model is small and the text'


def _has_certainty(result: Plain) -> bool:
  """Whether some share at L0 or at the target has an interval of no width."""
  target = result['lengths']['all'].index(result['lengths']['target'])
  rows = result['compared']['rows'] + result['tuned']['rows']
  shares = [
    result['base']['retrieval'],
    *(r['retrieval'][target] for r in rows),
  ]
  return any(share['low'] == share['high'] for share in shares)
