"""A config.json as text from a stranger, read without harm."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from ntk_jax.errors import ConfigError

_LARGEST = 16 * 2**20


def place(name: str | Path) -> Path:
  """The path that a user names, `~` resolved.

  Raises:
    ConfigError: what no file or folder can be called, or may not be looked at.
  """
  try:
    path = Path(name).expanduser()
    path.exists()
  except (TypeError, ValueError, RuntimeError, OSError) as error:
    reason = getattr(error, 'strerror', None) or error
    raise ConfigError(f'{name!r} is no usable path: {reason}') from None
  return path


def read_json(path: Path) -> dict[str, Any]:
  """The mapping that a JSON file holds.

  Raises:
    ConfigError: a file that is missing, not a regular file, not to be read,
      above 16 MiB, not UTF-8, no JSON object, nested too deeply, with a key
      twice in one object or with a number that is not finite.
  """
  try:
    content = _content(path)
  except OSError as error:
    reason = error.strerror or error
    raise ConfigError(f'{path} cannot be read: {reason}') from None
  try:
    return parse(content.decode())
  except (UnicodeDecodeError, ConfigError) as error:
    raise ConfigError(f'{path}: {error}') from None


def _content(path: Path) -> bytes:
  if not path.is_file():
    what = 'is no regular file' if path.exists() else 'does not exist'
    raise ConfigError(f'{path} {what}')
  size = path.stat().st_size
  if size > _LARGEST:
    raise ConfigError(
      f'{path} has {size} bytes, more than the {_LARGEST} that a file of '
      'settings can need'
    )
  return path.read_bytes()


def parse(text: str) -> dict[str, Any]:
  """The mapping that a JSON text holds.

  Raises:
    ConfigError: as `read_json`.

  >>> parse('{"factor": NaN}')
  Traceback (most recent call last):
  ntk_jax.errors.ConfigError: not valid JSON: NaN is no JSON number
  """
  try:
    found = json.loads(
      text, object_pairs_hook=_once, parse_constant=_no_constant
    )
  except (ValueError, RecursionError) as error:
    raise ConfigError(f'not valid JSON: {error}') from None
  if not isinstance(found, dict):
    raise ConfigError(
      f'holds a JSON {type(found).__name__}, must be an object {{...}}'
    )
  return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  found = dict(pairs)
  if len(found) < len(pairs):
    times = Counter(key for key, _ in pairs)
    twice = next(key for key, n in times.items() if n > 1)
    raise ValueError(f'the key {twice!r} stands twice in one object')
  return found


def _no_constant(name: str) -> float:
  raise ValueError(f'{name} is no JSON number')
