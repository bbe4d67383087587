"""Bounds of stages, and what no run can use."""

from __future__ import annotations

import dataclasses
import math

import pytest

from ntk_jax.curriculum.stays import stay_problems, stays_of
from ntk_jax.curriculum.triggers import QualityConfig, rises

LENGTHS = (64, 128, 256, 512)
KNOWN = ('loss', 'text', 'answers', 'probe/loss', 'probe/recall')


@pytest.mark.parametrize('steps', [240, 1000, 20_000, 300_000])
@pytest.mark.parametrize('lengths', [LENGTHS, (512, 2048, 4096, 8192, 16384)])
def test_bounds_are_shares_of_the_run(
  steps: int, lengths: tuple[int, ...]
) -> None:
  stays = stays_of(QualityConfig(), 'quality', lengths, steps)
  every = stays.check_every
  for k, length in enumerate(lengths[:-1]):
    nominal = 0.64 * steps * length / sum(lengths[:-1])
    least = nominal / 2
    if 0.64 * steps * lengths[0] / sum(lengths[:-1]) >= 200:
      least = max(200, least)
    assert least <= stays.floors[k] < least + every + 1
    assert 2 * nominal <= stays.ceilings[k] < 2 * nominal + 1
    assert stays.floors[k] % every == stays.again[k] % every == 0
    assert stays.settles[k] <= min(100, max(1, nominal / 10))
  # From a stage's latest end on, those that follow still have their floors.
  ends = [*stays.latest, 0]
  for k in range(len(stays.floors) - 1):
    assert stays.latest[k] + stays.floors[k + 1] == ends[k + 1]
  assert 0.7 * steps - every < stays.latest[-1] <= 0.7 * steps


def test_at_full_size_the_published_numbers_hold() -> None:
  """128 checks in a nominal stay, 10 steps apart or more; 64 span a floor."""
  stays = stays_of(QualityConfig(), 'quality', (512, 1024, 2048), 60_000)
  nominal = [0.64 * 60_000 / 3, 0.64 * 60_000 / 3 * 2]
  assert stays.check_every == int(nominal[0] / 128)
  assert stays.windows == (64, 64)
  assert stays.settles == (100, 100, 100)
  apart = [stays.check_every * stride for stride in stays.strides]
  assert apart == [int(nominal[0] / 128), 2 * int(nominal[0] / 128)]
  small = stays_of(QualityConfig(), 'quality', (512, 1024, 2048), 1_000)
  assert small.check_every == 10
  least = stays_of(QualityConfig(), 'quality', (512, 1024), 400)
  assert least.floors == (200,)  # of a nominal 256


def test_the_threshold_takes_its_own_stays() -> None:
  config = QualityConfig(check=5 / 240, min_stay=0.0625, max_stay=0.25)
  stays = stays_of(config, 'threshold', LENGTHS, 240)
  assert stays.check_every == 5
  assert stays.floors == (15, 15, 15)
  assert stays.ceilings == (60, 60, 60)
  assert stays.latest == (135, 150, 165)  # 0.7 of 240, in whole checks


WRONG = (
  ({'threshold': math.nan}, 'threshold is nan'),
  ({'smoothing': 1.0}, 'smoothing is 1.0, must be in [0, 1)'),
  ({'plateau': 0.0}, 'plateau is 0.0, must be in (0, inf)'),
  ({'doubt': math.nan}, 'doubt is nan'),
  ({'recall': 1.5}, 'recall is 1.5, must be in [0, 1]'),
  ({'floor': 0.0}, 'floor is 0.0'),
  ({'ceiling': 0.5}, 'ceiling 0.5: a nominal stay'),
  ({'growing': 1.0}, 'growing is 1.0'),
  ({'reserve': -0.1}, 'reserve is -0.1'),
  ({'max_stay': 0.01}, 'max_stay is 0.01 with min_stay 0.0625'),
  ({'max_stay': math.nan}, 'max_stay is nan'),
  ({'window': 4}, 'window is 4, at least 8'),
  ({'hysteresis': 0}, 'hysteresis is 0, at least 1'),
  ({'back_offs': -1}, 'back_offs is -1, at least 0'),
  ({'triggers': ()}, 'triggers is empty'),
  ({'triggers': ('treshold',)}, "did you mean 'threshold'?"),
  ({'watch': 'answer'}, "unknown watched metric 'answer': did you mean 'ans"),
  ({'flattens': 'probe/los'}, "'probe/los': did you mean 'probe/loss'?"),
  ({'triggers': ('gain',)}, "unknown watched metric 'probe/gain'"),
  ({'reserve': 0.8}, 'the shortest stays are'),
)


@pytest.mark.parametrize(('change', 'says'), WRONG)
def test_what_no_run_can_use_is_named(change: dict, says: str) -> None:
  config = dataclasses.replace(QualityConfig(), **change)
  wrong = stay_problems(config, 'quality', LENGTHS, 240, KNOWN)
  assert len(wrong) == 1
  assert says in wrong[0]


def test_all_problems_come_at_once() -> None:
  config = QualityConfig(threshold=math.inf, reserve=1.0, triggers=('no',))
  assert len(config.problems()) == 3


def test_good_settings_have_no_problems() -> None:
  for kind in ('threshold', 'quality'):
    assert stay_problems(QualityConfig(), kind, LENGTHS, 240, KNOWN) == []


@pytest.mark.parametrize('kind', ['threshold', 'quality'])
def test_a_run_too_short_for_its_stages_is_refused(kind: str) -> None:
  wrong = stay_problems(QualityConfig(), kind, LENGTHS, 3, KNOWN)
  assert len(wrong) == 1
  assert 'more steps' in wrong[0]


def test_a_threshold_out_of_reach_takes_a_limit_of_steps() -> None:
  """The reserve is one, and so is the longest stay."""
  out = QualityConfig(threshold=-1.0, reserve=0.0)
  for config, problems in (
    (out, 1),
    (dataclasses.replace(out, max_stay=0.2), 0),
    (dataclasses.replace(out, reserve=0.3), 0),
    (dataclasses.replace(out, threshold=0.1), 0),
    (dataclasses.replace(out, watch='probe/recall', threshold=1.0), 1),
    (dataclasses.replace(out, watch='probe/recall', threshold=0.9), 0),
  ):
    wrong = stay_problems(config, 'threshold', LENGTHS, 240, KNOWN)
    assert len(wrong) == problems, config


def test_accuracies_rise() -> None:
  assert [rises(n) for n in ('probe/full_recall', 'loss')] == [True, False]
