"""The settings of a training run, all checked at once before any work."""

from __future__ import annotations

import dataclasses
import math

from ntk_jax.curriculum.clock import Run
from ntk_jax.curriculum.regularize import RegularizeConfig
from ntk_jax.curriculum.sampling import SamplingConfig
from ntk_jax.curriculum.settings import GrowthConfig
from ntk_jax.data.settings import DataConfig
from ntk_jax.errors import ConfigError, caught
from ntk_jax.evaluation.probes import ProbeConfig
from ntk_jax.guard import GuardConfig
from ntk_jax.model.config import ModelConfig
from ntk_jax.objective import Objective
from ntk_jax.optimizer import OptimizerConfig
from ntk_jax.scheme import Scheme
from ntk_jax.sharding import MeshConfig
from ntk_jax.step import StepConfig
from ntk_jax.train.checks import (
  fit_problems,
  growth_problems,
  scheme_problems,
)
from ntk_jax.train.regularised import long_ce_of
from ntk_jax.train.schemes import SchemeConfig, StageConfig


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """A training run.

  Attributes:
    model: shape of the decoder.
    data: text, rows and batches.
    optimizer: AdamW, its learning rate and the number of steps.
    schemes: one for each number in the model's layer plan.
    mesh: devices along each axis; their product is the number of devices.
    guard: when a step is skipped.
    z_loss: weight of the squared log-partition.
    loss_chunk: tokens of a device whose logits exist at a time; None chooses.
    microbatches: parts of a batch whose gradients are made one by one.
    seed: of the initial parameters.
    save_every: steps between checkpoints.
    keep: newest checkpoints that stay.
    log_every: steps whose metrics are fetched together.
    growth: how the length of rows grows to data.max_length.
    stages: schemes that hold from a length on, in place of `schemes`.
    sampling: long and short rows within a stage.
    regularize: what is dropped, masked and weighed of training rows.
    mixed_rope: documents of up to so many tokens keep the rope of before,
      that of the model's rope_theta, while longer ones have the schemes.
    probe: held-out text that is measured on the way.
    compile_ahead: whether the next program is compiled while one trains.
  """

  model: ModelConfig
  data: DataConfig
  optimizer: OptimizerConfig
  schemes: tuple[SchemeConfig, ...] = (SchemeConfig(),)
  mesh: MeshConfig = MeshConfig()
  guard: GuardConfig = GuardConfig()
  z_loss: float = 0.0
  loss_chunk: int | None = None
  microbatches: int = 1
  seed: int = 0
  save_every: int = 100
  keep: int = 3
  log_every: int = 10
  growth: GrowthConfig = GrowthConfig()
  stages: tuple[StageConfig, ...] = ()
  sampling: SamplingConfig = SamplingConfig()
  regularize: RegularizeConfig = RegularizeConfig()
  mixed_rope: int | None = None
  probe: ProbeConfig = ProbeConfig()
  compile_ahead: bool = True

  @property
  def step(self) -> StepConfig:
    """What is compiled."""
    return StepConfig(
      Objective(
        self.model,
        self.z_loss,
        self.loss_chunk,
        long_ce_of(self.regularize),
      ),
      self.optimizer.transform(),
      self.guard,
      self.microbatches,
    )

  def build_schemes(self) -> tuple[Scheme, ...]:
    """The schemes of the layer plan at the full length."""
    return self.schemes_at(self.data.max_length)

  def schemes_at(self, length: int) -> tuple[Scheme, ...]:
    """The schemes of the layer plan at a length."""
    chosen = self.schemes
    for stage in self.stages:
      if stage.from_length <= length:
        chosen = stage.schemes
    return tuple(scheme.scheme(self.model) for scheme in chosen)

  def all_schemes(self) -> tuple[tuple[Scheme, ...], ...]:
    """Those of every stage."""
    lengths = 0, *(stage.from_length for stage in self.stages)
    return tuple(self.schemes_at(length) for length in lengths)

  def run_of(self, epoch_tokens: int) -> Run:
    """What the growth counts in.

    Args:
      epoch_tokens: of a pass over the packed rows.
    """
    data = self.data
    step_tokens = data.batch_rows * data.max_length
    steps = self.optimizer.steps
    return Run(steps, step_tokens, epoch_tokens, data.max_length)

  def validate(self, devices: int, hosts: int = 1) -> None:
    """Raises ConfigError that names everything that is wrong.

    Args:
      devices: that there are, on all hosts.
      hosts: processes that share them.
    """
    wrong = [f'model: {text}' for text in self.model.problems()]
    for name, check in (
      ('data', lambda: self.data.validate(hosts=hosts)),
      ('optimizer', self.optimizer.validate),
      ('guard', self.guard.validate),
    ):
      wrong += caught(check, name)
    wrong += self.mesh.problems(devices) + self._own_problems()
    if not wrong:
      wrong += scheme_problems(self) + growth_problems(self)
      wrong += fit_problems(self, hosts)
    if wrong:
      raise ConfigError('; '.join(wrong))

  def _own_problems(self) -> list[str]:
    wrong = [
      f'{name} is {getattr(self, name)}, must be at least {least}'
      for name, least in (
        ('microbatches', 1),
        ('save_every', 1),
        ('keep', 1),
        ('log_every', 1),
        ('seed', 0),
      )
      if getattr(self, name) < least
    ]
    if not (math.isfinite(self.z_loss) and self.z_loss >= 0):
      wrong.append(f'z_loss is {self.z_loss}, must be finite, 0 or more')
    if self.loss_chunk is not None and self.loss_chunk < 1:
      wrong.append(f'loss_chunk is {self.loss_chunk}, must be at least 1')
    numbers = max(self.model.plan, default=0) + 1
    if numbers > len(self.schemes):
      wrong.append(
        f'layer_plan names scheme {numbers - 1}, schemes has '
        f'{len(self.schemes)}: give one for each number from 0'
      )
    return wrong
