"""What a run of `ntk_jax.train.run` has left in its folder."""

from __future__ import annotations

import json
from pathlib import Path

import jax

from ntk_jax.checkpoint import Checkpoints
from ntk_jax.config import from_dict
from ntk_jax.errors import ConfigError
from ntk_jax.model.params import Params
from ntk_jax.train.job import initial_state
from ntk_jax.train.loop import STEPS
from ntk_jax.train.settings import TrainConfig


def read_config(folder: Path) -> tuple[TrainConfig, str]:
  """The config that a run was made with, and the fingerprint of its corpus.

  Raises:
    ConfigError: if there is none.
  """
  try:
    note = json.loads((folder / 'config.json').read_text())
    config = from_dict(TrainConfig, note['config'])
    return config, note['corpus']['fingerprint']
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise ConfigError(
      f'workdir {str(folder)!r} holds no run of experiments.train ({error})'
    ) from error


def read_params(
  folder: Path, run: TrainConfig, step: int | None
) -> tuple[Params, int]:
  """Parameters of a checkpoint, the newest whole one if none is named.

  Args:
    folder: of the run.
    run: its config.
    step: of the checkpoint, or None.

  Raises:
    ConfigError: if there is no such checkpoint.
  """
  like = jax.eval_shape(lambda: initial_state(run.step, run.seed, None))
  with Checkpoints(folder / STEPS) as checkpoints:
    found = checkpoints.restore(like, step=step)
  if found is None:
    raise ConfigError(f'{folder / STEPS} has no checkpoint yet')
  return found.tree.params, found.step
