"""Training: a loop from batches to parameters, and a whole run by a config."""

from ntk_jax.train.job import run
from ntk_jax.train.loop import Loop, Source, Stream, Trained, fit
from ntk_jax.train.settings import SchemeConfig, TrainConfig

__all__ = [
  'Loop',
  'SchemeConfig',
  'Source',
  'Stream',
  'TrainConfig',
  'Trained',
  'fit',
  'run',
]
