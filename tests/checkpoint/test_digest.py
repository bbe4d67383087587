"""A digest sees every bit and every place, wherever the array lies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import devices
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from ntk_jax.checkpoint.digest import array_digest, digests

RNG = np.random.default_rng(0)
ROOT = Path(__file__).resolve().parents[2]
M = 2**32


def mix32(x: int) -> int:
  x ^= x >> 16
  x = x * 0x7FEB352D % M
  x ^= x >> 15
  x = x * 0x846CA68B % M
  return x ^ x >> 16


def plain_digest(words: np.ndarray) -> str:
  """The formula with Python's integers."""
  first = second = 0
  for index, place in enumerate(np.ndindex(*words.shape)):
    mixed = mix32(int(words[place]) ^ mix32(index ^ mix32(place[0])))
    first += mixed
    second += mix32((mixed + 0x9E3779B9) % M)
  return f'{first % M:08x}{second % M:08x}'


@pytest.mark.parametrize('shape', [(7,), (3, 5), (2, 3, 5)])
@pytest.mark.parametrize('dtype', ['float32', 'int32', 'uint32'])
def test_it_is_its_formula(shape: tuple[int, ...], dtype: str) -> None:
  words = RNG.integers(0, M, shape, np.uint32)
  assert array_digest(words.view(dtype)) == plain_digest(words)


@pytest.mark.parametrize(
  'dtype', [np.uint8, np.int8, np.float16, ml_dtypes.bfloat16, np.int64]
)
def test_other_widths(dtype: Any) -> None:
  array = RNG.integers(0, 100, (3, 4)).astype(dtype)
  if array.itemsize == 8:
    words = array[..., None].view(np.uint32)
  else:
    words = array.view(f'uint{8 * array.itemsize}')
  assert array_digest(array) == plain_digest(words)


def test_scalars_keys_and_the_rest() -> None:
  for array in (
    np.float32(1.5),
    jnp.int32(3),
    jnp.array([True, False]),
    jax.random.key(1),
    jnp.ones(3, jnp.complex64),
    jnp.ones(3, jnp.int4),
    jnp.ones(3, jnp.float8_e4m3fn),
    np.float64(2.0),
  ):
    assert len(array_digest(array)) == 16
  assert array_digest(jax.random.key(1)) != array_digest(jax.random.key(2))
  assert array_digest(np.float64(1)) != array_digest(np.float64(1 + 2**-52))
  assert array_digest(jnp.complex64(1j)) != array_digest(jnp.complex64(-1j))
  # Equal as numbers, not as bits.
  assert array_digest(np.float32(0.0)) != array_digest(np.float32(-0.0))


def test_no_flip_is_missed() -> None:
  array = RNG.normal(size=(13, 17)).astype(np.float32)
  seen = {array_digest(array)}
  flips = RNG.choice(array.size * 32, 1000, replace=False)
  for flip in flips:
    damaged = array.copy()
    damaged.view(np.uint32).flat[flip // 32] ^= np.uint32(1 << flip % 32)
    seen.add(array_digest(damaged))
  assert len(seen) == 1001


def test_no_swap_is_missed() -> None:
  array = RNG.normal(size=(13, 17)).astype(np.float32)
  seen = {array_digest(array)}
  pairs = {tuple(sorted(RNG.choice(array.size, 2, False))) for _ in range(300)}
  for i, j in pairs:
    swapped = array.copy()
    swapped.flat[[i, j]] = swapped.flat[[j, i]]
    seen.add(array_digest(swapped))
  assert len(seen) == len(pairs) + 1


def test_moves_are_seen() -> None:
  array = RNG.normal(size=(8, 8)).astype(np.float32)
  others = [
    array,
    array.T,
    array[::-1],
    array[:, ::-1],
    np.roll(array, 1, 0),
    np.zeros_like(array),
    np.ones_like(array),
  ]
  assert len({array_digest(other) for other in others}) == len(others)


def test_a_layout_in_memory_is_not_seen() -> None:
  array = RNG.normal(size=(4, 6))
  assert array_digest(np.asfortranarray(array)) == array_digest(array)


def test_many_at_once_are_one_by_one() -> None:
  arrays = {'a': np.arange(5), 'b': jnp.ones((2, 2)), 'c': np.float32(3)}
  assert digests(arrays) == {n: array_digest(x) for n, x in arrays.items()}


SHARDED = """
import jax, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from ntk_jax.checkpoint.digest import array_digest
array = np.random.default_rng(5).normal(size=(16, 24)).astype(np.float32)
print(array_digest(array))
for shape, names, spec in (
  ((8,), ('x',), P('x')),
  ((8,), ('x',), P(None, 'x')),
  ((2, 4), ('x', 'y'), P('x', 'y')),
  ((2, 4), ('x', 'y'), P(('y', 'x'))),
  ((2, 4), ('x', 'y'), P()),
):
  for kind in (AxisType.Auto, AxisType.Explicit):
    mesh = jax.make_mesh(shape, names, axis_types=(kind,) * len(shape))
    print(array_digest(jax.device_put(array, NamedSharding(mesh, spec))))
"""


def test_shards_do_not_change_it() -> None:
  process = devices.start('-c', SHARDED, devices=8)
  array = np.random.default_rng(5).normal(size=(16, 24)).astype(np.float32)
  assert devices.output(process).split() == [array_digest(array)] * 11
