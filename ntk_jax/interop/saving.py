"""A decoder as a folder that transformers, vLLM and llama.cpp serve."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax

from ntk_jax.errors import ConfigError, WorkdirError
from ntk_jax.interop.config_file import place
from ntk_jax.interop.fields import written
from ntk_jax.interop.folder import INDEX, SINGLE
from ntk_jax.interop.host import Host
from ntk_jax.interop.shards import Entry, in_order, index, split, write_shard
from ntk_jax.interop.tokenizer_files import tokenizer_files
from ntk_jax.model.shell import Transformer

CONFIG = 'config.json'
_SHARD_BYTES = 5 * 10**9


def save(
  model: Transformer,
  dir: str | Path,
  *,
  tokenizer_from: str | Path | None = None,
  freeze_length: int | None = None,
  max_shard_bytes: int = _SHARD_BYTES,
) -> None:
  """Writes a Hugging Face folder that computes what the model computes.

  The config has the spellings of transformers 4 and 5 at once. A loaded
  model keeps its family while that expresses it, and its other settings; else
  the first family that expresses it is taken. Rope is written as its own type
  or another base where there is one, and as the frequencies themselves
  (longrope divisors, short = long) where not. A constant temperature, another
  divisor of q . k and a scaled embedding are folded into the weights: exact
  for powers of two, otherwise one rounding of each weight folded
  (`ntk_jax.interop.fold`). All other weights keep their dtype and bits.

  A folder that already holds a checkpoint is refused. Files are written
  beside their place, into a folder that goes if anything fails, and are moved
  when all are whole, the weights' index last. One tensor at a time is
  gathered to the host; process 0 writes.

  Args:
    model: weights, shape and schemes. Where neither schemes nor origin tell
      the longest sequence, `max_position_embeddings` is the default of the
      family's class: give original_length to the rope spec.
    dir: the folder, made if need be.
    tokenizer_from: a folder (or name on the hub) whose tokenizer files are
      copied byte for byte, `model_max_length` apart; None copies none.
    freeze_length: tokens. Frequencies that depend on length are written as
      those of this length, a temperature that depends on position as that of
      its last position; without it, both are refused.
    max_shard_bytes: of one file of weights.

  Raises:
    ConfigError: what no family or file of settings expresses, by name.
    WorkdirError: a folder that holds a checkpoint, or that cannot be written.

  Source: the files that transformers 4 and 5 write.
  """
  if isinstance(max_shard_bytes, bool) or max_shard_bytes < 1:
    raise ConfigError(f'max_shard_bytes is {max_shard_bytes}, must be above 0')
  params = model.params
  found = written(
    model.config,
    model.schemes,
    origin=model.origin,
    dtype=str(params.embed.dtype),
    freeze_length=freeze_length,
  )
  host = Host(params, found)
  shards = split(list(host.entries()), max_shard_bytes)
  copied = tokenizer_files(tokenizer_from, found.length)
  folder = place(dir)
  _check_free(folder, [*copied, CONFIG])
  if jax.process_index():
    _gather_along(host, shards)
    return
  with _beside(folder) as partial:
    for name, source in copied.items():
      content = source if isinstance(source, bytes) else source.read_bytes()
      (partial / name).write_bytes(content)
    text = json.dumps(found.config, indent=2, sort_keys=True, allow_nan=False)
    (partial / CONFIG).write_text(text + '\n')
    for name, shard in shards.items():
      write_shard(partial / name, in_order(shard), host.read)
    if len(shards) > 1:
      (partial / INDEX).write_bytes(index(shards))


def _check_free(folder: Path, names: list[str]) -> None:
  """Raises WorkdirError for a folder in which something would be lost."""
  if folder.exists() and not folder.is_dir():
    raise WorkdirError(f'{folder} is a file; choose another folder')
  if not folder.exists():
    return
  taken = [name for name in (*names, INDEX) if (folder / name).exists()]
  weights = ('*.safetensors', '*.bin', '*.pt', '*.pth', '*.gguf')
  taken += sorted(p.name for kind in weights for p in folder.glob(kind))
  if taken:
    raise WorkdirError(
      f'{folder} already holds {", ".join(taken[:4])}: a checkpoint is never '
      'overwritten; choose another folder, or remove it'
    )


def _gather_along(host: Host, shards: dict[str, list[Entry]]) -> None:
  """The other processes' part: to give what process 0 asks for."""
  for shard in shards.values():
    for entry in in_order(shard):
      host.read(entry.name)


@contextlib.contextmanager
def _beside(folder: Path) -> Iterator[Path]:
  """A folder to write into, whose files are moved when all are there.

  Raises:
    WorkdirError: if the disk refuses; nothing is left behind.
  """
  made = not folder.exists()
  partial = None
  try:
    folder.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix='.partial-', dir=folder))
    yield partial
    # What a reader looks for first comes last.
    last = (SINGLE, INDEX)
    for path in sorted(partial.iterdir(), key=lambda p: (p.name in last, p)):
      os.replace(path, folder / path.name)
  except OSError as error:
    raise WorkdirError(
      f'cannot write {folder}: {error.strerror or error}; free space or choose '
      'another folder'
    ) from error
  finally:
    if partial is not None:
      shutil.rmtree(partial, ignore_errors=True)
    if made and folder.is_dir() and not any(folder.iterdir()):
      folder.rmdir()
