"""Checkpoints of every family give the logits that transformers gives."""

from __future__ import annotations

import json
from typing import Any

import jax
import numpy as np
import pytest

from interop.goldens import FOLDER, LENGTHS, NAMES, SPELLINGS, golden
from ntk_jax import interop
from ntk_jax.generate import generate
from ntk_jax.model.shell import scheme_arrays
from ntk_jax.model.transformer import forward

TOLERANCE = 1e-4

_forward = jax.jit(forward, static_argnums=1)


def padded_logits(model: Any, ids: Any, keep: Any) -> np.ndarray:
  """Logits of rows with padding at either end, each row at its own length."""
  keep = np.asarray(keep, np.int32)
  positions = np.clip(np.cumsum(keep, axis=-1) - 1, 0, None)
  lengths = keep.sum(axis=-1)
  schemes = scheme_arrays(model.schemes, lengths, ids.shape[1], positions)
  return np.asarray(
    _forward(model.params, model.config, ids, positions, keep, schemes)
  )


@pytest.mark.parametrize('name', NAMES)
def test_logits(name: str) -> None:
  """At every recorded length, below and above the original context."""
  arrays = golden(name)
  model = interop.load(FOLDER / name)
  ids = arrays['input_ids'][None]
  for length in LENGTHS:
    keep = np.arange(ids.shape[1])[None] < length
    found = padded_logits(model, ids, keep)[0, :length]
    wanted = arrays[f'logits_{length}']
    np.testing.assert_allclose(found, wanted, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('spelling', SPELLINGS[1:])
def test_spellings_mean_the_same(name: str, spelling: str) -> None:
  def read(file: str) -> interop.Architecture:
    return interop.architecture(json.loads((FOLDER / name / file).read_text()))

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


@pytest.mark.parametrize(
  'name', [name for name in NAMES if 'pad_ids' in golden(name)]
)
def test_left_padding(name: str) -> None:
  arrays = golden(name)
  keep = arrays['pad_mask'].astype(bool)
  model = interop.load(FOLDER / name)
  found = padded_logits(model, arrays['pad_ids'], keep)
  np.testing.assert_allclose(
    found[keep], arrays['pad_logits'][keep], rtol=0, atol=TOLERANCE
  )


@pytest.mark.parametrize('name', NAMES)
def test_decoding_with_a_cache(name: str) -> None:
  """Past the original context; where transformers is off, a full forward."""
  arrays = golden(name)
  wanted = arrays.get('gen_logits_full_forward', arrays['gen_logits'])
  prompt, new = np.split(arrays['gen_sequence'][None], [-len(wanted)], axis=1)
  _, found = generate(
    interop.load(FOLDER / name),
    prompt,
    max_new_tokens=len(wanted),
    force_tokens=new,
    return_logits=True,
    chunk=16,
  )
  np.testing.assert_allclose(found[0], wanted, rtol=0, atol=TOLERANCE)


def test_the_call_that_users_make() -> None:
  arrays = golden('llama_dynamic')
  model = interop.load(FOLDER / 'llama_dynamic', config='config.v4.json')
  found = model(arrays['input_ids'][None, :33], length=33)[0]
  np.testing.assert_allclose(found, arrays['logits_33'], rtol=0, atol=TOLERANCE)
