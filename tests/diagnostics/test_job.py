"""A whole diagnosis of a tiny model: what it leaves, and that it adds up."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from make_checkpoint import make

from ntk_jax.data.settings import DataConfig
from ntk_jax.diagnostics import variants as kinds
from ntk_jax.diagnostics.findings import Findings
from ntk_jax.diagnostics.job import diagnose
from ntk_jax.diagnostics.page import diagnosis_page, diagnosis_text
from ntk_jax.diagnostics.settings import DiagnoseConfig
from ntk_jax.diagnostics.subject import (
  about_to_train,
  check_room,
  loaded_checkpoint,
  trained_run,
)
from ntk_jax.errors import ConfigError
from ntk_jax.model import ModelConfig, parameter_count
from ntk_jax.model.published import MODELS
from ntk_jax.optimizer import OptimizerConfig
from ntk_jax.train import TrainConfig, run

CORPUS = str(Path(__file__).resolve().parent.parent.parent / 'ntk_jax')
RUN = TrainConfig(
  model=ModelConfig(
    vocab=256, dim=16, layers=1, heads=2, kv_heads=1, head_dim=8, mlp_dim=16
  ),
  data=DataConfig(corpus=CORPUS, max_length=32, batch_rows=2),
  optimizer=OptimizerConfig(peak=1e-2, steps=6, warmup=2),
)
CONFIG = DiagnoseConfig(lengths=(16, 32), rows=2, contexts=3, seeds=2, steps=0)
FILES = {
  'diagnose.json',
  'diagnose.md',
  'measurements.csv',
  'heads_start.png',
  'kernel_start.png',
  'variance_start.png',
}


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
  """Of a diagnosis at the start."""
  path = tmp_path_factory.mktemp('diagnosis')
  diagnose(about_to_train(RUN, 'tiny'), CONFIG, path, 'the command')
  return path


def stored(folder: Path) -> tuple[dict[str, Any], Findings]:
  """What it left."""
  result = json.loads((folder / 'diagnose.json').read_text())
  return result, Findings.from_csv((folder / 'measurements.csv').read_text())


def test_it_leaves_tables_plots_and_a_page(folder: Path) -> None:
  assert {path.name for path in folder.iterdir()} == FILES
  result, found = stored(folder)
  page = (folder / 'diagnose.md').read_text()
  assert diagnosis_page(result, found) == page  # made of what is stored
  for name in FILES:
    assert name.endswith(('.json', '.md', '.csv')) or f'({name})' in page
  for words in ('the command', result['corpus']['fingerprint']):
    assert words in page
  assert 'neural tangent kernel, from 16 to 32' in diagnosis_text(result, found)
  assert (folder / 'kernel_start.png').read_bytes()[:4] == b'\x89PNG'


def test_every_variant_is_measured_at_every_length(folder: Path) -> None:
  result, found = stored(folder)
  variants = [v.name for v in kinds.at_start(RUN.model, 16)]
  assert found.variants('start', 'trace') == variants
  assert set(found.variants('start', 'ratio')) == {
    *variants,
    kinds.FITTED_ENTROPY,
    kinds.FITTED_VARIANCE,
  }
  for variant in variants:
    each = found.each('start', variant, 'ratio', 'layer 0')
    assert each.shape == (2, 2)
    assert found.each('start', variant, 'trace', 'wq').shape == (2, 2)
  assert np.isfinite([r.value for r in found.records]).all()
  assert result['reference'] == 16
  assert len(result['suggested']['start']) == 2


def test_variants_differ_where_they_should(folder: Path) -> None:
  _, found = stored(folder)

  def ratio(variant: str) -> Any:
    return found.mean('start', variant, 'ratio', 'layer 0')

  own, naive = ratio('1/sqrt(d)'), ratio(kinds.NAIVE)
  np.testing.assert_allclose(naive, own * [1, 2], rtol=1e-4)  # gain^2
  np.testing.assert_allclose(ratio(kinds.FLAT_VARIANCE)[0], own[0], rtol=1e-4)
  assert ratio(kinds.FLAT_VARIANCE)[1] != own[1]
  wq = [
    found.mean('start', variant, 'gradient', 'wq')[0]
    for variant in ('1/sqrt(d)', '1/d')
  ]
  assert wq[1] < 0.8 * wq[0]  # 1 / sqrt(8) of the logits' gradient


@pytest.mark.slow
def test_ways_to_start_are_trained_and_a_run_is_read(tmp_path: Path) -> None:
  config = dataclasses.replace(CONFIG, steps=3, seeds=1)
  result, found = diagnose(
    about_to_train(RUN, 'tiny'), config, tmp_path / 'start', ''
  )
  stage = 'after 3 steps'
  assert found.stages() == ['start', stage]
  ways = {'1/sqrt(d)', '1/d', kinds.NAIVE, kinds.AWARE, kinds.NORM}
  assert ways < set(found.variants(stage, 'trace'))
  assert set(result['suggested']) == {'start', stage}
  before, after = (
    found.each(name, '1/sqrt(d)', 'gradient', 'mlp') for name in found.stages()
  )
  assert not np.allclose(before, after, rtol=1e-3)  # it was trained
  run(RUN, tmp_path / 'run')
  subject = trained_run(str(tmp_path / 'run'))
  result, found = diagnose(subject, config, tmp_path / 'trained', '')
  assert (result['reference'], found.stages()) == (32, ['trained'])
  short = dataclasses.replace(config, lengths=(16, 64))
  with pytest.raises(ConfigError, match='trained at 32 tokens: give lengths'):
    diagnose(subject, short, tmp_path / 'other', '')


def test_what_cannot_be_done_is_refused_before_any_work(
  tmp_path: Path,
) -> None:
  (tmp_path / 'file').write_text('')
  subject = about_to_train(RUN, 'tiny')
  with pytest.raises(ConfigError, match='cannot be written'):
    diagnose(subject, CONFIG, tmp_path / 'file' / 'out', '')
  with pytest.raises(ConfigError, match='rows of'):
    long = dataclasses.replace(CONFIG, lengths=(16, 2**20))
    diagnose(subject, long, tmp_path / 'out', '')
  small = dataclasses.replace(RUN.model, vocab=100)
  with pytest.raises(ConfigError, match='model.vocab is 100'):
    about_to_train(dataclasses.replace(RUN, model=small), 'small')
  with pytest.raises(ConfigError, match='GiB'):
    check_room(MODELS['llama2-70b'])


@pytest.mark.slow
def test_a_checkpoint_is_read_as_its_tokenizer_does(tmp_path: Path) -> None:
  make(tmp_path / 'tiny')
  subject = loaded_checkpoint(str(tmp_path / 'tiny'), CORPUS)
  assert (subject.trained, subject.run) == (128, None)
  rows = subject.rows(129, 4)
  assert rows.max() < subject.config.vocab
  assert (rows >= 256).any()  # not bytes
  assert parameter_count(subject.params(0)) == parameter_count(subject.config)
  config = dataclasses.replace(CONFIG, lengths=(64, 128), rows=1)
  result, found = diagnose(subject, config, tmp_path / 'out', '')
  assert found.variants('trained', 'trace')[0] == '1/sqrt(d)'
  assert result['reference'] == 128
