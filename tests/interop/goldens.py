"""Reads tests/golden/interop: checkpoints and what transformers computed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FOLDER = Path(__file__).resolve().parent.parent / 'golden' / 'interop'
LENGTHS = (24, 32, 33, 96)
SPELLINGS = ('config.json', 'config.v4.json', 'config.dual.json')
NAMES = tuple(sorted(path.parent.name for path in FOLDER.glob('*/golden.npz')))


def golden(name: str) -> dict[str, NDArray]:
  """The arrays of a model, with `logits_n` at each of the lengths.

  Where the length does not matter, the file has the longest alone: its first
  n rows are the others.
  """
  with np.load(FOLDER / name / 'golden.npz') as stored:
    arrays = dict(stored)
  longest = arrays[f'logits_{LENGTHS[-1]}']
  return {f'logits_{n}': longest[:n] for n in LENGTHS} | arrays
