"""The plots of a study of growing length: curves, lengths, differences."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ntk_jax.checkpoint import write_atomic
from ntk_jax.plot.frame import (
  Label,
  place,
  room_for,
  write_above,
  write_foot,
  write_labels,
)
from ntk_jax.plot.look import COLOURS, GREY, SOLID, STYLE, Look, Plain, stroke
from ntk_jax.plot.png import stamped

# The arms that curves are drawn of, each with a colour of its own.
_MAIN = ('steps', 'threshold', 'quality', 'shuffled')
_MARKED = ('threshold', 'quality')  # growth by loss
_CONTROL = 'constant'
_BLACK = '#333333'
_VERDICTS = {'better': COLOURS[2], 'worse': COLOURS[1], 'tie': GREY}


def save_study(result: Plain, folder: Path) -> list[Path]:
  """Writes study.png and differences.png.

  Args:
    result: what study.json holds.
    folder: where to write; files of the same name are replaced.

  Returns:
    The files written.
  """
  plots: dict[str, Callable[[Plain], Figure]] = {
    'study': study_curves,
    'differences': study_differences,
  }
  paths = []
  for name, draw in plots.items():
    with matplotlib.rc_context(STYLE):
      content = stamped(draw(result), name, _foot(result), _about(result))
    paths.append(folder / f'{name}.png')
    write_atomic(paths[-1], content)
  return paths


def study_curves(result: Plain) -> Figure:
  """Held-out loss at the full length against time, and length over steps."""
  rows = _main_rows(result)
  figure = Figure(figsize=(12, 4.8))
  left, right = figure.subplots(1, 2)
  labels = [_draw_curve(left, row, look) for row, look in rows]
  _mark_target(left, result)
  left.set_ylim(top=_top(rows))
  for row, look in rows:
    _draw_lengths(right, row, look, result['plan']['steps'])
  left.set(
    title=f'Held-out loss at {result["full"]:,} tokens',
    xlabel='CPU-seconds, compiling included',
    ylabel='bits per byte (lower is better)',
  )
  lengths = result['config']['lengths']
  right.set(title='Length of rows', xlabel='step', ylabel='tokens')
  right.set_yscale('log', base=2)
  right.set_yticks(lengths, [f'{length:,}' for length in lengths])
  gap = room_for(labels) + 0.6
  place(figure, left=0.75, right=0.3, panels=2, gap=gap)
  write_labels(left, labels)
  write_foot(
    figure,
    f'lines: medians over seeds ({len(result["seeds"])}), bands: their range; '
    'right: every seed; the same tokens in every arm',
  )
  return figure


def study_differences(result: Plain) -> Figure:
  """Differences in loss and recall to what each arm stands on."""
  rows = [row for row in result['arms'] if row['base']][::-1]
  figure = Figure(figsize=(11, 1.9 + 0.3 * len(rows)))
  panels = figure.subplots(1, 2, sharey=True)
  measures = {
    'loss': ('Loss against its base', 'bits per byte (left is better)', 1),
    'recall': ('Recall against its base', 'points (right is better)', 100),
  }
  for axes, (name, (title, unit, scale)) in zip(panels, measures.items()):
    axes.axvline(0, color='#444444', linewidth=1)
    for height, row in enumerate(rows):
      _draw_difference(axes, row['over']['base'], name, height, scale)
    axes.set(title=title, xlabel=unit)
  names = [f'{row["name"]} on {row["base"]}' for row in rows]
  panels[0].set_yticks(range(len(rows)), names)
  left = 0.5 + 0.08 * max(map(len, names))
  place(figure, left=left, right=0.3, panels=2, gap=0.5)
  write_foot(
    figure,
    'paired differences with 95% intervals over seeds and rows; green: better, '
    'orange: worse, grey: a tie',
  )
  return figure


def _main_rows(result: Plain) -> list[tuple[Plain, Look]]:
  """The control and the main arms with their looks."""
  by_name = {row['name']: row for row in result['arms']}
  looks = {_CONTROL: Look(_BLACK, SOLID, False)}
  looks |= {n: Look(c, SOLID, False) for n, c in zip(_MAIN, COLOURS)}
  return [(by_name[n], look) for n, look in looks.items() if n in by_name]


def _draw_curve(axes: Axes, row: Plain, look: Look) -> Label:
  """Medians over seeds at every probe, and the range of the loss."""
  cost, loss = (
    np.array([each[name] for each in row['curves']], float)
    for name in ('cpu', 'loss')
  )
  x, y = np.median(cost, axis=0), np.median(loss, axis=0)
  axes.plot(x, y, **stroke(look))
  axes.plot(x[-1:], y[-1:], marker='o', markersize=5, color=look.colour)
  axes.fill_between(
    x, loss.min(axis=0), loss.max(axis=0), color=look.colour, alpha=0.13, lw=0
  )
  return Label(row['name'], x[-1], y[-1], look.colour)


def _top(rows: list[tuple[Plain, Look]]) -> float:
  """A loss above which curves are cut off: that after an eighth of a run."""
  early = [
    np.median([each['loss'][len(each['loss']) // 8] for each in row['curves']])
    for row, _ in rows
  ]
  return 1.05 * float(max(early))


def _mark_target(axes: Axes, result: Plain) -> None:
  """A line at the loss with which the control ends, and when it is reached."""
  control = next(r for r in result['arms'] if r['name'] == _CONTROL)
  target = float(np.median([each['loss'][-1] for each in control['curves']]))
  style = {'color': _BLACK, 'linewidth': 1, 'linestyle': ':', 'zorder': 1}
  axes.axhline(target, **style)
  came = [
    (row['reach']['cpu']['median'], row['name'])
    for row in result['arms']
    if row['name'] in _MARKED and row['reach']['cpu']['median'] is not None
  ]
  if came:
    share, name = min(came)
    when = share * control['ends']['cpu']['median']
    axes.axvline(when, **style)
    write_above(axes, when, f'{name}: {share:.2f}x the time', ha='center')


def _draw_lengths(axes: Axes, row: Plain, look: Look, steps: int) -> None:
  """Length of every seed; one that changes all the time is left out."""
  for stages in row['lengths']:
    if len(stages) > 2 * len({length for _, length in stages}):
      continue
    begun, lengths = zip(*stages)
    settings = stroke(look) | {'linewidth': 1.5, 'alpha': 0.8}
    x, y = [*begun, steps], [*lengths, lengths[-1]]
    axes.step(x, y, where='post', **settings)


def _draw_difference(
  axes: Axes, over: Plain, name: str, height: int, scale: float
) -> None:
  interval = over[name]
  mean, low, high = (scale * interval[k] for k in ('mean', 'low', 'high'))
  colour = _VERDICTS[over[f'{name}_verdict']]
  axes.plot([low, high], [height, height], color=colour, linewidth=2)
  axes.plot([mean], [height], marker='o', markersize=5, color=colour)


def _foot(result: Plain) -> str:
  versions = result['versions']
  return (
    f'ntk_jax {versions["ntk_jax"]}, {result["protocol"]}, config '
    f'{result["config_fingerprint"]}, corpus '
    f'{result["corpus"]["fingerprint"]}, seeds '
    f'{" ".join(map(str, result["seeds"]))}, python {versions["python"]}, jax '
    f'{versions["jax"]}'
  )


def _about(result: Plain) -> str:
  """What produced a figure, for its metadata."""
  source = ('protocol', 'command', 'config', 'config_fingerprint', 'corpus')
  return json.dumps({k: result[k] for k in (*source, 'seeds', 'versions')})
