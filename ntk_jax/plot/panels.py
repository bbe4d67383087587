"""Lines against length in panels side by side, one legend for all."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ntk_jax.checkpoint import write_atomic
from ntk_jax.plot.frame import place
from ntk_jax.plot.look import (
  COLOURS,
  DASHES,
  SOLID,
  STYLE,
  Look,
  Plain,
  stroke,
)

_DPI = 100  # wide figures


class Panel(NamedTuple):
  """One of several plots over the same kind of x.

  Attributes:
    title: above it.
    unit: what y is.
    lengths: x.
    lines: y by the line's name; equal names look equal in all panels.
    log: whether y is on a log scale.
  """

  title: str
  unit: str
  lengths: Sequence[int]
  lines: Mapping[str, Sequence[float]]
  log: bool = False


def panels(
  of: Sequence[Panel], foot: Sequence[str] = (), order: Sequence[str] = ()
) -> Figure:
  """The panels in a row, a legend at their right, remarks at the foot.

  Args:
    of: the panels.
    foot: remarks, a line each.
    order: names of lines, so that figures that share some agree on looks;
      others come after them.
  """
  drawn = [name for panel in of for name in panel.lines]
  names = list(dict.fromkeys([*order, *drawn]))
  looks = {name: _look(number) for number, name in enumerate(names)}
  figure = Figure(figsize=(3.3 * len(of) + 2.6, 4.4))
  for axes, panel in zip(figure.subplots(1, len(of), squeeze=False)[0], of):
    _draw(axes, panel, looks)
  place(figure, left=0.75, right=2.35, panels=len(of), gap=0.75)
  figure.subplots_adjust(bottom=1.3 / figure.get_figheight())
  handles = [
    Line2D([], [], label=n, **stroke(looks[n])) for n in names if n in drawn
  ]
  figure.legend(
    handles=handles, loc='center right', frameon=False, handlelength=2.4
  )
  inch = 1 / figure.get_figheight()
  for number, text in enumerate(reversed(foot)):
    at = (0.1 + 0.18 * number) * inch
    figure.text(0.01, at, text, fontsize=8, color='#555555')
  return figure


def _draw(axes: Axes, panel: Panel, looks: Mapping[str, Look]) -> None:
  for name, values in panel.lines.items():
    axes.plot(
      panel.lengths, values, marker='o', markersize=3.5, **stroke(looks[name])
    )
  axes.set(title=panel.title, ylabel=panel.unit, xlabel='length (tokens)')
  axes.set(xscale='log', xticks=list(panel.lengths))
  axes.set_yscale('log' if panel.log else 'linear')
  axes.minorticks_off()
  axes.xaxis.set_major_formatter(lambda value, _: f'{value:,.0f}')
  axes.tick_params('x', labelrotation=45)
  if panel.log:
    axes.yaxis.set_major_formatter(lambda value, _: f'{value:g}')
    low, high = axes.get_ylim()
    if high / low < 30:  # powers of ten alone would be one tick or none
      axes.set_yticks([y for y in _round_numbers() if low <= y <= high])


def _round_numbers() -> list[float]:
  return [m * 10.0**e for e in range(-9, 10) for m in (1, 2, 3, 5, 7)]


def _look(number: int) -> Look:
  turn, colour = divmod(number, len(COLOURS))
  return Look(COLOURS[colour], DASHES[turn - 1] if turn else SOLID, False)


def save_panels(
  path: Path,
  of: Sequence[Panel],
  foot: Sequence[str],
  about: Plain,
  order: Sequence[str] = (),
) -> None:
  """Writes the panels as a PNG file that says what produced it.

  Args:
    path: of the file.
    of: the panels.
    foot: remarks, a line each.
    about: JSON-able, for its metadata.
    order: as in `panels`.
  """
  with matplotlib.rc_context(STYLE):
    out = io.BytesIO()
    metadata = {'Title': path.stem, 'Description': json.dumps(about)}
    figure = panels(of, foot, order)
    figure.savefig(out, format='png', metadata=metadata, dpi=_DPI)
  write_atomic(path, out.getvalue())
