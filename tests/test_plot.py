"""Plots of made-up results: whole files, and what their lines show."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import made_up
import numpy as np
import pytest
from made_up import Made
from matplotlib import colors
from matplotlib.axes import Axes
from matplotlib.text import Annotation
from PIL import Image

from ntk_jax import plot

NAMES = (
  'problem',
  'loss_by_length',
  'loss_by_position',
  'retrieval',
  'frequencies',
)


LENGTHS = (128, 256, 512, 1024, 2048)


@pytest.fixture(scope='module')
def result() -> dict[str, Any]:
  return made_up.clear_winner()


def lines_of(axes: Axes) -> list[Any]:
  """The lines of methods, without the marks at lengths."""
  return [line for line in axes.lines if np.size(line.get_xdata()) > 2]


def texts_of(axes: Axes) -> list[str]:
  return [text.get_text() for text in axes.texts]


def is_grey(colour: Any) -> bool:
  return len(set(colors.to_rgb(colour))) == 1


def test_files_are_images_that_say_what_made_them(
  result: dict[str, Any], tmp_path: Path
) -> None:
  paths = plot.save_all(result, tmp_path)
  assert [path.name for path in paths] == [f'{name}.png' for name in NAMES]
  assert sorted(tmp_path.iterdir()) == sorted(paths)
  for path in paths:
    with Image.open(path) as image:
      image.load()
      assert image.format == 'PNG'
      assert image.width >= 1000
      about = json.loads(image.info['Description'])
    for key in ('config', 'corpus', 'seeds', 'versions', 'times', 'protocol'):
      assert about[key] == result[key]
    assert about['rope']['yarn']['options']['beta_fast'] == 32
    assert len(about['rope']) == 9
    pixels = np.asarray(Image.open(path).convert('L'))
    assert (pixels < 250).mean() > 0.02  # not an empty page


def test_a_stored_result_makes_the_same_bytes(
  result: dict[str, Any], tmp_path: Path
) -> None:
  stored = json.loads(json.dumps(result))
  first = [p.read_bytes() for p in plot.save_all(result, tmp_path)]
  again = [p.read_bytes() for p in plot.save_all(stored, tmp_path)]
  assert first == again


def test_the_problem_shows_every_number(result: dict[str, Any]) -> None:
  figure = plot.problem(result)
  facts = result['problem']
  roles = ('untreated', 'treated', 'tuned')
  for axes, measure in zip(figure.axes, ('entropy', 'far_loss', 'grad_norm')):
    lines = lines_of(axes)
    assert len(lines) == 3
    for line, role in zip(lines, roles):
      assert list(line.get_xdata()) == facts['lengths'] == [*LENGTHS]
      assert list(line.get_ydata()) == facts[role][measure]
    assert axes.get_xscale() == 'log'
    assert {'trained', 'target'} <= set(texts_of(axes))
    untreated, treated, tuned = lines
    assert is_grey(untreated.get_color())
    assert treated.get_color() == tuned.get_color()
    assert not is_grey(tuned.get_color())
    dashes = [str(line._dash_pattern) for line in lines]
    assert dashes[0] == dashes[2] != dashes[1]
  named = {'no method', 'yarn', 'yarn, tuned'}
  assert named < set(texts_of(figure.axes[2]))
  assert '3 held-out texts of 2,048 tokens' in figure.texts[0].get_text()
  assert '96 queries' in figure.texts[0].get_text()


def test_the_method_has_its_colour_in_the_problem_too(
  result: dict[str, Any],
) -> None:
  _, treated, _ = lines_of(plot.problem(result).axes[0])
  left, _ = plot.loss_by_length(result).axes
  (index,) = [
    i for i, r in enumerate(result['compared']['rows']) if r['name'] == 'yarn'
  ]
  assert treated.get_color() == lines_of(left)[index].get_color()


def test_the_problem_without_a_method_to_show(tmp_path: Path) -> None:
  course = made_up.PROBLEM['untreated']
  lines = {('untreated', 'none'): course, ('tuned', 'none'): course}
  result = made_up.clear_winner(problem=lines)
  figure = plot.problem(result)
  assert {'no method', 'plain continuation'} < set(texts_of(figure.axes[2]))
  assert [len(lines_of(axes)) for axes in figure.axes] == [2, 2, 2]
  excluded = {('untreated', 'none'): course, ('treated', 'window'): course}
  _, window = lines_of(
    plot.problem(made_up.clear_winner(problem=excluded)).axes[0]
  )
  assert not is_grey(window.get_color())


def test_loss_by_length_shows_every_number(result: dict[str, Any]) -> None:
  figure = plot.loss_by_length(result)
  for axes, part in zip(figure.axes, ('compared', 'tuned')):
    rows = result[part]['rows']
    for line, row in zip(lines_of(axes), rows):
      assert list(line.get_xdata()) == result['lengths']['all']
      assert list(line.get_ydata()) == [at['mean'] for at in row['loss']]
      assert is_grey(line.get_color()) == (row['status'] == 'excluded')
    kept = [row for row in rows if row['status'] != 'excluded']
    assert len(lines_of(axes)) == len(rows)
    assert len(axes.collections) == len(kept)
    places = [np.asarray(line.get_xdata()).tolist() for line in axes.lines]
    marks = [place for place in places if len(place) == 2]
    assert marks == [[128, 128], [1024, 1024]]
    assert {'trained', 'target'} < set(texts_of(axes))
    band = axes.collections[0].get_datalim(axes.transData)
    assert band.y0 == min(at['low'] for at in rows[0]['loss'])
  left, right = figure.axes
  assert [t for t in texts_of(left) if t in ('yarn', 'window')] == [
    'yarn',
    'window',
  ]
  assert 'plain continuation' in texts_of(right)
  foot = [text.get_text() for text in figure.texts]
  assert foot == [
    'bands: 95% intervals over texts; differences of methods are surer; '
    'grey: excluded, does not keep retrieval'
  ]


def test_undecided_rows_are_marked() -> None:
  figure = plot.loss_by_length(made_up.undecided())
  assert 'yarn (?)' in texts_of(figure.axes[0])
  assert '(?): undecided' in figure.texts[0].get_text()


def test_what_keeps_retrieval_only_when_tuned_is_grey_only_before() -> None:
  result = made_up.all_tied()
  left, right = plot.loss_by_length(result).axes
  parts = [result['compared']['rows'], result['tuned']['rows']]
  before, after = (
    {row['name']: is_grey(line.get_color()) for row, line in zip(rows, lines)}
    for rows, lines in zip(parts, (lines_of(left), lines_of(right)))
  )
  assert before['none']
  assert not any(after.values())


def test_a_method_has_one_colour_in_all_plots(result: dict[str, Any]) -> None:
  left, right = plot.loss_by_length(result).axes
  before = {
    row['name']: line.get_color()
    for row, line in zip(result['compared']['rows'], lines_of(left))
  }
  for row, line in zip(result['tuned']['rows'], lines_of(right)):
    assert line.get_color() == before[row['name']]
  kept = [c for c in before.values() if not is_grey(c)]
  assert len(set(kept)) == len(kept) == 4


def test_loss_by_position_leaves_out_the_first_positions(
  result: dict[str, Any],
) -> None:
  left, _ = plot.loss_by_position(result).axes
  for line, row in zip(lines_of(left), result['compared']['rows']):
    places, losses = line.get_xdata(), list(line.get_ydata())
    assert 16 <= places[0] < 32
    assert 1400 < places[-1] < 2048
    assert losses == row['loss_by_position'][-len(losses) :]


def test_retrieval_shows_lengths_and_depths(result: dict[str, Any]) -> None:
  left, right = plot.retrieval(result).axes
  rows = result['compared']['rows'] + result['tuned']['rows']
  by_length, by_depth = (
    np.asarray(axes.images[0].get_array()) for axes in (left, right)
  )
  assert by_length.tolist() == [
    [at['mean'] for at in row['retrieval']] for row in rows
  ]
  assert by_depth.tolist() == [row['retrieval_by_depth'][3] for row in rows]
  assert by_depth.shape == (12, 8)
  labels = [tick.get_text() for tick in left.get_yticklabels()]
  assert labels[0] == 'yarn'
  assert labels[-2:] == ['linear, tuned', 'plain continuation']
  ticks = [tick.get_text() for tick in left.get_xticklabels()]
  assert ticks == ['128\ntrained', '256', '512', '1,024\ntarget', '2,048']


def test_methods_of_the_same_frequencies_share_a_line(
  result: dict[str, Any],
) -> None:
  (axes,) = plot.frequencies(result).axes
  texts = texts_of(axes)
  assert {'yarn, by_parts', 'yarn_scaled', 'linear', 'window, none'} < set(
    texts
  )
  lines = {line.get_ydata()[0]: line for line in lines_of(axes)}
  assert list(lines[0.125].get_ydata()) == [0.125] * 16
  # theta^(-i/16) * 128 / (2 pi) is below 1 from pair 6 on.
  shade = axes.patches[0].get_extents().transformed(axes.transData.inverted())
  assert shade.x0 == pytest.approx(5.5)
  assert 'unextended, less than one turn in 128 tokens' in texts


def test_pairs_that_stand_still_leave_the_line(result: dict[str, Any]) -> None:
  still = copy.deepcopy(result)
  still['compared']['rows'][0]['multipliers'][10:] = [0.0] * 6
  (axes,) = plot.frequencies(still).axes
  (line,) = [x for x in lines_of(axes) if np.isnan(x.get_ydata()).any()]
  assert np.isfinite(line.get_ydata()).tolist() == [True] * 10 + [False] * 6
  assert axes.get_ylim()[0] > 0.05


def test_many_methods_keep_their_labels_apart(tmp_path: Path) -> None:
  names = made_up.every_method()
  result = made_up.made_result(
    {name: Made(2.8 + 0.001 * i, 0.5, 0.97) for i, name in enumerate(names)},
    {'none': Made(2.3, 0.1, 0.9)},
    rows=8,
  )
  plot.save_all(result, tmp_path)
  figure = plot.loss_by_length(result)
  axes = figure.axes[0]
  labels = [text for text in axes.texts if isinstance(text, Annotation)]
  assert len(labels) == len(names) > 15
  figure.draw_without_rendering()
  ends = [label.get_window_extent().x1 for label in labels]
  assert max(ends) < figure.axes[1].bbox.x0
  last = [text.get_window_extent().x1 for text in figure.axes[1].texts]
  assert max(last) < figure.bbox.x1
  height = axes.bbox.height / figure.dpi
  places = np.sort([label.xyann[1] for label in labels]) * height
  assert np.diff(places).min() > 0.19  # inches; a line is 0.13
  assert places.min() > -0.01
  assert places.max() < height + 0.01
  looks = [
    (line.get_color(), line.get_linestyle(), str(line._dash_pattern))
    for line in lines_of(axes)
  ]
  assert len(set(looks)) == len(looks)


@pytest.mark.parametrize(
  ('places', 'expected'),
  [
    ([0.0, 1.0], [0.0, 1.0]),
    ([0.5, 0.5], [0.4, 0.6]),
    ([0.55, 0.5], [0.625, 0.425]),
    ([0.0, 0.1, 0.2, 0.9], [0.0, 0.2, 0.4, 0.9]),  # not below the frame
    ([0.5, 1.0, 1.0], [0.5, 0.8, 1.0]),  # nor above it
    ([0.4, 0.4, 0.4, 0.4], [0.1, 0.3, 0.5, 0.7]),
  ],
)
def test_labels_move_as_little_as_they_must(
  places: list[float], expected: list[float]
) -> None:
  apart = plot.spread(np.array(places), 0.2)
  np.testing.assert_allclose(apart, expected, atol=1e-12)
