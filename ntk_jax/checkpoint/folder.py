"""A folder of steps on the disk, without orbax: `<folder>/<step>/`.

What is on the disk is the truth: no list of steps is kept in memory.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from ntk_jax.errors import CheckpointError

_SPARE = 1.2  # free disk before a save, in sizes of the tree
_TEMPORARY = '.orbax-checkpoint-tmp'  # in the name of an unfinished step


def steps_in(folder: Path) -> list[int]:
  """The finished steps, whole or damaged, oldest first."""
  names = [path.name for path in folder.iterdir() if path.is_dir()]
  return sorted(int(n) for n in names if n.isdecimal() and n == str(int(n)))


def damaged_in(folder: Path) -> list[str]:
  """The names of steps that were found damaged and set aside."""
  return sorted(path.name for path in folder.glob('bad-*'))


def remove_unfinished(folder: Path) -> None:
  """Removes what killed saves left, which would fill the disk for ever.

  Raises:
    CheckpointError: if the disk refuses.
  """
  for path in folder.glob(f'*{_TEMPORARY}*'):
    try:
      shutil.rmtree(path)
    except OSError as error:
      raise CheckpointError(
        f'cannot remove the unfinished {path}: {error.strerror}'
      ) from error


def check_space(folder: Path, size: int) -> None:
  """Compares the free disk with 1.2 times the bytes to save.

  Raises:
    CheckpointError: if there is less.
  """
  needed, free = int(_SPARE * size), shutil.disk_usage(folder).free
  if free < needed:
    raise CheckpointError(
      f'{folder} has {free:,} bytes free, a save needs {needed:,}; free space '
      'or keep fewer checkpoints'
    )


def free_name(folder: Path, name: str) -> str:
  """The name, with a number if it is taken."""
  taken = {path.name for path in folder.iterdir()}
  found, count = name, 1
  while found in taken:
    found, count = f'{name}-{count}', count + 1
  return found
