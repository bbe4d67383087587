"""The share of hidden values that each method finds, as heat maps."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ntk_jax.plot.frame import place, write_note
from ntk_jax.plot.look import GREY, Plain, name_of
from ntk_jax.typing import NDArray


def retrieval(result: Plain) -> Figure:
  """Heat maps of retrieval: by length, and by depth at the target."""
  parts = [result['compared']['rows'], result['tuned']['rows']]
  rows = [row for part in parts for row in part]
  names = [name_of(row, False) for row in parts[0]]
  names += [name_of(row, True) for row in parts[1]]
  lengths = result['lengths']
  target = lengths['all'].index(lengths['target'])
  figure = Figure(figsize=(10, 1.75 + 0.3 * len(rows)))
  left, right = figure.subplots(1, 2, width_ratios=[5, 8], sharey=True)
  found = [[cell['mean'] for cell in row['retrieval']] for row in rows]
  depths = [row['retrieval_by_depth'][target] for row in rows]
  marks = {lengths['train']: '\ntrained', lengths['target']: '\ntarget'}
  _heat_map(
    left, np.array(found), [f'{n:,}{marks.get(n, "")}' for n in lengths['all']]
  )
  blank = [''] * (len(depths[0]) - 2)
  _heat_map(right, np.array(depths), ['start', *blank, 'end'])
  left.set_title('Hidden values found, %, by length', pad=8)
  right.set_title(
    f'At {lengths["target"]:,}, by where the value was hidden', pad=8
  )
  left.set_yticks(range(len(rows)), names)
  for tick, row in zip(left.get_yticklabels(), rows):
    tick.set_color(GREY if row['status'] == 'excluded' else 'black')
  for axes in (left, right):
    axes.axhline(len(parts[0]) - 0.5, color='black', linewidth=1.2)
  place(figure, left=0.11 * max(map(len, names)), right=0.2, panels=2)
  write_note(figure, rows)
  return figure


def _heat_map(axes: Axes, shares: NDArray, columns: list[str]) -> None:
  """Shares as coloured cells with their percentages."""
  axes.imshow(shares, cmap='viridis', vmin=0, vmax=1, aspect='auto')
  rows, count = shares.shape
  for x, y in np.ndindex(count, rows):
    axes.text(
      x,
      y,
      f'{100 * shares[y, x]:.0f}',
      ha='center',
      va='center',
      fontsize=9,
      color='black' if shares[y, x] > 0.6 else 'white',
    )
  axes.set_xticks(range(count), columns)
  axes.set_xticks(np.arange(count + 1) - 0.5, minor=True)
  axes.set_yticks(np.arange(rows + 1) - 0.5, minor=True)
  axes.grid(which='major', visible=False)
  axes.grid(which='minor', color='white', linewidth=1.5)
  axes.tick_params(which='both', length=0)
  axes.spines[:].set_visible(False)
