"""The rope keys of a config.json, as each family's class reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ntk_jax.errors import ConfigError
from ntk_jax.interop.choice import LIMITS
from ntk_jax.interop.families import Family
from ntk_jax.interop.fold import near_one
from ntk_jax.interop.settled import Settled
from ntk_jax.rope.hf import LOCAL_THETA, ORIGINAL
from ntk_jax.rope.hf_export import fields_of
from ntk_jax.rope.spec import RopeSpec
from ntk_jax.temperature import longrope
from ntk_jax.typing import NDArray

MAX = 'max_position_embeddings'
Fields = dict[str, Any]


def rope_fields(
  family: Family, layers: Sequence[Settled], length: int | None = None
) -> tuple[Fields, NDArray]:
  """Rope keys in the spellings of transformers 4 and 5 at once.

  Args:
    family: that `choose` has found.
    layers: the scheme of each layer.
    length: `max_position_embeddings` of the file that they came from
      unchanged, in place of the one by their factor.

  Returns:
    The keys, `max_position_embeddings` where the type needs it; and what q
    has to be multiplied by, by channel [H], where the class has no attention
    factor.

  Raises:
    ConfigError: frequencies that neither a rope type nor the carrier holds.
  """
  limits = LIMITS[family.name]
  own = {} if length is None else {MAX: length}
  if limits.by_type:
    return _by_type(layers) | own, np.ones(layers[0].spec.head_dim)
  spec = layers[0].spec
  found = _flat(spec, limits.types) | own
  if limits.types is None:
    return found, np.ones(spec.head_dim)
  return _three_keys(spec, found)


def _flat(
  spec: RopeSpec, types: tuple[str, ...] | None, nested: bool = False
) -> Fields:
  """Keys of one spec: its own type where the class takes it, or the carrier."""
  try:
    native = fields_of(spec)
  except ConfigError:
    if spec.per_length:
      raise
    return fields_of(spec, carrier=True)
  kind = native['rope_parameters']['rope_type']
  # In a nested dict, transformers 5 looks for truncate in the wrong place.
  lost = nested and not dict(spec.options).get('truncate', True)
  if (types is None or kind in types) and not lost:
    return native
  if spec.per_length:
    raise ConfigError(
      f'{spec.method} cannot be exported: the class takes rope of the types '
      f'{", ".join(types or ())} alone, and its frequencies depend on length; '
      'give freeze_length to export those of one length'
    )
  return fields_of(spec, carrier=True)


def _by_type(layers: Sequence[Settled]) -> Fields:
  """Nested by layer type (5); the base of sliding layers by itself (4)."""
  full = [layer.spec for layer in layers if layer.window is None]
  sliding = [layer.spec for layer in layers if layer.window is not None]
  found: Fields = {}
  nested = {}
  if sliding:
    local = _flat(sliding[0], None, nested=True)
    nested['sliding_attention'] = local['rope_parameters']
    found = {**local, LOCAL_THETA: local['rope_theta']}
  if full:
    globals_ = _flat(full[0], None, nested=True)
    nested['full_attention'] = globals_['rope_parameters']
    found |= globals_
  return {**found, 'rope_parameters': nested}


def _three_keys(spec: RopeSpec, found: Fields) -> tuple[Fields, NDArray]:
  """Phi 3: longrope of exactly three keys, its attention factor by a rule.

  The rule is sqrt(1 + ln s / ln L0); where the spec has another factor, the
  rest of it multiplies the channels of q that turn.
  """
  queries = np.ones(spec.head_dim)
  if found['rope_scaling'] is None:
    return found, queries
  params = found['rope_parameters']
  kept = {key: params[key] for key in ('short_factor', 'long_factor')}
  inside = ('rope_type', 'rope_theta', 'partial_rotary_factor', ORIGINAL)
  inner = {key: params[key] for key in inside if key in params}
  ratio = found[MAX] / found[ORIGINAL]
  rule = longrope(ratio, found[ORIGINAL]) if ratio > 1 else 1.0
  wanted = float(spec.frequencies()[1])
  queries[: spec.rotary_dim] = near_one((wanted / rule) ** 2)
  scaling = {'type': 'longrope', **kept}
  written = {'rope_scaling': scaling, 'rope_parameters': {**inner, **kept}}
  return {**found, **written}, queries
