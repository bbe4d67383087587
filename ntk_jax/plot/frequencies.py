"""What each method does to the pairs of a head."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from ntk_jax.plot.frame import (
  Label,
  height_of,
  place,
  room_for,
  write_above,
  write_labels,
  write_note,
)
from ntk_jax.plot.look import Plain, looks_of, name_of, stroke


def frequencies(result: Plain) -> Figure:
  """How much each method changes the turning speed of each pair."""
  rows, lengths = result['compared']['rows'], result['lengths']
  figure = Figure(figsize=(10, height_of(len(rows))))
  axes = figure.subplots()
  looks, alike = looks_of(result), {}
  for row in rows:
    alike.setdefault(tuple(row['multipliers']), []).append(row)
  lowest = lengths['train'] / lengths['target'] / 16
  labels = []
  for multipliers, group in alike.items():
    look = looks[group[0]['name']]
    seen = np.where(np.array(multipliers) < lowest, np.nan, multipliers)
    axes.plot(seen, marker='o', markersize=3.5, **stroke(look))
    last = np.flatnonzero(np.isfinite(seen))[-1]
    names = ', '.join(name_of(row, False) for row in group)
    labels.append(Label(names, last, seen[last], look.colour))
  axes.set_title(
    f'Turning speed of each pair at {lengths["target"]:,} tokens, as a '
    'multiple of the unextended'
  )
  axes.set_xlabel('pair of a head, fast to slow')
  axes.set_ylabel('multiplier of the frequency')
  axes.set_yscale('log', base=2)
  axes.yaxis.set_major_formatter(FuncFormatter(_as_fraction))
  axes.set_xlim(-0.5, len(rows[0]['multipliers']) - 0.5)
  _shade_slow_pairs(axes, result)
  place(figure, left=0.75, right=room_for(labels))
  write_labels(axes, labels)
  write_note(figure, rows)
  return figure


def _as_fraction(value: float, _: int) -> str:
  return f'{value:g}' if value >= 1 else f'1/{1 / value:g}'


def _shade_slow_pairs(axes: Axes, result: Plain) -> None:
  """Shades the pairs that never turn once within the length of training."""
  length = result['lengths']['train']
  rows = result['compared']['rows']
  unscaled = next(row for row in rows if row['name'] == 'none')
  speeds = np.array(unscaled['inverse_frequencies'])
  first = (speeds * length >= 2 * math.pi).sum() - 0.5
  if first < len(speeds) - 1:
    axes.axvspan(first, len(speeds) - 0.5, color='#f2f2f2', zorder=0)
    text = f'unextended, less than one turn in {length:,} tokens'
    write_above(axes, first, text, ha='left')
