"""The golden checkpoints are whole: every model, spelling and length."""

from __future__ import annotations

import json

import numpy as np
import pytest
from golden.interop_cases import CASES

from interop.goldens import FOLDER, LENGTHS, NAMES, SPELLINGS, golden

GIVEN = {
  'gemma2',
  'llama_default',
  'llama_llama3',
  'llama_yarn',
  'longchat_linear8',
  'mistral_swa',
  'qwen3_qknorm_yarn',
  'yi_linear2_theta5e6',
}
# Here transformers' cached decoding is not its full forward.
DRIFTING = {'llama_dynamic', 'llama_longrope'}
BYTES = 7_000_000


def test_every_model_is_there_and_all_are_small() -> None:
  assert set(NAMES) == GIVEN | set(CASES)
  files = [path for path in FOLDER.rglob('*') if path.is_file()]
  size = sum(path.stat().st_size for path in files)
  assert size < BYTES


@pytest.mark.parametrize('name', NAMES)
def test_a_model_has_its_files_and_arrays(name: str) -> None:
  kinds = set()
  for spelling in SPELLINGS:
    config = json.loads((FOLDER / name / spelling).read_text())
    kinds.add(config['model_type'])
    assert ('rope_parameters' in config) == (spelling != 'config.v4.json')
    assert ('torch_dtype' in config) == (spelling != 'config.json')
  assert len(kinds) == 1
  arrays = golden(name)
  vocab = arrays['logits_96'].shape[1]
  for length in LENGTHS:
    assert arrays[f'logits_{length}'].shape == (length, vocab)
  sequence, logits = arrays['gen_sequence'], arrays['gen_logits']
  assert (sequence[:24] == arrays['input_ids'][:24]).all()
  # Row i chose token 24 + i.
  assert (logits.argmax(1) == sequence[24:]).all()
  assert ('gen_logits_full_forward' in arrays) == (name in DRIFTING)
  assert all(np.isfinite(value).all() for value in arrays.values())


@pytest.mark.parametrize('name', CASES)
def test_left_padding_is_recorded(name: str) -> None:
  arrays = golden(name)
  ids, mask = arrays['pad_ids'], arrays['pad_mask']
  assert mask.shape == ids.shape == arrays['pad_logits'].shape[:2]
  assert (np.diff(mask, axis=1) >= 0).all()
  # One row is past the original length of 32, one is below it and padded.
  above, below = mask.sum(1)
  assert above > 32 > below


def test_per_length_methods_have_every_length_of_their_own() -> None:
  for name in ('llama_dynamic', 'llama_longrope', 'phi3_longrope'):
    with np.load(FOLDER / name / 'golden.npz') as stored:
      moved = abs(stored['logits_24'] - stored['logits_96'][:24]).max()
    assert moved > 0.1


def test_the_carrier_is_the_method_that_it_carries() -> None:
  carrier, method = (
    golden(name)['logits_96']
    for name in ('llama_longrope_carrier', 'llama_yarn_by_parts')
  )
  np.testing.assert_allclose(carrier, method, atol=5e-5)
