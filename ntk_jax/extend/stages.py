"""The stages of a job: train a base model, compare methods, tune the best.

Each stage reads its finished file, goes on from its checkpoint, or starts.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ntk_jax.checkpoint import load_tree, save_tree
from ntk_jax.config import fingerprint
from ntk_jax.data.mixture import Mixture
from ntk_jax.data.text import Corpus
from ntk_jax.evaluation.score import Scores, TestRows, evaluate
from ntk_jax.extend.methods import Candidate
from ntk_jax.extend.settings import ExtendConfig, rows_per_part
from ntk_jax.metrics import Progress
from ntk_jax.model.params import Params, init_params
from ntk_jax.objective import Objective
from ntk_jax.optimizer import Schedule, adamw
from ntk_jax.rope.spec import RopeSpec
from ntk_jax.scheme import Scheme
from ntk_jax.step import StepConfig, init_state
from ntk_jax.train.loop import Loop, Trained, fit

_TRAINING_WORK = 3  # forward and backward, in forward passes
_SAVES = 5  # checkpoints of a training run


@dataclasses.dataclass(frozen=True)
class Stages:
  """The stages of one seed, over one folder.

  Attributes:
    config: the job's settings.
    corpus: the text.
    rows: held-out rows to score.
    seed: of initialisation and batches.
    folder: where this seed's files are.
    progress: the line that shows work.
  """

  config: ExtendConfig
  corpus: Corpus
  rows: TestRows
  seed: int
  folder: Path
  progress: Progress

  def train(self) -> Trained:
    """The base model at L0, without any method."""
    config = self.config
    key = jax.random.key(self.seed)
    spec = RopeSpec(
      'default', config.model.head_dim, theta=config.model.rope_theta
    )
    self.progress.stage(f'seed {self.seed}: train at {config.train_length}')
    return self._fit(
      init_params(key, config.model),
      Scheme(spec),
      config.train_length,
      config.schedule,
      self.folder / 'train',
    )

  def compare(
    self, params: Params, candidate: Candidate, tuned: str = ''
  ) -> tuple[Scores, float]:
    """Scores of one method on this seed's model, part by part.

    Args:
      params: the model.
      candidate: the method.
      tuned: name of the fine-tuned parameters, empty for the base model.

    Returns:
      Scores of all rows, and the seconds that they took.
    """
    scheme = candidate.scheme
    key = fingerprint(scheme, self.config.lengths, tuned)
    self.progress.stage(f'seed {self.seed}: score {candidate.name}{tuned}')
    parts, total = [], 0.0
    size = rows_per_part(self.config.rows)
    for start in range(0, self.config.rows, size):
      rows = self.rows.part(start, start + size)
      path = self.folder / (
        f'scores-{candidate.name}-{key}-{start}-{size}.safetensors'
      )
      if path.exists():
        scores, note = load_tree(path, rows.empty_scores())
        self.progress.skip(rows.work(scheme))
      else:
        began = time.monotonic()
        scores = evaluate(
          params, self.config.model, scheme, rows, self._advance
        )
        note = {'seconds': time.monotonic() - began}
        save_tree(path, scores, note)
      parts.append(scores)
      total += note['seconds']
    return Scores(*(np.concatenate(arrays) for arrays in zip(*parts))), total

  def tune(self, params: Params, candidate: Candidate) -> tuple[Trained, str]:
    """A few steps at the target length under a method.

    Returns:
      The tuned parameters, and a name for them.
    """
    config = self.config
    key = fingerprint(
      candidate.scheme, config.target_length, config.tune_schedule
    )
    self.progress.stage(f'seed {self.seed}: tune {candidate.name}')
    tuned = self._fit(
      params,
      candidate.scheme,
      config.target_length,
      config.tune_schedule,
      self.folder / f'tune-{candidate.name}-{key}',
    )
    return tuned, f'-tuned-{key}'

  def _fit(
    self,
    params: Params,
    scheme: Scheme,
    length: int,
    schedule: Schedule,
    folder: Path,
  ) -> Trained:
    rows = self.config.batch_rows(length)
    mixture = Mixture(self.corpus, rows, length, self.seed)
    work = training_work(schedule.steps, rows * length)
    counted = []

    def observe(steps: range, *_: Any) -> None:
      counted.append(len(steps) * rows * length)
      self.progress.advance(_TRAINING_WORK * counted[-1], counted[-1])

    step = StepConfig(Objective(self.config.model), adamw())
    trained = fit(
      # A copy: the first step donates its state.
      lambda: init_state(jax.tree.map(np.array, params), step),
      [scheme],
      mixture,
      Loop(step, schedule, save_every=max(1, schedule.steps // _SAVES)),
      folder=folder,
      observe=observe,
    )
    self.progress.skip(work - _TRAINING_WORK * sum(counted))
    return trained

  def _advance(self, tokens: int) -> None:
    self.progress.advance(tokens, tokens)


def training_work(steps: int, tokens: int) -> int:
  """Work of a training run in tokens of a forward pass."""
  return _TRAINING_WORK * steps * tokens
