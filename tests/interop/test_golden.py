"""Checkpoints of every family give the logits that transformers gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from ntk_jax import interop
from ntk_jax.model.shell import scheme_arrays
from ntk_jax.model.transformer import forward

GOLDEN = Path(__file__).resolve().parents[1] / 'golden' / 'interop'
MODELS = sorted(path.parent.name for path in GOLDEN.glob('*/golden.npz'))
LENGTHS = 24, 32, 33, 96
SPELLINGS = 'config.v4.json', 'config.dual.json'
TOLERANCE = 1e-4

_forward = jax.jit(forward, static_argnums=1)


def padded_logits(
  model: Any, ids: Any, keep: Any, length: int | None
) -> np.ndarray:
  """Logits of rows with padding at either end, compiled once for 96 tokens."""
  keep = np.asarray(keep, np.int32)
  positions = np.clip(np.cumsum(keep, axis=-1) - 1, 0, None)
  schemes = scheme_arrays(model.schemes, length, ids.shape[1], positions)
  return np.asarray(
    _forward(model.params, model.config, ids, positions, keep, schemes)
  )


@pytest.mark.parametrize('name', MODELS)
def test_logits(name: str) -> None:
  """At every recorded length, below and above the original context."""
  folder = GOLDEN / name
  golden = np.load(folder / 'golden.npz')
  model = interop.load(folder)
  ids = golden['input_ids'][None]
  for length in LENGTHS:
    keep = np.arange(ids.shape[1])[None] < length
    found = padded_logits(model, ids, keep, length)[0, :length]
    wanted = golden[f'logits_{length}']
    np.testing.assert_allclose(found, wanted, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize('name', MODELS)
@pytest.mark.parametrize('spelling', SPELLINGS)
def test_spellings_mean_the_same(name: str, spelling: str) -> None:
  def read(file: str) -> interop.Architecture:
    return interop.architecture(json.loads((GOLDEN / name / file).read_text()))

  wanted, found = read('config.json'), read(spelling)
  assert found.model == wanted.model
  assert len(found.schemes) == len(wanted.schemes)
  for one, other in zip(found.schemes, wanted.schemes):
    assert one.window == other.window
    for length in (None, *LENGTHS):
      for a, b in zip(
        one.spec.frequencies(length), other.spec.frequencies(length)
      ):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def padded_models() -> list[str]:
  return [m for m in MODELS if 'pad_ids' in np.load(GOLDEN / m / 'golden.npz')]


@pytest.mark.parametrize('name', padded_models())
def test_left_padding(name: str) -> None:
  golden = np.load(GOLDEN / name / 'golden.npz')
  keep = golden['pad_mask'].astype(bool)
  lengths = keep.sum(axis=-1)
  model = interop.load(GOLDEN / name)
  length = int(lengths.max())
  found = padded_logits(model, golden['pad_ids'], keep, length)
  np.testing.assert_allclose(
    found[keep], golden['pad_logits'][keep], rtol=0, atol=TOLERANCE
  )


def test_the_call_that_users_make() -> None:
  golden = np.load(GOLDEN / 'llama_dynamic' / 'golden.npz')
  model = interop.load(GOLDEN / 'llama_dynamic', config='config.v4.json')
  found = model(golden['input_ids'][None, :33], length=33)[0]
  np.testing.assert_allclose(found, golden['logits_33'], rtol=0, atol=TOLERANCE)
