"""The safetensors files of a checkpoint folder, opened and checked.

The index decides which files are read, and from which of them a tensor is.
Without one there is a single file of the usual name. Pickles are never opened.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from ntk_jax.errors import ConfigError
from ntk_jax.interop.config_file import read_json
from ntk_jax.interop.tensors import EMBED, UNEMBED, Piece

INDEX, SINGLE = 'model.safetensors.index.json', 'model.safetensors'
_DTYPES = {'F32': 'float32', 'F16': 'float16', 'BF16': 'bfloat16'}
# Buffers of old files, made anew by every class that has them.
_IGNORED = (
  'rotary_emb.inv_freq',
  'rotary_emb.cos_cached',
  'rotary_emb.sin_cached',
)
_SHOWN = 4
_ROWS_AT_ONCE = 1024


class Stored(NamedTuple):
  """A tensor as its file's header tells: nothing of it is read yet."""

  name: str
  file: Path
  view: Any
  shape: tuple[int, ...]
  dtype: str

  def read(self, index: tuple[slice, ...] = ()) -> np.ndarray:
    """The tensor, or a part of it."""
    return self.view[index or (slice(None),) * len(self.shape)]


def stored_tensors(folder: Path) -> dict[str, Stored]:
  """The headers of all tensors of a folder.

  Raises:
    ConfigError: no safetensors, an index that names files elsewhere or
      tensors that are not in them, files that are damaged or not what their
      name says, tensors that the index does not know.
  """
  weight_map = _weight_map(folder)
  if weight_map is None:
    return dict(_header(_single(folder)))
  found = {}
  for file in sorted(set(weight_map.values())):
    for name, stored in _header(folder / file):
      if weight_map.get(name) == file:
        found[name] = stored
      elif name not in weight_map and not _is_ignored(name):
        raise ConfigError(
          f'{folder / file} holds {name!r}, which the index does not list'
        )
  for name, file in weight_map.items():
    if name not in found:
      raise ConfigError(
        f'{folder / INDEX} places {name!r} in {file}, which does not hold it'
      )
  return found


def _weight_map(folder: Path) -> dict[str, str] | None:
  """Tensor -> file of the index, or None without one."""
  path = folder / INDEX
  if not path.exists():
    return None
  found = read_json(path).get('weight_map')
  if not isinstance(found, dict) or not found:
    raise ConfigError(f'{path}: weight_map must map tensors to files')
  for file in found.values():
    plain = isinstance(file, str) and file.endswith('.safetensors')
    if not plain or any(c in file for c in '/\\\0') or file.startswith('.'):
      raise ConfigError(
        f'{path} names the file {file!r}: must be the name of a .safetensors '
        'file in the same folder, without a path'
      )
  return found


def _single(folder: Path) -> Path:
  path = folder / SINGLE
  if path.exists():
    return path
  others = sorted(p.name for p in folder.iterdir() if p.is_file())
  weights = [
    n for n in others if n.endswith(('.safetensors', '.bin', '.pt', '.pth'))
  ]
  hint = f'; there are {", ".join(weights[:_SHOWN])}' if weights else ''
  if any(not name.endswith('.safetensors') for name in weights):
    hint += (
      ', and files of torch are programs that are never run here: convert '
      'them to safetensors'
    )
  raise ConfigError(f'{folder} has neither {SINGLE} nor {INDEX}{hint}')


def _header(path: Path) -> Iterator[tuple[str, Stored]]:
  """Names and shapes of a file; its library checks that they fit the file."""
  try:
    if not path.is_file():
      what = 'is no regular file' if path.exists() else 'is missing'
      raise ConfigError(f'{path} {what}')
    # It stays mapped as long as one of its tensors is held.
    file = safe_open(path, framework='np')
    for name in file.keys():  # noqa: SIM118 (no mapping)
      view = file.get_slice(name)
      shape = tuple(view.get_shape())
      yield name, Stored(name, path, view, shape, view.get_dtype())
  except ConfigError:
    raise
  except (SafetensorError, OSError, ValueError) as error:
    raise ConfigError(
      f'{path} is no sound safetensors file: {error}; fetch it again'
    ) from None


def _is_ignored(name: str) -> bool:
  return name.endswith(_IGNORED)


def check_tensors(
  stored: Mapping[str, Stored], pieces: Iterable[Piece], tied: bool
) -> None:
  """Raises ConfigError unless the tensors are exactly those of the config.

  Args:
    stored: what the folder holds.
    pieces: what the config says, made one by one: a config that lies about
      its layers costs no memory.
    tied: whether an output matrix may stand beside the embedding that it is.
  """
  known: set[str] = set()
  missing: list[str] = []
  for piece in pieces:
    known.add(piece.name)
    if piece.name not in stored:
      missing.append(piece.name)
      if len(missing) == _SHOWN:
        break
      continue
    _check_one(stored[piece.name], piece.shape)
  if missing:
    raise ConfigError(
      f'the weights lack {_some(missing)}, which the config asks for; is it '
      'the config of these weights, and are they all there?'
    )
  spare = {UNEMBED} if tied else set()
  extra = [n for n in stored if n not in known | spare and not _is_ignored(n)]
  if extra:
    raise ConfigError(
      f'the weights hold {_some(extra)}, for which the config has no use; is '
      'it the config of these weights?'
    )
  if tied and UNEMBED in stored:
    _check_tied(stored[EMBED], stored[UNEMBED])


def _some(names: list[str]) -> str:
  more = ' and more' if len(names) > _SHOWN - 1 else ''
  return ', '.join(names[: _SHOWN - 1]) + more


def _check_one(stored: Stored, shape: tuple[int, ...]) -> None:
  if stored.shape != shape:
    raise ConfigError(
      f'{stored.name} has shape {list(stored.shape)} in {stored.file.name}, '
      f'the config asks for {list(shape)}'
    )
  if stored.dtype not in _DTYPES:
    raise ConfigError(
      f'{stored.name} is stored as {stored.dtype} in {stored.file.name}: only '
      f'{", ".join(_DTYPES)} are read; quantised weights have to be converted'
    )


def dtype_of(stored: Stored) -> str:
  """The name of its dtype."""
  return _DTYPES[stored.dtype]


def _check_tied(embed: Stored, unembed: Stored) -> None:
  """The embedding's copy has to be one."""
  _check_one(unembed, embed.shape)
  starts = range(0, embed.shape[0], _ROWS_AT_ONCE)
  ends = [*starts[1:], embed.shape[0]]
  parts = [(slice(*ab), slice(None)) for ab in zip(starts, ends)]
  same = embed.dtype == unembed.dtype and all(
    embed.read(part).tobytes() == unembed.read(part).tobytes() for part in parts
  )
  if not same:
    raise ConfigError(
      f'tie_word_embeddings is true, but {UNEMBED} is stored and differs from '
      f'{EMBED}; set it to false, or remove the one that is not meant'
    )
