"""Probes against their definitions in float64 numpy, and over processes."""

from __future__ import annotations

import json
import math
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import devices
import jax
import numpy as np
import pytest
from model.oracle import OraclePlan, decoder

from ntk_jax.data import retrieval
from ntk_jax.data.text import spread_rows
from ntk_jax.errors import ConfigError
from ntk_jax.evaluation import probes as probes_module
from ntk_jax.evaluation import score
from ntk_jax.evaluation.probes import PROBES, ProbeConfig, Probes
from ntk_jax.evaluation.score import TestRows
from ntk_jax.model import ModelConfig, Params, init_params
from ntk_jax.rope.spec import RopeSpec
from ntk_jax.scheme import Scheme

MODEL = ModelConfig(
  vocab=retrieval.VOCAB,
  dim=12,
  layers=2,
  heads=2,
  kv_heads=1,
  head_dim=4,
  mlp_dim=8,
)
FULL = 128
PLAIN = (Scheme(RopeSpec('default', 4)),)
LINEAR = (Scheme(RopeSpec('linear', 4, factor=2.0)),)
DYNAMIC = (Scheme(RopeSpec('dynamic', 4, factor=1.0, original_length=32)),)
TEXT = np.random.default_rng(0).integers(97, 123, (3, FULL + 1))
TEXT = TEXT.astype(np.int32)


@pytest.fixture(scope='module')
def params() -> Params:
  """Sharper than at the start, so that context matters."""
  params = init_params(jax.random.key(0), MODEL)
  layers = {name: 3 * leaf for name, leaf in params.layers.items()}
  return params._replace(layers=layers, embed=3 * params.embed)


def probes(names: Sequence[str] = PROBES, symbols: Any = 256) -> Probes:
  return Probes(MODEL, TEXT, 32, symbols, tuple(names), LINEAR)


def logits(
  params: Params, row: np.ndarray, schemes: Sequence[Scheme]
) -> np.ndarray:
  inv_freq, factor = schemes[0].spec.frequencies(len(row))
  return decoder(params, MODEL, row, [OraclePlan(inv_freq, float(factor))])


def nll(
  params: Params, text: np.ndarray, schemes: Sequence[Scheme]
) -> np.ndarray:
  """Nats of every next token of a row."""
  x = logits(params, text[:-1], schemes)
  x = x - x.max(-1, keepdims=True)
  x = x - np.log(np.exp(x).sum(-1, keepdims=True))
  return -x[np.arange(len(x)), text[1:]]


def context_loss(
  params: Params, context: int, schemes: Sequence[Scheme]
) -> float:
  """Of the last 8 tokens of every row, with so many before the last."""
  rows = [nll(params, row[-context - 1 :], schemes)[-8:] for row in TEXT]
  return float(np.mean(rows))


def found_share(
  params: Params, length: int, schemes: Sequence[Scheme]
) -> float:
  rows = TestRows(TEXT, 0, (length,), 256).questions(length)
  hits = []
  for tokens, targets, asked in zip(*rows):
    x = logits(params, tokens, schemes)[asked, 392:408]
    hits.append(x.argmax(-1) + 392 == targets[asked])
  return float(np.mean(hits))


@pytest.mark.parametrize('schemes', [PLAIN, DYNAMIC], ids=['plain', 'dynamic'])
def test_probes_are_what_they_are_defined_to_be(
  params: Params, schemes: Sequence[Scheme]
) -> None:
  found = probes()(params, schemes, 64, 128, LINEAR)
  here = context_loss(params, 64, schemes)
  expected = {
    'probe/loss': context_loss(params, 32, schemes),
    'probe/gain': context_loss(params, 32, schemes) - here,
    'probe/ahead': context_loss(params, 128, LINEAR) - here,
    'probe/recall': found_share(params, 64, schemes),
    'probe/full': float(
      np.mean([nll(params, row, LINEAR)[FULL // 2 :] for row in TEXT])
    ),
    'probe/full_recall': found_share(params, FULL, LINEAR),
  }
  assert list(found) == list(expected)
  assert all(type(value) is float for value in found.values())
  for name, value in expected.items():
    assert found[name] == pytest.approx(value, abs=1e-5), name
  # Not one of them is trivial.
  assert abs(found['probe/gain']) > 1e-3
  assert abs(found['probe/ahead']) > 1e-3


def test_the_loss_is_of_the_same_window_at_every_length(
  params: Params,
) -> None:
  every = [probes()(params, PLAIN, length) for length in (32, 64, 128)]
  assert len({found['probe/loss'] for found in every}) == 1
  assert len({found['probe/gain'] for found in every}) == 3


def test_what_cannot_be_measured_is_left_out(params: Params) -> None:
  found = probes(PROBES[:4], symbols=None)(params, PLAIN, 128)
  assert list(found) == ['probe/loss', 'probe/gain']
  found = probes(('probe/recall', 'probe/ahead'))(params, PLAIN, 16, 32)
  assert list(found) == ['probe/ahead']
  found = probes(('probe/full', 'probe/full_recall'), None)(params, PLAIN, 64)
  assert list(found) == ['probe/full']


@pytest.mark.parametrize(
  'names', [PROBES, *([name] for name in PROBES)], ids=str
)
def test_work_is_what_is_read_one_executable_per_length(
  params: Params, names: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
  read: list[tuple[int, int]] = []

  def counted(
    params: Params, tokens: np.ndarray, *rest: Any, **how: Any
  ) -> Any:
    read.append(tokens.shape)
    assert how == {'config': MODEL, 'symbols': 256, 'mesh': None}
    zeros = jax.numpy.zeros(tokens.shape)
    return zeros, zeros

  monkeypatch.setattr(score, 'score_rows', counted)
  probe = probes(names)
  for length, following in ((16, 32), (32, 64), (64, 128), (128, None)):
    read.clear()
    probe(params, PLAIN, length, following)
    assert sum(map(math.prod, read)) == probe.work(length, following)
    assert len({rows for rows, _ in read}) <= 1
    assert {n for _, n in read} <= {length // 2, length, following, 32, 128}


def test_rows_are_held_out_text_and_only_what_is_watched_is_read() -> None:
  documents = tuple(
    np.random.default_rng(i).integers(0, 256, 300).astype(np.uint8)
    for i in range(3)
  )
  made = Probes.of(
    ProbeConfig(rows=5, window=1024, names=('probe/full',)),
    MODEL,
    documents,
    shortest=32,
    full=FULL,
    watches=('answers', 'probe/loss'),
  )
  assert np.array_equal(made.text, spread_rows(documents, FULL + 1, 5))
  assert (made.window, made.targets, made.full) == (32, 8, FULL)
  assert made.names == ('probe/loss', 'probe/full')
  with pytest.raises(ConfigError, match='the held-out text has 6 rows of 129'):
    Probes.of(ProbeConfig(), MODEL, documents, shortest=32, full=FULL)


def test_asked_for_at_all_the_full_length_is_measured() -> None:
  documents = [np.arange(2 * FULL, dtype=np.int32) % 7 for _ in range(8)]
  for config, names in (
    (ProbeConfig(every=4, rows=4), ('probe/full', 'probe/full_recall')),
    (ProbeConfig(rows=4), ()),
  ):
    made = Probes.of(config, MODEL, documents, shortest=32, full=FULL)
    assert made.names == names


def test_wrong_settings_are_named() -> None:
  assert ProbeConfig().problems() == []
  wrong = ProbeConfig(-1, 0, 2, names=('probe/ful',)).problems()
  assert len(wrong) == 4
  assert "did you mean 'probe/full'?" in wrong[-1]


@pytest.mark.slow
def test_every_process_of_a_mesh_finds_the_same() -> None:
  with socket.socket() as free:
    free.bind(('localhost', 0))
    port = str(free.getsockname()[1])
  program = Path(__file__).parent / 'probes_on_devices.py'
  both = [devices.start(program, n, port, devices=2) for n in ('0', '1')]
  first, second = (
    next(
      json.loads(line)
      for line in devices.output(process).splitlines()
      if line.startswith('{')
    )
    for process in both
  )
  assert first == second
  assert len(first['one']) == len(first['mesh']) == 3
  for name, value in first['one'].items():
    assert first['mesh'][name] == pytest.approx(value, abs=1e-5), name


def test_the_scorer_is_the_one_of_reports() -> None:
  assert probes_module.read_rows is score.read_rows
