"""A function of single tokens, run on some of them at a time.

What it makes on the way, such as the hidden channels of an MLP, exists for one
tile of tokens only: the backward pass makes it again, tile by tile.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ntk_jax.typing import Array


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def by_tiles(
  function: Callable[[Array, Any], Array],
  tile: int,
  x: Array,
  operands: Any,
) -> Array:
  """`function(x, operands)`, at most `tile` tokens of x at a time.

  Both directions are a loop over tiles of equal size; zeros fill the last
  one. Kept for the backward pass are x and the operands, nothing that the
  function makes of them, whatever policy of rematerialisation is around it.
  Gradients of the operands are summed over tiles in float32.

  Args:
    function: from [tokens, D] and the operands to [tokens, ...]; what it gives
      for a token depends on no other token. It closes over no array.
    tile: most tokens at a time, at least 1.
    x: tokens, flat [tokens, D].
    operands: a tree of arrays, the same for all tokens.

  Source: Shoeybi et al. split the hidden channels over devices; over time it
  is the feed-forward chunking of Kitaev et al. 2020 (arXiv 2001.04451),
  section 3; with training at length: Bekman et al. 2025 (arXiv 2506.13996).

  >>> x = jnp.arange(6.0).reshape(3, 2)
  >>> print(by_tiles(lambda x, w: x * w, 2, x, jnp.array([1.0, 10.0])))
  [[ 0. 10.]
   [ 2. 30.]
   [ 4. 50.]]
  """
  parts = _parts(x, tile)
  if parts.shape[0] == 1:
    return function(x, operands)
  y = jax.lax.map(lambda part: function(part, operands), parts)
  return _joined(y, x.shape[0])


def _forward(
  function: Callable[[Array, Any], Array], tile: int, x: Array, operands: Any
) -> tuple[Array, tuple[Array, Any]]:
  return by_tiles(function, tile, x, operands), (x, operands)


def _backward(
  function: Callable[[Array, Any], Array],
  tile: int,
  saved: tuple[Array, Any],
  dy: Array,
) -> tuple[Array, Any]:
  x, operands = saved
  # Or a compiler finds what is made again equal to what was, and keeps it.
  x, dy = jax.lax.optimization_barrier((x, dy))

  def step(sums: Any, part: tuple[Array, Array]) -> tuple[Any, Array]:
    _, back = jax.vjp(function, part[0], operands)
    dx, more = back(part[1])
    return jax.tree.map(jnp.add, sums, more), dx

  start = jax.tree.map(lambda w: jnp.zeros(w.shape, jnp.float32), operands)
  parts = _parts(x, tile), _parts(dy, tile)
  if parts[0].shape[0] == 1:
    sums, dx = step(start, (x, dy))
  else:
    sums, dx = jax.lax.scan(step, start, parts)
    dx = _joined(dx, x.shape[0])
  return dx, jax.tree.map(lambda s, w: s.astype(w.dtype), sums, operands)


by_tiles.defvjp(_forward, _backward)


def _parts(x: Array, tile: int) -> Array:
  """Tokens in as few tiles of equal size as do, zeros at the end."""
  tokens = x.shape[0]
  tiles = -(-tokens // tile)
  size = -(-tokens // tiles)
  lack = tiles * size - tokens
  if lack:
    x = jnp.pad(x, ((0, lack), *((0, 0),) * (x.ndim - 1)))
  return x.reshape(tiles, size, *x.shape[1:])


def _joined(parts: Array, tokens: int) -> Array:
  return parts.reshape(-1, *parts.shape[2:])[:tokens]
