"""What a study's numbers say, in sentences. They read study.json alone."""

from __future__ import annotations

from ntk_jax.report.phrases import Plain, listed, percent, share
from ntk_jax.study.outcome import DRIVEN


def arm_of(result: Plain, name: str) -> Plain | None:
  """An arm of the study by name, None if it was not in it."""
  return next((row for row in result['arms'] if row['name'] == name), None)


def times(spread: Plain) -> str:
  """A ratio over seeds.

  >>> spread = {'low': 0.5, 'high': None, 'reached': 2, 'of': 3}
  >>> times(spread | {'median': 0.625})
  '0.62x (0.50 to never)'
  >>> times(spread | {'median': None, 'reached': 1})
  'never (1 of 3)'
  """
  if spread['median'] is None:
    return f'never ({spread["reached"]} of {spread["of"]})'
  if spread['of'] == 1:
    return f'{spread["median"]:.2f}x'
  low, high = (
    'never' if spread[k] is None else f'{spread[k]:.2f}'
    for k in ('low', 'high')
  )
  return f'{spread["median"]:.2f}x ({low} to {high})'


def bar(result: Plain) -> str:
  """Whether growth by loss meets the bar, arm by arm."""
  rows = [r for r in result['arms'] if r['name'] in DRIVEN]
  if not rows:
    return 'Growth by loss was not among the arms.'
  most = result['rules']['bar']
  met = [meets(result, row) for row in rows]
  head = 'One of two ways to grow by loss meets the bar.'
  if len(set(met)) == 1:
    head = f'Growth by loss {"meets" if met[0] else "does not meet"} the bar.'
  each = listed(
    f'`{row["name"]}` {_came(row["reach"]["cpu"])}'
    + (' (met)' if ok else ' (not met)')
    for row, ok in zip(rows, met)
  )
  return (
    f'**{head}** The bar is {most:g}x the CPU-seconds of constant length to '
    f'the held-out loss at {result["full"]} tokens with which it ends, by the '
    f'median over seeds: {each}.'
  )


def meets(result: Plain, row: Plain) -> bool:
  """Whether an arm is as fast as the bar asks, by its median."""
  median = row['reach']['cpu']['median']
  return median is not None and median <= result['rules']['bar']


def _came(spread: Plain) -> str:
  if spread['median'] is None:
    return f'came there in {spread["reached"]} of {spread["of"]}'
  return f'took {times(spread)}'


def recall_learned(result: Plain) -> str:
  """Which arms learned to recall what is hidden, and which did not."""
  least = result['rules']['learned']
  whole = [r for r in result['arms'] if _seeds_that_learned(r, least)[0]]
  none = [r for r in result['arms'] if not _seeds_that_learned(r, least)[1]]
  some = [r for r in result['arms'] if r not in whole and r not in none]
  parts = [
    f'{what} {listed(_code(row) for row in rows)}'
    for what, rows in (
      ('every seed of', whole),
      ('some seeds of', some),
      ('none of', none),
    )
    if rows
  ]
  best = max(result['arms'], key=lambda row: row['recall']['mean'])
  return (
    f'{percent(least)} or more of what is hidden is found at the end by '
    f'{"; ".join(parts)}. {_code(best)} finds most, {share(best["recall"])}; '
    f'chance is {percent(result["rules"]["chance"])}.'
  )


def near_readers(result: Plain) -> list[str]:
  """A line on arms of a lower loss that find nothing, if there are any."""
  least = result['rules']['chance'] + result['rules']['same_recall']
  rows = [
    row
    for row in result['arms']
    if row['base']
    and row['over']['constant']['loss_verdict'] == 'better'
    and row['recall']['mean'] < least
  ]
  if not rows:
    return []
  each = listed(_code(row) for row in rows)
  return [
    f'**A lower loss is not far reading:** of {each} the loss is below that of '
    '`constant`, and next to nothing of what is hidden is found: what was '
    'learned is near by.'
  ]


def _code(row: Plain) -> str:
  return f'`{row["name"]}`'


def _seeds_that_learned(row: Plain, least: float) -> tuple[bool, bool]:
  """Whether all did, and whether any did."""
  found = [x >= least for x in row['by_seed']['recall']]
  return all(found), any(found)


def lists(result: Plain) -> list[str]:
  """Which arms help, hurt, do both or cannot be told apart, each a line."""
  heads = {
    'helps': 'Help',
    'hurts': 'Hurt',
    'mixed': 'Better in one measure and worse in the other',
    'tie': 'Cannot be told from what they stand on',
  }
  lines = []
  for kind, head in heads.items():
    rows = [
      row
      for row in result['arms']
      if row['base'] and row['over']['base']['verdict'] == kind
    ]
    if rows:
      each = listed(f'{_code(row)} (on `{row["base"]}`)' for row in rows)
      lines.append(f'**{head}:** {each}.')
  return lines


def limits(result: Plain) -> list[str]:
  """Where so small a study says nothing."""
  lines = [
    f'{result["tokens"] / 1e6:.2g} million tokens, a model of '
    f'{result["parameters"] / 1e6:.2g} million parameters and '
    f'{result["full"]} tokens of length: what is found is how fast a model '
    'begins to learn, not how good it becomes. Constant length catches up '
    'when it is trained for longer; nothing here says at which loss the two '
    'would end.',
    'Time is that of a CPU. Attention is a small part of a step at '
    f'{result["full"]} tokens and the larger part at 32,000: growth saves more '
    'there, and a part of the advantage here is not time saved but earlier '
    'learning at short lengths.',
    'Hidden values stand for retrieval. That they are learned at short '
    'lengths first is a property of the task as much as of growth.',
  ]
  for names, text in _LIMITS:
    if any(arm_of(result, name) for name in names):
      lines.append(text)
  if result['epochs'] < 1:
    lines.append(
      f'No text is read twice ({result["epochs"]:.2f} epochs): what a '
      'regulariser does against overfitting cannot show. A tie or a small loss '
      'here is no word against it in a run of many epochs.'
    )
  return lines


_LIMITS = (
  (
    ('ltd',),
    'Random-LTD is published for its time at hundreds of billions of tokens. '
    'Four layers leave it two to drop from.',
  ),
  (
    ('long_ce',),
    'LongCE is published for models that can already read; its short pass '
    'says little while the long one has learned nothing from far away.',
  ),
  (
    ('pose', 'short'),
    'PoSE is published for fine-tuning a trained model with a scaled rope, '
    'not for training from the first step. Rows that are packed short come '
    'from more documents a step than rows cut out of long ones: a part of '
    'what `short` and `pose` gain in near text is that.',
  ),
  (
    ('quality', 'threshold'),
    'Stages are short here: the plateau test of the controller has few points '
    'to judge by, so thresholds and the longest stay do most of the work.',
  ),
)
