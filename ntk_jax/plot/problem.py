"""What length does to a model, without a method and with one."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ntk_jax.plot.frame import (
  Label,
  mark_lengths,
  place,
  room_for,
  write_foot,
  write_labels,
)
from ntk_jax.plot.look import (
  COLOURS,
  DASHES,
  SOLID,
  Look,
  Plain,
  looks_of,
  stroke,
)

_PANELS = {
  'entropy': ('Attention entropy', 'H / ln n of late queries'),
  'far_loss': ('Loss far in the text', 'bits per byte in the last half'),
  'grad_norm': ('Gradient norm', 'of the mean loss'),
}
_UNTREATED = Look('#333333', SOLID, False)


def problem(result: Plain) -> Figure:
  """Entropy, far loss and gradient norm by length, untreated and treated."""
  facts = result['problem']
  lines = {
    role: facts[role]
    for role in ('untreated', 'treated', 'tuned')
    if facts[role] is not None
  }
  looks = {role: _look(result, role, line) for role, line in lines.items()}
  figure = Figure(figsize=(12, 4.4))
  panels = figure.subplots(1, len(_PANELS))
  for axes, (measure, (title, unit)) in zip(panels, _PANELS.items()):
    for role, line in lines.items():
      _draw(axes, facts['lengths'], line[measure], looks[role])
    axes.set(title=title, ylabel=unit, xlabel='length (tokens)')
    mark_lengths(axes, result['lengths'])
  last = facts['lengths'][-1]
  labels = [
    Label(_words(role, line), last, line[measure][-1], looks[role].colour)
    for role, line in lines.items()
  ]
  place(figure, left=0.75, right=room_for(labels), panels=len(panels), gap=0.8)
  write_labels(panels[-1], labels)
  write_foot(
    figure,
    f'{facts["texts"]} held-out texts of {facts["text_tokens"]:,} tokens, cut '
    'into pieces of each length: the same bytes throughout; entropy of '
    f'{facts["queries"]} queries in last halves, 1 is even over all n keys',
  )
  return figure


def _draw(
  axes: Axes, lengths: list[int], values: list[float], look: Look
) -> None:
  axes.plot(lengths, values, marker='o', markersize=4, **stroke(look))
  axes.set(xscale='log', xticks=lengths)
  axes.minorticks_off()
  axes.xaxis.set_major_formatter(lambda value, _: f'{value:,.0f}')


def _look(result: Plain, role: str, line: Plain) -> Look:
  """The method's colour of the other plots; dashed until it is tuned."""
  if role == 'untreated':
    return _UNTREATED
  look = looks_of(result, tuned=True).get(line['name'])
  colour = COLOURS[0] if look is None or look.excluded else look.colour
  return Look(colour, SOLID if role == 'tuned' else DASHES[0], False)


def _words(role: str, line: Plain) -> str:
  name = line['name']
  if name == 'none':
    return 'plain continuation' if role == 'tuned' else 'no method'
  return f'{name}, tuned' if role == 'tuned' else name
