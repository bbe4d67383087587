"""The loss of every method, by length and by position."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ntk_jax.plot.frame import (
  Label,
  height_of,
  mark_lengths,
  place,
  room_for,
  write_labels,
  write_note,
)
from ntk_jax.plot.look import (
  SOLID,
  Look,
  Plain,
  looks_of,
  name_of,
  stroke,
  unit,
)

_BANDS = 'bands: 95% intervals over texts; differences of methods are surer'


def loss_by_length(result: Plain) -> Figure:
  """Loss against length without training and tuned, with interval bands."""
  figure = _two_panels(result, _draw_by_length, _BANDS)
  for axes in figure.axes:
    axes.set_xticks(result['lengths']['all'])
    axes.set_xlabel('length (tokens)')
  figure.axes[0].set_ylabel(f'bits per {unit(result)} (lower is better)')
  return figure


def loss_by_position(result: Plain) -> Figure:
  """Loss against position in the longest text, without training and tuned."""
  lengths = result['lengths']
  figure = _two_panels(result, _draw_by_position)
  powers = np.arange(-1, math.log(lengths['all'][-1] / lengths['train'], 4))
  for axes in figure.axes:
    axes.set_xticks(lengths['train'] * 4.0 ** np.append(powers, powers[-1] + 1))
    axes.set_xlabel(f'position in a text of {lengths["all"][-1]:,} tokens')
  figure.axes[0].set_ylabel(f'bits per {unit(result)} at the position')
  return figure


def _two_panels(
  result: Plain,
  draw: Callable[[Axes, Plain, Plain, Look], tuple[float, float]],
  note: str = '',
) -> Figure:
  """One line a method: left without training, right fine-tuned."""
  parts = [result['compared']['rows'], result['tuned']['rows']]
  steps = result['config']['tune_steps']
  titles = ['Without training', f'After {steps} steps at the target']
  figure = Figure(figsize=(11, height_of(len(parts[0]))))
  panels = figure.subplots(1, 2, sharey=True)
  labels = []
  for tuned, (axes, rows) in enumerate(zip(panels, parts)):
    looks = looks_of(result, bool(tuned))
    ends = [draw(axes, result, row, looks[row['name']]) for row in rows]
    labels.append(
      [
        Label(name_of(row, bool(tuned)), *end, looks[row['name']].colour)
        for row, end in zip(rows, ends)
      ]
    )
    axes.set(title=titles[tuned], xscale='log')
    axes.minorticks_off()
    axes.xaxis.set_major_formatter(lambda value, _: f'{value:,.0f}')
    mark_lengths(axes, result['lengths'])
  place(figure, left=0.75, right=room_for(labels[0] + labels[1]), panels=2)
  for axes, of_axes in zip(panels, labels):
    write_labels(axes, of_axes)
  write_note(figure, parts[0] + parts[1], note)
  return figure


def _draw_by_length(
  axes: Axes, result: Plain, row: Plain, look: Look
) -> tuple[float, float]:
  lengths = result['lengths']['all']
  mean, low, high = (
    [cell[key] for cell in row['loss']] for key in ('mean', 'low', 'high')
  )
  axes.plot(lengths, mean, marker='o', markersize=4, **stroke(look))
  if look.dashes == SOLID:  # more bands than colours would be a fog
    axes.fill_between(lengths, low, high, color=look.colour, alpha=0.13, lw=0)
  return lengths[-1], mean[-1]


def _draw_by_position(
  axes: Axes, result: Plain, row: Plain, look: Look
) -> tuple[float, float]:
  edges = np.array(result['position_edges'])
  # What the first few positions lose has to do with context, not with length.
  far = edges[:-1] >= result['lengths']['train'] / 8
  centres = np.sqrt(edges[:-1] * edges[1:])[far]
  losses = np.array(row['loss_by_position'])[far]
  axes.plot(centres, losses, **stroke(look))
  return centres[-1], losses[-1]
