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
