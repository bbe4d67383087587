"""Attention temperature: multipliers of q, scalars, and a table of them."""

from ntk_jax.temperature.multipliers import (
  affine,
  constant,
  entropy_invariant,
  grok,
  inkling,
  learned,
  llama4,
  logn,
  ministral,
  ssmax,
)
from ntk_jax.temperature.scalars import (
  chunk_llama,
  deepseek,
  divisor,
  longrope,
  yarn,
  yarn_log,
)
from ntk_jax.temperature.table import TEMPERATURES, Temperature

__all__ = [
  'TEMPERATURES',
  'Temperature',
  'affine',
  'chunk_llama',
  'constant',
  'deepseek',
  'divisor',
  'entropy_invariant',
  'grok',
  'inkling',
  'learned',
  'llama4',
  'logn',
  'longrope',
  'ministral',
  'ssmax',
  'yarn',
  'yarn_log',
]
