"""Digests of arrays, made where the arrays are.

A checkpoint's files do not tell that a bit was flipped, so a digest of every
array is stored and made again when it is read. It is a sum over elements, so
each device adds up its own shard, and the digest does not depend on how the
array is spread.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ntk_jax.typing import Array

_SECOND_LANE = np.uint32(0x9E3779B9)


def array_digest(array: Any) -> str:
  """Sixteen hex digits that change with any bit and any place of an array.

  With m a 32-bit mixing permutation, b_i the bits of element i and r_i its
  row (its index on the first axis):

    h_i = m(b_i ^ m(i ^ m(r_i))),  digest = (sum h_i, sum m(h_i + c)) mod 2^32

  One changed element always changes it; other changes pass with chance 2^-64.

  Args:
    array: of jax or numpy, of any dtype, keys included. Shape and dtype do
      not enter.

  Source: the permutation is `lowbias32` of Wellons 2018 (hash-prospector).

  >>> array_digest(np.arange(6.0, dtype=np.float32))
  'a6f33db27d47f2bc'
  >>> array_digest(np.array([0, 2, 1, 3, 4, 5], np.float32))
  'bd3de34b47ace43e'
  """
  return digests({'': array})['']


def digests(arrays: Mapping[str, Any]) -> dict[str, str]:
  """The digest of each array, one after the other.

  Several at a time would be faster, but the sums of arrays that are spread over
  processes are collectives, and a CPU's devices may take up collectives that
  are in flight together in different orders, and wait for each other for ever.

  >>> digests({'a': np.int32(1), 'b': np.int32(2)})
  {'a': '688990c0b21c8e52', 'b': 'd1132181dfe02260'}
  """
  return {
    name: ''.join(f'{lane:08x}' for lane in _lanes(_plain(array)).tolist())
    for name, array in arrays.items()
  }


def _plain(array: Any) -> Any:
  """An array that enters jit without a change of its bits."""
  if isinstance(array, np.ndarray | np.generic) and array.itemsize % 8 == 0:
    # Without x64, jit would round these to 32 bits.
    return np.asarray(array, order='C')[..., None].view(np.uint32)
  return array


@jax.jit
def _lanes(array: Array) -> Array:
  bits = _bits(array)
  if not bits.ndim:
    bits = bits[None]
  index = jnp.zeros((), jnp.uint32)
  stride = 1
  for dim in reversed(range(bits.ndim)):
    place = jax.lax.broadcasted_iota(jnp.uint32, bits.shape, dim)
    index += np.uint32(stride % 2**32) * place
    stride *= bits.shape[dim]
  # The row tells elements apart whose indices are equal mod 2^32.
  row = jax.lax.broadcasted_iota(jnp.uint32, bits.shape, 0)
  mixed = _mix32(bits ^ _mix32(index ^ _mix32(row)))
  lanes = mixed, _mix32(mixed + _SECOND_LANE)
  return jnp.stack([jnp.sum(lane, dtype=jnp.uint32) for lane in lanes])


def _bits(array: Array) -> Array:
  """The elements' bits as uint32; wide elements get a last axis of words."""
  if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
    array = jax.random.key_data(array)
  if jnp.issubdtype(array.dtype, jnp.complexfloating):
    array = jnp.stack([array.real, array.imag], axis=-1)
  if array.dtype == jnp.bool_:
    return array.astype(jnp.uint32)
  floating = jnp.issubdtype(array.dtype, jnp.floating)
  info = jnp.finfo(array.dtype) if floating else jnp.iinfo(array.dtype)
  width = 'uint32' if info.bits == 64 else f'uint{info.bits}'
  words = jax.lax.bitcast_convert_type(array, jnp.dtype(width))
  return words.astype(jnp.uint32)


def _mix32(x: Array) -> Array:
  """A permutation of the 32-bit words in which every bit moves every other."""
  x = (x ^ (x >> 16)) * np.uint32(0x7FEB352D)
  x = (x ^ (x >> 15)) * np.uint32(0x846CA68B)
  return x ^ (x >> 16)
