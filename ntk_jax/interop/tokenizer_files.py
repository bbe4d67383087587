"""A tokenizer's files, copied byte for byte beside the weights.

They are not read and written again: a tokenizer saved anew may name a class
that older servers do not have. The one edit is `model_max_length`.
"""

from __future__ import annotations

import re
from pathlib import Path

from ntk_jax.errors import ConfigError
from ntk_jax.interop.config_file import parse
from ntk_jax.interop.hub import folder_of

TOKENIZERS = ('tokenizer.json', 'tokenizer.model', 'vocab.json')
SETTINGS = 'tokenizer_config.json'
FILES = (
  *TOKENIZERS,
  SETTINGS,
  'merges.txt',
  'special_tokens_map.json',
  'added_tokens.json',
  'chat_template.jinja',
  'chat_template.json',
  'generation_config.json',
)
_LENGTH = re.compile(r'("model_max_length"\s*:\s*)[-+.\w]+')


def tokenizer_files(
  source: str | Path | None, length: int
) -> dict[str, bytes | Path]:
  """The files to put beside the weights, by name.

  Args:
    source: a folder, or a name on the hub; None gives no files.
    length: tokens, for `model_max_length` where tokenizer_config.json has it.

  Returns:
    Name -> the file to copy, or its content where that is edited.

  Raises:
    ConfigError: a folder without a tokenizer, or settings that are no JSON.
  """
  if source is None:
    return {}
  folder = folder_of(source)
  found: dict[str, bytes | Path] = {
    name: folder / name for name in FILES if (folder / name).is_file()
  }
  if not set(TOKENIZERS) & set(found):
    raise ConfigError(
      f'tokenizer_from is {str(source)!r}, which holds none of '
      f'{", ".join(TOKENIZERS)}; give the folder of the tokenizer, or None'
    )
  if SETTINGS in found:
    found[SETTINGS] = _lengthened(folder / SETTINGS, length)
  return found


def _lengthened(path: Path, length: int) -> bytes | Path:
  """The settings with another model_max_length, nothing else touched."""
  try:
    text = path.read_bytes().decode()
    settings = parse(text)
  except (UnicodeDecodeError, ConfigError) as error:
    raise ConfigError(f'{path}: {error}') from None
  if 'model_max_length' not in settings:
    return path
  edited, times = _LENGTH.subn(rf'\g<1>{length}', text)
  if times != 1 or parse(edited) != {**settings, 'model_max_length': length}:
    raise ConfigError(
      f'{path}: model_max_length is {settings["model_max_length"]!r}, which '
      f'cannot be set to {length} without touching the rest; set it by hand'
    )
  return edited.encode()
