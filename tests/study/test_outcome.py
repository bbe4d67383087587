"""Made-up studies: what is made of them, in numbers, words and pictures."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ntk_jax.evaluation.intervals import Interval
from ntk_jax.plot.study import save_study, study_curves, study_differences
from ntk_jax.study.findings import (
  arm_of,
  bar,
  limits,
  lists,
  near_readers,
  recall_learned,
)
from ntk_jax.study.outcome import judged
from ntk_jax.study.page import study_csv, study_page, study_table
from study.made_study import ARMS, CONFIG, STEPS, Made, made_study


@pytest.fixture(scope='module')
def result() -> dict[str, Any]:
  return made_study()


def arm(result: dict[str, Any], name: str) -> dict[str, Any]:
  found = arm_of(result, name)
  assert found is not None
  return found


def xy(line: Any) -> tuple[list[float], list[float]]:
  """The points of a line."""
  return list(line.get_xdata()), list(line.get_ydata())


def test_time_to_where_constant_ends(result: dict[str, Any]) -> None:
  """It ends at 3.8 bits after 26 s; steps is there after 12 steps of 0.5 s."""
  steps = arm(result, 'steps')['reach']
  assert steps['cpu']['median'] == pytest.approx((2 + 6) / 26, abs=1e-6)
  assert steps['steady']['median'] == pytest.approx(6 / 24, abs=1e-6)
  assert steps['wall']['median'] == pytest.approx((2 + 3) / 14, abs=1e-6)
  assert steps['tokens']['median'] == pytest.approx(0.5, abs=1e-6)
  assert arm(result, 'constant')['reach']['cpu']['median'] == 1.0


def test_what_one_has_when_constant_ends(result: dict[str, Any]) -> None:
  assert arm(result, 'constant')['equal_time']['median'] == 0
  steps = arm(result, 'steps')['equal_time']['median']
  assert steps == pytest.approx(-0.05 * STEPS, abs=1e-6)


def test_recall_is_learned_or_never(result: dict[str, Any]) -> None:
  learned = arm(result, 'steps')['learned']['cpu']
  assert learned['median'] == pytest.approx(0.5 * 0.5 * STEPS + 2, abs=1e-6)
  assert arm(result, 'constant')['learned']['cpu']['reached'] == 0
  assert 'none of `constant`.' in recall_learned(result)
  assert 'every seed of `steps`, `threshold`, `forget`' in recall_learned(
    result
  )
  assert near_readers(result) == []
  blind = made_study(forget=Made(0.1, 2.3, 0.05, 0.5, (8, 16)))
  (said,) = near_readers(blind)
  assert 'of `forget` the loss is below' in said


@pytest.mark.parametrize(
  ('name', 'over', 'verdict', 'loss'),
  [
    ('steps', 'constant', 'helps', -0.5),
    ('threshold', 'constant', 'helps', -0.55),
    ('forget', 'base', 'helps', -0.2),
    ('mask', 'base', 'hurts', 0.2),
    ('mask', 'constant', 'helps', -0.3),
  ],
)
def test_paired_differences(
  result: dict[str, Any], name: str, over: str, verdict: str, loss: float
) -> None:
  """Rows differ by 0.3 bits; paired, the intervals are a tenth of that."""
  found = arm(result, name)['over'][over]
  assert found['verdict'] == verdict
  assert found['loss']['mean'] == pytest.approx(loss, abs=1e-3)
  assert found['loss']['high'] - found['loss']['low'] < 0.03


def test_losses_are_of_the_second_half_and_of_all(
  result: dict[str, Any],
) -> None:
  steps, other = arm(result, 'steps'), arm(result, 'constant')
  assert steps['loss']['mean'] - steps['whole_loss']['mean'] == pytest.approx(
    0.1, abs=1e-5
  )
  assert other['loss']['mean'] - steps['loss']['mean'] == pytest.approx(
    0.5, abs=1e-3
  )


@pytest.mark.parametrize(
  ('interval', 'word'),
  [
    (Interval(-0.2, -0.3, -0.1), 'better'),
    (Interval(0.2, 0.1, 0.3), 'worse'),
    (Interval(-0.2, -0.5, 0.1), 'tie'),
    (Interval(0.2, 0.0, 0.5), 'tie'),
    (Interval(0.02, 0.01, 0.03), 'tie'),
  ],
)
def test_less_is_better_where_it_is_sure(interval: Interval, word: str) -> None:
  assert judged(interval, 0.03) == word


def test_a_small_difference_is_a_tie() -> None:
  found = made_study(forget=Made(0.1, 2.48, 1.0, 0.5, (8, 16)))
  over = arm(found, 'forget')['over']['base']
  assert over['loss']['high'] < 0
  assert over['verdict'] == over['loss_verdict'] == 'tie'
  assert 'Cannot be told from what they stand on:** `forget`' in '\n'.join(
    lists(found)
  )


def test_the_bar_is_met_or_not(result: dict[str, Any]) -> None:
  assert '**Growth by loss meets the bar.**' in bar(result)
  assert '`threshold` took 0.37x (0.37 to 0.37) (met)' in bar(result)
  slow = made_study(threshold=Made(0.1, 2.45, 1.0, 1.6, (4, 8)))
  assert '**Growth by loss does not meet the bar.**' in bar(slow)
  worse = made_study(threshold=Made(0.01, 4.0, 0.0))
  assert 'came there in 0 of 3 (not met)' in bar(worse)


def test_the_page_says_it_all(result: dict[str, Any]) -> None:
  page = study_page(result)
  for words in (
    'Growth by loss meets the bar',
    '**Help:** `steps` (on `constant`)',
    '**Hurt:** `mask` (on `steps`)',
    'never (0 of 3)',
    '![Held-out loss against time, and length over steps](study.png)',
    'No text is read twice (0.24 epochs)',
    'fingerprint `f00d`',
    'python -m experiments.study_curriculum --arms=steps,threshold,forget,mask',
  ):
    assert words in page, words
  for name in ARMS:
    assert page.count(f'`{name}`') > 3
  assert 'shortened alike' not in page
  shorter = result | {'plan': result['plan'] | {'asked': 2 * STEPS}}
  assert 'all arms were shortened alike' in study_page(shorter)


def test_what_is_not_in_the_study_is_not_excused(
  result: dict[str, Any],
) -> None:
  assert not any('PoSE' in line for line in limits(result))
  assert any('plateau test' in line for line in limits(result))


def test_the_table_has_a_line_for_every_arm(result: dict[str, Any]) -> None:
  head, *rows = study_table(result).split('\n\n')[0].split('\n')
  assert head.split()[:3] == ['arm', 'loss', 'recall']
  assert [row.split()[0] for row in rows] == list(ARMS)


def test_the_spreadsheet_holds_every_probe(result: dict[str, Any]) -> None:
  rows = list(csv.DictReader(study_csv(result).splitlines()))
  assert len(rows) == len(ARMS) * CONFIG.seeds * (STEPS // CONFIG.probe_every)
  last = rows[-1]
  assert (last['arm'], last['seed'], last['steps']) == ('mask', '2', str(STEPS))
  assert float(last['loss']) == pytest.approx(5.02 - 0.1 * STEPS)
  assert last['corpus'] == 'f00d'


def test_a_result_is_json(result: dict[str, Any]) -> None:
  stored = json.loads(json.dumps(result, allow_nan=False))
  assert study_page(stored) == study_page(result)


def test_curves_are_medians_with_their_range(result: dict[str, Any]) -> None:
  left, right = study_curves(result).axes
  lines = [line for line in left.lines if np.size(line.get_xdata()) > 2]
  assert len(lines) == 3  # constant, steps, threshold
  steps = lines[1]
  assert xy(steps)[0] == arm(result, 'steps')['curves'][1]['cpu']
  assert xy(steps)[1] == arm(result, 'steps')['curves'][1]['loss']
  texts = {text.get_text() for text in left.texts}
  assert {
    'constant',
    'steps',
    'threshold',
    'threshold: 0.37x the time',
  } <= texts
  grown = right.lines[CONFIG.seeds]
  assert xy(grown) == ([0, 8, 16, STEPS], [32, 64, 128, 128])


def test_differences_are_drawn_by_verdict(result: dict[str, Any]) -> None:
  loss, recall = study_differences(result).axes
  drawn = {xy(line)[1][0]: line for line in loss.lines[1:]}
  colours = {y: line.get_color() for y, line in drawn.items()}
  names = [label.get_text() for label in loss.get_yticklabels()]
  assert names == [
    'mask on steps',
    'forget on steps',
    'threshold on constant',
    'steps on constant',
  ]
  assert colours[0] != colours[1] == colours[2] == colours[3]
  assert recall.get_xlabel().startswith('points')


def test_figures_are_images_that_say_what_made_them(
  result: dict[str, Any], tmp_path: Path
) -> None:
  paths = save_study(result, tmp_path)
  assert [path.name for path in paths] == ['study.png', 'differences.png']
  for path in paths:
    with Image.open(path) as image:
      image.load()
      about = json.loads(image.info['Description'])
      assert (np.asarray(image.convert('L')) < 250).mean() > 0.01
    assert about['corpus'] == result['corpus']
    assert about['seeds'] == [0, 1, 2]
