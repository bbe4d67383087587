"""Training: batches to parameters, resumable from its last checkpoint."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ntk_jax.checkpoint import load_tree, save_tree
from ntk_jax.data.mixture import Mixture
from ntk_jax.errors import NumericsError
from ntk_jax.model.config import ModelConfig
from ntk_jax.model.params import Params
from ntk_jax.optimizer import Schedule
from ntk_jax.scheme import Scheme
from ntk_jax.step import TrainState, init_state, train_step

_SKIPS_IN_A_ROW = 10


@dataclasses.dataclass(frozen=True)
class Trained:
  """The end of a training run.

  Attributes:
    params: the parameters (host arrays).
    seconds: wall time of all its sessions together.
    text_loss: bits per byte of every step.
    retrieval_loss: bits per question of every step.
  """

  params: Params
  seconds: float
  text_loss: list[float]
  retrieval_loss: list[float]


def fit(
  params: Params,
  config: ModelConfig,
  scheme: Scheme,
  mixture: Mixture,
  schedule: Schedule,
  *,
  path: Path,
  save_every: int,
  advance: Callable[[int], None] = lambda tokens: None,
) -> Trained:
  """Trains, or goes on from `path`, or reads the finished run from it.

  Args:
    params: where to start.
    config: the model's shape.
    scheme: how positions enter; its length is that of the mixture's rows.
    mixture: batches by step.
    schedule: learning rate by step, and how many steps.
    path: checkpoint file, rewritten every `save_every` steps and at the end.
    save_every: steps between checkpoints.
    advance: called with the number of tokens after every step.

  Returns:
    The trained parameters with what was measured.

  Raises:
    NumericsError: if ten steps in a row were not finite.
    WorkdirError: if the checkpoint is damaged or cannot be written.
  """
  state, log = _start(params, path)
  arrays = scheme.arrays(mixture.length, np.arange(mixture.length))
  began = time.monotonic() - log['seconds']
  tokens = mixture.rows * mixture.length
  for step in range(len(log['text_loss']), schedule.steps):
    rate = np.float32(schedule(step))
    batch = mixture.batch(step)
    state, metrics = train_step(state, batch, arrays, rate, config=config)
    _record(log, jax.device_get(metrics), step)
    advance(tokens)
    if (step + 1) % save_every == 0 or step + 1 == schedule.steps:
      log['seconds'] = time.monotonic() - began
      save_tree(path, state, log)
  losses = log['text_loss'], log['retrieval_loss']
  return Trained(jax.device_get(state.params), log['seconds'], *losses)


def _start(params: Params, path: Path) -> tuple[TrainState, dict[str, Any]]:
  """The state to go on from, and its log so far."""
  # A copy: the first step donates its state.
  state = init_state(jax.tree.map(np.array, params))
  if path.exists():
    return load_tree(path, state)
  empty = {'text_loss': [], 'retrieval_loss': [], 'skipped': 0, 'seconds': 0.0}
  return state, empty


def _record(log: dict[str, Any], metrics: Any, step: int) -> None:
  """Adds a step to the log; stops after too many that were not finite."""
  for name in ('text_loss', 'retrieval_loss'):
    log[name].append(round(float(getattr(metrics, name)) / np.log(2.0), 5))
  log['skipped'] = 0 if metrics.finite else log['skipped'] + 1
  if log['skipped'] == _SKIPS_IN_A_ROW:
    raise NumericsError(
      f'training stopped at step {step}: {_SKIPS_IN_A_ROW} steps in a row had '
      'gradients that are not finite and were skipped; lower the learning '
      'rate or look at the data'
    )
