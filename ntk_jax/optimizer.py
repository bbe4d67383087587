"""AdamW with clipping; the learning rate is an argument of every step.

The transform is built once and holds no schedule, so every run shares one
executable: an optimizer object per run would compile per run.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import optax

from ntk_jax.errors import ConfigError

OptimizerState = optax.OptState
global_norm = optax.tree.norm

_CLIP_NORM = 1.0
_B2 = 0.98
_WEIGHT_DECAY = 0.1


@dataclasses.dataclass(frozen=True)
class Schedule:
  """Linear warm-up, then a cosine to a tenth.

  Attributes:
    peak: learning rate after the warm-up.
    steps: length of the run.
    warmup: steps of the warm-up.

  >>> schedule = Schedule(peak=1e-2, steps=100, warmup=10)
  >>> [round(schedule(step), 5) for step in (0, 9, 55, 99)]
  [0.001, 0.01, 0.00542, 0.001]
  """

  peak: float
  steps: int
  warmup: int

  def validate(self) -> None:
    """Raises ConfigError for values that cannot train."""
    if not (math.isfinite(self.peak) and self.peak > 0):
      raise ConfigError(f'learning rate is {self.peak}, must be above 0')
    if self.steps < 1 or not 0 <= self.warmup < self.steps:
      raise ConfigError(
        f'{self.steps} steps with a warm-up of {self.warmup}: it takes at '
        'least one step, and a warm-up shorter than the run'
      )

  def __call__(self, step: int) -> float:
    """The learning rate of a 0-based step."""
    if step < self.warmup:
      return self.peak * (step + 1) / self.warmup
    done = (step - self.warmup) / max(1, self.steps - 1 - self.warmup)
    return self.peak * (0.55 + 0.45 * math.cos(math.pi * done))


def adamw() -> optax.GradientTransformation:
  """Clip to norm 1, Adam (b1 0.9, b2 0.98), weight decay 0.1 on matrices.

  Returns the descent direction for a learning rate of 1; the step scales it.

  Source: Loshchilov and Hutter 2019 (arXiv 1711.05101).
  """
  return optax.chain(
    optax.clip_by_global_norm(_CLIP_NORM),
    optax.scale_by_adam(b2=_B2),
    optax.add_decayed_weights(_WEIGHT_DECAY, mask=_is_matrix),
    optax.scale(-1.0),
  )


def _is_matrix(params: Any) -> Any:
  """True for projections and embeddings, False for the weights of norms."""
  return jax.tree_util.tree_map_with_path(
    lambda path, _: 'norm' not in jax.tree_util.keystr(path), params
  )
