"""How lines and figures look: one style, and a colour for each method."""

from __future__ import annotations

from typing import Any, NamedTuple

Plain = dict[str, Any]  # a part of what report.json holds

STYLE = {
  'font.family': 'DejaVu Sans',
  'font.size': 10,
  'axes.titlesize': 11,
  'axes.titlelocation': 'left',
  'axes.titleweight': 'bold',
  'axes.titlepad': 18,
  'axes.spines.top': False,
  'axes.spines.right': False,
  'axes.edgecolor': '#666666',
  'axes.grid': True,
  'axes.axisbelow': True,
  'grid.color': '#e6e6e6',
  'grid.linewidth': 0.8,
  'lines.linewidth': 2.0,
  'savefig.dpi': 140,
  'figure.facecolor': 'white',
}
# Okabe and Ito's palette without its yellow, which is too faint for lines.
COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9')
GREY = '#8c8c8c'
DASHES = (
  (5, 2),
  (2, 1.5),
  (6, 2, 1.5, 2),
  (1, 1.5),
  (9, 3),
  (4, 2, 1, 2, 1, 2),
)
SOLID = (1, 0)


class Look(NamedTuple):
  """Colour and dashes of a line; excluded methods are thinner."""

  colour: str
  dashes: tuple[float, ...]
  excluded: bool


def looks_of(result: Plain, tuned: bool = False) -> dict[str, Look]:
  """Colour and dashes by method; a colour means the same in every plot."""
  parts = [result['compared']['rows'], result['tuned']['rows']]
  kept = [r['name'] for p in parts for r in p if r['status'] != 'excluded']
  looks = {}
  for i, name in enumerate(dict.fromkeys(kept)):
    turn, colour = divmod(i, len(COLOURS))
    dashes = DASHES[turn % len(DASHES)] if turn else SOLID
    looks[name] = Look(COLOURS[colour], dashes, False)
  lost = [r['name'] for r in parts[tuned] if r['status'] == 'excluded']
  for i, name in enumerate(lost):
    looks[name] = Look(GREY, DASHES[i % len(DASHES)], True)
  return looks


def stroke(look: Look) -> Plain:
  """Settings of a line."""
  return {
    'color': look.colour,
    'dashes': look.dashes,
    'linewidth': 1.3 if look.excluded else 2.0,
    'zorder': 2 if look.excluded else 3,
  }


def name_of(row: Plain, tuned: bool) -> str:
  """A row's name; fine-tuned, 'none' is the control."""
  name = row['name']
  if tuned:
    name = 'plain continuation' if name == 'none' else f'{name}, tuned'
  return f'{name} (?)' if row['status'] == 'undecided' else name


def unit(result: Plain) -> str:
  """What losses are per: a byte, or a token of a checkpoint's vocabulary."""
  return result.get('unit', 'byte')
