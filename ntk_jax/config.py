"""Mechanics of configuration: plain values to dataclasses and back."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, Union

from ntk_jax.errors import ConfigError, unknown

Config = TypeVar('Config')


def to_plain(value: Any) -> Any:
  """Dataclasses, tuples and mappings as JSON-able dicts and lists.

  >>> @dataclasses.dataclass
  ... class Size:
  ...   rows: int
  ...   length: tuple[int, ...]
  >>> to_plain(Size(2, (3, 4)))
  {'rows': 2, 'length': [3, 4]}
  """
  if dataclasses.is_dataclass(value) and not isinstance(value, type):
    fields = dataclasses.fields(value)
    return {f.name: to_plain(getattr(value, f.name)) for f in fields}
  if isinstance(value, dict):
    return {str(k): to_plain(v) for k, v in value.items()}
  if isinstance(value, list | tuple):
    return [to_plain(v) for v in value]
  if value is None or isinstance(value, bool | int | float | str):
    return value
  raise TypeError(f'{type(value).__name__} has no plain form: {value!r}')


def from_dict(cls: type[Config], values: Mapping[str, Any]) -> Config:
  """A frozen dataclass of nested plain values, or all that is wrong at once.

  Fields that are dataclasses take mappings, tuples take lists; an int will do
  for a float, nothing else is converted. Fields that are not named keep
  their defaults.

  Raises:
    ConfigError: unknown fields (with the nearest known one), wrong types and
      missing values, each by its dotted name.

  >>> @dataclasses.dataclass(frozen=True)
  ... class Size:
  ...   rows: int
  ...   share: float = 0.5
  >>> from_dict(Size, {'rows': 2, 'share': 1})
  Size(rows=2, share=1.0)
  >>> from_dict(Size, {'rowz': 2})
  Traceback (most recent call last):
  ntk_jax.errors.ConfigError: unknown field 'rowz': did you mean 'rows'? \
Allowed: rows, share; rows is missing
  """
  wrong: list[str] = []
  found = _built(cls, values, '', wrong)
  if wrong:
    raise ConfigError('; '.join(wrong))
  return found


def _built(cls: Any, values: Any, name: str, wrong: list[str]) -> Any:
  """An instance, or None after what is wrong is added to the list."""
  if not isinstance(values, Mapping):
    wrong.append(f'{name} is {values!r}: it has fields, {_names(cls)}')
    return None
  before = len(wrong)
  hints = typing.get_type_hints(cls)
  fields = {field.name: field for field in dataclasses.fields(cls)}
  dot = f'{name}.' if name else ''
  made = {}
  for key, value in values.items():
    if key not in fields:
      wrong.append(str(unknown('field', f'{dot}{key}', _dotted(dot, fields))))
    else:
      made[key] = _converted(hints[key], value, f'{dot}{key}', wrong)
  for key, field in fields.items():
    default = field.default, field.default_factory
    if key not in values and default == (dataclasses.MISSING,) * 2:
      wrong.append(f'{dot}{key} is missing')
  if len(wrong) > before:
    return None
  try:
    return cls(**made)
  except ConfigError as error:  # of a class that checks itself
    wrong.append(f'{name}: {error}' if name else str(error))
    return None


def _converted(hint: Any, value: Any, name: str, wrong: list[str]) -> Any:
  """A value of the hinted type."""
  options = typing.get_args(hint)
  if isinstance(hint, types.UnionType) or typing.get_origin(hint) is Union:
    if value is None and type(None) in options:
      return None
    kinds = [option for option in options if option is not type(None)]
    if len(kinds) > 1:
      return value  # the class says which it takes
    hint, options = kinds[0], typing.get_args(kinds[0])
  if dataclasses.is_dataclass(hint):
    return _built(hint, value, name, wrong)
  if typing.get_origin(hint) is tuple and isinstance(value, list | tuple):
    kind = options[0] if options[-1] is Ellipsis else Any
    return tuple(
      _converted(kind, item, f'{name}[{i}]', wrong)
      for i, item in enumerate(value)
    )
  plain = typing.get_origin(hint) or hint
  if plain is float and type(value) is int and abs(value) < 2**53:
    return float(value)
  if plain in (int, float, str, bool, tuple) and type(value) is not plain:
    wrong.append(f'{name} is {value!r}: it is {_KINDS[plain]}')
  return value


_KINDS = {
  int: 'a whole number',
  float: 'a number',
  str: 'a text',
  bool: 'True or False',
  tuple: 'a list',
}


def _names(cls: Any) -> str:
  return ', '.join(field.name for field in dataclasses.fields(cls))


def _dotted(dot: str, names: Iterable[str]) -> list[str]:
  return [f'{dot}{name}' for name in names]


def fingerprint(*values: Any) -> str:
  """Twelve hex digits that name a configuration: equal values, equal name.

  >>> fingerprint({'steps': 240}, 'seed 0')
  '1f5b33b4ce80'
  """
  text = json.dumps(to_plain(values), sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:12]


def differences(
  before: dict[str, Any], now: dict[str, Any]
) -> list[tuple[str, Any, Any]]:
  """Leaves of nested mappings that are not equal: (dotted name, before, now).

  A leaf that is missing on one side counts as None there.

  >>> differences({'d': 8, 'data': {'seed': 0}}, {'d': 8, 'data': {'seed': 1}})
  [('data.seed', 0, 1)]
  """
  old, new = _flat(before), _flat(now)
  names = sorted({*old, *new})
  pairs = [(name, old.get(name), new.get(name)) for name in names]
  return [(name, x, y) for name, x, y in pairs if x != y]


def _flat(value: Any, name: str = '') -> dict[str, Any]:
  """Leaves of nested mappings by dotted name."""
  if not isinstance(value, dict):
    return {name: value}
  inner = {f'{name}.{k}' if name else k: v for k, v in value.items()}
  return {n: leaf for k, v in inner.items() for n, leaf in _flat(v, k).items()}
