"""What arms change, and what is refused before any work."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from ntk_jax.config import differences, from_dict, to_plain
from ntk_jax.errors import ConfigError
from ntk_jax.study.arms import ARMS, arms_named, train_config
from ntk_jax.study.settings import StudyConfig, tiny
from ntk_jax.train import TrainConfig

CONFIG = StudyConfig()
BY_NAME = {arm.name: arm for arm in ARMS}


def changed(name: str, other: str, config: StudyConfig = CONFIG) -> set[str]:
  """Sections of the run's settings in which two arms differ."""
  one, two = (
    to_plain(train_config(BY_NAME[n], config, config.steps, 1))
    for n in (name, other)
  )
  return {field.split('.')[0] for field, _, _ in differences(one, two)}


@pytest.mark.parametrize(
  ('name', 'sections'),
  [
    ('steps', {'growth'}),
    ('threshold', {'growth'}),
    ('quality', {'growth'}),
    ('shuffled', {'growth'}),
    ('long34', {'sampling'}),
    ('ltd', {'regularize'}),
    ('forget', {'regularize'}),
    ('mask', {'regularize'}),
    ('weight', {'regularize'}),
    ('long_ce', {'regularize'}),
    ('short', {'data'}),
    ('pose', {'regularize'}),
  ],
)
def test_an_arm_changes_its_base_in_one_way(
  name: str, sections: set[str]
) -> None:
  base = BY_NAME[name].base
  assert base is not None
  assert changed(name, base) == sections


@pytest.mark.parametrize('config', [CONFIG, tiny(CONFIG)])
@pytest.mark.parametrize('name', list(BY_NAME))
def test_every_arm_can_be_trained(name: str, config: StudyConfig) -> None:
  """Its settings are whole, and read back from plain values."""
  run = train_config(BY_NAME[name], config, config.steps, 2)
  run.validate(1)
  assert from_dict(TrainConfig, to_plain(run)) == run
  assert run.seed == run.data.seed == 2
  assert run.data.max_length * run.data.batch_rows == config.tokens_per_step
  assert run.optimizer.steps % run.probe.every == 0


def test_arms_come_with_what_they_stand_on() -> None:
  assert [a.name for a in arms_named(('forget',))] == [
    'constant',
    'steps',
    'forget',
  ]
  assert arms_named(('all',)) == ARMS
  for arm in ARMS:
    assert arm.base is None or arm.base in BY_NAME


@pytest.mark.parametrize(
  ('names', 'says'),
  [
    (('stepz',), "unknown arm 'stepz': did you mean 'steps'?"),
    ((), 'arms is empty'),
  ],
)
def test_unknown_arms_are_refused(names: tuple[str, ...], says: str) -> None:
  with pytest.raises(ConfigError) as caught:
    arms_named(names)
  assert says in str(caught.value)


@pytest.mark.parametrize(
  ('change', 'says'),
  [
    ({'seeds': 0}, 'seeds is 0'),
    ({'minutes': 0.0}, 'minutes is 0.0'),
    ({'minutes': float('nan')}, 'minutes is nan'),
    ({'steps': 6, 'probe_every': 3}, 'steps is 6, must be at least 12'),
    ({'steps': 250}, 'steps is 250: a multiple of probe_every, 12'),
    ({'lengths': (64, 96)}, 'lengths are (64, 96)'),
    ({'lengths': (64,)}, 'lengths are (64,)'),
    ({'lengths': (16, 32)}, 'lengths start at 16'),
    ({'tokens_per_step': 512}, 'tokens_per_step is 512'),
    ({'learning_rate': -1.0}, 'learning rate is -1.0'),
  ],
)
def test_wrong_settings_are_refused(change: dict[str, Any], says: str) -> None:
  with pytest.raises(ConfigError) as caught:
    dataclasses.replace(CONFIG, **change).validate()
  assert says in str(caught.value)


def test_all_that_is_wrong_comes_at_once() -> None:
  with pytest.raises(ConfigError) as caught:
    dataclasses.replace(CONFIG, seeds=0, rows=0, lengths=()).validate()
  for words in ('seeds is 0', 'rows is 0', 'lengths are ()'):
    assert words in str(caught.value)
