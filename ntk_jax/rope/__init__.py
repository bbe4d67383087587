"""Rotary position embedding: methods, exact angles, application, remaps."""

from ntk_jax.rope.frequencies import exponent_for
from ntk_jax.rope.layers import layer_specs
from ntk_jax.rope.methods import METHODS
from ntk_jax.rope.phase import cos_sin, lerope, phases
from ntk_jax.rope.remap import (
  dual_chunk,
  leaky_rerope,
  pose_positions,
  rerope,
  self_extend,
)
from ntk_jax.rope.rotate import apply_rope, rerotate
from ntk_jax.rope.spec import RopeSpec

__all__ = [
  'METHODS',
  'RopeSpec',
  'apply_rope',
  'cos_sin',
  'dual_chunk',
  'exponent_for',
  'layer_specs',
  'leaky_rerope',
  'lerope',
  'phases',
  'pose_positions',
  'rerope',
  'rerotate',
  'self_extend',
]
