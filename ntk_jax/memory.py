"""How much memory a training step takes, before anything is loaded.

A formula of bytes, held against the compiled step of a CPU in a test: within
`WITHIN` of it either way. What a device has is asked of the device, or on a
CPU of the system: the limit of the control group, or what is available.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ntk_jax.model.config import ModelConfig
from ntk_jax.model.params import Params
from ntk_jax.sharding import MeshConfig
from ntk_jax.trainable import Trainable, trained_shapes

GIB = 2**30
WITHIN = 1.3  # the factor that the formula may be off by
_UPDATE = 2.5  # gradients and working copies of an update, in copies of both
_TRANSIENT = 1.3  # one layer's backward pass, in what a layer can keep
_AGAIN = 1.7  # the same of a tiled layer that is made again
_LOGITS = 2**20  # numbers of a chunk of logits, or 1024 rows if those are more
_ROWS = 1024
_NO_LIMIT = 2**60  # version 1 writes a huge number for none


@dataclasses.dataclass(frozen=True)
class Need:
  """Bytes on one device during a step.

  Attributes:
    parameters: trained ones in float32, frozen ones as they are stored.
    cast: copies of matrices that are stored in another dtype than they are
      multiplied in, or that are gathered over fsdp.
    moments: of the optimizer, for what is trained.
    gradients: of what is trained, and working copies of its update.
    activations: what the layers keep for the backward pass, and one
      layer's pass or a chunk of logits.
  """

  parameters: int
  cast: int
  moments: int
  gradients: int
  activations: int

  @property
  def total(self) -> int:
    """All of it."""
    return sum(dataclasses.astuple(self))


def step_need(
  model: ModelConfig,
  rows: int,
  length: int,
  *,
  trainable: Trainable = Trainable(),  # noqa: B008 (frozen)
  moments: tuple[str, str] = ('float32', 'float32'),
  microbatches: int = 1,
  mesh: MeshConfig = MeshConfig(),  # noqa: B008 (frozen)
  loss_chunk: int | None = None,
) -> Need:
  """The bytes of a training step on each device.

      parameters + cast + moments + 2.5 * 4 * trained
        + n c L kept(remat) + max(1.3 n c kept(none), logits)

  with n = rows * length / microbatches tokens, c bytes of a number in the
  compute dtype and kept(remat) numbers that a layer keeps of a token:
  none 6 D + 2 N H + 4 K H + 4 F; dots 3 D + 2 N H + 2 K H + 2 F; attention
  D + N H + N; full D. Logits are 3 * 4 * V * max(1024, 2^20 / V) bytes, or
  of `loss_chunk` rows. With tiles of t tokens of the MLP (`model.mlp_chunk`)
  F is not in kept, and a layer's pass is

      1.3 c (a n kept(none) + 8 F min(t, n)) + 4 * 3 D F,

  a = 1 for none and 1.7 for policies that make what they pass again; the
  last term is the matrices' gradients, summed over tiles.

  Over a mesh all that is of parameters is divided by fsdp * tensor, n by data *
  fsdp * tensor and V by tensor; with fsdp the embeddings and one layer are
  gathered in the compute dtype and, if trained, as gradients in float32.

  Args:
    model: its shape, precision and remat.
    rows: of a batch.
    length: tokens of a row.
    trainable: what has gradients and moments.
    moments: dtypes of the first and the second moment.
    microbatches: parts of a batch that are worked on one by one.
    mesh: devices along each axis.
    loss_chunk: tokens of a device whose logits exist at a time, None chooses.
  """
  trained, frozen = trained_shapes(model, trainable)
  count = _count(trained)
  compute = np.dtype(model.precision.compute)
  tokens = rows * length // (microbatches * mesh.batch * mesh.tensor)
  shards = mesh.fsdp * mesh.tensor
  number = tokens * compute.itemsize
  passing = _passing(model, tokens, compute.itemsize, mesh.tensor)
  columns = model.vocab // mesh.tensor
  chunk = loss_chunk or max(_ROWS, _LOGITS // columns)
  logits = 3 * 4 * columns * min(chunk, tokens * mesh.tensor)
  gathered = 4 * _gathered(trained, model, mesh) + compute.itemsize * sum(
    _gathered(part, model, mesh) for part in (trained, frozen)
  )
  spare = microbatches > 1  # the sum beside the gradient of a part
  return Need(
    parameters=(tree_bytes(trained) + tree_bytes(frozen)) // shards,
    cast=compute.itemsize
    * sum(_cast(part, compute) for part in (trained, frozen))
    // shards
    + gathered,
    moments=count
    * sum(np.dtype(dtype).itemsize for dtype in moments)
    // shards,
    gradients=int((_UPDATE + spare) * 4 * count) // shards,
    activations=number * model.layers * kept(model, model.remat)
    + max(passing, logits),
  )


def _passing(
  model: ModelConfig, tokens: int, itemsize: int, tensor: int
) -> int:
  """Bytes of one layer's backward pass."""
  numbers = tokens * kept(model, 'none')
  if model.mlp_chunk is None:
    return int(_TRANSIENT * itemsize * numbers)
  again = 1 if model.remat == 'none' else _AGAIN
  tile = min(model.mlp_chunk, tokens * tensor)
  hidden = 8 * model.mlp_dim * _experts_of_a_token(model) * tile // tensor
  matrices = 3 * model.dim * model.mlp_dim * max(1, model.experts) // tensor
  return int(_TRANSIENT * itemsize * (again * numbers + hidden)) + 4 * matrices


def _gathered(part: Params, model: ModelConfig, mesh: MeshConfig) -> int:
  """Numbers that fsdp gathers at a time: embeddings and one layer."""
  if mesh.fsdp == 1:
    return 0
  layers = sum(leaf.size for leaf in part.layers.values())
  outside = _count(part) - layers
  return (outside + layers // model.layers) // mesh.tensor


def kept(model: ModelConfig, remat: str) -> int:
  """Numbers that a layer keeps of a token for its backward pass.

  Hidden channels of an MLP are not among them where it is tiled.

  >>> model = ModelConfig(vocab=9, dim=256, heads=8, kv_heads=4, mlp_dim=704)
  >>> {remat: kept(model, remat) for remat in ('none', 'full')}
  {'none': 5376, 'full': 256}
  """
  c = model
  D, q, kv = c.dim, c.heads * c.head_dim, c.kv_heads * c.head_dim
  F = c.mlp_dim * _experts_of_a_token(c) if c.mlp_chunk is None else 0
  return {
    'none': 6 * D + 2 * q + 4 * kv + 4 * F,
    'dots': 3 * D + 2 * q + 2 * kv + 2 * F,
    'attention': D + q + c.heads,
    'full': D,
    'offload': c.heads,
  }[remat]


def _experts_of_a_token(model: ModelConfig) -> int:
  return model.experts_per_token if model.experts else 1


def _count(part: Params) -> int:
  return sum(leaf.size for leaf in jax.tree.leaves(part))


def tree_bytes(part: Params) -> int:
  """Bytes of all arrays of a tree, or of its shapes."""
  leaves = jax.tree.leaves(part)
  return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)


def _cast(part: Params, compute: Any) -> int:
  """Numbers of matrices that are held in another dtype."""
  leaves = jax.tree.leaves(part)
  return sum(a.size for a in leaves if a.ndim > 1 and a.dtype != compute)


def device_memory(root: Path = Path('/')) -> int | None:
  """Bytes that the first device has for this process; None if unknown.

  Args:
    root: of the file system that tells of a CPU's memory.
  """
  device = jax.devices()[0]
  if device.platform != 'cpu':
    return (device.memory_stats() or {}).get('bytes_limit')
  return host_memory(root)


def host_memory(root: Path = Path('/')) -> int | None:
  """The least of the control groups' limits and what is available.

  Args:
    root: where proc and sys are.
  """
  found = [*_group_limits(root)]
  for line in _text(root / 'proc/meminfo').splitlines():
    if line.startswith('MemAvailable:'):
      found.append(1024 * int(line.split()[1]))
  return min(found, default=None)


def _group_limits(root: Path) -> Iterator[int]:
  """Limits of this process's control groups and those around them."""
  for line in _text(root / 'proc/self/cgroup').splitlines():
    _, controllers, path = line.split(':', 2)
    if controllers == '':
      top, name = root / 'sys/fs/cgroup', 'memory.max'
    elif 'memory' in controllers.split(','):
      top, name = root / 'sys/fs/cgroup/memory', 'memory.limit_in_bytes'
    else:
      continue
    folder = Path(path.strip('/'))
    for group in (folder, *folder.parents):
      limit = _text(top / group / name).strip()
      if limit.isdecimal() and int(limit) < _NO_LIMIT:
        yield int(limit)


def _text(path: Path) -> str:
  try:
    return path.read_text()
  except (OSError, ValueError):
    return ''


def gib(size: float) -> str:
  """Bytes in words.

  >>> gib(3 * 2**29), gib(5e6)
  ('1.5 GiB', '0.0047 GiB')
  """
  value = size / GIB
  digits = 1 if value >= 0.95 else 1 - math.floor(math.log10(max(value, 1e-6)))
  return f'{value:.{digits}f} GiB'
