"""The letters of shapes, once, and the array types of public signatures.

B batch, T query length, S key length, N query heads, K kv heads, G = N // K,
H head dim, P = rotary_dim // 2 rotated pairs, D model, F mlp, E experts,
V vocab, L layers. Inside functions arrays carry them as a suffix (`q_BTNH`).
"""

from __future__ import annotations

import jax
import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int, Int32, UInt32

__all__ = [
  'Array',
  'ArrayLike',
  'Bool',
  'Float',
  'Float32',
  'Float64',
  'Int',
  'Int32',
  'NDArray',
  'UInt32',
]

Array = jax.Array
NDArray = np.ndarray
ArrayLike = jax.typing.ArrayLike
