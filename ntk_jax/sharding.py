"""Meshes, and the collectives of a program that is manual over one.

The loss of a training step is one `jax.shard_map` over the whole mesh whose
collectives are written out through an `Axes`. Without a mesh the same code
runs with `Axes()`, whose collectives do nothing.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ntk_jax.errors import ConfigError
from ntk_jax.typing import Array

AXES = ('data', 'fsdp', 'context', 'tensor')
BATCH = ('data', 'fsdp')  # what the rows of a batch are split over

Tree = TypeVar('Tree')


@dataclasses.dataclass(frozen=True)
class MeshConfig:
  """How many devices stand along each mesh axis, outer to inner.

  Attributes:
    data: copies of the model; rows of a batch are split over data and fsdp.
    fsdp: shards of every matrix along its residual dim, gathered for use.
    context: shards of a row's tokens; 1 for now.
    tensor: shards of heads, of the MLP's hidden dim and of the vocabulary.
  """

  data: int = 1
  fsdp: int = 1
  context: int = 1
  tensor: int = 1

  @property
  def size(self) -> int:
    """Devices in all."""
    return math.prod(dataclasses.astuple(self))

  @property
  def batch(self) -> int:
    """Parts that the rows of a batch are split into."""
    return self.data * self.fsdp

  def problems(self, devices: int | None = None) -> list[str]:
    """What is wrong, for a number of devices if it is known.

    >>> MeshConfig(data=3).problems(devices=8)
    ['mesh data=3 fsdp=1 context=1 tensor=1 takes 3 devices, there are 8']
    """
    sizes = dataclasses.asdict(self)
    wrong = [
      f'mesh {name} is {size!r}: a whole number, at least 1'
      for name, size in sizes.items()
      if not isinstance(size, int) or isinstance(size, bool) or size < 1
    ]
    if wrong:
      return wrong
    if self.context != 1:
      wrong.append(
        f'mesh context is {self.context}: rows are not yet split over '
        'devices; use 1, and fsdp or tensor for memory'
      )
    if devices is not None and self.size != devices:
      text = ' '.join(f'{name}={size}' for name, size in sizes.items())
      wrong.append(
        f'mesh {text} takes {self.size} devices, there are {devices}'
      )
    return wrong


def make_mesh(
  config: MeshConfig, devices: Sequence[jax.Device] | None = None
) -> Mesh:
  """The mesh of a config, all axes present and Auto, outer to inner.

  Args:
    config: devices along each axis.
    devices: those to use, all of the process group if None.

  Raises:
    ConfigError: if the product of the axes is not the number of devices.
  """
  found = list(jax.devices() if devices is None else devices)
  wrong = config.problems(len(found))
  if wrong:
    raise ConfigError('; '.join(wrong))
  return jax.make_mesh(
    tuple(dataclasses.astuple(config)),
    AXES,
    axis_types=(AxisType.Auto,) * len(AXES),
    devices=found,
  )


@dataclasses.dataclass(frozen=True)
class Axes:
  """Collectives over the mesh axes that a program is manual over.

  For an axis that is not among the names nothing happens, so a program
  without a mesh is the same code. Every one is linear, and its transpose is
  what autodiff makes of it when the gradient is taken outside the shard_map:
  gather and scatter are each other's, a sum is its own.

  Attributes:
    sizes: (name, devices) of each axis present.

  >>> x = jnp.ones((2, 3))
  >>> Axes().gather(x, 'fsdp', 0).shape, Axes().size('tensor')
  ((2, 3), 1)
  """

  sizes: tuple[tuple[str, int], ...] = ()

  def size(self, axis: str) -> int:
    """Devices along an axis, 1 if it is absent."""
    return dict(self.sizes).get(axis, 1)

  def index(self, axis: str) -> Array | int:
    """This device's place along an axis, 0 if it is absent."""
    return jax.lax.axis_index(axis) if self._has(axis) else 0

  def gather(self, x: Array, axis: str, dim: int) -> Array:
    """The shards of all devices along a mesh axis, joined along a dim."""
    if not self._has(axis):
      return x
    return jax.lax.all_gather(x, axis, axis=dim % x.ndim, tiled=True)

  def scatter(self, x: Array, axis: str, dim: int) -> Array:
    """The sum over a mesh axis, of which each device keeps its shard."""
    if not self._has(axis):
      return x
    return jax.lax.psum_scatter(
      x, axis, scatter_dimension=dim % x.ndim, tiled=True
    )

  def sum(self, x: Tree, *axes: str) -> Tree:
    """The sum over mesh axes, the same on every device."""
    names = tuple(axis for axis in axes if self._has(axis))
    return jax.lax.psum(x, names) if names else x

  def _has(self, axis: str) -> bool:
    return any(name == axis for name, _ in self.sizes)


def axes_of(mesh: Mesh | None) -> Axes:
  """The axes of a mesh; none without one."""
  return Axes() if mesh is None else Axes(tuple(mesh.shape.items()))


# The last part of a parameter's path -> the mesh axis of each of its last
# dims. Those before, which stack layers and experts, are never split: every
# device has a part of each expert.
_BY_NAME: dict[tuple[str, ...], tuple[str | None, ...]] = {
  ('embed',): ('tensor', 'fsdp'),
  ('unembed',): ('fsdp', 'tensor'),
  ('q', 'k', 'v', 'gate', 'up'): ('fsdp', 'tensor'),
  ('out', 'down'): ('tensor', 'fsdp'),
  ('router',): ('fsdp', None),
  ('q_bias', 'k_bias', 'v_bias', 'gate_bias', 'up_bias', 'head_norm'): (
    'tensor',
  ),
  # Factors of adapters: their rank is never split.
  ('q_lora_a', 'k_lora_a', 'v_lora_a'): (None, 'fsdp', None),
  ('q_lora_b', 'k_lora_b', 'v_lora_b'): (None, None, 'tensor'),
  ('out_lora_a',): (None, 'tensor', None),
  ('out_lora_b',): (None, None, 'fsdp'),
}
_TABLE = {name: spec for names, spec in _BY_NAME.items() for name in names}
_KV = ('k', 'v', 'k_bias', 'v_bias', 'k_lora_b', 'v_lora_b')


def splits_kv(kv_heads: int, tensor: int) -> bool:
  """Whether kv heads are split over the tensor axis, or held by all.

  With fewer kv heads than shards each device holds all of them and computes
  the one that its query heads share; their gradient is summed.

  >>> splits_kv(8, 4), splits_kv(2, 4)
  (True, False)
  """
  return kv_heads % tensor == 0


def param_specs(params: Tree, mesh: Mesh, kv_heads: int) -> Tree:
  """The PartitionSpec of every parameter, by the last part of its path.

  Args:
    params: a tree of arrays or shapes; norms and residual biases, which the
      table does not name, are replicated.
    mesh: whose tensor axis decides where kv heads are.
    kv_heads: of the model.
  """
  split = splits_kv(kv_heads, mesh.shape['tensor'])
  return jax.tree_util.tree_map_with_path(
    lambda path, x: PartitionSpec(*leaf_spec(path, np.ndim(x), split)), params
  )


def leaf_spec(
  path: tuple[Any, ...], ndim: int, split_kv: bool
) -> tuple[str | None, ...]:
  """The mesh axis of each dim of a parameter, by the last part of its path.

  Args:
    path: of the parameter in its tree.
    ndim: its dims.
    split_kv: whether kv heads are split over tensor.
  """
  name = leaf_name(path)
  dims = _TABLE.get(name, ())
  if name in _KV and not split_kv:
    dims = tuple(None if dim == 'tensor' else dim for dim in dims)
  return (None,) * (ndim - len(dims)) + dims if dims else ()


def leaf_name(path: tuple[Any, ...]) -> str:
  """The last key of a tree path, be it of a dict or of a named tuple.

  >>> tree = {'layers': {'q': 0}}
  >>> [leaf_name(path) for path, _ in jax.tree.leaves_with_path(tree)]
  ['q']
  """
  key = path[-1]
  return str(getattr(key, 'name', getattr(key, 'key', key)))


def shardings(specs: Tree, mesh: Mesh) -> Tree:
  """The NamedSharding of every PartitionSpec of a tree."""
  return jax.tree.map(
    functools.partial(NamedSharding, mesh),
    specs,
    is_leaf=lambda x: isinstance(x, PartitionSpec),
  )


def place_local(tree: Tree, specs: Tree, mesh: Mesh) -> Tree:
  """Arrays of this process's rows as parts of global arrays.

  What is not split over data or fsdp has to be the same on every process.
  """

  def put(x: Any, sharding: NamedSharding) -> Array:
    return jax.make_array_from_process_local_data(sharding, np.asarray(x))

  return jax.tree.map(put, tree, shardings(specs, mesh))


def batch_spec(x: Any) -> PartitionSpec:
  """Rows split over data and fsdp."""
  return PartitionSpec(BATCH, *(None,) * (jnp.ndim(x) - 1))
