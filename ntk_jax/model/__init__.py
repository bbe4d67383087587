"""The decoder: a pure forward function over a tree of arrays."""

from ntk_jax.model.transformer import (
  ModelConfig,
  Params,
  forward,
  init_params,
  parameter_count,
)

__all__ = [
  'ModelConfig',
  'Params',
  'forward',
  'init_params',
  'parameter_count',
]
