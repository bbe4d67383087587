"""The stage that shows the problem: what length does without and with help.

A model is measured without a method, under the method that the answer takes,
and, if that one was fine-tuned, after it: on the same few texts at every
length. Parts are stored like scores are, a file per line and length.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import jax
import numpy as np

from ntk_jax.checkpoint import load_tree, save_tree
from ntk_jax.config import fingerprint
from ntk_jax.diagnostics import QUERIES, Measured, measure
from ntk_jax.extend.methods import Candidate
from ntk_jax.extend.settings import ExtendConfig
from ntk_jax.extend.stages import Stages
from ntk_jax.model.config import ModelConfig
from ntk_jax.model.params import Params

LINES = ('untreated', 'treated', 'tuned')
_TEXTS = 3  # lines differ by more than texts do: they read the same ones
_WORK = 4  # a forward pass that is watched, then one forward and backward


@dataclasses.dataclass(frozen=True)
class Line:
  """One line of the figure.

  Attributes:
    role: 'untreated', 'treated' or 'tuned'.
    name: the method.
    measured: by seed, and in it by length.
    seconds: wall time of all the work on it.
  """

  role: str
  name: str
  measured: list[list[Measured]]
  seconds: float


def draw_line(
  role: str,
  seeds: list[Stages],
  params: list[Params],
  candidate: Candidate,
  tuned: str = '',
) -> Line:
  """Measures one method on every seed's model.

  Args:
    role: of the line.
    seeds: the stages of every seed.
    params: the model of every seed.
    candidate: the method.
    tuned: name of the fine-tuned parameters, empty for the base model.
  """
  measured, total = [], 0.0
  for stages, model in zip(seeds, params):
    found, seconds = _by_length(stages, model, candidate, tuned)
    measured.append(found)
    total += seconds
  return Line(role, candidate.name, measured, total)


def problem_facts(config: ExtendConfig, lines: list[Line]) -> dict[str, Any]:
  """What report.json holds of the problem, means over seeds.

  Returns:
    What was read, and for each role its method with entropy (mean over
    layers and heads), loss in the last half and gradient norm by length; None
    for a role without a line.
  """
  facts: dict[str, Any] = {
    'texts': texts_read(config),
    'text_tokens': config.lengths[-1],
    'queries': QUERIES * texts_read(config),
    'lengths': list(config.lengths),
  }
  drawn = {line.role: _plain(line) for line in lines}
  return facts | {role: drawn.get(role) for role in LINES}


def problem_work(config: ExtendConfig) -> int:
  """Work of one line on one model, in tokens of a forward pass."""
  return _WORK * len(config.lengths) * texts_read(config) * config.lengths[-1]


def texts_read(config: ExtendConfig) -> int:
  """How many held-out rows are read."""
  return min(_TEXTS, config.rows)


def _by_length(
  stages: Stages, params: Params, candidate: Candidate, tuned: str
) -> tuple[list[Measured], float]:
  """One model under one method at every length, and the seconds it took."""
  config, scheme = stages.config, candidate.scheme
  texts = stages.rows.text[: texts_read(config)]
  key = fingerprint(scheme, texts.shape, QUERIES, tuned)
  stages.progress.stage(
    f'seed {stages.seed}: the problem, {candidate.name}{tuned}'
  )
  work = problem_work(config) // len(config.lengths)
  found, total = [], 0.0
  for length in config.lengths:
    path = stages.folder / (
      f'problem-{candidate.name}-{key}-{length}.safetensors'
    )
    if path.exists():
      part, note = load_tree(path, _empty(config.model))
      stages.progress.skip(work)
    else:
      began = time.monotonic()
      whole = params if stages.mesh is None else jax.device_get(params)
      part = measure(whole, config.model, scheme, texts, length)
      note = {'seconds': time.monotonic() - began}
      save_tree(path, part, note)
      stages.progress.advance(work, texts[:, 1:].size)
    found.append(part)
    total += note['seconds']
  return found, total


def _empty(model: ModelConfig) -> Measured:
  """Of the right shapes, for reading stored ones."""
  number = np.zeros((), np.float32)
  heads = np.zeros((model.layers, model.heads), np.float32)
  return Measured(heads, number, number)


def _plain(line: Line) -> dict[str, Any]:
  def mean(name: str) -> list[float]:
    values = [
      [float(np.mean(getattr(part, name))) for part in seed]
      for seed in line.measured
    ]
    return np.round(np.mean(values, axis=0), 6).tolist()

  return {'name': line.name, **{name: mean(name) for name in Measured._fields}}
