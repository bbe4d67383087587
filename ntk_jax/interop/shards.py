"""Tensors streamed into safetensors files: one is on the host at a time.

The library's own writer wants all tensors of a file at once. The format is a
length, a JSON header and the bytes one after the other, and all shapes are
known beforehand, so the header is written first and the tensors follow.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ntk_jax.interop.folder import SINGLE
from ntk_jax.typing import NDArray

DTYPES = {'float32': 'F32', 'float16': 'F16', 'bfloat16': 'BF16'}


class Entry(NamedTuple):
  """A tensor to be written: its name, its dtype, its shape."""

  name: str
  dtype: Any
  shape: tuple[int, ...]

  @property
  def bytes(self) -> int:
    """Of its data."""
    return math.prod(self.shape) * np.dtype(self.dtype).itemsize


def split(entries: Sequence[Entry], most: int) -> dict[str, list[Entry]]:
  """File name -> its tensors, in the order given.

  Args:
    entries: all tensors.
    most: bytes of a file; a larger tensor has a file of its own.

  >>> entries = [Entry(name, np.float32, (8,)) for name in 'abc']
  >>> {k: ''.join(e.name for e in v) for k, v in split(entries, 64).items()}
  {'model-00001-of-00002.safetensors': 'ab', \
'model-00002-of-00002.safetensors': 'c'}
  """
  shards: list[list[Entry]] = [[]]
  size = 0
  for entry in entries:
    if shards[-1] and size + entry.bytes > most:
      shards.append([])
      size = 0
    shards[-1].append(entry)
    size += entry.bytes
  if len(shards) == 1:
    return {SINGLE: shards[0]}
  of = len(shards)
  return {
    f'model-{number:05}-of-{of:05}.safetensors': shard
    for number, shard in enumerate(shards, 1)
  }


def index(shards: dict[str, list[Entry]]) -> bytes:
  """The content of the index that says which file holds which tensor."""
  every = [entry for shard in shards.values() for entry in shard]
  places = {e.name: file for file, shard in shards.items() for e in shard}
  about = {
    'total_parameters': sum(math.prod(entry.shape) for entry in every),
    'total_size': sum(entry.bytes for entry in every),
  }
  content = {'metadata': about, 'weight_map': places}
  return (json.dumps(content, indent=2, sort_keys=True) + '\n').encode()


def in_order(shard: Sequence[Entry]) -> list[Entry]:
  """As they lie in a file: wide dtypes first, so that all are aligned."""
  return sorted(shard, key=lambda entry: -np.dtype(entry.dtype).itemsize)


def write_shard(
  path: Path, shard: Sequence[Entry], read: Callable[[str], NDArray]
) -> None:
  """Writes a file of tensors, each asked for when its turn comes.

  Args:
    path: of the file.
    shard: its tensors, `in_order`.
    read: name -> the tensor, of the entry's dtype and shape.

  Source: the format's description, github.com/huggingface/safetensors.
  """
  with path.open('wb') as file:
    header = _header(shard)
    file.write(len(header).to_bytes(8, 'little'))
    file.write(header)
    for entry in shard:
      x = np.ascontiguousarray(read(entry.name))
      assert (x.dtype, x.shape) == (entry.dtype, entry.shape), entry
      file.write(x.reshape(-1).view(np.uint8).data)
    file.flush()
    os.fsync(file.fileno())


def _header(shard: Sequence[Entry]) -> bytes:
  """JSON, padded so that the data begin at a multiple of 8."""
  content: dict[str, Any] = {'__metadata__': {'format': 'pt'}}
  start = 0
  for entry in shard:
    stop = start + entry.bytes
    content[entry.name] = {
      'dtype': DTYPES[str(np.dtype(entry.dtype))],
      'shape': list(entry.shape),
      'data_offsets': [start, stop],
    }
    start = stop
  header = json.dumps(content, separators=(',', ':')).encode()
  return header + b' ' * (-len(header) % 8)
