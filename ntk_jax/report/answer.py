"""The answer: which method to use, in one paragraph."""

from __future__ import annotations

from ntk_jax.report.part import CONTROL, Part
from ntk_jax.report.phrases import (
  Plain,
  bits,
  counted,
  listed,
  percent,
  share,
  signed,
)


def answer(part: Part) -> str:
  """The answer in one paragraph of Markdown, its gist in bold."""
  say = {
    'winner': _winner,
    'tie': _tie,
    'undecided': _undecided,
    'none_passes': _none_passes,
    'not_learned': _not_learned,
  }
  return say[part.answer['kind']](part)


def answer_after_tuning(result: Plain) -> str:
  """One sentence for those who can train a little."""
  part = Part.fine_tuned(result)
  steps = f'With {counted(result["config"]["tune_steps"], "step")}'
  start = f'{steps} of fine-tuning at {part.target}'
  if part.answer['take'] is None:
    why = {
      'none_passes': 'every one still loses retrieval',
      'undecided': 'none is sure to keep retrieval',
      'not_learned': 'nothing can be ranked either',
    }
    return f'{start}, {why[part.answer["kind"]]} (see below).'
  take = part.row(part.answer['take'])
  how = {
    'winner': 'is best',
    'tie': 'is one of the best',
    'undecided': 'is the best of those that are sure to keep retrieval',
  }
  return (
    f'{start}, {part.short(take)} {how[part.answer["kind"]]}: '
    f'{part.loss(take)["mean"]:.2f} bits per byte (see below).'
  )


def _winner(part: Part) -> str:
  first, *others = part.ranked
  loss = f'{part.loss(first)["mean"]:.2f} bits per byte'
  if others:
    reach = (
      f'it has the lowest loss of the {_field(part)}: {loss}. The next, '
      f'{part.short(others[0])}, is {bits(others[0]["behind"])} behind'
    )
  else:
    reach = (
      f'it alone of {counted(len(part.rows), "method")} keeps retrieval; its '
      f'loss is {loss}'
    )
  start = f'**Use {_choice(part, first)}.** {_where(part)} {reach}.'
  return f'{start} {_price(part, first)}'


def _tie(part: Part) -> str:
  group = [row for row in part.ranked if row['group'] == 1]
  take = part.row(part.answer['take'])
  others = [row for row in group if row is not take]
  losses = sorted(part.loss(row)['mean'] for row in group)
  reasons = {
    'alone': 'it alone of them is sure to keep retrieval',
    'least_change': f'it changes the loss at {part.train} the least',
    'fixed': f'none of them changes the loss at {part.train} less, and its '
    'frequencies do not depend on the length',
    'loss': f'all of them change the loss at {part.train} alike, and it has '
    'the lowest at the target',
  }
  doubtful = [row for row in others if row['status'] == 'undecided']
  return (
    f'**Use {_choice(part, take)}. It ties with '
    f'{listed(map(part.short, others))}.** {_where(part)} their losses, '
    f'{losses[0]:.2f} to {losses[-1]:.2f} bits per byte, cannot be told apart: '
    'the interval of the paired difference contains 0, or the difference is '
    f'below {part.result["rules"]["same"]} bits. Take this one because '
    f'{reasons[part.answer["why"]]}. {_price(part, take)}'
    f'{_doubts(part, doubtful)}'
  )


def _undecided(part: Part) -> str:
  first = part.ranked[0]
  group = [row for row in part.ranked if row['group'] == 1]
  loss = f'{part.loss(first)["mean"]:.2f} bits per byte'
  more = 4 * part.result['rules']['rows']
  advice = f' More rows (`--rows={more}`) narrow the intervals.'
  if part.answer['take'] is None:
    return (
      '**No firm answer: no method is sure to keep retrieval.** '
      f'{_where(part)} {part.short(first)} has the lowest loss of the '
      f'{_field(part)}: {loss}.{_doubts(part, part.ranked)}{advice}'
    )
  take = part.row(part.answer['take'])
  return (
    f'**Use {_choice(part, take)}, until more is known.** {_where(part)} '
    f'{part.short(first)} has the lowest loss, {loss}, but is not sure to '
    f'keep retrieval; {part.short(take)}, {bits(take["behind"])} behind, is. '
    f'{_price(part, take)}{_doubts(part, group)}{advice}'
  )


def _none_passes(part: Part) -> str:
  most = max(part.rows, key=lambda row: row['relative']['mean'])
  text = (
    f'**Use none of these {counted(len(part.rows), "method")} as it is.** '
    f'{_where(part)} every one loses retrieval: the whole 95% interval of what '
    f'it finds, relative to the unextended model at {part.train}, is below '
    f'{percent(part.result["rules"]["keeps"])}. The most is kept by '
    f'{part.short(most)}: {share(most["relative"])}.'
  )
  if part.tuned:
    return f'{text} More steps or a smaller target may do.'
  if Part.fine_tuned(part.result).answer['take'] is not None:
    return f'{text} Fine-tuning brings it back.'
  return f'{text} More training at the target or a smaller target may do.'


def _not_learned(part: Part) -> str:
  rules, found = part.result['rules'], part.result['base']['retrieval']
  if part.tuned:
    return (
      '**No answer here either**, for what fine-tuning keeps is measured '
      f'against a model that {_lacks(part)}.'
    )
  if part.result.get('checkpoint'):
    return (
      '**No ranking: the model does not recall what is hidden in text.** At '
      f'its own length of {part.train} it finds {share(found)} of the hidden '
      f'values (chance is {percent(rules["chance"])}). It was never trained '
      'on these questions: a value stands behind its key somewhere, and the '
      'key comes again; reading on is all it takes. Below '
      f'{percent(rules["learned"])} nothing is ranked: loss alone misleads, '
      'for a model that sees nothing but the last few words can have the '
      'lowest. The losses below are what there is to go by.'
    )
  return (
    '**No answer: the model has not learned retrieval.** At its own length of '
    f'{part.train} it finds {share(found)} of the hidden values (chance is '
    f'{percent(rules["chance"])}). Below {percent(rules["learned"])} nothing '
    'is ranked: loss alone misleads, for a model that sees nothing but the '
    'last few words can have the lowest. Train longer '
    '(`--config.train_steps`), or give more text (`--corpus`).'
  )


def _lacks(part: Part) -> str:
  if part.result.get('checkpoint'):
    return 'does not recall what is hidden'
  return 'has not learned retrieval'


def _choice(part: Part, row: Plain) -> str:
  if row['name'] == CONTROL and not part.tuned:
    return 'no method: the unextended model is good enough'
  return part.full(row)


def _where(part: Part) -> str:
  """The beginning of a sentence: at which length, after what."""
  if part.tuned:
    steps = counted(part.result['config']['tune_steps'], 'step')
    return f'After {steps} at {part.target}'
  lengths = part.result['lengths']
  times = lengths['target'] / lengths['train']
  return (
    f'At {part.target}, {times:g} times the {lengths["train"]:,} of training,'
  )


def _field(part: Part) -> str:
  """How many compete, and whether all of them are sure."""
  sure = all(row['status'] == 'pass' for row in part.ranked)
  text = f'{len(part.ranked)} that keep retrieval'
  return text if sure else f'{text} or may keep it'


def _price(part: Part, row: Plain) -> str:
  """What a method keeps and what it costs at L0."""
  change = row['change']
  if change['low'] > 0:
    cost = f'raises the loss at {part.train} by {bits(change)}'
  elif change['high'] < 0:
    cost = f'lowers the loss at {part.train} by {bits(change)}'
  else:
    cost = f'does not change the loss at {part.train} measurably'
    cost += (
      f' ({signed(change)} bits)' if change['low'] < change['high'] else ''
    )
  text = (
    f'It finds {share(row["relative"])} of what the unextended model finds at '
    f'{part.train}, and {cost}.'
  )
  if row['per_length']:
    text += (
      ' Its frequencies depend on the length, so cached keys must be '
      'recomputed as the text grows.'
    )
  return text


def _doubts(part: Part, rows: list[Plain]) -> str:
  """A sentence, after a space, on methods that may lose retrieval."""
  if not rows:
    return ''
  each = listed(f'{part.short(r)} keeps {share(r["relative"])}' for r in rows)
  keeps = percent(part.result['rules']['keeps'])
  return (
    f' Undecided, because the interval spans the {keeps} asked for: {each}.'
  )
