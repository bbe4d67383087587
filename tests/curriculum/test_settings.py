"""Settings of growth: what is refused, together, and what is let through."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntk_jax.config import from_dict, to_plain
from ntk_jax.curriculum.clock import UNITS, Clock, Run, whole
from ntk_jax.curriculum.pace import SHAPES
from ntk_jax.curriculum.quality import QualityConfig
from ntk_jax.curriculum.schedule import LengthSchedule, schedule_of
from ntk_jax.curriculum.settings import KINDS, GrowthConfig
from ntk_jax.errors import ConfigError

RUN = Run(steps=100, step_tokens=8192, epoch_tokens=81920, length=1024)
PROBES = ('probe/loss', 'probe/gain', 'probe/ahead', 'probe/recall')
KNOWN = ('answers', 'text', 'loss', *PROBES)
NAN, INF = float('nan'), float('inf')
LENGTHS = (256, 512, 1024)

GOOD: list[dict[str, Any]] = [
  {},
  {'kind': 'discrete', 'lengths': LENGTHS},
  {'kind': 'discrete', 'lengths': (100, 700, 1024), 'buckets': (1024,)},
  {'kind': 'discrete', 'lengths': LENGTHS, 'unit': 'steps', 'at': (5.0, 99.0)},
  {'kind': 'discrete', 'lengths': LENGTHS, 'batch': 'rows'},
  {'kind': 'discrete', 'lengths': (1024,)},
  {'kind': 'grow_p2', 'lengths': LENGTHS, 'over': 1.0},
  {'kind': 'doubling', 'start': 128, 'unit': 'epochs', 'over': 6.4},
  {'kind': 'linear', 'start': 8},
  {'kind': 'root', 'start': 9, 'multiple': 8, 'unit': 'steps', 'over': 64.0},
  {'kind': 'exponential', 'start': 32, 'unit': 'tokens', 'over': 4e5},
  {'kind': 'step', 'start': 32, 'step': 256, 'buckets': (256, 1024)},
  {'kind': 'threshold', 'lengths': LENGTHS},
  {'kind': 'quality', 'lengths': LENGTHS},
  {
    'kind': 'discrete',
    'lengths': LENGTHS,
    'boundary': 'dip',
    'boundary_steps': 10,
    'boundary_scale': 0.5,
  },
  {
    'kind': 'linear',
    'start': 256,
    'multiple': 256,
    'boundary': 'rewarm',
    'boundary_steps': 20,
  },
]


@pytest.mark.parametrize('values', GOOD, ids=str)
def test_good_settings_pass(values: dict[str, Any]) -> None:
  config = GrowthConfig(**values)
  assert config.problems(RUN, KNOWN) == []
  schedule = schedule_of(config, RUN)
  assert isinstance(schedule, LengthSchedule)
  stage = schedule.stage(schedule.start())
  assert config.bucket(stage.length, RUN) in config.row_shapes(RUN)


def stages(**more: Any) -> dict[str, Any]:
  return {'kind': 'discrete', 'lengths': LENGTHS} | more


def dips(**more: Any) -> dict[str, Any]:
  return stages(boundary='dip', boundary_steps=5) | more


def ramp(**more: Any) -> dict[str, Any]:
  return {'kind': 'linear', 'start': 8} | more


@pytest.mark.parametrize(
  ('values', 'says'),
  [
    ({'kind': 'linaer'}, "unknown kind of growth 'linaer': did you mean 'lin"),
    (ramp(unit='step'), "unknown unit of growth 'step': did you mean 'steps'"),
    (ramp(batch='row'), "unknown batch of growth 'row': did you mean 'rows'"),
    (stages(boundary='dipp'), "'dipp': did you mean 'dip'"),
    (ramp(multiple=0), 'multiple is 0, must be at least 1'),
    (ramp(kind='step', step=0), 'step is 0, must be at least 1'),
    (stages(cycles=0), 'cycles is 0'),
    (stages(seed=-1), 'seed is -1'),
    (ramp(over=NAN), 'over is nan, must be finite and above 0'),
    (ramp(over=0.0), 'over is 0.0'),
    (ramp(over=-1.0), 'over is -1.0'),
    (ramp(kind='root', root=0.0), 'root is 0.0'),
    (ramp(kind='root', root=INF), 'root is inf'),
    (stages(lengths=()), 'lengths is empty: give the lengths'),
    (stages(lengths=(512, 256, 1024)), '512, 256, 1024: each must be above'),
    (stages(lengths=(512, 512, 1024)), 'each must be above the one before'),
    (stages(lengths=(256, 512)), 'ends at 512: the last must be the full'),
    (stages(lengths=(512, 2048)), 'ends at 2048: the last must be the full'),
    (stages(lengths=(0, 512, 1024)), 'lengths has 0: a sequence takes at lea'),
    (stages(multiple=100), 'has 256, 512: all but the last must be multiples'),
    (stages(lengths=(768, 1024)), '768, which does not divide 1024: rows are'),
    (stages(buckets=(300, 1024)), 'buckets has 300, which does not divide'),
    (stages(buckets=(256, 512)), 'buckets ends at 512: the last must be'),
    (stages(buckets=(512, 256, 1024)), 'buckets is 512, 256, 1024: each must'),
    (stages(start=8), "start is 8, which kind 'discrete' does not read"),
    ({'lengths': LENGTHS}, "which kind 'constant' does not read: it is of dis"),
    (ramp(at=(0.5,)), "at is (0.5,), which kind 'linear' does not read"),
    (
      ramp(start=None),
      'start is missing, the length that growth begins with: 8',
    ),
    (ramp(start=1), 'start is 1: it must be at least 2 and below the full'),
    (ramp(start=1024), 'start is 1024: it must be at least 2 and below'),
    (ramp(kind='doubling', start=96), '96: doubled again and again it does no'),
    (ramp(kind='doubling', start=3), 'use 1024 divided by a power of two'),
    (ramp(kind='doubling', start=4, multiple=8), 'all but the last must be mu'),
    (ramp(over=1.5), 'over is 1.5, outside the run, which has 1 (fraction)'),
    (ramp(over=101.0, unit='steps'), 'outside the run, which has 100 (steps)'),
    (ramp(over=11.0, unit='epochs'), 'outside the run, which has 10 (epochs)'),
    (ramp(over=1.0), 'the run ends at length 1013, before the full one, 1024'),
    (stages(over=1.0), 'ends at length 512, before the full one, 1024, is'),
    (stages(at=(0.5,)), 'at has 1 entries: 3 lengths need 2'),
    (stages(at=(0.5, 1.0)), 'at has 1: a stage must begin within the run'),
    (stages(at=(0.0, 0.5)), 'at has 0: a stage must begin within the run'),
    (stages(at=(0.5, NAN)), 'at has nan: a stage must begin within the run'),
    (stages(at=(0.6, 0.5)), 'at is 0.6, 0.5: each must be above the one befo'),
    (stages(at=(0.501, 0.502)), '512 of the lengths would get no step'),
    (stages(at=(50.0, 100.0), unit='steps'), 'before 100 (steps)'),
    (stages(over=0.01), '512 of the lengths would get no step of the 100'),
    (ramp(boundary_steps=9), "boundary_steps is 9, which boundary 'keep'"),
    (stages(boundary_scale=0.5), "boundary_scale is 0.5, which boundary 'ke"),
    (dips(boundary_scale=0.0), 'boundary_scale is 0.0, must be in (0, 1]'),
    (dips(boundary_scale=NAN), 'boundary_scale is nan, must be in (0, 1]'),
    (dips(boundary_scale=1.5), 'boundary_scale is 1.5, must be in (0, 1]'),
    (dips(boundary_scale=0.5, boundary_steps=-1), 'boundary_steps is -1, must'),
    (stages(boundary='rewarm'), "boundary is 'rewarm' and boundary_steps 0"),
    (dips(boundary_scale=1.0), 'which is no dip: lower it'),
    (
      {'boundary': 'rewarm', 'boundary_steps': 5},
      "kind 'constant' has no boundaries between stages; use 'keep'",
    ),
    (
      stages(boundary='rewarm', boundary_steps=37),
      'boundary_steps is 37, longer than the 36 steps at length 1024',
    ),
    (
      ramp(boundary='rewarm', boundary_steps=2),
      'boundary_steps is 2, longer than the 1 steps at length 23: lower it',
    ),
    (
      stages(kind='grow_p2', batch='rows'),
      'grow_p2 gives each length the same share of the tokens by equal tokens',
    ),
    (stages(kind='grow_p2', cycles=40), '40 cycles in 64 steps are too short'),
    (stages(kind='threshold', lengths=(512, 256, 1024)), 'each must be above'),
  ],
)
def test_what_cannot_be_is_said(values: dict[str, Any], says: str) -> None:
  wrong = GrowthConfig(**values).problems(RUN, KNOWN)
  assert any(says in text for text in wrong), wrong
  assert len(wrong) == 1, wrong


@pytest.mark.parametrize(
  ('quality', 'says'),
  [
    (QualityConfig(watch='anwsers'), "'anwsers': did you mean 'answers'?"),
    (QualityConfig(threshold=NAN), 'threshold is nan'),
    (QualityConfig(threshold=-1.0, reserve=0.0), 'would never grow'),
  ],
)
def test_what_quality_cannot_be_is_said(
  quality: QualityConfig, says: str
) -> None:
  config = GrowthConfig('threshold', LENGTHS, quality=quality)
  (wrong,) = config.problems(RUN, KNOWN)
  assert says in wrong
  # Of a kind that does not read it, it does not matter.
  assert (
    GrowthConfig('discrete', LENGTHS, quality=quality).problems(RUN, ()) == []
  )


def test_all_problems_come_at_once() -> None:
  config = GrowthConfig(
    'discrete',
    (512, 256),
    multiple=100,
    unit='stepps',
    batch='rowz',
    boundary='dip',
    cycles=0,
    buckets=(100, 1000),
    over=NAN,
  )
  wrong = config.problems(RUN, KNOWN)
  for word in (
    'stepps',
    'rowz',
    'cycles',
    'over',
    'above the one before',
    'lengths ends at 256',
    'multiples of 100',
    'buckets ends at 1000',
    'boundary_steps 0',
    'no dip',
  ):
    assert any(word in text for text in wrong), word
  assert len(wrong) == len(set(wrong)) == 10


def test_a_batch_of_no_row_is_refused() -> None:
  run = Run(100, 512, 8192, 1024)
  assert GrowthConfig().problems(run, ()) == [
    'a step of 512 tokens has 0 rows of 1024: raise data.batch_rows or lower '
    'data.max_length'
  ]


def test_constant_rows_may_end_before_growth_by_tokens_does() -> None:
  """A run of 100 full steps has the tokens; this one reads fewer."""
  config = GrowthConfig(
    'discrete', (128, 1024), unit='tokens', at=(4e5,), batch='rows'
  )
  (wrong,) = config.problems(RUN, ())
  assert 'ends at length 128, before the full one, 1024, is' in wrong
  even = GrowthConfig('discrete', (128, 1024), unit='tokens', at=(4e5,))
  assert even.problems(RUN, ()) == []


def test_an_epoch_of_nothing_and_a_run_of_nothing() -> None:
  config = GrowthConfig('linear', start=8, unit='epochs')
  assert config.problems(Run(100, 8192, 0, 1024), ()) == [
    'unit is epochs, and an epoch has 0 tokens'
  ]
  # Said by the optimizer's and the data's settings; not a crash here.
  for run in (Run(0, 8192, 1, 1024), Run(9, 0, 1, 1024), Run(9, 9, 1, 0)):
    assert config.problems(run, ()) == []


def test_a_length_above_the_full_one_has_no_row() -> None:
  with pytest.raises(ConfigError, match='at most 1024 tokens, the full length'):
    GrowthConfig('linear', start=8).bucket(1025, RUN)


def test_growth_by_quality_has_no_pace() -> None:
  with pytest.raises(ConfigError, match='grows by measurements'):
    GrowthConfig('threshold', LENGTHS).pace(RUN)


@pytest.mark.parametrize('values', GOOD, ids=str)
def test_settings_come_back_from_json(values: dict[str, Any]) -> None:
  config = GrowthConfig(**values)
  text = json.dumps(to_plain(config))
  assert from_dict(GrowthConfig, json.loads(text)) == config
  assert hash(config) == hash(from_dict(GrowthConfig, json.loads(text)))


@st.composite
def anything(draw: st.DrawFn) -> tuple[dict[str, Any], Run]:
  """Settings by name, good and bad."""
  length = draw(st.sampled_from([8, 64, 100, 1024]))
  rows = draw(st.integers(1, 9))
  run = Run(draw(st.integers(1, 60)), rows * length, 50_000, length)
  kind = draw(st.sampled_from(KINDS))
  unit = draw(st.sampled_from(UNITS))
  sizes = st.lists(st.sampled_from([2, 4, 8, 16, 64, 100, 1024]), max_size=3)
  lengths = draw(st.one_of(st.just([length]), sizes))
  ramps = kind in (*SHAPES, 'doubling')
  return {
    'kind': kind,
    'lengths': () if ramps or kind == 'constant' else tuple(lengths),
    'start': draw(st.sampled_from([2, 4, 5, 25])) if ramps else None,
    'unit': unit,
    'over': draw(st.floats(0.01, 1.1)) * whole(run, unit),
    'multiple': draw(st.sampled_from([1, 2, 5])),
    'batch': draw(st.sampled_from(['tokens', 'rows'])),
    'buckets': draw(st.sampled_from([(), (length,)])),
    'cycles': draw(st.integers(1, 4)),
  }, run


@given(anything())
@settings(max_examples=150, deadline=None, derandomize=True, database=None)
def test_what_passes_trains_every_length(
  case: tuple[dict[str, Any], Run],
) -> None:
  """No accepted setting crashes, skips a stage or ends below the full one."""
  config, run = GrowthConfig(**case[0]), case[1]
  if config.problems(run, KNOWN) or config.kind in ('threshold', 'quality'):
    return
  schedule = schedule_of(config, run)
  state, clock, seen = schedule.start(), Clock(0, 0), set()
  for _ in range(run.steps):
    length = schedule.stage(state).length
    shape = config.bucket(length, run)
    tokens = config.step_tokens(length, run)
    assert tokens >= shape and tokens % shape == 0
    seen.add(length)
    clock = Clock(clock.step + 1, clock.tokens + tokens)
    state = schedule.advance(state, clock, {})
  assert run.length in seen
  assert set(schedule.lengths()) <= seen
