"""What stands around a plot: marks, labels, and the room for them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ntk_jax.plot.look import Plain
from ntk_jax.typing import Float64, NDArray

_LINE = 0.2  # inches between two lines of labels


class Label(NamedTuple):
  """A name for the point of a line that it stands beside."""

  text: str
  x: float
  y: float
  colour: str


def mark_lengths(axes: Axes, lengths: Plain) -> None:
  """Vertical lines at the length of training and at the target."""
  marks = {'trained': lengths['train'], 'target': lengths['target']}
  for text, length in marks.items():
    axes.axvline(length, color='#444444', linewidth=1, linestyle=':', zorder=1)
    write_above(axes, length, text, ha='center')


def write_above(axes: Axes, x: float, text: str, ha: str) -> None:
  """A remark above the frame, at a place of the x axis."""
  where = axes.get_xaxis_transform()
  style = {'color': '#555555', 'fontsize': 9}
  axes.text(x, 1.01, text, transform=where, ha=ha, va='bottom', **style)


def height_of(labels: int) -> float:
  """Inches that a figure needs for its labels."""
  return max(4.4, 1.6 + _LINE * labels)


def room_for(labels: list[Label]) -> float:
  """Inches that labels need beside the frame."""
  return 0.4 + 0.08 * max(len(label.text) for label in labels)


def place(
  figure: Figure,
  left: float,
  right: float,
  panels: int = 1,
  gap: float | None = None,
) -> None:
  """Leaves room (inches) for labels, titles and the lines at the foot.

  Several panels have a gap between them, that for labels at the right unless
  it is given.
  """
  width, height = figure.get_size_inches()
  gap = right if gap is None else gap
  panel = (width - left - right - (panels - 1) * gap) / panels
  figure.subplots_adjust(
    left / width,
    1.0 / height,
    1 - right / width,
    1 - 0.55 / height,
    wspace=gap / panel,
  )


def write_labels(axes: Axes, labels: list[Label]) -> None:
  """Names at the right ends of lines, moved apart where they would touch."""
  inches = axes.bbox.height / axes.figure.dpi
  to_axes = axes.transData + axes.transAxes.inverted()
  ends = np.array([to_axes.transform((label.x, label.y)) for label in labels])
  for label, height in zip(labels, spread(ends[:, 1], gap=_LINE / inches)):
    axes.annotate(
      label.text,
      xy=(label.x, label.y),
      xytext=(1.05, height),
      textcoords='axes fraction',
      va='center',
      color=label.colour,
      fontsize=9,
      arrowprops={
        'arrowstyle': '-',
        'color': label.colour,
        'linewidth': 0.6,
        'relpos': (0, 0.5),
        'shrinkA': 1,
        'shrinkB': 3,
      },
    )


def write_note(figure: Figure, rows: list[Plain], note: str = '') -> None:
  """What the marks mean, at the foot of the figure."""
  status = {row['status'] for row in rows}
  notes = [
    note,
    'grey: excluded, does not keep retrieval' if 'excluded' in status else '',
    '(?): undecided whether it does' if 'undecided' in status else '',
  ]
  write_foot(figure, '; '.join(filter(None, notes)))


def write_foot(figure: Figure, text: str) -> None:
  """A line at the foot of the figure."""
  inch = 1 / figure.get_figheight()
  figure.text(0.01, 0.3 * inch, text, fontsize=9, color='#555555')


def spread(
  places: Float64[NDArray, ' labels'], gap: float
) -> Float64[NDArray, ' labels']:
  """The nearest places (least squares) in [0, 1] that are a gap apart.

  Pools neighbours that would touch and centres each pool on its mean, as
  isotonic regression does. There must be room for all of them.

  >>> spread(np.array([0.0, 0.5, 0.5]), gap=0.2).round(3).tolist()
  [0.0, 0.4, 0.6]
  """
  order = np.argsort(places, kind='stable')
  shift = gap * np.arange(len(places))
  pools: list[list[float]] = []
  for value in places[order] - shift:
    pools.append([value])
    while len(pools) > 1 and np.mean(pools[-2]) > np.mean(pools[-1]):
      last = pools.pop()
      pools[-1] += last
  levels = np.array([np.mean(pool) for pool in pools for _ in pool])
  apart = np.empty(len(places))
  apart[order] = levels.clip(0.0, 1.0 - shift[-1]) + shift
  return apart
