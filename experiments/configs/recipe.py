"""From a TrainConfig to the ConfigDict that flags override.

Every field is there, defaults included, so that every one can be changed from
the command line. A field that is None takes a value of its annotated type; the
items of a tuple of sections are `at0`, `at1`, ..., as flags cannot index.
"""

from __future__ import annotations

import dataclasses
import re
import typing
from typing import Any

from ml_collections import ConfigDict, config_dict

from ntk_jax.train import TrainConfig


def recipe(config: TrainConfig) -> ConfigDict:
  """All fields of a config, by section."""
  return ConfigDict(_fields(config))


def values_of(config: ConfigDict) -> dict[str, Any]:
  """The plain values of a recipe, as `from_dict` takes them."""
  return {name: _value(config[name]) for name in config}


def _value(value: Any) -> Any:
  if not isinstance(value, ConfigDict):
    return value
  values = values_of(value)
  if values and all(re.fullmatch(r'at\d+', name) for name in values):
    # A ConfigDict gives its keys sorted as text: at10 before at2.
    return [values[name] for name in sorted(values, key=lambda n: int(n[2:]))]
  return values


def _fields(value: Any) -> dict[str, Any]:
  hints = typing.get_type_hints(type(value))
  return {
    field.name: _plain(getattr(value, field.name), hints[field.name])
    for field in dataclasses.fields(value)
  }


def _plain(value: Any, hint: Any) -> Any:
  if dataclasses.is_dataclass(value):
    return _fields(value)
  if isinstance(value, tuple) and any(map(dataclasses.is_dataclass, value)):
    return {f'at{i}': _fields(item) for i, item in enumerate(value)}
  kinds = typing.get_args(hint)
  if type(None) not in kinds:
    return value
  kinds = [kind for kind in kinds if kind is not type(None)]
  field = config_dict.placeholder(kinds[0] if len(kinds) == 1 else object)
  if value is not None:  # a flag may make it None
    field.set(value)
  return field
