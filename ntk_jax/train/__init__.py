"""Training: a loop from batches to parameters, and a whole run by a config.

`run` loads what reads data ahead on first use; the loop does without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ntk_jax.train.course import Course, Given, Plain, Source, Stream
from ntk_jax.train.loop import Loop, Trained, fit
from ntk_jax.train.schemes import SchemeConfig, StageConfig
from ntk_jax.train.settings import TrainConfig

if TYPE_CHECKING:
  from ntk_jax.train.job import run

__all__ = [
  'Course',
  'Given',
  'Loop',
  'Plain',
  'SchemeConfig',
  'Source',
  'StageConfig',
  'Stream',
  'TrainConfig',
  'Trained',
  'fit',
  'run',
]


def __getattr__(name: str) -> Any:
  if name == 'run':
    from ntk_jax.train.job import run

    return run
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
