"""Remapped positions: distances for inference, skips for training.

The distances take the place of i - j in the rotation, for a query of index i
and a key of index j. They are float32, exact to 2**24.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from ntk_jax.errors import ConfigError
from ntk_jax.positions import as_int32
from ntk_jax.temperature.scalars import check_integer
from ntk_jax.typing import Array, ArrayLike, Float32, Int, Int32


def self_extend(
  i: Int[ArrayLike, '*i'],
  j: Int[ArrayLike, '*j'],
  *,
  group: int,
  neighbors: int,
  integer: bool = True,
) -> Float32[Array, '*ij']:
  """Self-Extend: exact distances to neighbours, grouped ones beyond.

  i - j below W = neighbors, else i // G - j // G + W - W // G; -1 for j > i.

  Args:
    i: query indices, broadcast against j.
    j: key indices.
    group: G, positions that share one.
    neighbors: W, keys with their exact distance, itself included.
    integer: whether the shift is W - W // G, as in the paper, or the fraction
      W - W / G of the authors' current code; alike where G divides W.

  Raises:
    ConfigError: group or neighbors below 1.

  Source: Jin et al. 2024, arXiv:2401.01325, section 3.

  >>> print(self_extend(9, jnp.arange(0, 11, 2), group=4, neighbors=4))
  [ 5.  5.  4.  3.  1. -1.]
  """
  _at_least_1(group=group, neighbors=neighbors)
  i, j = _indices(i, j)
  shift = neighbors - (neighbors // group if integer else neighbors / group)
  far = (i // group - j // group).astype(jnp.float32) + shift
  return _causal(i, j, jnp.where(i - j < neighbors, i - j, far))


def rerope(
  i: Int[ArrayLike, '*i'], j: Int[ArrayLike, '*j'], *, window: int
) -> Float32[Array, '*ij']:
  """ReRoPE: distances that stop growing at a window.

  min(i - j, window); -1 for j > i.

  Args:
    i: query indices, broadcast against j.
    j: key indices.
    window: the largest distance.

  Raises:
    ConfigError: window below 1.

  Source: Su 2023, kexue.fm/archives/9708.

  >>> print(rerope(5, jnp.arange(7), window=3))
  [ 3.  3.  3.  2.  1.  0. -1.]
  """
  _at_least_1(window=window)
  i, j = _indices(i, j)
  return _causal(i, j, jnp.minimum(i - j, window))


def leaky_rerope(
  i: Int[ArrayLike, '*i'], j: Int[ArrayLike, '*j'], *, window: int, k: float
) -> Float32[Array, '*ij']:
  """Leaky ReRoPE: distances that grow k times slower beyond a window.

  i - j below the window, else window + (i - j - window) / k; -1 for j > i.

  Args:
    i: query indices, broadcast against j.
    j: key indices.
    window: distances that stay.
    k: how much slower; 1 changes nothing, infinity is `rerope`.

  Raises:
    ConfigError: window below 1, k below 1 or NaN.

  Source: Su 2023, kexue.fm/archives/9708.

  >>> print(leaky_rerope(5, jnp.arange(7), window=2, k=4.0))
  [ 2.75  2.5   2.25  2.    1.    0.   -1.  ]
  """
  _at_least_1(window=window)
  _number_of_1(k=k)
  i, j = _indices(i, j)
  far = window + (i - j - window).astype(jnp.float32) / k
  return _causal(i, j, jnp.where(i - j < window, i - j, far))


def dual_chunk(
  i: Int[ArrayLike, '*i'], j: Int[ArrayLike, '*j'], *, chunk: int, local: int
) -> Float32[Array, '*ij']:
  """Dual chunk attention: distances below `chunk`, exact in a local window.

  With c = chunk - local, keys stand at j mod c. Queries stand at i mod c for
  keys of their own stretch of c positions, at min(i mod c + c, chunk) for
  those of the stretch before, and at min(2 c - 1, chunk) for all earlier
  ones. -1 for j > i.

  Args:
    i: query indices, broadcast against j.
    j: key indices.
    chunk: the chunk size, at most the trained length (3/4 of it by default
      in the authors' code).
    local: distances up to here, and to c, are exact.

  Raises:
    ConfigError: local below 1 or not below chunk.

  Source: An et al. 2024, arXiv:2402.17463, section 3.

  >>> print(dual_chunk(9, jnp.arange(0, 11, 2), chunk=6, local=2))
  [ 6.  4.  5.  3.  1. -1.]
  """
  _at_least_1(local=local, chunk=chunk)
  if local >= chunk:
    raise ConfigError(f'local is {local}, must be less than chunk, {chunk}')
  i, j = _indices(i, j)
  c = chunk - local
  stretches = i // c - j // c
  at = jnp.where(
    stretches == 0,
    i % c,
    jnp.where(
      stretches == 1, jnp.minimum(i % c + c, chunk), min(2 * c - 1, chunk)
    ),
  )
  return _causal(i, j, at - j % c)


def pose_positions(
  key: Array, batch: int, length: int, target_length: int, chunks: int = 2
) -> Int32[Array, 'B T']:
  """PoSE: positions of a long target, with skips, for a short training row.

  A row of T = length tokens is cut into contiguous chunks at random places
  (every choice of cuts is as likely). The first chunk starts at 0, later ones
  are shifted by skips drawn uniformly from [0, target_length - length] and
  sorted, so that positions increase and stay below the target. With 2 chunks
  this is the paper's: one cut, one uniform skip.

  Args:
    key: of jax.random; the same key gives the same positions.
    batch: rows, each with its own draw.
    length: tokens in a row.
    target_length: positions are below it.
    chunks: pieces of a row; 1 gives 0 ... length - 1.

  Raises:
    ConfigError: batch or chunks below 1, chunks above length, length above
      target_length.

  Source: Zhu et al. 2023, arXiv:2309.10400, section 3.2 (first skip 0, as in
  the authors' code).

  >>> key = jax.random.key(0)
  >>> print(pose_positions(key, batch=2, length=6, target_length=50))
  [[ 0 24 25 26 27 28]
   [ 0  1  2  3 26 27]]
  """
  _at_least_1(batch=batch, length=length, chunks=chunks)
  check_integer('target_length', target_length, least=1)
  if chunks > length:
    raise ConfigError(f'chunks is {chunks}, must be at most length, {length}')
  if length > target_length:
    raise ConfigError(
      f'length is {length}, must be at most target_length, {target_length}'
    )

  def row(key: Array) -> Array:
    cut_key, skip_key = jax.random.split(key)
    after = jax.random.permutation(cut_key, length - 1)[: chunks - 1]
    most = target_length - length
    skips = jax.random.randint(skip_key, (chunks - 1,), 0, most + 1, jnp.int32)
    skips = jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.sort(skips)])
    t = jnp.arange(length, dtype=jnp.int32)
    chunk = jnp.sum(t[:, None] > after, axis=1)
    return t + skips[chunk]

  return jax.vmap(row)(jax.random.split(key, batch))


def _indices(i: ArrayLike, j: ArrayLike) -> tuple[Array, Array]:
  return (
    jnp.asarray(as_int32(i, 'query indices')),
    jnp.asarray(as_int32(j, 'key indices')),
  )


def _causal(i: Array, j: Array, distance: Array) -> Array:
  return jnp.where(j > i, -1.0, distance.astype(jnp.float32))


def _number_of_1(**values: float) -> None:
  for name, value in values.items():
    number = isinstance(value, int | float | np.integer | np.floating)
    if isinstance(value, bool) or not number or not value >= 1:
      raise ConfigError(f'{name} is {value!r}, must be a number of at least 1')


def _at_least_1(**values: int) -> None:
  for name, value in values.items():
    check_integer(name, value, least=1)
