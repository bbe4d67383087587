"""GGUF files read back: tensors un-permuted, rope as numbers, refusals."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Any

import gguf
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from ntk_jax import interop
from ntk_jax.errors import ConfigError, WorkdirError
from ntk_jax.interop import gguf_saving
from ntk_jax.rope.spec import RopeSpec
from ntk_jax.scheme import Scheme
from ntk_jax.temperature import Temperature
from tests.interop.made import QWEN3, SHAPE, made, rope, spec

HEAD = SHAPE['head_dim']


class Read:
  """A file, its fields as plain values and its tensors as arrays."""

  def __init__(self, path: Path) -> None:
    """Reads all of it."""
    reader = gguf.GGUFReader(path)
    self.fields = {
      name: field.contents()
      for name, field in reader.fields.items()
      if not name.startswith('GGUF.')
    }
    self.tensors = {t.name: self._array(t) for t in reader.tensors}
    self.types = {t.name: t.tensor_type.name for t in reader.tensors}

  @staticmethod
  def _array(tensor: Any) -> np.ndarray:
    shape = tuple(int(n) for n in reversed(tensor.shape))
    data = np.asarray(tensor.data)
    if tensor.tensor_type.name == 'BF16':
      data = data.view(ml_dtypes.bfloat16)
    return data.reshape(shape)


def saved(tmp_path: Path, model: Any, dtype: str = 'float32', **given: Any):
  interop.save_gguf(model, tmp_path / 'm.gguf', dtype=dtype, **given)
  return Read(tmp_path / 'm.gguf')


def halves(x: np.ndarray, heads: int) -> np.ndarray:
  """Rows as Hugging Face has them, from llama.cpp's, one by one."""
  found = np.empty_like(x)
  for head in range(heads):
    for pair in range(HEAD // 2):
      found[head * HEAD + pair] = x[head * HEAD + 2 * pair]
      found[head * HEAD + pair + HEAD // 2] = x[head * HEAD + 2 * pair + 1]
  return found


def test_every_tensor_of_a_llama(tmp_path: Path) -> None:
  model = made([rope('yarn')], qkv_bias=True, out_bias=True, mlp_bias=True)
  read = saved(tmp_path, model)
  p, stored = model.params, dict(read.tensors)
  same = np.testing.assert_array_equal
  same(stored.pop('token_embd.weight'), p.embed)
  same(stored.pop('output_norm.weight'), p.final_norm)
  assert p.unembed is not None
  same(stored.pop('output.weight').T, p.unembed)
  frequencies = stored.pop('rope_freqs.weight')
  assert frequencies.shape == (HEAD // 2,)
  plain = {
    'attn_v': 'v',
    'attn_output': 'out',
    'ffn_gate': 'gate',
    'ffn_up': 'up',
    'ffn_down': 'down',
  }
  for layer in range(2):
    at = f'blk.{layer}.'
    for name, leaf in plain.items():
      same(stored.pop(f'{at}{name}.weight').T, p.layers[leaf][layer])
      same(stored.pop(f'{at}{name}.bias'), p.layers[f'{leaf}_bias'][layer])
    for leaf, heads in (('q', 4), ('k', 2)):
      rows = halves(stored.pop(f'{at}attn_{leaf}.weight'), heads)
      same(rows.T, p.layers[leaf][layer])
      bias = halves(stored.pop(f'{at}attn_{leaf}.bias'), heads)
      same(bias, p.layers[f'{leaf}_bias'][layer])
    same(stored.pop(f'{at}attn_norm.weight'), p.layers['attention_norm'][layer])
    same(stored.pop(f'{at}ffn_norm.weight'), p.layers['mlp_norm'][layer])
  assert not stored


def test_every_key_of_a_llama(tmp_path: Path) -> None:
  read = saved(tmp_path, made([rope('yarn')], norm_eps=1e-5))
  factor = 0.1 * np.log(4) + 1
  assert read.fields.pop('llama.rope.scaling.attn_factor') == pytest.approx(
    factor, rel=1e-7
  )
  assert read.fields.pop(
    'llama.attention.layer_norm_rms_epsilon'
  ) == pytest.approx(1e-5, rel=1e-7)
  assert read.fields == {
    'general.architecture': 'llama',
    'general.file_type': 0,
    'general.quantization_version': 2,
    'llama.context_length': 128,
    'llama.vocab_size': 40,
    'llama.embedding_length': 32,
    'llama.block_count': 2,
    'llama.feed_forward_length': 24,
    'llama.attention.head_count': 4,
    'llama.attention.head_count_kv': 2,
    'llama.attention.key_length': 8,
    'llama.attention.value_length': 8,
    'llama.rope.dimension_count': 8,
    'llama.rope.freq_base': 10000.0,
    'tokenizer.ggml.model': 'none',
  }


def test_permuted_rows_rotate_as_neighbours(tmp_path: Path) -> None:
  """q . k of neighbouring pairs is that of halves, at any two positions."""
  model = made([rope()])
  read = saved(tmp_path, model)
  x = np.random.default_rng(0).normal(size=32)
  w = 1e4 ** (-np.arange(0, HEAD, 2) / HEAD)

  def score(q: np.ndarray, k: np.ndarray, neighbours: bool) -> float:
    def complex_(v: np.ndarray) -> np.ndarray:
      if neighbours:
        return v[0::2] + 1j * v[1::2]
      return v[: HEAD // 2] + 1j * v[HEAD // 2 :]

    turned = complex_(q) * np.exp(7j * w)
    return float((turned * np.conj(complex_(k) * np.exp(2j * w))).real.sum())

  p = model.params.layers
  ours = [np.asarray(p[leaf][0], np.float64).T @ x for leaf in 'qk']
  theirs = [read.tensors[f'blk.0.attn_{leaf}.weight'] @ x for leaf in 'qk']
  for head in range(2):
    rows = slice(head * HEAD, (head + 1) * HEAD)
    wanted = score(ours[0][rows], ours[1][rows], neighbours=False)
    got = score(theirs[0][rows], theirs[1][rows], neighbours=True)
    assert got == pytest.approx(wanted, rel=1e-9)
    assert got != pytest.approx(
      score(theirs[0][rows], theirs[1][rows], neighbours=False), rel=1e-3
    )


LLAMA3 = {'low_freq_factor': 1.0, 'high_freq_factor': 4.0}


@pytest.mark.parametrize(
  ('method', 'given'),
  [
    ('linear', {}),
    ('llama3', {'options': LLAMA3}),
    ('yarn', {'options': {'truncate': False, 'beta_slow': 0.5}}),
    ('yarn', {'attention_factor': 1.5}),
    ('yarn_paper', {}),
    ('ntk_by_parts', {}),
    ('ntk_mixed', {}),
    ('yarn', {'modifiers': ('resonance',)}),
  ],
)
def test_static_frequencies_are_divisors(
  tmp_path: Path, method: str, given: dict[str, Any]
) -> None:
  read = saved(tmp_path, made([rope(method, **given)]))
  inv_freq, factor = spec(method, **given).frequencies()
  base = read.fields['llama.rope.freq_base']
  divisors = read.tensors['rope_freqs.weight']
  assert read.types['rope_freqs.weight'] == 'F32'
  got = base ** (-np.arange(0, HEAD, 2) / HEAD) / divisors
  np.testing.assert_allclose(got, inv_freq, rtol=1e-6)
  written = read.fields.get('llama.rope.scaling.attn_factor', 1.0)
  assert written == pytest.approx(float(factor), rel=1e-6)
  assert 'llama.rope.scaling.type' not in read.fields


@pytest.mark.parametrize('method', ['default', 'ntk', 'theta_scale'])
def test_another_base_is_a_base(tmp_path: Path, method: str) -> None:
  read = saved(tmp_path, made([rope(method)]))
  inv_freq, _ = spec(method).frequencies()
  base = read.fields['llama.rope.freq_base']
  got = base ** (-np.arange(0, HEAD, 2) / HEAD)
  np.testing.assert_allclose(got, inv_freq, rtol=1e-6)
  assert 'rope_freqs.weight' not in read.tensors


def test_a_length_to_freeze_at(tmp_path: Path) -> None:
  hot = Scheme(spec('dynamic_yarn'), Temperature('logn', length=32))
  model = made([hot])
  read = saved(tmp_path, model, freeze_length=96)
  inv_freq, factor = spec('dynamic_yarn').frequencies(96)
  plain = 1e4 ** (-np.arange(0, HEAD, 2) / HEAD)
  np.testing.assert_allclose(
    plain / read.tensors['rope_freqs.weight'], inv_freq, rtol=1e-6
  )
  assert read.fields['llama.rope.scaling.attn_factor'] == pytest.approx(
    float(factor), rel=1e-6
  )
  assert read.fields['llama.context_length'] == 96
  ratio = np.log(96) / np.log(32)
  q = halves(read.tensors['blk.0.attn_q.weight'], 4).T
  np.testing.assert_allclose(
    q, np.asarray(model.params.layers['q'][0]) * ratio, rtol=1e-6
  )


@pytest.mark.parametrize(
  ('graph', 'fields'),
  [('qwen2', {'qkv_bias': True}), ('qwen3', QWEN3)],
)
def test_qwen_rotates_halves_as_they_are(
  tmp_path: Path, graph: str, fields: dict[str, Any]
) -> None:
  model = made([rope('yarn')], **fields)
  read = saved(tmp_path, model)
  assert read.fields['general.architecture'] == graph
  np.testing.assert_array_equal(
    read.tensors['blk.1.attn_q.weight'].T, model.params.layers['q'][1]
  )
  assert read.fields[f'{graph}.rope.scaling.type'] == 'yarn'
  assert read.fields[f'{graph}.rope.scaling.factor'] == 4.0
  original = f'{graph}.rope.scaling.original_context_length'
  assert read.fields[original] == 32
  if graph == 'qwen3':
    np.testing.assert_array_equal(
      read.tensors['blk.1.attn_k_norm.weight'], model.params.layers['k_norm'][1]
    )


@pytest.mark.parametrize(
  ('dtype', 'name', 'kind', 'number'),
  [
    ('float32', 'F32', np.float32, 0),
    ('float16', 'F16', np.float16, 1),
    ('bfloat16', 'BF16', ml_dtypes.bfloat16, 32),
  ],
)
def test_matrices_have_the_dtype_and_norms_float32(
  tmp_path: Path, dtype: str, name: str, kind: Any, number: int
) -> None:
  model = made([rope('linear')], tied=True)
  read = saved(tmp_path, model, dtype)
  assert read.fields['general.file_type'] == number
  assert 'output.weight' not in read.tensors
  for tensor, type_ in read.types.items():
    vector = read.tensors[tensor].ndim == 1
    assert type_ == ('F32' if vector else name), tensor
  wanted = np.asarray(model.params.layers['up'][0]).astype(kind)
  np.testing.assert_array_equal(read.tensors['blk.0.ffn_up.weight'].T, wanted)


def test_bfloat16_weights_stay_to_the_bit(tmp_path: Path) -> None:
  model = made([rope()], dtype=jnp.bfloat16)
  read = saved(tmp_path, model, 'bfloat16')
  np.testing.assert_array_equal(
    read.tensors['blk.1.ffn_down.weight'].T, model.params.layers['down'][1]
  )


ZERO = Scheme(RopeSpec('proportional', 8, partial_rotary_factor=0.5))


@pytest.mark.parametrize(
  ('fields', 'schemes', 'given', 'says'),
  [
    ({}, [rope(window=9)], {}, 'window of 9 .* llama.cpp attend to everything'),
    (
      {'layer_plan': (0, 1)},
      [rope(), rope(window=9)],
      {},
      'window of 9 cannot be written as GGUF',
    ),
    ({}, [rope('dynamic')], {}, 'dynamic cannot be written .*freeze_length'),
    ({}, [rope('dynamic_yarn')], {}, 'dynamic_yarn cannot be .*freeze_length'),
    (
      {},
      [Scheme(spec(), Temperature('logn', length=9))],
      {},
      'cannot be exported: it depends on the position',
    ),
    ({}, [ZERO], {}, 'proportional cannot be .* frequency 0'),
    (
      QWEN3,
      [rope('ntk_mixed')],
      {},
      'ntk_mixed cannot be .* the qwen3 graph .* reads no frequencies',
    ),
    (QWEN3, [rope('yarn', attention_factor=1.5)], {}, 'yarn with its default'),
    (
      QWEN3,
      [rope('yarn', options={'truncate': False})],
      {},
      'yarn with its default',
    ),
    ({}, [rope(partial_rotary_factor=0.5)], {}, 'family phi3 is not written'),
    ({'activation': 'gelu'}, [rope()], {}, 'activation is gelu'),
    ({'head_norm': True}, [rope()], {}, 'head_norm'),
    ({}, [rope()], {'dtype': 'int8'}, "dtype of a GGUF file 'int8'"),
  ],
)
def test_refusals_by_name(
  tmp_path: Path, fields: Any, schemes: Any, given: Any, says: str
) -> None:
  with pytest.raises(ConfigError, match=says):
    saved(tmp_path, made(schemes, **fields), **given)
  assert list(tmp_path.iterdir()) == []


def test_weights_beyond_float16_are_refused(tmp_path: Path) -> None:
  model = made([rope()])
  layers = dict(model.params.layers)
  layers['up'] = layers['up'].at[1, 0, 0].set(1e5)
  model.hold(model.params._replace(layers=layers))
  with pytest.raises(ConfigError, match=r'blk\.1\.ffn_up.* beyond float16'):
    saved(tmp_path, model, 'float16')
  assert list(tmp_path.iterdir()) == []


def test_a_file_is_never_overwritten(tmp_path: Path) -> None:
  (tmp_path / 'm.gguf').write_bytes(b'mine')
  with pytest.raises(WorkdirError, match='exists: it is never overwritten'):
    saved(tmp_path, made([rope()]))
  assert (tmp_path / 'm.gguf').read_bytes() == b'mine'


def test_a_full_disk_leaves_nothing(
  tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  real = gguf.GGUFWriter.write_tensor_data
  calls = []

  def full(self: Any, tensor: Any) -> None:
    calls.append(tensor)
    if len(calls) == 5:
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    real(self, tensor)

  monkeypatch.setattr(gguf.GGUFWriter, 'write_tensor_data', full)
  with pytest.raises(WorkdirError, match='No space left on device'):
    saved(tmp_path, made([rope()]))
  assert list(tmp_path.iterdir()) == []


def test_without_the_package_it_says_what_to_install(
  tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setitem(sys.modules, 'gguf', None)
  with pytest.raises(ConfigError, match=r"pip install 'ntk_jax\[gguf\]'"):
    saved(tmp_path, made([rope()]))


def test_tensors_are_gathered_one_by_one(
  tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  asked: list[str] = []
  real = gguf_saving.Host.read

  def read(self: Any, name: str) -> np.ndarray:
    asked.append(name)
    return real(self, name)

  monkeypatch.setattr(gguf_saving.Host, 'read', read)
  held = saved(tmp_path, made([rope()]))
  assert len(asked) == len(set(asked)) == len(held.tensors)
