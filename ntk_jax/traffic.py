"""Bytes that a training step moves over each mesh axis: formula and ledger.

The formula counts what `objective.losses` and its gradient write down. The
ledger reads the compiled program, transposes of autodiff included. A test
holds them equal, so a collective that slips in is found.

Bytes are those on the wire of one device in a ring of n: a gather of a result
of b bytes, or a scatter of an operand of b bytes, moves b (n - 1) / n, a sum
twice that. Scalars are left out.
"""

from __future__ import annotations

import collections
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from ntk_jax.model.config import ModelConfig
from ntk_jax.model.params import param_shapes
from ntk_jax.sharding import AXES, MeshConfig, leaf_spec, splits_kv

Traffic = dict[tuple[str, ...], float]

_BYTES = {'float32': 4, 'bfloat16': 2}
_MATRICES = ('q', 'k', 'v', 'out', 'gate', 'up', 'down')
# Blocks gather over tensor twice and scatter twice, each way; without all
# activations kept, all but the last are made again (it too with post-norms).
_PER_BLOCK, _AGAIN = 8, 3


def step_traffic(
  model: ModelConfig, mesh: MeshConfig, rows: int, length: int
) -> Traffic:
  """Bytes on the wire per device of one step's loss and gradient.

  Args:
    model: the model's shape, with its remat and dtypes.
    mesh: devices along each axis.
    rows: rows of the batch, on all devices.
    length: tokens of a row.

  Returns:
    Bytes by the axes that a collective spans, outer first.

  Source: Rajbhandari et al. 2020 (arXiv 1910.02054), section 7, for fsdp;
  Korthikanti et al. 2023 (arXiv 2205.05198), section 4.2.2, for tensor.

  >>> model = ModelConfig(vocab=512, dim=64, layers=2)
  >>> step_traffic(model, MeshConfig(tensor=2), rows=1, length=128)
  {('tensor',): 331008.0}
  """
  total: Traffic = collections.defaultdict(float)
  compute, param = (
    _BYTES[d] for d in (model.precision.compute, model.precision.params)
  )
  tokens = rows * length // mesh.batch
  # fsdp: gathered forward, again backward, and the gradient scattered.
  in_layers = sum(_gathered(model, mesh, name) for name in _MATRICES)
  at_ends = 2 * model.vocab * model.dim // mesh.tensor
  numbers = 3 * model.layers * in_layers + 2 * at_ends
  total[('fsdp',)] += compute * numbers * _ring(mesh.fsdp)
  router = 3 * model.layers * model.dim * model.experts  # in float32
  total[('fsdp',)] += 4 * router * _ring(mesh.fsdp)
  # tensor: the residual stream, at its ends once each way; and the loss.
  again = 0 if model.remat == 'none' else _AGAIN + model.post_norms
  blocks = _PER_BLOCK + again
  stream = tokens * model.dim * (blocks * model.layers + 4)
  total[('tensor',)] += compute * stream * _ring(mesh.tensor)
  total[('tensor',)] += 4 * 4 * tokens * 2 * _ring(mesh.tensor)
  # Gradients, summed over the axes that a parameter is not split over.
  for axes, numbers in _replicated(model, mesh).items():
    devices = math.prod(getattr(mesh, axis) for axis in axes)
    total[axes] += param * numbers * 2 * _ring(devices)
  return {axes: n for axes, n in total.items() if n}


def _ring(devices: int) -> float:
  return (devices - 1) / devices


def _gathered(model: ModelConfig, mesh: MeshConfig, name: str) -> int:
  """Numbers of a layer's matrix on one device once it is gathered."""
  shape = param_shapes(model).layers[name]
  if name in ('k', 'v') and not splits_kv(model.kv_heads, mesh.tensor):
    return model.dim * model.head_dim
  return math.prod(shape[1:]) // mesh.tensor


def _replicated(
  model: ModelConfig, mesh: MeshConfig
) -> dict[tuple[str, ...], int]:
  """Numbers of a device's shards, by the axes that hold copies of them."""
  shapes = jax.tree_util.tree_leaves_with_path(
    param_shapes(model), is_leaf=lambda x: type(x) is tuple
  )
  split = splits_kv(model.kv_heads, mesh.tensor)
  found: collections.Counter[tuple[str, ...]] = collections.Counter()
  for path, shape in shapes:
    used = {axis for axis in leaf_spec(path, len(shape), split) if axis}
    copies = tuple(
      axis for axis in AXES if axis not in used and getattr(mesh, axis) > 1
    )
    shards = math.prod(getattr(mesh, axis) for axis in used)
    if copies:
      found[copies] += math.prod(shape) // shards
  return dict(found)


class Collective(NamedTuple):
  """One collective of a compiled program.

  Attributes:
    kind: all-gather, reduce-scatter, all-reduce or another of HLO's names.
    axes: mesh axes that its groups span.
    wire: bytes on the wire per device, each time it runs.
    times: how often it runs in one call of the program.
  """

  kind: str
  axes: tuple[str, ...]
  wire: float
  times: int


def collectives(hlo: str, mesh: Mesh) -> list[Collective]:
  """Those of a compiled program, loops counted by their trips.

  Args:
    hlo: `compiled.as_text()`.
    mesh: of the program.
  """
  bodies, calls, entry = _computations(hlo)
  found = []
  for name, times in _times(calls, entry).items():
    for line in bodies[name]:
      one = _collective(line, mesh)
      if one is not None:
        found.append(one._replace(times=times))
  return found


def ledger(hlo: str, mesh: Mesh) -> Traffic:
  """Bytes on the wire per device of one call, by the axes spanned."""
  total: Traffic = collections.defaultdict(float)
  for one in collectives(hlo, mesh):
    total[one.axes] += one.wire * one.times
  return {axes: n for axes, n in total.items() if n}


_HEAD = re.compile(r'^(ENTRY )?%?([\w.\-]+) \(.*\{$')
_CALLED = re.compile(r'(?:body|to_apply|calls)=%?([\w.\-]+)')
_TRIPS = re.compile(r'known_trip_count":\{"n":"(\d+)"')
_OP = re.compile(
  r' = (.*?) (all-gather|all-reduce|reduce-scatter|all-to-all|'
  r'collective-permute|collective-broadcast)(?:-start)?\('
)
_ARRAY = re.compile(r'(pred|[a-z]+\d+)\[([\d,]*)\]')
_GROUPS = re.compile(r'replica_groups=\{(\{[\d,]+\})')
_IOTA = re.compile(
  r'replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?'
)


def _computations(
  hlo: str,
) -> tuple[dict[str, list[str]], dict[str, list[tuple[str, int]]], str]:
  """Lines of each computation, what each calls how often, and the entry."""
  bodies: dict[str, list[str]] = {}
  calls: dict[str, list[tuple[str, int]]] = {}
  entry = name = ''
  for line in hlo.splitlines():
    head = _HEAD.match(line)
    if head:
      name = head[2]
      bodies[name], calls[name] = [], []
      entry = name if head[1] else entry
    elif name:
      bodies[name].append(line)
      trips = _TRIPS.search(line)
      count = int(trips[1]) if trips else 1
      calls[name] += [(called, count) for called in _CALLED.findall(line)]
  return bodies, calls, entry


def _times(
  calls: dict[str, list[tuple[str, int]]], entry: str
) -> dict[str, int]:
  """How often each computation runs in one run of the entry."""
  times: collections.Counter[str] = collections.Counter()

  def visit(name: str, count: int) -> None:
    times[name] += count
    for called, trips in calls.get(name, ()):
      visit(called, count * trips)

  visit(entry, 1)
  return {name: count for name, count in times.items() if name in calls}


def _collective(line: str, mesh: Mesh) -> Collective | None:
  op = _OP.search(line)
  if op is None:
    return None
  size = sum(_sizes(op[1]))
  axes, devices = _spanned(line, mesh)
  if not size or devices == 1:
    return None
  if op[2] == 'reduce-scatter':
    size *= devices  # what is printed is the shard that remains
  passes = 2 if op[2] == 'all-reduce' else 1
  return Collective(op[2], axes, passes * size * _ring(devices), 1)


def _sizes(types: str) -> Iterator[int]:
  """Bytes of each array of a result type, scalars left out."""
  for dtype, dims in _ARRAY.findall(types):
    if dims:
      bits = 8 if dtype == 'pred' else int(re.sub(r'\D', '', dtype))
      yield math.prod(map(int, dims.split(','))) * bits // 8


def _spanned(line: str, mesh: Mesh) -> tuple[tuple[str, ...], int]:
  """The axes along which the devices of a group differ, and their number."""
  iota = _IOTA.search(line)
  if iota:
    dims = [int(n) for n in iota[3].split(',')]
    ids = np.arange(math.prod(dims)).reshape(dims)
    if iota[4]:
      ids = ids.transpose([int(n) for n in iota[4].split(',')])
    group = ids.reshape(int(iota[1]), int(iota[2]))[0].tolist()
  else:
    text = _GROUPS.search(line)
    group = [int(n) for n in text[1].strip('{}').split(',')] if text else [0]
  order = {d.id: place for place, d in np.ndenumerate(mesh.devices)}
  flat = [device.id for device in mesh.devices.flat]
  places = np.array([order[flat[i]] for i in group])
  differ = (places != places[0]).any(axis=0)
  axes = tuple(a for a, moved in zip(mesh.axis_names, differ) if moved)
  return axes, len(group)
