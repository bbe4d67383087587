"""The stages of a job: train a base model, compare methods, tune the best.

Each stage reads its finished file, goes on from its checkpoint, or starts.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ntk_jax.checkpoint import load_tree, save_tree
from ntk_jax.config import fingerprint
from ntk_jax.data.mixture import Mixture
from ntk_jax.evaluation.score import Scores, TestRows, evaluate
from ntk_jax.extend.methods import Candidate
from ntk_jax.extend.settings import ExtendConfig, rows_per_part
from ntk_jax.extend.subject import Subject
from ntk_jax.metrics import Progress
from ntk_jax.model.params import Params, init_params
from ntk_jax.objective import Objective
from ntk_jax.optimizer import Schedule, adamw
from ntk_jax.rope.spec import RopeSpec
from ntk_jax.scheme import Scheme
from ntk_jax.sharding import param_specs, shardings
from ntk_jax.step import StepConfig, TrainState, init_state, state_shardings
from ntk_jax.train.course import Plain
from ntk_jax.train.loop import Loop, Trained, fit
from ntk_jax.trainable import Trainable, merge, split

_TRAINING_WORK = 3  # forward and backward, in forward passes
_SAVES = 5  # checkpoints of a training run


@dataclasses.dataclass(frozen=True)
class Stages:
  """The stages of one seed, over one folder.

  Attributes:
    config: the job's settings.
    subject: the model to extend, and its text.
    rows: held-out rows to score.
    seed: of initialisation and batches.
    folder: where this seed's files are.
    progress: the line that shows work.
    mesh: the devices, or None for one.
  """

  config: ExtendConfig
  subject: Subject
  rows: TestRows
  seed: int
  folder: Path
  progress: Progress
  mesh: Mesh | None = None

  def base(self) -> Trained:
    """The model as it is at L0, without any method: loaded or trained."""
    if self.subject.load is None:
      return self._train()
    self.progress.stage('load the checkpoint')
    began = time.monotonic()
    params = self.subject.load(self.mesh)
    return Trained(params, time.monotonic() - began, [], [])

  def _train(self) -> Trained:
    config = self.config
    key = jax.random.key(self.seed)
    spec = RopeSpec(
      'default', config.model.head_dim, theta=config.model.rope_theta
    )
    self.progress.stage(f'seed {self.seed}: train at {config.train_length}')
    return self._fit(
      self._placed(init_params(key, config.model)),
      (Scheme(spec),),
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
    schemes = candidate.schemes
    key = fingerprint(_named(candidate), self.config.lengths, tuned)
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
        self.progress.skip(rows.work(schemes))
      else:
        began = time.monotonic()
        scores = evaluate(
          params, self.config.model, schemes, rows, self._advance, self.mesh
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
    trainable = Trainable.parse(config.trainable)
    told = () if self.subject.load is None else (trainable, config.moments)
    key = fingerprint(
      _named(candidate), config.target, config.tune_schedule, *told
    )
    self.progress.stage(f'seed {self.seed}: tune {candidate.name}')
    tuned = self._fit(
      params,
      candidate.schemes,
      config.target,
      config.tune_schedule,
      self.folder / f'tune-{candidate.name}-{key}',
      trainable,
      config.moments,
    )
    return tuned, f'-tuned-{key}'

  def _fit(
    self,
    params: Params,
    schemes: tuple[Scheme, ...],
    length: int,
    schedule: Schedule,
    folder: Path,
    trainable: Trainable = Trainable(),  # noqa: B008 (frozen)
    moments: str = 'float32',
  ) -> Trained:
    rows = self.config.batch_rows(length)
    recall = self.subject.load is None
    mixture = Mixture(self.subject.corpus, rows, length, self.seed, recall)
    work = training_work(schedule.steps, rows * length)
    counted = []

    def observe(steps: range, *_: Any) -> None:
      counted.append(len(steps) * rows * length)
      self.progress.advance(_TRAINING_WORK * counted[-1], counted[-1])

    step = StepConfig(
      Objective(self.config.model),
      adamw(mu_dtype=moments, nu_dtype=moments),
      trainable=trainable,
    )
    key = jax.random.key(self.seed)
    _, frozen = split(params, trainable, key)

    def start() -> TrainState:
      return _started(split(params, trainable, key)[0], step, self.mesh)

    save_every = max(1, schedule.steps // _SAVES)
    trained = fit(
      start,
      Plain(schemes, mixture, schedule),
      Loop(step, schedule.steps, save_every, mesh=self.mesh),
      folder=folder,
      frozen=frozen,
      observe=observe,
    )
    self.progress.skip(work - _TRAINING_WORK * sum(counted))
    merged = merge(trained.params, frozen, trainable, params)
    return trained._replace(params=self._placed(merged))

  def _placed(self, params: Params) -> Params:
    """Parameters where the mesh has them."""
    if self.mesh is None:
      return params
    specs = param_specs(params, self.mesh, self.config.model.kv_heads)
    return jax.device_put(params, shardings(specs, self.mesh))

  def _advance(self, tokens: int) -> None:
    self.progress.advance(tokens, tokens)


def _started(
  trained: Params, step: StepConfig, mesh: Mesh | None
) -> TrainState:
  """The state of step 0: a copy, as the first step donates its state."""

  def make(trained: Params) -> TrainState:
    return init_state(jax.tree.map(jnp.copy, trained), step)

  if mesh is None:
    return make(trained)
  places = state_shardings(jax.eval_shape(make, trained), step, mesh)
  return jax.jit(make, out_shardings=places)(trained)


def _named(candidate: Candidate) -> Any:
  """What of a method its results depend on."""
  return candidate.layers or candidate.scheme


def training_work(steps: int, tokens: int) -> int:
  """Work of a training run in tokens of a forward pass."""
  return _TRAINING_WORK * steps * tokens
