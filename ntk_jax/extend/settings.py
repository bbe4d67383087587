"""The settings of an extension job, checked before any work."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

from ntk_jax.data import retrieval
from ntk_jax.errors import ConfigError, caught, unknown
from ntk_jax.extend.methods import DEFAULT_METHODS, Setting, select
from ntk_jax.model.config import ModelConfig
from ntk_jax.model.precision import DTYPES
from ntk_jax.optimizer import Schedule
from ntk_jax.sharding import MeshConfig
from ntk_jax.train.checks import split_problems
from ntk_jax.trainable import Trainable


@dataclasses.dataclass(frozen=True)
class ExtendConfig:
  """What to train, what to compare, what to tune.

  Attributes:
    checkpoint: a Hugging Face folder or a name on the hub, whose model is
      extended; None trains one. What it says replaces `model`, `train_length`
      and `target_factor`: see `ntk_jax.extend.imported.resolved`.
    target_length: tokens to extend to; None is target_factor * train_length.
    methods: names of methods, or ('all',).
    seeds: how many models to train, with seeds 0, 1, ...
    corpus: a text file or folder; None is the standard library's sources.
    train_length: tokens per row in training, L0.
    target_factor: target length / train_length.
    rows: held-out text rows per length; each length is asked 8 questions a
      row.
    train_steps: steps of the base model.
    tune_steps: steps of fine-tuning at the target length.
    tokens_per_step: tokens in a batch, at every length.
    learning_rate: peak of the base training.
    tune_learning_rate: peak of fine-tuning; None is 1e-3 for a model trained
      here, 2e-5 for a checkpoint, 2e-4 for adapters alone.
    trainable: what fine-tuning trains, as `Trainable.parse` takes it.
    moments: dtype of both moments of fine-tuning's optimizer.
    export: a folder for the fine-tuned winner of a checkpoint; None is none.
    model: shape of the decoder.
    mesh: devices along each axis, over which the model and the rows of a batch
      are split; one device runs without a mesh.
  """

  checkpoint: str | None = None
  target_length: int | None = None
  methods: tuple[str, ...] = DEFAULT_METHODS
  seeds: int = 1
  corpus: str | None = None
  train_length: int = 128
  target_factor: float = 8
  rows: int = 32
  train_steps: int = 240
  tune_steps: int = 20
  tokens_per_step: int = 4096
  learning_rate: float = 3e-3
  tune_learning_rate: float | None = None
  trainable: str = 'all'
  moments: str = 'float32'
  export: str | None = None
  model: ModelConfig = ModelConfig(vocab=retrieval.VOCAB)
  mesh: MeshConfig = MeshConfig()

  @property
  def target(self) -> int:
    """The length to extend to."""
    if self.target_length is not None:
      return self.target_length
    return round(self.train_length * self.target_factor)

  @property
  def lengths(self) -> tuple[int, ...]:
    """Where to measure: L0, its doublings, the target.

    A model trained here is measured at twice the target too.
    """
    doublings = range(math.ceil(math.log2(self.target / self.train_length)))
    below = [self.train_length * 2**i for i in doublings]
    beyond = () if self.checkpoint else (2 * self.target,)
    return (*below, self.target, *beyond)

  @property
  def setting(self) -> Setting:
    """What defines the rope methods here."""
    return Setting(
      self.model.head_dim,
      self.model.rope_theta,
      self.train_length,
      self.target / self.train_length,
    )

  @property
  def schedule(self) -> Schedule:
    """Learning rate of the base training: a sixth of it warms up."""
    return Schedule(self.learning_rate, self.train_steps, self.train_steps // 6)

  @property
  def tune_schedule(self) -> Schedule:
    """Learning rate of fine-tuning."""
    return Schedule(self.tune_rate, self.tune_steps, self.tune_steps // 10)

  @property
  def tune_rate(self) -> float:
    """Peak of the learning rate of fine-tuning."""
    if self.tune_learning_rate is not None:
      return self.tune_learning_rate
    if self.checkpoint is None:
      return 1e-3
    return 2e-4 if Trainable.parse(self.trainable).adapts else 2e-5

  def batch_rows(self, length: int) -> int:
    """Rows of a batch: tokens per step stay constant.

    Two at least where half of them are retrieval rows.
    """
    least = 1 if self.checkpoint else 2
    return max(least, self.tokens_per_step // length)

  def base(self, corpus_fingerprint: str) -> dict[str, object]:
    """What the base model depends on, and all later stages with it."""
    if self.checkpoint is not None:
      return {'checkpoint': self.checkpoint, 'corpus': corpus_fingerprint}
    return {
      'model': self.model,
      'train_length': self.train_length,
      'train_steps': self.train_steps,
      'tokens_per_step': self.tokens_per_step,
      'learning_rate': self.learning_rate,
      'corpus': corpus_fingerprint,
    }

  def validate(self, devices: int | None = None) -> None:
    """Raises ConfigError that names every wrong field.

    Args:
      devices: that there are, if a mesh is to be held against them.
    """
    wrong = [*self._target_problems(), *self._checkpoint_problems()]
    if self.train_length < retrieval.SHORTEST_ROW:
      wrong.append(
        f'train_length is {self.train_length}: {retrieval.KEYS} keys and '
        f'their questions need {retrieval.SHORTEST_ROW} tokens or more'
      )
    for name in ('seeds', 'rows', 'tokens_per_step'):
      if getattr(self, name) < 1:
        wrong.append(f'{name} is {getattr(self, name)}, must be at least 1')
    if self.rows > 0 and self.rows % rows_per_part(self.rows):
      wrong.append(
        f'rows is {self.rows}: above 32, rows come in parts of 32; use a '
        'multiple of 32'
      )
    checks: list[Callable[[], object]] = [
      lambda: Trainable.parse(self.trainable),
      self.model.validate,
      self.schedule.validate,
      self.tune_schedule.validate,
    ]
    wrong += self.mesh.problems(devices if self.mesh.size > 1 else None)
    if not wrong:
      checks.append(lambda: select(self.methods, self.setting))
      wrong += self._split_problems()
    for check in checks:
      wrong += caught(check)
    if wrong:
      raise ConfigError('; '.join(wrong))

  def _target_problems(self) -> list[str]:
    if self.target_length is None and self.target_factor < 2:
      return [
        f'target_factor is {self.target_factor:g}: the target length '
        f'{self.target} would not be beyond the trained length '
        f'{self.train_length}; use 2 or more'
      ]
    if self.target <= self.train_length:
      return [
        f'target_length is {self.target}: it must be beyond the trained length '
        f'{self.train_length}'
      ]
    return []

  def _checkpoint_problems(self) -> list[str]:
    wrong = []
    if self.moments not in DTYPES:
      wrong.append(str(unknown('moments', self.moments, DTYPES)))
    if self.checkpoint is None and self.export is not None:
      wrong.append(
        f'export is {self.export!r}: it writes an extended checkpoint; name '
        'one with checkpoint'
      )
    if self.checkpoint is not None and self.seeds != 1:
      wrong.append(
        f'seeds is {self.seeds}: a checkpoint is one model, so it must be 1'
      )
    return wrong

  def _split_problems(self) -> list[str]:
    """What the mesh cannot split evenly."""
    mesh, wrong = self.mesh, split_problems(self.model, self.mesh)
    trained = [self.target, *([] if self.checkpoint else [self.train_length])]
    enough = mesh.batch * math.lcm(*trained)
    for length in trained:
      rows = self.batch_rows(length)
      if rows % mesh.batch:
        wrong.append(
          f'tokens_per_step is {self.tokens_per_step}: the {rows} rows of '
          f'{length} tokens of a batch are split over data x fsdp = '
          f'{mesh.batch} devices; use tokens_per_step={enough}, or tensor in '
          'place of data and fsdp'
        )
    uneven = [n for n in self.lengths if n % mesh.tensor]
    if uneven:
      wrong.append(
        f'target and trained length {self.target} and {self.train_length}: '
        f'lengths {uneven} are measured, and must be multiples of tensor = '
        f'{mesh.tensor}'
      )
    return wrong


def rows_per_part(rows: int) -> int:
  """Rows of one stored part of a comparison."""
  return min(rows, 32)


def fast(config: ExtendConfig) -> ExtendConfig:
  """The same job made tiny, for tests: it shows the way, not the answer."""
  small = ModelConfig(
    vocab=config.model.vocab,
    dim=32,
    layers=2,
    heads=2,
    kv_heads=2,
    head_dim=16,
    mlp_dim=64,
  )
  return dataclasses.replace(
    config,
    model=small,
    train_length=32,
    rows=8,
    train_steps=12,
    tune_steps=4,
    tokens_per_step=512,
  )
