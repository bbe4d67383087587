"""A Hugging Face checkpoint as a decoder, read tensor by tensor."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import (
  Mesh,
  NamedSharding,
  PartitionSpec,
  SingleDeviceSharding,
)

from ntk_jax.errors import ConfigError, unknown
from ntk_jax.interop.architectures import Architecture, architecture
from ntk_jax.interop.config_file import read_json
from ntk_jax.interop.folder import (
  Stored,
  check_tensors,
  dtype_of,
  stored_tensors,
)
from ntk_jax.interop.hub import folder_of
from ntk_jax.interop.tensors import Part, Piece, tensors
from ntk_jax.model.config import ModelConfig
from ntk_jax.model.params import Params, param_shapes
from ntk_jax.model.precision import DTYPES, Precision
from ntk_jax.model.shell import Transformer, with_params
from ntk_jax.sharding import param_specs
from ntk_jax.typing import Array

# Mesh and spec of an array, or None for one device.
_Where = tuple[Mesh, PartitionSpec] | None


def load(
  dir: str | Path,
  *,
  config: str = 'config.json',
  mesh: Mesh | None = None,
  dtype: str | None = None,
  check_finite: bool = False,
  revision: str | None = None,
) -> Transformer:
  """The model of a Hugging Face folder, or of a name on the hub.

  Everything is checked before the first weight is read: what the config says
  and the tensors' names, shapes and dtypes agree exactly, or nothing is
  loaded. Tensors are then read one by one into the (sharded) arrays, so the
  host never holds the model twice.

  Args:
    dir: a folder with config.json and safetensors, or `owner/name` on the hub
      (with huggingface_hub installed).
    config: name of the config in the folder.
    mesh: as `ntk_jax.sharding.make_mesh` builds it, to shard over; None is
      one device.
    dtype: 'float32' or 'bfloat16' for parameters and computation; None keeps
      each parameter's stored dtype and computes in float32.
    check_finite: refuse weights that are not finite, naming them.
    revision: of a name on the hub: a commit, tag or branch.

  Returns:
    The model with the schemes of its config, and the config's text as
    `origin`.

  Raises:
    ConfigError: one reason, and what to do about it.

  Source: the files that transformers 4 and 5 write.
  """
  if dtype not in (None, *DTYPES):
    raise unknown('dtype', dtype, DTYPES)
  folder = folder_of(dir, revision)
  settings = read_json(_inside(folder, config))
  found = architecture(settings)
  _check_turning(found)
  stored = stored_tensors(folder)
  pieces = list(_checked(stored, found))
  kept = _kept_dtypes(stored, pieces)
  params = _stream(found.model, stored, pieces, kept, mesh, dtype, check_finite)
  precision = Precision(dtype or kept['embed'], dtype or 'float32')
  model = with_params(
    dataclasses.replace(found.model, precision=precision),
    params,
    found.schemes,
  )
  model.origin = json.dumps(settings)
  return model


def _check_turning(found: Architecture) -> None:
  """Raises ConfigError for parts of heads where the class turns whole ones."""
  for scheme in found.schemes:
    spec, family = scheme.spec, found.family
    if spec.rotary_dim != spec.head_dim and not family.partial:
      raise ConfigError(
        f'partial_rotary_factor is {spec.partial_rotary_factor}, which '
        f'{family.name} does not have: transformers 5 turns whole heads, other '
        'versions fail; take it out if whole heads were trained'
      )


def _inside(folder: Path, name: str) -> Path:
  if not isinstance(name, str) or Path(name).name != name:
    raise ConfigError(f'config is {name!r}, must name a file of the folder')
  return folder / name


def _checked(stored: dict[str, Stored], found: Architecture) -> Iterable[Piece]:
  """The pieces of a checkpoint that holds exactly these."""
  check_tensors(
    stored, tensors(found.model, found.family), tied=found.model.tied
  )
  return tensors(found.model, found.family)


def _kept_dtypes(
  stored: dict[str, Stored], pieces: list[Piece]
) -> dict[str, str]:
  """The dtype that holds all tensors of each leaf exactly."""
  kept: dict[str, str] = {}
  for piece in pieces:
    own = dtype_of(stored[piece.name])
    for part in piece.parts:
      kept[part.leaf] = str(jnp.promote_types(kept.get(part.leaf, own), own))
  return kept


def _stream(
  config: ModelConfig,
  stored: dict[str, Stored],
  pieces: list[Piece],
  kept: dict[str, str],
  mesh: Mesh | None,
  dtype: str | None,
  check_finite: bool,
) -> Params:
  """Parameters, filled tensor by tensor: one is on the host at a time."""
  shapes = param_shapes(config)
  named = {**shapes._asdict(), **shapes.layers}
  where = _shardings(shapes, mesh, config.kv_heads)
  leaves = {
    name: _Leaf(named[name], jnp.dtype(dtype or kept[name]), where[name])
    for name in kept
  }
  bad: dict[str, Array] = {}
  for piece in pieces:
    for part in piece.parts:
      x = leaves[part.leaf].fill(stored[piece.name], part)
      if check_finite:
        bad[piece.name] = jnp.sum(~jnp.isfinite(x))
  _check_finite(bad)
  return Params(
    leaves['embed'].array,
    {name: leaves[name].array for name in shapes.layers},
    leaves['final_norm'].array,
    leaves['unembed'].array if 'unembed' in leaves else None,
  )


def _shardings(
  shapes: Params, mesh: Mesh | None, kv_heads: int
) -> dict[str, _Where]:
  """Leaf -> its PartitionSpec and mesh, or None for one device."""
  named = {**shapes._asdict(), **shapes.layers}
  if mesh is None:
    return dict.fromkeys(named)
  tree = jax.tree.map(
    lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32),
    shapes,
    is_leaf=lambda x: type(x) is tuple,
  )
  specs = param_specs(tree, mesh, kv_heads)
  found = {**specs._asdict(), **specs.layers}
  return {name: (mesh, spec) for name, spec in found.items()}


class _Leaf:
  """One array of the model while it is filled."""

  def __init__(self, shape: Any, dtype: Any, where: _Where) -> None:
    """Zeros, sharded as the array will be."""
    self.shape, self.where = shape, where
    self.sharding = self._sharding(0, False)
    self.array = jnp.zeros(shape, dtype, device=self.sharding)

  def _sharding(self, skipped: int, transposed: bool) -> Any:
    """Of an entry: the leaf's without its first dims."""
    if self.where is None:
      return SingleDeviceSharding(jax.devices()[0])
    mesh, spec = self.where
    dims = tuple(spec) + (None,) * (len(self.shape) - len(spec))
    dims = dims[skipped:]
    dims = dims[::-1] if transposed else dims
    return NamedSharding(mesh, PartitionSpec(*dims))

  def fill(self, stored: Stored, part: Part) -> Array:
    """Reads a tensor's rows and puts them in their place.

    Each process reads what its devices hold.
    """

    def rows(index: Any) -> np.ndarray:
      first, *rest = index
      first = slice(*first.indices(part.stop - part.start))
      first = slice(part.start + first.start, part.start + first.stop)
      return stored.read((first, *rest))

    shape = (part.stop - part.start, *stored.shape[1:])
    sharding = self._sharding(len(part.at), part.transposed)
    x = jax.make_array_from_callback(shape, sharding, rows)
    at = np.asarray(part.at, np.int32)
    self.array = _put(self.array, x, at, part.transposed, self.sharding)
    # Or tensors that are read faster than they are put would pile up.
    jax.block_until_ready(self.array)
    return x


@functools.partial(jax.jit, donate_argnums=0, static_argnums=(3, 4))
def _put(leaf: Array, x: Array, at: Array, transposed: bool, where: Any) -> Any:
  """The leaf with an entry filled, in place: it is donated."""
  x = (x.T if transposed else x).astype(leaf.dtype)
  x = x.reshape((1,) * at.size + x.shape)
  start = [*at, *(0,) * (leaf.ndim - at.size)]
  leaf = jax.lax.dynamic_update_slice(leaf, x, start)
  return jax.lax.with_sharding_constraint(leaf, where)


def _check_finite(bad: dict[str, Array]) -> None:
  """Raises ConfigError that names tensors with nan or infinity."""
  counts = {name: int(count) for name, count in bad.items()}
  found = [f'{n} in {name}' for name, n in counts.items() if n]
  if found:
    raise ConfigError(
      f'weights that are not finite: {", ".join(found[:4])}'
      f'{f" and {len(found) - 4} more tensors" if len(found) > 4 else ""}'
    )
