"""Where a checkpoint's folder is: here, or fetched from the hub."""

from __future__ import annotations

import re
from pathlib import Path

from ntk_jax.errors import ConfigError
from ntk_jax.interop.config_file import place

_NAME = re.compile(r'[\w-][\w.-]*/[\w-][\w.-]*')
# No pickles, no code.
FILES = (
  '*.json',
  '*.safetensors',
  'tokenizer*',
  '*.jinja',
)


def folder_of(name: str | Path, revision: str | None = None) -> Path:
  """The local folder of a checkpoint.

  Args:
    name: a folder, or `owner/name` of a model on the hub: its safetensors,
      settings and tokenizer are fetched into the hub's cache, which also
      serves without a network.
    revision: commit, tag or branch on the hub.

  Raises:
    ConfigError: neither a folder nor a model that could be fetched.
  """
  path = place(name)
  if path.is_dir():
    if revision is not None:
      raise ConfigError(f'{path} is a folder: revision is for names on the hub')
    return path
  if path.exists():
    raise ConfigError(f'{path} is a file; give the folder of the checkpoint')
  if not _NAME.fullmatch(str(name)):
    raise ConfigError(
      f'{str(name)!r} is neither a folder nor owner/name of a model on the hub'
    )
  try:
    from huggingface_hub import snapshot_download
  except ImportError:
    raise ConfigError(
      f'{name} is no folder here; to fetch it from the hub, '
      "pip install 'ntk_jax[hub]'"
    ) from None
  try:
    return Path(
      snapshot_download(
        str(name), revision=revision, allow_patterns=list(FILES)
      )
    )
  except Exception as error:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    raise ConfigError(
      f'{name} is no folder here, and the hub did not give it: {reason}'
    ) from None
