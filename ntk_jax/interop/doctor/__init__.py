"""What a checkpoint's config.json means, and whether servers read it so.

No weights, no devices, nothing compiled: an answer within two seconds.
"""

from __future__ import annotations

from pathlib import Path

from ntk_jax.errors import ConfigError
from ntk_jax.interop.config_file import place, read_json
from ntk_jax.interop.doctor.compare import Verdict
from ntk_jax.interop.doctor.diagnosis import Diagnosis, diagnose
from ntk_jax.interop.doctor.files import Files, look
from ntk_jax.interop.doctor.ropes import Rope
from ntk_jax.interop.doctor.words import markdown, text

__all__ = [
  'Diagnosis',
  'Files',
  'Rope',
  'Verdict',
  'diagnose',
  'examine',
  'markdown',
  'text',
]


def examine(path: str | Path) -> Diagnosis:
  """Diagnoses a checkpoint's folder, or a config.json alone.

  Raises:
    ConfigError: nothing there, or a config that cannot be read.
  """
  path = place(path)
  if path.is_dir():
    return diagnose(read_json(path / 'config.json'), look(path))
  if not path.exists():
    raise ConfigError(
      f'{path} does not exist; give the folder of a checkpoint, or a '
      'config.json'
    )
  return diagnose(read_json(path))
