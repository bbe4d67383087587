"""Scores of a trained run under methods, beyond the length of its rows."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from ntk_jax.checkpoint import write_atomic
from ntk_jax.config import to_plain
from ntk_jax.data.files import PIECE
from ntk_jax.data.text import load_corpus, spread_rows
from ntk_jax.data.tokenize import load_tokenizer, tokenize
from ntk_jax.errors import ConfigError
from ntk_jax.evaluation.intervals import Bootstrap
from ntk_jax.evaluation.score import Scores, TestRows, evaluate
from ntk_jax.extend.methods import Setting, candidate
from ntk_jax.metrics import Progress
from ntk_jax.scheme import Scheme
from ntk_jax.train.finished import read_config, read_params
from ntk_jax.train.schemes import SchemeConfig
from ntk_jax.train.settings import TrainConfig

OWN = 'own'  # the schemes that the run was trained with


@dataclasses.dataclass(frozen=True)
class RescoreConfig:
  """What to score.

  Attributes:
    methods: names as `experiments.extend` takes them; 'own' is what the run
      was trained with.
    target_factor: longest length / trained length.
    rows: held-out rows per length.
    step: of the checkpoint; None is the newest.
  """

  methods: tuple[str, ...] = (OWN, 'linear', 'ntk', 'yarn')
  target_factor: int = 8
  rows: int = 16
  step: int | None = None

  def validate(self) -> None:
    """Raises ConfigError, all problems in one message."""
    wrong = [
      f'{name} is {getattr(self, name)}, must be at least 1'
      for name in ('target_factor', 'rows')
      if getattr(self, name) < 1
    ]
    if not self.methods or len(set(self.methods)) != len(self.methods):
      wrong.append(f'methods are {self.methods}: name each once, at least one')
    if wrong:
      raise ConfigError('; '.join(wrong))


def rescore(workdir: str | Path, config: RescoreConfig) -> dict[str, Any]:
  """Scores the checkpoint of a run of `experiments.train`.

  Leaves evaluation.json in the workdir: for every method and length bits per
  token over the second half of positions, and the share of hidden values that
  are recalled where the model knows the symbols, with 95% intervals over rows.

  Raises:
    ConfigError: for wrong settings, a folder without a run, or a method that
      does not go with the run's layers.
  """
  config.validate()
  folder = Path(workdir)
  run, trained_on = read_config(folder)
  schemes = {name: _schemes(name, run, config) for name in config.methods}
  rows = held_out_rows(run, config, trained_on)
  params, step = read_params(folder, run, config.step)
  progress = Progress(float(sum(rows.work(s) for s in schemes.values())))
  scored = {}
  for name, each in schemes.items():
    progress.stage(f'score {name}')
    scored[name] = evaluate(
      params, run.model, each, rows, lambda n: progress.advance(n, n)
    )
  result = {
    'step': step,
    'config': to_plain(config),
    'lengths': rows.lengths,
    'rows': [_row(name, scores) for name, scores in scored.items()],
  }
  text = json.dumps(to_plain(result), indent=1)
  write_atomic(folder / 'evaluation.json', text.encode())
  progress.close(f'scores: {folder / "evaluation.json"}')
  return result


def held_out_rows(
  run: TrainConfig, config: RescoreConfig, trained_on: str
) -> TestRows:
  """Held-out rows at the trained length and its doublings."""
  data, length = run.data, run.data.max_length
  doublings = range(math.ceil(math.log2(config.target_factor)) + 1)
  lengths = tuple(
    min(length * 2**i, length * config.target_factor) for i in doublings
  )
  tokenizer = load_tokenizer(data.tokenizer)
  corpus = load_corpus(
    data.corpus,
    text_field=data.text_field,
    shortest=1,
    piece=max(PIECE, data.max_length),  # as in training: the same are held out
  )
  if corpus.fingerprint != trained_on:
    raise ConfigError(
      f'corpus {corpus.name!r} has fingerprint {corpus.fingerprint}, the run '
      f'was trained on {trained_on}: what is held out now may have been read '
      'then; score it with the text that it was trained on'
    )
  documents = tokenize(corpus.held_out, tokenizer, None)
  ids = tuple(documents[i] for i in range(len(documents.lengths)))
  text = spread_rows(ids, lengths[-1] + 1, config.rows)
  known = data.key_value > 0  # else it has never met the symbols
  return TestRows(text, 0, lengths, tokenizer.vocab if known else None)


def _schemes(
  name: str, run: TrainConfig, config: RescoreConfig
) -> tuple[Scheme, ...]:
  if name == OWN:
    return run.build_schemes()
  used = {run.schemes[number] for number in run.model.plan}
  theta = next(iter(used)).theta or run.model.rope_theta
  if used != {SchemeConfig(theta=next(iter(used)).theta)}:
    raise ConfigError(
      f'method {name!r}: this run was trained with schemes of its own (a '
      'method, window, temperature or part of a head, or several by layer), '
      f'which a method would replace; only {OWN!r} applies'
    )
  setting = Setting(
    run.model.head_dim,
    theta,
    run.data.max_length,
    float(config.target_factor),
  )
  return (candidate(name, setting).scheme,) * len(run.schemes)


def _row(name: str, scores: Scores) -> dict[str, Any]:
  boot = Bootstrap(seeds=1, rows=len(scores.loss))
  loss = scores.loss.astype(np.float64)
  hits = scores.hits.mean(-1).astype(np.float64)
  row: dict[str, Any] = {
    'name': name,
    'loss': [boot.mean(column[None]).plain() for column in loss.T],
  }
  if not np.isnan(hits).any():
    row['recall'] = [boot.mean(column[None]).plain() for column in hits.T]
  return row


def table(result: dict[str, Any]) -> str:
  """The scores as lines to print."""
  head = ''.join(f'{length:>14}' for length in result['lengths'])
  lines = []
  for key, title in (('loss', 'bits per token'), ('recall', 'recall')):
    rows = [row for row in result['rows'] if key in row]
    lines += [f'{title:<18}{head}'] if rows else []
    lines += [f'{row["name"]:<18}{_cells(row[key])}' for row in rows]
  return '\n'.join(lines)


def _cells(intervals: list[dict[str, float]]) -> str:
  texts = (
    f'{x["mean"]:.3f} ±{(x["high"] - x["low"]) / 2:.3f}' for x in intervals
  )
  return ''.join(f'{text:>14}' for text in texts)
