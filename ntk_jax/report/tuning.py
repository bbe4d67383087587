"""Whether fine-tuning pays, and whether the method matters after it."""

from __future__ import annotations

from ntk_jax.report.answer import answer
from ntk_jax.report.part import CONTROL, Part
from ntk_jax.report.phrases import Plain, bits, points, signed


def tuning(result: Plain) -> list[str]:
  """Paragraphs: the answer, what tuning brought, and what the method did."""
  part = Part.fine_tuned(result)
  methods = [row for row in part.rows if row['name'] != CONTROL]
  if not methods:
    return [answer(part), 'No method was fine-tuned, only the control.']
  take = part.answer['take']
  best = next((row for row in methods if row['name'] == take), methods[0])
  return [
    answer(part),
    _against_before(part, best),
    _against_control(part, best),
  ]


def _against_before(part: Part, row: Plain) -> str:
  """A fine-tuned method against the same method before."""
  loss, found = row['over_before']['loss'], row['over_before']['retrieval']
  name = part.short(row)
  if _differs(part, loss) and loss['mean'] < 0:
    text = (
      f'**Fine-tuning pays**: it lowers the loss of {name} at the target by '
      f'{bits(loss)}'
    )
  else:
    text = (
      '**Fine-tuning does not pay measurably**: it changes the loss of '
      f'{name} at the target by {signed(loss)} bits'
    )
  return f'{text} and changes what it finds there by {points(found)}.'


def _against_control(part: Part, row: Plain) -> str:
  """A fine-tuned method against plain continuation."""
  loss, found = row['over_control']['loss'], row['over_control']['retrieval']
  return (
    f'**{_verdict(part, row)}** Plain continuation is as many steps at the '
    f'same length without a method. Against it, the loss of {part.short(row)} '
    f'is {signed(loss)} bits and what it finds {points(found)}.'
  )


def _verdict(part: Part, row: Plain) -> str:
  """Whether the method was worth it, as a sentence."""
  name, control = part.short(row), part.row(CONTROL)
  keeps = row['status'] in ('pass', 'undecided')
  if control['status'] == 'not_ranked':
    return 'Whether the method matters cannot be said.'
  if control['status'] == 'excluded':
    if not keeps:
      return f'Both {name} and plain continuation lose retrieval.'
    surely = 'keeps it' if row['status'] == 'pass' else 'may keep it'
    return f'The method matters: without it retrieval is lost, {name} {surely}.'
  if not keeps:
    return f'Plain continuation is better: {name} loses retrieval.'
  loss, found = row['over_control']['loss'], row['over_control']['retrieval']
  if _differs(part, loss):
    if loss['mean'] < 0:
      return 'The method matters: plain continuation has a higher loss.'
    return 'The method is not needed: plain continuation has a lower loss.'
  if found['low'] > 0:
    return 'The method matters a little: the losses tie, but it finds more.'
  return 'The method brings nothing that can be measured: the losses tie.'


def _differs(part: Part, loss: Plain) -> bool:
  """Whether a paired difference is none that counts as a tie."""
  clear = not loss['low'] <= 0 <= loss['high']
  return clear and abs(loss['mean']) >= part.result['rules']['same']
