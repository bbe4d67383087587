"""What one step of training reads."""

from __future__ import annotations

from typing import Any, NamedTuple

from ntk_jax.typing import Array, Bool, Float32, Int32, NDArray

NO_TARGET = -1


class Batch(NamedTuple):
  """Rows of tokens, or one row without the dim B.

  Attributes:
    tokens: ids; 0 at padding.
    targets: the next token of the same document; -1 where there is none.
    weights: of each target's loss; 0 where nothing is learned.
    answers: whether a weighed target answers a retrieval question; the others
      are text.
    positions: from 0 in every piece of a document; None is 0, 1, 2, ...
    segments: 1, 2, ... along a row, 0 is padding; None is one document a row.
  """

  tokens: Int32[Array | NDArray, '*B T']
  targets: Int32[Array | NDArray, '*B T']
  weights: Float32[Array | NDArray, '*B T']
  answers: Bool[Array | NDArray, '*B T']
  positions: Any = None
  segments: Any = None
