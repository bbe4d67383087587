"""The plots of a result: loss by length and position, retrieval, frequencies.

They read what `report.json` holds and nothing else. Ranked methods have a
colour that colour-blind readers can tell apart; excluded ones are grey and
dashed. Every file carries in its metadata what produced it.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from ntk_jax.checkpoint import write_atomic
from ntk_jax.typing import Float64, NDArray

Plain = dict[str, Any]  # a part of what report.json holds

_STYLE = {
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
_COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9')
_GREY = '#8c8c8c'
_DASHES = (
  (5, 2),
  (2, 1.5),
  (6, 2, 1.5, 2),
  (1, 1.5),
  (9, 3),
  (4, 2, 1, 2, 1, 2),
)
_SOLID = (1, 0)
_LINE = 0.2  # inches between two lines of labels
_BANDS = 'bands: 95% intervals over texts; differences of methods are surer'


class _Look(NamedTuple):
  colour: str
  dashes: tuple[float, ...]
  excluded: bool


class _Label(NamedTuple):
  text: str
  x: float
  y: float
  colour: str


def save_all(result: Plain, folder: Path) -> list[Path]:
  """Writes the PNG files of a result.

  Args:
    result: what report.json holds.
    folder: where to write; files of the same name are replaced.

  Returns:
    The files written.
  """
  plots: dict[str, Callable[[Plain], Figure]] = {
    'loss_by_length': loss_by_length,
    'loss_by_position': loss_by_position,
    'retrieval': retrieval,
    'frequencies': frequencies,
  }
  paths = []
  for name, draw in plots.items():
    with matplotlib.rc_context(_STYLE):
      content = _png(draw(result), result, name.replace('_', ' '))
    paths.append(folder / f'{name}.png')
    write_atomic(paths[-1], content)
  return paths


def loss_by_length(result: Plain) -> Figure:
  """Loss against length without training and tuned, with interval bands."""
  figure = _two_panels(result, _draw_by_length, _BANDS)
  for axes in figure.axes:
    axes.set_xticks(result['lengths']['all'])
    axes.set_xlabel('length (tokens)')
  figure.axes[0].set_ylabel('bits per byte (lower is better)')
  return figure


def loss_by_position(result: Plain) -> Figure:
  """Loss against position in the longest text, without training and tuned."""
  lengths = result['lengths']
  figure = _two_panels(result, _draw_by_position)
  powers = np.arange(-1, math.log(lengths['all'][-1] / lengths['train'], 4))
  for axes in figure.axes:
    axes.set_xticks(lengths['train'] * 4.0 ** np.append(powers, powers[-1] + 1))
    axes.set_xlabel(f'position in a text of {lengths["all"][-1]:,} tokens')
  figure.axes[0].set_ylabel('bits per byte at the position')
  return figure


def retrieval(result: Plain) -> Figure:
  """Heat maps of retrieval: by length, and by depth at the target."""
  parts = [result['compared']['rows'], result['tuned']['rows']]
  rows = [row for part in parts for row in part]
  names = [_name(row, False) for row in parts[0]]
  names += [_name(row, True) for row in parts[1]]
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
    tick.set_color(_GREY if row['status'] == 'excluded' else 'black')
  for axes in (left, right):
    axes.axhline(len(parts[0]) - 0.5, color='black', linewidth=1.2)
  _place(figure, left=0.11 * max(map(len, names)), right=0.2, panels=2)
  _write_note(figure, rows)
  return figure


def frequencies(result: Plain) -> Figure:
  """How much each method changes the turning speed of each pair."""
  rows, lengths = result['compared']['rows'], result['lengths']
  figure = Figure(figsize=(10, _height(len(rows))))
  axes = figure.subplots()
  looks, alike = _looks(result), {}
  for row in rows:
    alike.setdefault(tuple(row['multipliers']), []).append(row)
  lowest = lengths['train'] / lengths['target'] / 16
  labels = []
  for multipliers, group in alike.items():
    look = looks[group[0]['name']]
    seen = np.where(np.array(multipliers) < lowest, np.nan, multipliers)
    axes.plot(seen, marker='o', markersize=3.5, **_stroke(look))
    last = np.flatnonzero(np.isfinite(seen))[-1]
    names = ', '.join(_name(row, False) for row in group)
    labels.append(_Label(names, last, seen[last], look.colour))
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
  _place(figure, left=0.75, right=_room(labels))
  _write_labels(axes, labels)
  _write_note(figure, rows)
  return figure


def _two_panels(
  result: Plain,
  draw: Callable[[Axes, Plain, Plain, _Look], tuple[float, float]],
  note: str = '',
) -> Figure:
  """One line a method: left without training, right fine-tuned."""
  parts = [result['compared']['rows'], result['tuned']['rows']]
  steps = result['config']['tune_steps']
  titles = ['Without training', f'After {steps} steps at the target']
  figure = Figure(figsize=(11, _height(len(parts[0]))))
  panels = figure.subplots(1, 2, sharey=True)
  labels = []
  for tuned, (axes, rows) in enumerate(zip(panels, parts)):
    looks = _looks(result, bool(tuned))
    ends = [draw(axes, result, row, looks[row['name']]) for row in rows]
    labels.append(
      [
        _Label(_name(row, bool(tuned)), *end, looks[row['name']].colour)
        for row, end in zip(rows, ends)
      ]
    )
    axes.set(title=titles[tuned], xscale='log')
    axes.minorticks_off()
    axes.xaxis.set_major_formatter(lambda value, _: f'{value:,.0f}')
    _mark_lengths(axes, result['lengths'])
  _place(figure, left=0.75, right=_room(labels[0] + labels[1]), panels=2)
  for axes, of_axes in zip(panels, labels):
    _write_labels(axes, of_axes)
  _write_note(figure, parts[0] + parts[1], note)
  return figure


def _draw_by_length(
  axes: Axes, result: Plain, row: Plain, look: _Look
) -> tuple[float, float]:
  lengths = result['lengths']['all']
  mean, low, high = (
    [cell[key] for cell in row['loss']] for key in ('mean', 'low', 'high')
  )
  axes.plot(lengths, mean, marker='o', markersize=4, **_stroke(look))
  if look.dashes == _SOLID:  # more bands than colours would be a fog
    axes.fill_between(lengths, low, high, color=look.colour, alpha=0.13, lw=0)
  return lengths[-1], mean[-1]


def _draw_by_position(
  axes: Axes, result: Plain, row: Plain, look: _Look
) -> tuple[float, float]:
  edges = np.array(result['position_edges'])
  # What the first few positions lose has to do with context, not with length.
  far = edges[:-1] >= result['lengths']['train'] / 8
  centres = np.sqrt(edges[:-1] * edges[1:])[far]
  losses = np.array(row['loss_by_position'])[far]
  axes.plot(centres, losses, **_stroke(look))
  return centres[-1], losses[-1]


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


def _looks(result: Plain, tuned: bool = False) -> dict[str, _Look]:
  """Colour and dashes by method; a colour means the same in every plot."""
  parts = [result['compared']['rows'], result['tuned']['rows']]
  kept = [r['name'] for p in parts for r in p if r['status'] != 'excluded']
  looks = {}
  for i, name in enumerate(dict.fromkeys(kept)):
    turn, colour = divmod(i, len(_COLOURS))
    dashes = _DASHES[turn % len(_DASHES)] if turn else _SOLID
    looks[name] = _Look(_COLOURS[colour], dashes, False)
  lost = [r['name'] for r in parts[tuned] if r['status'] == 'excluded']
  for i, name in enumerate(lost):
    looks[name] = _Look(_GREY, _DASHES[i % len(_DASHES)], True)
  return looks


def _stroke(look: _Look) -> Plain:
  """Settings of a line."""
  return {
    'color': look.colour,
    'dashes': look.dashes,
    'linewidth': 1.3 if look.excluded else 2.0,
    'zorder': 2 if look.excluded else 3,
  }


def _name(row: Plain, tuned: bool) -> str:
  """A row's name; fine-tuned, 'none' is the control."""
  name = row['name']
  if tuned:
    name = 'plain continuation' if name == 'none' else f'{name}, tuned'
  return f'{name} (?)' if row['status'] == 'undecided' else name


def _as_fraction(value: float, _: int) -> str:
  return f'{value:g}' if value >= 1 else f'1/{1 / value:g}'


def _mark_lengths(axes: Axes, lengths: Plain) -> None:
  """Vertical lines at the length of training and at the target."""
  marks = {'trained': lengths['train'], 'target': lengths['target']}
  for text, length in marks.items():
    axes.axvline(length, color='#444444', linewidth=1, linestyle=':', zorder=1)
    _write_above(axes, length, text, ha='center')


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
    _write_above(axes, first, text, ha='left')


def _write_above(axes: Axes, x: float, text: str, ha: str) -> None:
  """A remark above the frame, at a place of the x axis."""
  where = axes.get_xaxis_transform()
  style = {'color': '#555555', 'fontsize': 9}
  axes.text(x, 1.01, text, transform=where, ha=ha, va='bottom', **style)


def _height(labels: int) -> float:
  """Inches that a figure needs for its labels."""
  return max(4.4, 1.6 + _LINE * labels)


def _room(labels: list[_Label]) -> float:
  """Inches that labels need beside the frame."""
  return 0.4 + 0.08 * max(len(label.text) for label in labels)


def _place(figure: Figure, left: float, right: float, panels: int = 1) -> None:
  """Leaves room (inches) for labels, titles and the lines at the foot.

  With several panels, each has the room for labels at its right.
  """
  width, height = figure.get_size_inches()
  panel = (width - left - panels * right) / panels
  figure.subplots_adjust(
    left / width,
    1.0 / height,
    1 - right / width,
    1 - 0.55 / height,
    wspace=right / panel,
  )


def _write_labels(axes: Axes, labels: list[_Label]) -> None:
  """Names at the right ends of lines, moved apart where they would touch."""
  inches = axes.bbox.height / axes.figure.dpi
  to_axes = axes.transData + axes.transAxes.inverted()
  ends = np.array([to_axes.transform((label.x, label.y)) for label in labels])
  for label, place in zip(labels, spread(ends[:, 1], gap=_LINE / inches)):
    axes.annotate(
      label.text,
      xy=(label.x, label.y),
      xytext=(1.05, place),
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


def _write_note(figure: Figure, rows: list[Plain], note: str = '') -> None:
  """What the marks mean, at the foot of the figure."""
  status = {row['status'] for row in rows}
  notes = [
    note,
    'grey: excluded, does not keep retrieval' if 'excluded' in status else '',
    '(?): undecided whether it does' if 'undecided' in status else '',
  ]
  text = '; '.join(filter(None, notes))
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


def _png(figure: Figure, result: Plain, title: str) -> bytes:
  """The figure as PNG, with what produced it at its foot and in metadata."""
  versions, corpus = result['versions'], result['corpus']
  seconds = [
    result['times']['train'],
    sum(result['times']['compare'].values()),
    sum(result['times']['tune'].values()),
  ]
  foot = (
    f'ntk_jax {versions["ntk_jax"]}, {result["protocol"]}, config '
    f'{result["config_fingerprint"]}, corpus {corpus["fingerprint"]}, seeds '
    f'{" ".join(map(str, result["seeds"]))}, python {versions["python"]}, jax '
    f'{versions["jax"]}; train {seconds[0]:.0f} s, compare {seconds[1]:.0f} s, '
    f'tune {seconds[2]:.0f} s'
  )
  inch = 1 / figure.get_figheight()
  figure.text(0.01, 0.1 * inch, foot, fontsize=7, color='#777777')
  source = ('protocol', 'command', 'config', 'config_fingerprint', 'corpus')
  about = {key: result[key] for key in (*source, 'seeds', 'versions', 'times')}
  about['rope'] = {r['name']: r['rope'] for r in result['compared']['rows']}
  metadata = {
    'Title': title,
    'Software': f'ntk_jax {versions["ntk_jax"]}',
    'Description': json.dumps(about),
  }
  out = io.BytesIO()
  figure.savefig(out, format='png', metadata=metadata)
  return out.getvalue()
