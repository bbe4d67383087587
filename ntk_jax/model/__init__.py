"""The decoder: a pure forward function over a tree of arrays."""

from ntk_jax.model.transformer import (
  ModelConfig,
  forward,
  init_params,
  parameter_count,
)

__all__ = ['ModelConfig', 'forward', 'init_params', 'parameter_count']
