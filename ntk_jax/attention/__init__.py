"""Attention at length: one call, an oracle, and a form in O(n) memory.

`attention` is the call, `explain` says what it would run, `sharded` makes it
for a mesh.
"""

from ntk_jax.attention.api import attention, explain
from ntk_jax.attention.blockwise import blockwise_attention
from ntk_jax.attention.reference import reference_attention
from ntk_jax.attention.sharded import sharded

__all__ = [
  'attention',
  'blockwise_attention',
  'explain',
  'reference_attention',
  'sharded',
]
