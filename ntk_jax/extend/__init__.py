"""The main job: which extension method should be used here, and how sure?"""

from ntk_jax.extend.job import run
from ntk_jax.extend.methods import DEFAULT_METHODS, Candidate, Setting
from ntk_jax.extend.settings import ExtendConfig

__all__ = [
  'DEFAULT_METHODS',
  'Candidate',
  'ExtendConfig',
  'Setting',
  'run',
]
