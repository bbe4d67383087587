"""Rope specs by layer: which layers differ, and which have no rope at all."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ntk_jax.errors import ConfigError
from ntk_jax.rope.families import family_of
from ntk_jax.rope.hf import LOCAL_THETA, spec_from, text_config
from ntk_jax.rope.spec import RopeSpec

_MOST_LAYERS = 2**14


def layer_specs(config: Mapping[str, Any]) -> tuple[RopeSpec | None, ...]:
  """The rope spec of every layer of a whole config.json.

  Reads `layer_types`, `no_rope_layers` (1 turns, 0 is NoPE),
  `no_rope_layer_interval` (every k-th is NoPE), `layer_rope_theta` (0 is
  NoPE), `sliding_window_pattern` (every k-th is global) and
  `rope_local_base_freq`; what is left out is as the family's class has it.

  Args:
    config: the whole file; of a multimodal one, its `text_config` counts.

  Returns:
    One spec per layer, None where there is no position embedding.

  Raises:
    ConfigError: as `RopeSpec.from_hf`, and lists of other lengths than the
      layers or with entries that mean nothing.

  >>> specs = layer_specs({'head_dim': 8, 'num_hidden_layers': 4,
  ...                      'no_rope_layer_interval': 4})
  >>> [spec and spec.method for spec in specs]
  ['default', 'default', 'default', None]
  """
  config = text_config(config)
  types = _layer_types(config)
  turns = _turns(config, types)
  thetas = _per_layer(config, 'layer_rope_theta', len(types))
  specs: list[RopeSpec | None] = []
  made: dict[Any, RopeSpec | None] = {}
  for i, kind in enumerate(types):
    theta = thetas[i] if thetas else None
    if not turns[i] or theta == 0:
      specs.append(None)
      continue
    if kind not in made:
      own = {'rope_theta': theta} if theta is not None else {}
      made[kind] = spec_from(own | dict(config), kind)
    spec = made[kind]
    if spec is not None and theta is not None:
      spec = dataclasses.replace(spec, theta=theta)
    specs.append(spec)
  return tuple(specs)


def _turns(config: Mapping[str, Any], types: list[str | None]) -> list[bool]:
  """Whether each layer has a position embedding."""
  family = family_of(config)
  given = _per_layer(config, 'no_rope_layers', len(types))
  if given is not None:
    odd = [x for x in given if not isinstance(x, int) or x not in (0, 1)]
    if odd:
      raise ConfigError(
        f'no_rope_layers has the entry {odd[0]!r}; 1 is a layer with rope, 0 '
        'one without'
      )
    return [bool(x) for x in given]
  interval = config.get('no_rope_layer_interval')
  if interval is None:
    interval = family.nope_interval or 0
  if isinstance(interval, bool) or not isinstance(interval, int):
    raise ConfigError(
      f'no_rope_layer_interval is {interval!r}, must be a whole number'
    )
  if interval < 0:
    raise ConfigError(
      f'no_rope_layer_interval is {interval}, must be 0 (none) or more'
    )
  return [not interval or (i + 1) % interval != 0 for i in range(len(types))]


def _layer_types(config: Mapping[str, Any]) -> list[str | None]:
  """The type of every layer, None where the config makes no difference."""
  count = config.get('num_hidden_layers')
  types = config.get('layer_types')
  if types is not None and types != []:
    if not isinstance(types, list | tuple) or not all(
      isinstance(kind, str) for kind in types
    ):
      raise ConfigError(f'layer_types is {types!r}, must be a list of names')
    if count is not None and count != len(types):
      raise ConfigError(
        f'layer_types has {len(types)} entries for {count} layers'
      )
    return list(types)
  if isinstance(count, bool) or not isinstance(count, int):
    raise ConfigError(f'num_hidden_layers is {count!r}, must be a whole number')
  if not 1 <= count <= _MOST_LAYERS:
    raise ConfigError(
      f'num_hidden_layers is {count}, must be 1 to {_MOST_LAYERS}'
    )
  pattern = config.get('sliding_window_pattern')
  if pattern is None:
    pattern = family_of(config).pattern
  if pattern is None:
    if config.get(LOCAL_THETA) is not None:
      raise ConfigError(
        f'{LOCAL_THETA} gives sliding layers their own base, but nothing says '
        'which layers slide; give layer_types or sliding_window_pattern'
      )
    return [None] * count
  if isinstance(pattern, bool) or not isinstance(pattern, int) or pattern < 1:
    raise ConfigError(
      f'sliding_window_pattern is {pattern!r}, must be a whole number above 0 '
      '(every k-th layer is global); give layer_types for other patterns'
    )
  return [
    'sliding_attention' if (i + 1) % pattern else 'full_attention'
    for i in range(count)
  ]


def _per_layer(
  config: Mapping[str, Any], key: str, layers: int
) -> list[Any] | None:
  values = config.get(key)
  if values is None or values == []:
    return None
  if not isinstance(values, list | tuple) or len(values) != layers:
    size = len(values) if isinstance(values, list | tuple) else repr(values)
    raise ConfigError(f'{key} has {size} entries for {layers} layers')
  return list(values)
