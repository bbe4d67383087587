"""The tiny checkpoint: as its config says, the same bytes again, no jax."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import make_checkpoint
import numpy as np
import pytest
from safetensors.numpy import load_file

from ntk_jax.data.tokenize import load_tokenizer


def test_weights_are_those_of_the_config(tmp_path: Path) -> None:
  make_checkpoint.make(tmp_path / 'one')
  tensors = load_file(tmp_path / 'one' / 'model.safetensors')
  found = {name: tensor.shape for name, tensor in tensors.items()}
  assert found == make_checkpoint.shapes()
  config = json.loads((tmp_path / 'one' / 'config.json').read_text())
  assert found['model.layers.1.self_attn.k_proj.weight'] == (
    config['num_key_value_heads'] * config['head_dim'],
    config['hidden_size'],
  )
  matrices = [w for w in tensors.values() if w.ndim == 2]
  # The embedding, the output, and seven of each layer.
  assert len(matrices) == 2 + 7 * config['num_hidden_layers']
  assert all(0.02 < w.std() < 1.1 for w in matrices)


def test_the_tokenizer_fits_the_vocabulary(tmp_path: Path) -> None:
  make_checkpoint.make(tmp_path / 'one')
  tokenizer = load_tokenizer(str(tmp_path / 'one' / 'tokenizer.json'))
  config = json.loads((tmp_path / 'one' / 'config.json').read_text())
  assert tokenizer.vocab == config['vocab_size']
  settings = json.loads((tmp_path / 'one/tokenizer_config.json').read_text())
  assert settings['model_max_length'] == config['max_position_embeddings']
  for which in ('bos', 'eos', 'pad'):
    token = tokenizer.token_id(settings[f'{which}_token'])
    assert token == config[f'{which}_token_id']


def test_shards_hold_the_same_weights(tmp_path: Path) -> None:
  make_checkpoint.make(tmp_path / 'one')
  make_checkpoint.make(tmp_path / 'shards', sharded=True)
  whole = load_file(tmp_path / 'one' / 'model.safetensors')
  folder = tmp_path / 'shards'
  index = json.loads((folder / 'model.safetensors.index.json').read_text())
  files = {
    name: load_file(folder / name) for name in index['weight_map'].values()
  }
  assert len(files) == 3
  assert set(index['weight_map']) == set(whole)
  for name, file in index['weight_map'].items():
    np.testing.assert_array_equal(files[file][name], whole[name])
  size = sum(tensor.nbytes for tensor in whole.values())
  assert index['metadata']['total_size'] == size


def test_a_seed_gives_its_bytes_without_jax(tmp_path: Path) -> None:
  program = [
    'import sys',
    "sys.modules['jax'] = None",
    'import make_checkpoint',
    'make_checkpoint.main(sys.argv[1:])',
  ]
  made = {}
  for name, seed in (('a', 0), ('b', 0), ('c', 1)):
    subprocess.run(
      [sys.executable, '-c', '\n'.join(program), tmp_path / name]
      + [f'--seed={seed}'],
      cwd=Path(make_checkpoint.__file__).parent,
      check=True,
    )
    made[name] = (tmp_path / name / 'model.safetensors').read_bytes()
  assert made['a'] == made['b'] != made['c']


def test_a_folder_is_not_written_over(
  tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
  with pytest.raises(SystemExit):
    make_checkpoint.main([str(tmp_path)])
  assert 'is there already' in capsys.readouterr().err
