"""The problem in words: what length does without a method, and with one."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ntk_jax.report.part import CONTROL
from ntk_jax.report.phrases import Plain, counted, listed

_SAME_ENTROPY = 0.01  # of 1; less is no change worth a word
_SAME_FACTOR = 1.1  # between two gradient norms


class _Measure(NamedTuple):
  """How one panel is told: its name, its numbers, what is no change."""

  name: str
  number: Callable[[float], str]
  same: Callable[[float, float], bool]


def problem(result: Plain) -> str:
  """One paragraph on the figure, made from its numbers alone."""
  facts, lengths = result['problem'], result['lengths']
  bits = result['rules']['same']
  measures = {
    'entropy': _Measure(
      '**Attention entropy** (1 is even over all keys that a query sees)',
      '{:.3f}'.format,
      lambda a, b: abs(a - b) < _SAME_ENTROPY,
    ),
    'far_loss': _Measure(
      'The **loss far in the text** (in the last half, bits per byte)',
      '{:.2f}'.format,
      lambda a, b: abs(a - b) < bits,
    ),
    'grad_norm': _Measure(
      'The **gradient norm** (of the mean loss)',
      '{:.3g}'.format,
      lambda a, b: max(a, b) < _SAME_FACTOR * min(a, b),
    ),
  }
  start = (
    f'The same {counted(facts["texts"], "held-out text")} of '
    f'{facts["text_tokens"]:,} tokens, cut into pieces of each length, so that '
    f'only the context differs; from {lengths["train"]:,} tokens, the length '
    f'of training, to {lengths["target"]:,}:'
  )
  return ' '.join(
    [start]
    + [_course(result, key, measure) for key, measure in measures.items()]
    + [_relief(result)]
  )


def _course(result: Plain, key: str, measure: _Measure) -> str:
  """How one measure goes from L0 to the target, line by line."""
  facts = result['problem']
  courses = []
  for role in ('untreated', 'treated', 'tuned'):
    if facts[role] is None:
      continue
    before, after = _ends(result, facts[role][key])
    first, last = measure.number(before), measure.number(after)
    if measure.same(before, after):
      how = f'stays at {first}' if first == last else f'stays near {first}'
    else:
      verb = 'rises' if after > before else 'falls'
      how = f'{verb} from {first} to {last}'
    courses.append(f'{how} {_with(role, facts[role])}')
  return f'{measure.name} {"; it ".join(courses)}.'


def _relief(result: Plain) -> str:
  """What length costs untreated, and how much of that each line leaves."""
  facts, same = result['problem'], result['rules']['same']
  before, after = _ends(result, facts['untreated']['far_loss'])
  rise = after - before
  if rise < same:
    return 'So here length alone costs no loss that would need a method.'
  start = (
    f'So length costs {rise:.2f} bits per byte at the target without a method'
  )
  remains = [
    f'{_share(result, role, before, rise)} {_with(role, facts[role])}'
    for role in ('treated', 'tuned')
    if facts[role] is not None
  ]
  return f'{start}; of that, {listed(remains)}.' if remains else f'{start}.'


def _share(result: Plain, role: str, before: float, rise: float) -> str:
  """How much of the untreated rise in loss a line has at the target."""
  _, reached = _ends(result, result['problem'][role]['far_loss'])
  left = round(100 * (reached - before) / rise)
  return f'{left}% remains' if left > 0 else 'nothing remains'


def _ends(result: Plain, values: list[float]) -> tuple[float, float]:
  """A line at the length of training, and at the target."""
  lengths = result['lengths']
  at = result['problem']['lengths'].index
  return values[at(lengths['train'])], values[at(lengths['target'])]


def _with(role: str, line: Plain) -> str:
  """Under what a line was measured."""
  if role == 'untreated':
    return 'without a method'
  if line['name'] == CONTROL:
    return 'after plain continuation'
  name = f'`{line["name"]}`'
  return f'after fine-tuning with {name}' if role == 'tuned' else f'with {name}'
