"""Wrong settings: every one named, all at once, before any work."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import pytest

from ntk_jax.config import from_dict, to_plain
from ntk_jax.data.settings import DataConfig
from ntk_jax.errors import ConfigError
from ntk_jax.model import ModelConfig
from ntk_jax.optimizer import OptimizerConfig
from ntk_jax.rope.spec import RopeSpec
from ntk_jax.scheme import Scheme
from ntk_jax.temperature import Temperature
from ntk_jax.train import SchemeConfig, TrainConfig, run

GOOD: dict[str, Any] = to_plain(
  TrainConfig(
    model=ModelConfig(vocab=408, dim=16, layers=2, heads=4, kv_heads=2),
    data=DataConfig(max_length=64, batch_rows=8),
    optimizer=OptimizerConfig(peak=1e-2, steps=6, warmup=2),
  )
)


def changed(changes: dict[str, Any]) -> dict[str, Any]:
  """The good values with some changed, by dotted name."""
  values = {k: dict(v) if isinstance(v, dict) else v for k, v in GOOD.items()}
  for name, value in changes.items():
    section, _, field = name.partition('.')
    if field:
      values[section][field] = value
    else:
      values[section] = value
  return values


def message(changes: dict[str, Any], devices: int = 1, hosts: int = 1) -> str:
  with pytest.raises(ConfigError) as error:
    from_dict(TrainConfig, changed(changes)).validate(devices, hosts)
  return str(error.value)


def test_the_good_settings_are_good() -> None:
  config = from_dict(TrainConfig, GOOD)
  config.validate(1)
  assert to_plain(config) == GOOD


def test_a_scheme_names_its_settings() -> None:
  spec = RopeSpec(
    'yarn',
    32,
    theta=2e4,
    partial_rotary_factor=0.5,
    original_length=64,
    factor=4.0,
    attention_factor=1.25,
    options={'beta_fast': 16.0},
    modifiers=('resonance', ('cope', 4)),
  )
  scheme = Scheme(spec, Temperature('ministral', length=64, beta=0.2), 48)
  config = SchemeConfig.of(scheme)
  assert config.scheme(ModelConfig(vocab=9)) == scheme
  back = from_dict(SchemeConfig, json.loads(json.dumps(to_plain(config))))
  assert back.scheme(ModelConfig(vocab=9)) == scheme
  assert SchemeConfig.of(Scheme(RopeSpec('default', 32))) == SchemeConfig(
    theta=1e4
  )
  with pytest.raises(ConfigError, match=r'names one of ntk_jax\.temperature'):
    SchemeConfig.of(Scheme(spec, lambda p: Temperature('grok', length=9)(p)))


YARN = {'method': 'yarn', 'original_length': 32, 'factor': 4.0}
WRONG: dict[str, tuple[dict[str, Any], int, str]] = {
  'kv heads': ({'model.kv_heads': 3}, 1, 'kv_heads 3 must divide heads 4'),
  'window': ({'schemes': [{'window': 0}]}, 1, 'window is 0'),
  'mesh': ({'mesh.data': 3}, 8, 'takes 3 devices, there are 8'),
  'mesh axis': ({'mesh.tensor': 0}, 8, 'mesh tensor is 0'),
  'context': ({'mesh.context': 2}, 2, 'mesh context is 2'),
  'batch': (
    {'mesh.data': 3, 'data.batch_rows': 8},
    3,
    'data.batch_rows is 8: data x fsdp x microbatches is 3',
  ),
  'microbatches': ({'microbatches': 3}, 1, 'must be a multiple of 3'),
  'heads over tensor': ({'mesh.tensor': 8}, 8, 'model.heads is 4'),
  'vocab over tensor': (
    {'mesh.tensor': 2, 'model.vocab': 409},
    2,
    'model.vocab is 409: tensor is 2',
  ),
  'kv heads over tensor': (
    {
      'mesh.tensor': 4,
      'model.heads': 12,
      'model.kv_heads': 3,
    },
    4,
    'model.kv_heads is 3 and tensor 4',
  ),
  'dim over fsdp': ({'mesh.fsdp': 8, 'model.dim': 12}, 8, 'model.dim is 12'),
  'remat': ({'model.remat': 'ful'}, 1, "unknown remat 'ful': did you mean"),
  'dtype': (
    {'model.precision': {'compute': 'bf16'}},
    1,
    "unknown compute dtype 'bf16'",
  ),
  'field': (
    {'model.head': 4},
    1,
    "unknown field 'model.head': did you mean 'model.heads'?",
  ),
  'section': (
    {'modell': {}},
    1,
    "unknown field 'modell': did you mean 'model'",
  ),
  'type': ({'model.dim': '16'}, 1, "model.dim is '16': it is a whole number"),
  'section type': ({'model': 3}, 1, 'model is 3: it has fields'),
  'list': ({'schemes': {'method': 'yarn'}}, 1, 'schemes is {'),
  'method': ({'schemes': [{'method': 'yarm'}]}, 1, "did you mean 'yarn'"),
  'temperature': (
    {'schemes': [{'temperature': 'lognn'}]},
    1,
    "schemes[0]: unknown temperature 'lognn'",
  ),
  'per-length method': (
    {'schemes': [{'method': 'dynamic', 'original_length': 32, 'factor': 1.0}]},
    1,
    'packed rows hold several',
  ),
  'plan': (
    {'model.layer_plan': [0, 1]},
    1,
    'layer_plan names scheme 1, schemes has 1',
  ),
  'steps': ({'optimizer.steps': 0}, 1, '0 steps'),
  'seed': ({'seed': -1}, 1, 'seed is -1'),
  'z loss': ({'z_loss': -1.0}, 1, 'z_loss is -1.0'),
  'save': ({'save_every': 0}, 1, 'save_every is 0'),
  'length': ({'data.max_length': 1}, 1, 'max_length is 1'),
  'share': ({'data.key_value': 1.5}, 1, 'key_value is 1.5'),
  'guard': ({'guard.patience': 0}, 1, 'patience is 0'),
}


@pytest.mark.parametrize('name', WRONG)
def test_a_wrong_setting_is_named(name: str) -> None:
  changes, devices, says = WRONG[name]
  assert says in message(changes, devices)


def test_hosts_share_a_batch_evenly() -> None:
  assert 'batch_rows is 8: 3 hosts' in message({}, hosts=3)


def test_all_that_is_wrong_comes_at_once() -> None:
  found = message(
    {
      'model.kv_heads': 3,
      'model.remat': 'none ',
      'data.max_length': 0,
      'optimizer.peak': -1.0,
      'mesh.data': 2,
      'z_loss': -1.0,
    }
  )
  for says in ('kv_heads 3', 'remat', 'max_length', '-1.0', '2 devices', 'z_l'):
    assert says in found


def test_all_unknown_fields_come_at_once() -> None:
  found = message({'model.x': 1, 'data.y': 2, 'optimizer.peak': '3'})
  for says in ('model.x', 'data.y', "optimizer.peak is '3'"):
    assert says in found


def no_work(*_: Any, **__: Any) -> Any:
  raise AssertionError('work before settings were checked')


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> None:
  """Drawing parameters or making arrays on a device fails the test."""
  monkeypatch.setattr('ntk_jax.train.job.initial_state', no_work)
  monkeypatch.setattr(jax, 'device_put', no_work)


@pytest.mark.usefixtures('idle')
def test_settings_are_checked_before_any_work(tmp_path: Path) -> None:
  config = from_dict(TrainConfig, changed({'model.kv_heads': 3}))
  with pytest.raises(ConfigError, match='kv_heads 3'):
    run(config, tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


@pytest.mark.usefixtures('idle')
def test_a_tokenizer_larger_than_the_model(tmp_path: Path) -> None:
  config = from_dict(TrainConfig, changed({'model.vocab': 255}))
  with pytest.raises(ConfigError, match='vocab is 255: tokenizer'):
    run(config, tmp_path / 'run')


@pytest.mark.usefixtures('idle')
def test_documents_without_a_next_token(tmp_path: Path) -> None:
  lone = tmp_path / 'a.jsonl'
  letters = (json.dumps({'text': chr(33 + i)}) for i in range(90))
  lone.write_text('\n'.join(letters))
  config = from_dict(TrainConfig, changed({'data.corpus': str(lone)}))
  with pytest.raises(ConfigError, match='2 tokens'):
    run(config, tmp_path / 'run')


def test_another_architecture_or_corpus_is_refused(tmp_path: Path) -> None:
  package = str(Path(__file__).resolve().parents[2] / 'ntk_jax')
  tiny = from_dict(
    TrainConfig,
    changed(
      {
        'data.corpus': package,
        'optimizer.steps': 1,
        'optimizer.warmup': 0,
      }
    ),
  )
  run(tiny, tmp_path)
  wider = dataclasses.replace(tiny.model, mlp_dim=16)
  with pytest.raises(ConfigError, match=r'model\.mlp_dim'):
    run(dataclasses.replace(tiny, model=wider), tmp_path)
  other = dataclasses.replace(tiny.data, seed=1)
  with pytest.raises(ConfigError, match=r'data\.fingerprint'):
    run(dataclasses.replace(tiny, data=other), tmp_path)


def test_growth_is_refused_with_all_that_is_wrong() -> None:
  said = message(
    {
      'growth': {
        'kind': 'threshold',
        'lengths': [32, 64],
        'quality': {'watch': 'lozz', 'threshold': float('nan')},
      },
      'stages': [
        {'from_length': 64, 'schemes': [{'method': 'yarn'}]},
        {'from_length': 32, 'schemes': []},
      ],
      'sampling': {
        'mixtures': [
          {'from_length': 64, 'lengths': [64, 32], 'shares': [0.4, 0.4]}
        ]
      },
      'regularize': {
        'forget': 1.0,
        'weight': 'position',
        'weight_cap': 0.0,
        'positions': 'pose',
      },
      'probe': {'rows': 0},
    }
  )
  for words in (
    'growth: threshold is nan, must be finite',
    "growth: unknown watched metric 'lozz'",
    'stages[0].schemes[0]: yarn needs factor',
    'stages[1].schemes has 0, schemes 1',
    'stages begin at lengths [64, 32]',
    'sampling: mixtures[0]: shares are (0.4, 0.4)',
    'regularize: forget is 1.0',
    'regularize: weight_cap is 0.0',
    'regularize: target_length is None with pose positions',
    'probe: rows is 0, must be at least 1',
  ):
    assert words in said, said


@pytest.mark.parametrize(
  ('growth', 'words'),
  [
    ({'kind': 'discrete', 'lengths': [64, 32]}, 'each must be above'),
    ({'kind': 'discrete', 'lengths': [24, 64]}, '24'),
    ({'kind': 'discrete', 'lengths': [32, 128]}, 'must be the full length'),
    ({'kind': 'discrete', 'lengths': [32, 64], 'at': [1.5]}, 'within the run'),
    ({'kind': 'doubling', 'start': 24}, 'divided by a power of two'),
    ({'kind': 'linear'}, 'start is missing'),
    ({'kind': 'liner', 'start': 8}, "did you mean 'linear'?"),
  ],
)
def test_lengths_that_cannot_be(growth: dict[str, Any], words: str) -> None:
  assert words in message({'growth': growth})


def test_an_epoch_is_known_once_the_text_is(tmp_path: Path) -> None:
  growth = {'kind': 'discrete', 'lengths': [32, 64], 'unit': 'epochs'}
  values = changed({'growth': growth | {'at': [0.5]}})
  with pytest.raises(ConfigError, match=r'within the run.*epochs'):
    run(from_dict(TrainConfig, values), tmp_path)
  assert not (tmp_path / 'checkpoints').exists()


DYNAMIC = {'method': 'dynamic', 'original_length': 32, 'factor': 2.0}


def test_methods_by_length_take_skips_or_two_ropes() -> None:
  assert 'mixed_rope, which tells' in message({'schemes': [DYNAMIC]})
  skips = {'positions': 'pose', 'target_length': 256}
  for more in ({'regularize': skips}, {'mixed_rope': 32}):
    values = changed({'schemes': [DYNAMIC], **more})
    from_dict(TrainConfig, values).validate(1)
  assert 'mixed_rope: length is 64' in message(
    {'schemes': [YARN], 'mixed_rope': 64}
  )
