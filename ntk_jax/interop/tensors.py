"""Which tensors a family's checkpoint holds, and where each goes.

A matrix is stored [out, in] there and held [in, out] here; a leaf of a stack
of layers is one array here and a tensor for each layer there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from ntk_jax.interop.families import Family
from ntk_jax.model.config import ModelConfig
from ntk_jax.model.params import param_shapes

EMBED = 'model.embed_tokens.weight'
UNEMBED = 'lm_head.weight'
NORM = 'model.norm.weight'


class Part(NamedTuple):
  """Rows of a tensor that are (an entry of) one leaf.

  Attributes:
    leaf: embed, final_norm, unembed, or a name of `Params.layers`.
    at: index in the leaf's stacking dims: (), (layer,) or (layer, expert).
    start: the first row.
    stop: one past the last row.
    transposed: whether the leaf has the rows as columns.
  """

  leaf: str
  at: tuple[int, ...]
  start: int
  stop: int
  transposed: bool


class Piece(NamedTuple):
  """A tensor of a checkpoint: its name, its shape there, and its parts."""

  name: str
  shape: tuple[int, ...]
  parts: tuple[Part, ...]


def tensors(config: ModelConfig, family: Family) -> Iterator[Piece]:
  """All tensors of a checkpoint, in the order of the layers.

  >>> from ntk_jax.interop.families import FAMILIES
  >>> config = ModelConfig(vocab=9, dim=4, layers=2)
  >>> pieces = list(tensors(config, FAMILIES['llama']))
  >>> len(pieces), pieces[3].name, pieces[3].shape
  (20, 'model.layers.0.self_attn.q_proj.weight', (128, 4))
  """
  shapes: Any = param_shapes(config)
  yield _piece(EMBED, [('embed', shapes.embed)], (), False)
  if shapes.unembed is not None:
    yield _piece(UNEMBED, [('unembed', shapes.unembed)], (), True)
  groups = _groups(shapes.layers, family)
  for layer in range(config.layers):
    for name, leaves in groups:
      name = f'model.layers.{layer}.{name}'
      matrix = name.endswith('weight') and len(leaves[0][1]) > 2
      if '{expert}' not in name:
        yield _piece(name, leaves, (layer,), matrix)
        continue
      for expert in range(config.experts):
        numbered = name.replace('{expert}', str(expert))
        yield _piece(numbered, leaves, (layer, expert), matrix)
  yield _piece(NORM, [('final_norm', shapes.final_norm)], (), False)


_Leaves = list[tuple[str, tuple[int, ...]]]


def _groups(
  layers: dict[str, Any], family: Family
) -> list[tuple[str, _Leaves]]:
  """Tensor names of a layer, with the leaves that each holds."""
  groups: dict[str, _Leaves] = {}
  for leaf, shape in layers.items():
    kind = 'bias' if leaf.endswith('_bias') else 'weight'
    module = family.names[leaf.removesuffix('_bias')]
    groups.setdefault(f'{module}.{kind}', []).append((leaf, shape))
  return list(groups.items())


def _piece(
  name: str, leaves: _Leaves, at: tuple[int, ...], transposed: bool
) -> Piece:
  """A tensor whose rows are these leaves, one after the other."""
  parts, start, width = [], 0, ()
  for leaf, shape in leaves:
    inner = shape[len(at) :]
    rows, *width = reversed(inner) if transposed else inner
    parts.append(Part(leaf, at, start, start + rows, transposed))
    start += rows
  return Piece(name, (start, *width), tuple(parts))
