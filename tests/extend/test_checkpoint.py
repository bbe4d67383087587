"""A job on a tiny checkpoint: what it says, trains, measures and writes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import make_checkpoint
import numpy as np
import pytest

from ntk_jax.errors import ConfigError, WorkdirError
from ntk_jax.evaluation.score import TestRows, evaluate
from ntk_jax.extend import ExtendConfig, run
from ntk_jax.extend.exported import check_free
from ntk_jax.extend.fits import memory_line, tuning_need
from ntk_jax.extend.imported import resolved, subject
from ntk_jax.extend.methods import Setting, candidate, extended, select
from ntk_jax.interop import load
from ntk_jax.memory import WITHIN
from ntk_jax.metrics.jsonl import read_lines
from ntk_jax.model.remat import REMAT
from ntk_jax.report import markdown, results_csv, table
from ntk_jax.rope.spec import RopeSpec
from ntk_jax.scheme import Scheme

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
  out = tmp_path_factory.mktemp('checkpoint') / 'tiny'
  make_checkpoint.make(out, sharded=True)
  return out


def job(folder: Path, **changes: Any) -> ExtendConfig:
  return dataclasses.replace(
    ExtendConfig(
      checkpoint=str(folder),
      target_length=256,
      corpus=str(ROOT / 'ntk_jax'),
      methods=('none', 'yarn', 'ntk'),
      rows=4,
      tune_steps=3,
      tune_learning_rate=0.01,
      trainable='lora:4',
    ),
    **changes,
  )


@pytest.fixture(scope='module')
def done(
  folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], Path, Path]:
  """The result, its workdir, and the exported folder."""
  base = tmp_path_factory.mktemp('job')
  out = base / 'out'
  result = run(job(folder, export=str(out)), base / 'work')
  return result, base / 'work', out


def test_what_was_exported_has_the_loss_that_was_reported(
  folder: Path, done: tuple[dict[str, Any], Path, Path]
) -> None:
  """Read back with the config's own schemes, on rows made again."""
  result, _, out = done
  config, checkpoint = resolved(job(folder))
  given = subject(config, checkpoint)
  rows = TestRows.from_corpus(
    given.corpus, config.lengths, config.rows, given.symbols
  )
  model = load(out)
  scores = evaluate(model.params, model.config, model.schemes, rows)
  name = result['export']['method']
  assert name in ('yarn', 'ntk')
  (row,) = (r for r in result['tuned']['rows'] if r['name'] == name)
  expected = [loss['mean'] for loss in row['loss']]
  np.testing.assert_allclose(scores.loss.mean(0), expected, atol=2e-5)
  found = [part['mean'] for part in row['retrieval']]
  np.testing.assert_allclose(scores.hits.mean((0, 2)), found, atol=1e-6)


def test_adapters_are_merged_and_all_else_is_the_same_to_the_bit(
  folder: Path, done: tuple[dict[str, Any], Path, Path]
) -> None:
  before, after = (load(path).params for path in (folder, done[2]))
  assert jax.tree.structure(before) == jax.tree.structure(after)
  for name in before.layers:
    same = np.array_equal(before.layers[name], after.layers[name])
    assert same == (name not in ('q', 'k', 'v', 'out')), name
  for name in ('embed', 'final_norm', 'unembed'):
    np.testing.assert_array_equal(getattr(before, name), getattr(after, name))


def test_the_checkpoints_of_training_hold_adapters_alone(
  done: tuple[dict[str, Any], Path, Path],
) -> None:
  _, work, _ = done
  (tuned,) = (work / 'seed0').glob('tune-yarn-*')
  assert len(read_lines(tuned / 'metrics.jsonl')) == 3
  size = sum(file.stat().st_size for file in tuned.rglob('*') if file.is_file())
  whole = 4 * 120_000
  assert size < whole  # two steps of parameters and both moments


def test_the_page_names_what_was_extended(
  folder: Path, done: tuple[dict[str, Any], Path, Path]
) -> None:
  result, work, out = done
  _, checkpoint = resolved(job(folder))
  page = (work / 'report.md').read_text()
  assert page == markdown(json.loads((work / 'report.json').read_text()))
  for words in (
    f'tiny (llama, fingerprint `{checkpoint.fingerprint}`)',
    'its own length 128 tokens',
    'adapters of q, k, v and out were trained, all else was frozen (rank 4)',
    'it needs 0.',
    'this device has',
    f'is in `{out}`',
    'python -m experiments.doctor',
    '| llama.cpp |',
    'bits per token',
    '`none`: as it is',
  ):
    assert words in page, words
  assert 'per byte' not in page + table(result) + results_csv(result)
  assert 'The problem' not in page
  assert not (work / 'problem.png').exists()
  assert (work / 'loss_by_length.png').exists()
  assert f'--checkpoint={folder}' in result['command']
  assert '--target_length=256' in result['command']
  assert 'train_length' not in result['command']


def test_another_checkpoint_needs_another_workdir(
  folder: Path, done: tuple[dict[str, Any], Path, Path], tmp_path: Path
) -> None:
  make_checkpoint.make(tmp_path / 'tiny', seed=1)
  with pytest.raises(WorkdirError, match='belongs to a run with checkpoint'):
    run(job(tmp_path / 'tiny'), done[1])


def test_what_cannot_be_written_is_named_and_the_next_is_taken(
  folder: Path, tmp_path: Path
) -> None:
  config = job(
    folder,
    methods=('none', 'ntk+logn'),
    trainable='norms_embeddings',
    moments='bfloat16',
    tune_steps=1,
    export=str(tmp_path / 'out'),
  )
  result = run(config, tmp_path / 'work')
  facts = result['export']
  (refused,) = facts['refused']
  assert refused['name'] == 'ntk+logn'
  assert 'Temperature' in refused['reason']
  assert facts['method'] == 'none'
  assert '`ntk+logn` cannot be written' in markdown(result)
  after, before = load(tmp_path / 'out'), load(folder)
  assert after.schemes == before.schemes
  same = np.array_equal(after.params.layers['q'], before.params.layers['q'])
  assert same
  assert not np.array_equal(after.params.embed, before.params.embed)
  with pytest.raises(ConfigError, match='it is there already'):
    run(config, tmp_path / 'work')


def test_a_device_too_small_is_refused_before_anything_is_loaded(
  folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  config, _ = resolved(job(folder, trainable='all'))
  needs = tuning_need(config)
  assert 'needs' in memory_line(config, has=needs)
  near = memory_line(config, has=int(needs / WITHIN) + 1)
  assert 'it may still fit' in near
  lora = tuning_need(dataclasses.replace(config, trainable='lora'))
  assert lora < needs
  with pytest.raises(ConfigError, match='no setting fits, the smallest takes'):
    memory_line(config, has=2**16)
  wide = dataclasses.replace(
    config,
    target_length=4096,
    model=dataclasses.replace(config.model, dim=1024, layers=24, mlp_dim=4096),
  )
  half = tuning_need(dataclasses.replace(wide, moments='bfloat16'))
  with pytest.raises(ConfigError) as error:
    memory_line(wide, has=tuning_need(wide) // 2)
  assert half > tuning_need(wide) // 2
  assert '--trainable=attention would fit, with' in str(error.value)
  monkeypatch.setattr('ntk_jax.extend.fits.device_memory', lambda: 2**16)
  for name in ('model-00001-of-00003.safetensors',):
    assert (folder / name).exists()
  monkeypatch.setattr('ntk_jax.extend.imported.load', None)
  with pytest.raises(ConfigError, match='fine-tuning needs .*this device has'):
    run(job(folder), tmp_path)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  ('change', 'says'),
  [
    ({'target_length': 128}, 'must be beyond the trained length 128'),
    ({'seeds': 2}, 'a checkpoint is one model'),
    ({'trainable': 'lorra'}, "did you mean 'lora'"),
    ({'moments': 'float16'}, "unknown moments 'float16'"),
    ({'methods': ('none', 'yarm')}, "did you mean 'yarn'"),
    ({'checkpoint': '/nowhere/at/all'}, '/nowhere/at/all'),
  ],
)
def test_settings_without_sense(
  folder: Path, tmp_path: Path, change: dict[str, Any], says: str
) -> None:
  with pytest.raises(ConfigError, match=says):
    run(job(folder, **change), tmp_path)


def test_export_without_a_checkpoint() -> None:
  with pytest.raises(ConfigError, match='name one with checkpoint'):
    ExtendConfig(export='out').validate()


@pytest.mark.parametrize('place', ['file/new', 'file/new/newer', 'a' * 300])
def test_a_place_that_no_folder_can_have(place: str, tmp_path: Path) -> None:
  """It is told before the training, not after."""
  (tmp_path / 'file').write_text('here')
  check_free(str(tmp_path / 'new' / 'newer'))
  with pytest.raises(ConfigError, match='no folder that can be|no usable path'):
    check_free(str(tmp_path / place))


def changed(folder: Path, out: Path, **config: Any) -> Path:
  """The checkpoint with another config."""
  out.mkdir()
  for file in folder.iterdir():
    (out / file.name).write_bytes(file.read_bytes())
  settings = json.loads((out / 'config.json').read_text()) | config
  (out / 'config.json').write_text(json.dumps(settings))
  return out


def test_a_model_that_is_scaled_already_is_compared_as_it_is(
  folder: Path, tmp_path: Path
) -> None:
  rope: dict[str, Any] = {
    'rope_type': 'yarn',
    'factor': 4.0,
    'original_max_position_embeddings': 32,
  }
  scaled = changed(
    folder,
    tmp_path / 'scaled',
    rope_parameters={**rope, 'rope_theta': 10000.0},
    rope_scaling=rope,
  )
  config, checkpoint = resolved(job(scaled))
  assert config.train_length == 128
  assert checkpoint.original == 32
  assert config.lengths == (128, 256)
  found, _ = select(config.methods, subject(config, checkpoint).setting)
  none, yarn, ntk = found
  assert none.label == 'as it is (yarn)'
  assert none.schemes == checkpoint.schemes
  assert yarn.scheme.spec.factor == ntk.scheme.spec.factor == 8
  assert yarn.scheme.spec.original_length == 32


def test_methods_take_the_place_of_schemes_that_see_everything() -> None:
  nope = Scheme(RopeSpec('proportional', 16, partial_rotary_factor=0.0))
  local = Scheme(RopeSpec('default', 16, theta=1e4), window=64)
  wide = Scheme(RopeSpec('default', 16, theta=1e6, partial_rotary_factor=0.5))
  own = (local, wide, nope)
  setting = Setting(16, 1e6, 128, 4.0, 0.5, own)
  assert extended(own) == [1]
  none, yarn, logn, window = (
    candidate(name, setting) for name in ('none', 'yarn', 'ntk+logn', 'window')
  )
  assert none.schemes == own
  for made in (yarn, logn, window):
    assert made.schemes[0] == local
    assert made.schemes[2] == nope
    assert made.schemes[1] == made.scheme
  assert yarn.scheme.spec.rotary_dim == 8
  assert yarn.scheme.spec.method == 'yarn'
  assert logn.scheme.temperature is not None
  assert window.scheme == dataclasses.replace(wide, window=128)
  only = candidate('linear', Setting(16, 1e4, 128, 4.0, 1.0, (local, nope)))
  assert only.schemes[0].window == 64
  assert only.schemes[0].spec.method == 'linear'
  with pytest.raises(ConfigError, match='no layer of the model has'):
    candidate('yarn', Setting(16, 1e4, 128, 4.0, 1.0, (nope,)))


def test_blocks_are_recomputed_by_a_policy_that_exists(folder: Path) -> None:
  config, _ = resolved(job(folder))
  assert config.model.remat in REMAT
