"""Multipliers that a config.json has no field for, folded into the weights.

A constant that multiplies q . k multiplies q as well: the rows and the bias
of q_proj or, where q is normed by head, the weight of q_norm, `1 + w` in
Gemma. What multiplies the embedding alone multiplies its rows, and the output
matrix that was its copy becomes a tensor of its own.

A fold by a power of two is exact. By any other number, each folded weight is
rounded once in its stored dtype: a relative error of at most 2^-24 in
float32, 2^-11 in float16 and 2^-8 in bfloat16.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ntk_jax.interop.tensors import Part
from ntk_jax.model.config import ModelConfig
from ntk_jax.typing import NDArray


class Folds(NamedTuple):
  """What is folded; ones change nothing, to the bit.

  Attributes:
    queries: float64 multipliers of each layer's q by channel [L, H].
    embed: of the embedding.
  """

  queries: NDArray
  embed: float = 1.0

  @property
  def exact(self) -> bool:
    """Whether all are powers of two, so that no weight is rounded."""
    mantissa, _ = np.frexp([*np.abs(self.queries).ravel(), self.embed])
    return bool((mantissa == 0.5).all())


def near_one(value: float) -> float:
  """The value, or 1 where it is so but for float64's rounding.

  >>> near_one(1 + 1e-15), near_one(1.001)
  (1.0, 1.001)
  """
  return 1.0 if math.isclose(value, 1.0, rel_tol=1e-12) else value


def folded(
  rows: NDArray, part: Part, folds: Folds, config: ModelConfig
) -> NDArray:
  """Rows of a tensor with what is folded into them.

  Args:
    rows: as they stand in the file, [out, in] or [out].
    part: which leaf of the model they are.
    folds: the multipliers.
    config: the model's shape.

  Returns:
    The rows themselves where nothing is folded, else new ones of their dtype.

  >>> folds = Folds(np.array([[2.0, 0.5]]))
  >>> config = ModelConfig(vocab=9, layers=1, heads=2, head_dim=2)
  >>> part = Part('q_bias', (0,), 0, 4, False)
  >>> folded(np.ones(4, np.float32), part, folds, config)
  array([2. , 0.5, 2. , 0.5], dtype=float32)
  """
  if part.leaf == 'embed':
    factors, offset = np.full(1, folds.embed), 0.0
  elif part.leaf == 'q_norm' and config.qk_norm:
    factors, offset = folds.queries[part.at[0]], float(config.norm_offset)
  elif part.leaf in ('q', 'q_bias') and not config.qk_norm:
    factors, offset = np.tile(folds.queries[part.at[0]], config.heads), 0.0
  else:
    return rows
  if (factors == 1).all():
    return rows
  factors = factors.reshape(-1, *(1,) * (rows.ndim - 1))
  exact = (rows.astype(np.float64) + offset) * factors - offset
  return exact.astype(rows.dtype)
