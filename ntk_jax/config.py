"""Mechanics of configuration: plain values, and a fingerprint of them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any


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
