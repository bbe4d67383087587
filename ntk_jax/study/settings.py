"""The settings of a study, checked before any work."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from ntk_jax.data import retrieval
from ntk_jax.data.settings import DataConfig
from ntk_jax.errors import ConfigError, caught
from ntk_jax.model.config import ModelConfig
from ntk_jax.optimizer import OptimizerConfig
from ntk_jax.train.settings import TrainConfig

FEWEST_STEPS = 12  # a study of fewer shows nothing, however little time
_WARMUP = 6  # a sixth of the steps
_ANSWERS = 0.5  # what answers weigh, as a share of their rows' tokens
_SAVES = 4  # checkpoints of a run


@dataclasses.dataclass(frozen=True)
class StudyConfig:
  """What to compare, and for how long.

  Attributes:
    arms: names, see `ntk_jax.study.arms.ARMS`; ('all',) is every one. What an
      arm is held against is added to it.
    seeds: trainings of each arm, with seeds 0, 1, ...
    minutes: the longest that the whole study may take by its own projection;
      over it, all arms get fewer steps.
    corpus: a text file or folder; None is the standard library's sources.
    lengths: of the stages of growth, each dividing the next; the last is the
      full length, at which everything is measured.
    steps: of every arm, before any are taken off.
    tokens_per_step: the same in every arm at every length.
    learning_rate: peak; a sixth of the run warms up, a cosine ends at 0.1.
    probe_every: steps between two measurements at the full length.
    probe_rows: held-out rows that these read.
    rows: held-out rows that the end of every arm is scored on.
    model: shape of the decoder.
    fresh: whether every run compiles its programs anew, so that its time has
      theirs in it.
  """

  arms: tuple[str, ...] = ('all',)
  seeds: int = 3
  minutes: float = 90.0
  corpus: str | None = None
  lengths: tuple[int, ...] = (64, 256, 1024)
  steps: int = 240
  tokens_per_step: int = 4096
  learning_rate: float = 3e-3
  probe_every: int = 12
  probe_rows: int = 8
  rows: int = 32
  model: ModelConfig = ModelConfig(vocab=retrieval.VOCAB)
  fresh: bool = True

  @property
  def full(self) -> int:
    """The length at which everything is measured."""
    return self.lengths[-1]

  def base(self, corpus_fingerprint: str) -> dict[str, Any]:
    """What every arm of a working directory depends on."""
    kept = dataclasses.asdict(self)
    for name in ('arms', 'seeds', 'corpus'):  # more of them may come
      del kept[name]
    return kept | {'corpus': corpus_fingerprint}

  def train(self, steps: int, seed: int) -> TrainConfig:
    """The run of constant length, which every arm changes in one way.

    Args:
      steps: of the run.
      seed: of parameters and data.
    """
    return TrainConfig(
      model=self.model,
      data=DataConfig(
        corpus=self.corpus,
        max_length=self.full,
        batch_rows=self.tokens_per_step // self.full,
        seed=seed,
        key_value=0.5,
        answer_weight=_ANSWERS,
      ),
      optimizer=OptimizerConfig(
        peak=self.learning_rate, steps=steps, warmup=steps // _WARMUP
      ),
      seed=seed,
      save_every=max(1, math.ceil(steps / _SAVES)),
      keep=1,
      log_every=1,
    )

  def validate(self) -> None:
    """Raises ConfigError that names every wrong field."""
    wrong = [
      f'{name} is {getattr(self, name)}, must be at least {least}'
      for name, least in (
        ('seeds', 1),
        ('steps', FEWEST_STEPS),
        ('probe_every', 1),
        ('probe_rows', 1),
        ('rows', 1),
      )
      if getattr(self, name) < least
    ]
    if not (math.isfinite(self.minutes) and self.minutes > 0):
      wrong.append(f'minutes is {self.minutes}, must be above 0')
    if self.probe_every > 0 and self.steps % self.probe_every:
      wrong.append(
        f'steps is {self.steps}: a multiple of probe_every, '
        f'{self.probe_every}, so that the end is measured'
      )
    wrong += self._length_problems()
    if not wrong:
      wrong += caught(lambda: self.train(self.steps, 0).validate(1))
    if wrong:
      raise ConfigError('; '.join(wrong))

  def _length_problems(self) -> list[str]:
    pairs = list(zip(self.lengths, self.lengths[1:]))
    if len(self.lengths) < 2 or any(a >= b or b % a for a, b in pairs):
      return [
        f'lengths are {self.lengths}: two or more, increasing, each dividing '
        'the next'
      ]
    if self.lengths[0] < retrieval.SHORTEST_ROW:
      return [
        f'lengths start at {self.lengths[0]}: rows of {retrieval.KEYS} keys '
        f'need {retrieval.SHORTEST_ROW} tokens or more'
      ]
    if self.tokens_per_step % self.full or self.tokens_per_step < 2 * self.full:
      return [
        f'tokens_per_step is {self.tokens_per_step}: a multiple of the full '
        f'length {self.full}, two rows or more'
      ]
    return []


def tiny(config: StudyConfig) -> StudyConfig:
  """The same study made tiny, for tests: it shows the way, not the answer."""
  small = ModelConfig(
    vocab=config.model.vocab,
    dim=32,
    layers=3,  # random-LTD needs one between the first and the last
    heads=2,
    kv_heads=2,
    head_dim=16,
    mlp_dim=64,
  )
  return dataclasses.replace(
    config,
    arms=('steps', 'threshold', 'forget'),
    seeds=1,
    lengths=(32, 64),
    steps=12,
    tokens_per_step=256,
    probe_every=3,
    probe_rows=2,
    rows=4,
    model=small,
    fresh=False,
  )
