"""Tensors of a file, gathered from a model's arrays to the host one by one."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ntk_jax.errors import ConfigError
from ntk_jax.interop.fields import Written
from ntk_jax.interop.fold import folded
from ntk_jax.interop.shards import DTYPES, Entry
from ntk_jax.interop.tensors import Part, Piece, tensors
from ntk_jax.model.params import Params
from ntk_jax.typing import Array, NDArray


class Host:
  """The tensors of a model as its family's files hold them.

  Every process has to ask for the same tensors in the same order: arrays
  that are spread over processes are gathered by all of them.
  """

  def __init__(self, params: Params, found: Written) -> None:
    """Checks dtypes.

    Raises:
      ConfigError: parameters of a dtype that is not written.
    """
    self.found = found
    self.leaves: dict[str, Any] = {**params._asdict(), **params.layers}
    self.pieces = {p.name: p for p in tensors(found.model, found.family)}
    for leaf in {q.leaf for p in self.pieces.values() for q in p.parts}:
      dtype = str(self._leaf(leaf).dtype)
      if dtype not in DTYPES:
        raise ConfigError(
          f'{leaf} is held in {dtype}: only {", ".join(DTYPES)} are written'
        )

  def entries(self) -> Iterator[Entry]:
    """Names, dtypes and shapes of all tensors."""
    for piece in self.pieces.values():
      yield Entry(piece.name, self._dtype(piece), piece.shape)

  def read(self, name: str) -> NDArray:
    """A tensor, with what is folded into it."""
    piece = self.pieces[name]
    dtype = self._dtype(piece)
    rows = [self._rows(part).astype(dtype) for part in piece.parts]
    return rows[0] if len(rows) == 1 else np.concatenate(rows)

  def _dtype(self, piece: Piece) -> Any:
    """That holds all its parts exactly."""
    dtypes = [self._leaf(part.leaf).dtype for part in piece.parts]
    return np.dtype(functools.reduce(jnp.promote_types, dtypes))

  def _leaf(self, name: str) -> Array:
    leaf = self.leaves[name]
    # An embedding that was folded is no longer the output matrix.
    return self.leaves['embed'] if leaf is None else leaf

  def _rows(self, part: Part) -> NDArray:
    leaf = self._leaf(part.leaf)
    copied = self.leaves[part.leaf] is None
    x = _entry(leaf, np.asarray(part.at, np.int32), part.transposed != copied)
    return folded(_gathered(x), part, self.found.folds, self.found.model)


@functools.partial(jax.jit, static_argnums=2)
def _entry(leaf: Array, at: Array, transposed: bool) -> Array:
  """One entry of a stack of layers (and experts)."""
  for number in range(at.size):
    leaf = jax.lax.dynamic_index_in_dim(leaf, at[number], 0, keepdims=False)
  return leaf.T if transposed else leaf


def _gathered(x: Array) -> NDArray:
  """The whole array on every process."""
  if x.is_fully_addressable:
    return np.asarray(x)
  from jax.experimental import multihost_utils

  return np.asarray(multihost_utils.process_allgather(x, tiled=True))
