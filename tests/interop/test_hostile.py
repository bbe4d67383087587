"""Folders that lie: one clear refusal each, nothing run, nothing allocated."""

from __future__ import annotations

import json
import os
import pickle
import resource
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import make_checkpoint
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ntk_jax import interop
from ntk_jax.errors import ConfigError

SINGLE, INDEX = 'model.safetensors', 'model.safetensors.index.json'
Q = 'model.layers.0.self_attn.q_proj.weight'
EMBED, LAST = make_checkpoint.EMBED, make_checkpoint.LAST
Damage = Callable[[Path], object]
pytestmark = pytest.mark.unchecked


@pytest.fixture
def single(tmp_path: Path) -> Path:
  make_checkpoint.make(tmp_path / 'model')
  return tmp_path / 'model'


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
  make_checkpoint.make(tmp_path / 'model', sharded=True)
  return tmp_path / 'model'


def edit(path: Path, **changes: Any) -> None:
  """Keys of a JSON file set; `...` takes one out."""
  found = json.loads(path.read_text()) | changes
  found = {k: v for k, v in found.items() if v is not ...}
  path.write_text(json.dumps(found))


def config(**changes: Any) -> Damage:
  return lambda folder: edit(folder / 'config.json', **changes)


def rope(**params: Any) -> Damage:
  """Rope of the new spelling alone."""
  return config(rope_parameters=params, rope_scaling=..., rope_theta=...)


def tensors(change: Callable[[dict[str, np.ndarray]], object]) -> Damage:
  def damage(folder: Path) -> None:
    found = load_file(folder / SINGLE)
    change(found)
    save_file(found, folder / SINGLE, {'format': 'pt'})

  return damage


def content(change: Callable[[bytes], bytes]) -> Damage:
  def damage(folder: Path) -> None:
    path = folder / SINGLE
    path.write_bytes(change(path.read_bytes()))

  return damage


def header(change: Callable[[dict[str, Any]], object]) -> Damage:
  """The file's header changed, its data as it was."""

  def rewrite(data: bytes) -> bytes:
    (size,) = struct.unpack('<Q', data[:8])
    found = json.loads(data[8 : 8 + size])
    change(found)
    text = json.dumps(found).encode()
    return struct.pack('<Q', len(text)) + text + data[8 + size :]

  return content(rewrite)


class Payload:
  """Unpickling it leaves a mark."""

  def __reduce__(self) -> Any:
    return os.mkdir, ('executed',)


def only(name: str, data: bytes) -> Damage:
  """The weights replaced by a file of another kind."""

  def damage(folder: Path) -> None:
    (folder / SINGLE).unlink()
    (folder / name).write_bytes(data)

  return damage


def replaced(make: Damage) -> Damage:
  def damage(folder: Path) -> None:
    (folder / SINGLE).unlink()
    make(folder / SINGLE)

  return damage


LONG = {
  'rope_type': 'longrope',
  'rope_theta': 1e4,
  'short_factor': [1.0] * 8,
  'long_factor': [4.0] * 8,
  'factor': 4.0,
  'original_max_position_embeddings': 32,
}
YARN = {
  'rope_type': 'yarn',
  'rope_theta': 1e4,
  'factor': 4.0,
  'original_max_position_embeddings': 32,
}


def text(data: bytes) -> Damage:
  return lambda folder: (folder / 'config.json').write_bytes(data)


CASES: dict[str, tuple[Damage, str]] = {
  # The config as a file.
  'missing_config': (lambda f: (f / 'config.json').unlink(), 'does not exist'),
  'config_is_a_folder': (
    lambda f: ((f / 'config.json').unlink(), (f / 'config.json').mkdir()),
    'is no regular file',
  ),
  'config_is_a_pipe': (
    lambda f: ((f / 'config.json').unlink(), os.mkfifo(f / 'config.json')),
    'is no regular file',
  ),
  'config_cut': (text(b'{"model_type": "lla'), 'not valid JSON'),
  'config_binary': (text(b'\x80\x04\xff'), "can't decode"),
  'config_list': (text(b'[1, 2]'), 'must be an object'),
  'config_empty': (text(b''), 'not valid JSON'),
  'config_nan': (text(b'{"rms_norm_eps": NaN}'), 'NaN is no JSON number'),
  'config_deep': (text(b'{"a":' * 90_000 + b'1' + b'}' * 90_000), 'not valid'),
  'config_twice': (
    text(b'{"model_type": "llama", "model_type": "qwen2"}'),
    "'model_type' stands twice",
  ),
  'config_huge_file': (text(b' ' * (17 * 2**20) + b'{}'), 'settings can need'),
  'config_not_to_be_read': (
    lambda f: (
      (f / 'config.json').unlink(),
      (f / 'config.json').symlink_to('/proc/self/mem'),
    ),
    'cannot be read',
  ),
  'config_long_with_a_key_twice': (
    text(
      b'{' + b','.join(b'"%d":1' % i for i in [*range(300_000), 299_999]) + b'}'
    ),
    "'299999' stands twice",
  ),
  # What it says.
  'no_model_type': (config(model_type=...), 'no model_type'),
  'other_model_type': (config(model_type='gpt2'), "'gpt2'"),
  'model_type_is_a_list': (config(model_type=['llama']), "['llama']"),
  'other_architecture': (
    config(architectures=['MistralForCausalLM']),
    'which of the two',
  ),
  'remote_class': (
    config(model_type='custom', auto_map={'AutoModel': 'evil.Model'}),
    "'custom'",
  ),
  'quantised': (
    config(quantization_config={'quant_method': 'gptq', 'bits': 4}),
    'quantization_config',
  ),
  'eps_zero': (config(rms_norm_eps=0), 'rms_norm_eps is 0'),
  'eps_text': (config(rms_norm_eps='1e-5'), "rms_norm_eps is '1e-5'"),
  'eps_infinite': (
    text(b'{"model_type": "llama", "rms_norm_eps": 1e999}'),
    'rms_norm_eps is inf',
  ),
  'eps_beyond_floats': (config(rms_norm_eps=10**400), 'rms_norm_eps is 1000'),
  'eps_far_below': (config(rms_norm_eps=-(10**400)), 'rms_norm_eps is -1000'),
  'no_heads': (config(num_attention_heads=0), 'num_attention_heads is 0'),
  'heads_not_whole': (config(num_attention_heads=2.5), 'whole number'),
  'kv_heads_do_not_divide': (config(num_key_value_heads=3), 'kv_heads 3'),
  'head_dim_odd': (config(head_dim=15), 'head_dim 15'),
  'head_dim_missing_and_uneven': (
    config(head_dim=None, num_attention_heads=5, num_key_value_heads=5),
    'no multiple',
  ),
  'hidden_huge': (config(hidden_size=2**40), 'hidden_size is'),
  'hidden_large': (config(hidden_size=2**20), 'the config asks for'),
  'vocab_larger': (config(vocab_size=2**24), 'the config asks for'),
  'vocab_negative': (config(vocab_size=-5), 'vocab_size is -5'),
  'layers_huge': (config(num_hidden_layers=10**9), 'num_hidden_layers is'),
  'layers_many': (config(num_hidden_layers=16_000), 'the weights lack'),
  'one_layer_more': (config(num_hidden_layers=3), 'model.layers.2.'),
  'one_layer_less': (config(num_hidden_layers=1), 'has no use'),
  'activation': (config(hidden_act='relu'), "'relu'"),
  'bias_asked': (config(attention_bias=True), 'q_proj.bias'),
  'bias_text': (config(attention_bias='false'), 'must be true or false'),
  'tied_text': (config(tie_word_embeddings='yes'), 'must be true or false'),
  'tied_conflict': (config(tie_word_embeddings=True), 'differs from'),
  'length_zero': (config(max_position_embeddings=0), 'max_position_emb'),
  # Rope.
  'theta_zero': (rope(rope_type='default', rope_theta=0), 'theta'),
  'theta_negative': (rope(rope_type='default', rope_theta=-1e4), 'theta'),
  'theta_text': (rope(rope_type='default', rope_theta='1e4'), 'theta'),
  'factor_zero': (rope(rope_type='linear', rope_theta=1e4, factor=0), 'factor'),
  'factor_negative': (
    rope(rope_type='linear', rope_theta=1e4, factor=-2.0),
    'factor',
  ),
  'factor_below_one': (
    rope(rope_type='linear', rope_theta=1e4, factor=0.5),
    'factor',
  ),
  'factor_missing': (rope(rope_type='linear', rope_theta=1e4), 'needs factor'),
  'factor_without_type': (rope(rope_theta=1e4, factor=8.0), 'no rope_type'),
  'type_unknown': (rope(rope_type='ntk', rope_theta=1e4, factor=2.0), "'ntk'"),
  'types_disagree': (
    rope(rope_type='linear', type='dynamic', rope_theta=1e4, factor=2.0),
    'disagree',
  ),
  'key_unknown': (rope(**YARN, beta_fats=32), 'beta_fats'),
  'spellings_disagree': (
    config(rope_scaling={'rope_type': 'linear', 'factor': 4.0}),
    'mean different frequencies',
  ),
  'thetas_disagree': (config(rope_theta=5e5), 'theta'),
  'condensed_and_yarn': (
    config(rope_condense_ratio=8, rope_parameters=YARN, rope_scaling=None),
    'rope_condense_ratio',
  ),
  'partial_of_a_whole_head': (
    config(partial_rotary_factor=0.5),
    'does not have: transformers 5 turns whole heads',
  ),
  'longrope_short_list': (rope(**{**LONG, 'long_factor': [4.0] * 7}), '8'),
  'longrope_zero': (rope(**{**LONG, 'long_factor': [0.0] * 8}), 'long_factor'),
  'longrope_text': (rope(**{**LONG, 'short_factor': 'ones'}), 'short_factor'),
  'layers_without_rope': (config(no_rope_layers=[0, 1]), 'llama does not have'),
  'rope_is_a_list': (config(rope_parameters=[1], rope_scaling=...), 'mapping'),
  # The file of the weights.
  'no_weights': (lambda f: (f / SINGLE).unlink(), 'has neither'),
  'pickle_alone': (
    only('pytorch_model.bin', pickle.dumps(Payload())),
    'never run here',
  ),
  'pickle_renamed': (only(SINGLE, pickle.dumps(Payload())), 'no sound'),
  'zip_renamed': (only(SINGLE, b'PK\x03\x04' + bytes(100)), 'no sound'),
  'empty_file': (only(SINGLE, b''), 'no sound'),
  'weights_are_a_folder': (replaced(Path.mkdir), 'no regular file'),
  'weights_are_a_pipe': (replaced(os.mkfifo), 'no regular file'),
  'weights_link_nowhere': (
    replaced(lambda path: path.symlink_to('gone')),
    'has neither',
  ),
  'truncated': (content(lambda data: data[:-1]), 'no sound'),
  'half_a_header': (content(lambda data: data[:100]), 'no sound'),
  'trailing': (content(lambda data: data + b'\0'), 'no sound'),
  'header_length_huge': (
    content(lambda data: struct.pack('<Q', 2**62) + data[8:]),
    'no sound',
  ),
  'overlapping': (
    header(lambda h: h[Q].update(data_offsets=[0, 64 * 64 * 4])),
    'no sound',
  ),
  'shape_overflow': (
    header(lambda h: h[Q].update(shape=[2**40, 2**40])),
    'no sound',
  ),
  'shape_larger_than_data': (
    header(lambda h: h[Q].update(shape=[640, 64])),
    'no sound',
  ),
  'dtype_unknown': (header(lambda h: h[Q].update(dtype='F3')), 'no sound'),
  # The tensors.
  'missing': (tensors(lambda t: t.pop(Q)), 'the weights lack'),
  'missing_last': (tensors(lambda t: t.pop(LAST)), LAST),
  'extra': (
    tensors(lambda t: t.update(backdoor=np.zeros(3, np.float32))),
    'backdoor',
  ),
  'extra_layer': (
    tensors(lambda t: t.update({Q.replace('.0.', '.7.'): t[Q]})),
    'layers.7',
  ),
  'transposed': (
    tensors(
      lambda t: t.update(
        {EMBED: np.ascontiguousarray(t[EMBED].T)}
      )
    ),
    '[64, 346]',
  ),
  'flat': (tensors(lambda t: t.update({Q: t[Q].reshape(-1)})), '[4096]'),
  'empty_tensor': (
    tensors(lambda t: t.update({Q: t[Q][:0]})),
    '[0, 64]',
  ),
  'int8': (tensors(lambda t: t.update({Q: t[Q].astype(np.int8)})), 'I8'),
  'int32': (tensors(lambda t: t.update({Q: t[Q].astype(np.int32)})), 'I32'),
  'bool': (tensors(lambda t: t.update({Q: t[Q] > 0})), 'BOOL'),
  'float64': (tensors(lambda t: t.update({Q: t[Q].astype(float)})), 'F64'),
  'does_not_print': (
    tensors(lambda t: t.update({'ev\nil\x1b[2J': np.zeros(3, np.float32)})),
    r'ev\nil\x1b[2J',
  ),
  'renamed': (
    tensors(lambda t: t.update({'layers.0.q': t.pop(Q)})),
    'the weights lack',
  ),
}  # fmt: skip


@pytest.mark.parametrize('name', CASES)
def test_a_folder_is_refused(
  name: str, single: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  damage, says = CASES[name]
  damage(single)
  _refused(single, says, monkeypatch)


def _refused(folder: Path, says: str, monkeypatch: Any) -> None:
  """One line that says what is wrong, no memory taken, nothing executed."""
  monkeypatch.chdir(folder)
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  with pytest.raises(ConfigError) as caught:
    interop.load(folder)
  after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  assert says in str(caught.value)
  assert '\n' not in str(caught.value)
  assert after - before < 200 * 2**10  # KiB
  assert not (folder / 'executed').exists()


def weight_map(change: Callable[[dict[str, Any]], object]) -> Damage:
  def damage(folder: Path) -> None:
    index = json.loads((folder / INDEX).read_text())
    change(index['weight_map'])
    (folder / INDEX).write_text(json.dumps(index))

  return damage


def elsewhere(folder: Path) -> str:
  """A sound file with what the index asks for, outside of the folder."""
  target = folder.parent / 'model-00001-of-00003.safetensors'
  target.write_bytes((folder / target.name).read_bytes())
  return target.name


def shard(number: int) -> str:
  return f'model-0000{number}-of-00003.safetensors'


def moved(path: Callable[[Path], str]) -> Damage:
  """Every tensor of the first shard said to be elsewhere."""

  def damage(folder: Path) -> None:
    name = path(folder)
    weight_map(
      lambda m: m.update({k: name for k, v in m.items() if v == shard(1)})
    )(folder)

  return damage


INDEXES: dict[str, tuple[Damage, str]] = {
  'parent': (moved(lambda f: f'../{elsewhere(f)}'), 'without a path'),
  'absolute': (moved(lambda f: f'{f.parent}/{elsewhere(f)}'), 'without a path'),
  'subfolder': (moved(lambda f: f'./{shard(1)}'), 'without a path'),
  'backslash': (moved(lambda f: f'..\\{elsewhere(f)}'), 'without a path'),
  'line_break': (moved(lambda f: 'a\nb.safetensors'), r'a\nb.safetensors is'),
  'half_a_character': (moved(lambda f: '\ud800.safetensors'), r'\ud800.safe'),
  'name_too_long': (moved(lambda f: 'a' * 300 + '.safetensors'), 'too long'),
  'no_text': (weight_map(lambda m: m.update({Q: 7})), 'the file 7'),
  'pickle_named': (weight_map(lambda m: m.update({Q: 'w.bin'})), "'w.bin'"),
  'empty': (weight_map(dict.clear), 'must map tensors'),
  'no_map': (lambda f: (f / INDEX).write_text('{}'), 'must map tensors'),
  'not_json': (lambda f: (f / INDEX).write_text('{'), 'not valid JSON'),
  'shard_missing': (lambda f: (f / shard(2)).unlink(), 'is missing'),
  'wrong_shard': (
    moved(lambda f: shard(3)),
    'which does not hold it',
  ),
  'one_in_the_wrong_shard': (
    lambda f: weight_map(
      lambda m: m.update({Q: shard(1 if m[Q] != shard(1) else 2)})
    )(f),
    'which does not hold it',
  ),
  'tensor_nowhere': (
    weight_map(lambda m: m.update(ghost=shard(1))),
    'which does not hold it',
  ),
  'tensor_unlisted': (weight_map(lambda m: m.pop(Q)), 'does not list'),
  'shard_truncated': (
    lambda f: (f / shard(2)).write_bytes((f / shard(2)).read_bytes()[:-9]),
    'no sound',
  ),
}  # fmt: skip


@pytest.mark.parametrize('name', INDEXES)
def test_an_index_is_refused(
  name: str, sharded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  damage, says = INDEXES[name]
  damage(sharded)
  _refused(sharded, says, monkeypatch)


def logits(folder: Path, **options: Any) -> np.ndarray:
  return np.asarray(interop.load(folder, **options)(np.arange(9)[None]))


HARMLESS: dict[str, Damage] = {
  'pickle_beside': lambda f: (f / 'pytorch_model.bin').write_bytes(
    pickle.dumps(Payload())
  ),
  'remote_code': lambda f: (
    (f / 'evil.py').write_text("import os; os.mkdir('executed')"),
    edit(f / 'config.json', auto_map={'AutoModelForCausalLM': 'evil.Model'}),
  ),
  'old_buffers': tensors(
    lambda t: t.update(
      {
        f'model.layers.{i}.self_attn.rotary_emb.inv_freq': np.ones(
          8, np.float32
        )
        for i in range(2)
      }
    )
  ),
  'a_stray_file': lambda f: save_file(
    {Q: np.zeros((64, 64), np.float32)}, f / 'other.safetensors'
  ),
  'unknown_key': config(a_note={'of': 'someone'}),
  'a_link': lambda f: (
    (f / SINGLE).rename(f.parent / 'blob'),
    (f / SINGLE).symlink_to(f.parent / 'blob'),
  ),
}


@pytest.mark.parametrize('name', HARMLESS)
def test_what_does_not_matter(
  name: str, single: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.chdir(single)
  wanted = logits(single)
  HARMLESS[name](single)
  np.testing.assert_array_equal(logits(single), wanted)
  assert not (single / 'executed').exists()


def test_the_index_decides_where_a_tensor_stands_twice(sharded: Path) -> None:
  wanted = logits(sharded)
  home = json.loads((sharded / INDEX).read_text())['weight_map'][Q]
  other = next(shard(i) for i in (1, 2, 3) if shard(i) != home)
  found = load_file(sharded / other)
  save_file(found | {Q: np.zeros((64, 64), np.float32)}, sharded / other)
  np.testing.assert_array_equal(logits(sharded), wanted)
  weight_map(lambda m: m.update({Q: other}))(sharded)
  assert abs(logits(sharded) - wanted).max() > 0.01


def test_a_copy_of_the_embedding_may_stand_beside_it(single: Path) -> None:
  edit(single / 'config.json', tie_word_embeddings=True)
  tensors(lambda t: t.update({LAST: t[EMBED]}))(single)
  with_copy = logits(single)
  tensors(lambda t: t.pop(LAST))(single)
  np.testing.assert_array_equal(logits(single), with_copy)


def test_weights_that_are_not_finite(single: Path) -> None:
  """They load, and are named where that is asked for."""

  def spoil(found: dict[str, np.ndarray]) -> None:
    found[Q] = found[Q].copy()
    found[Q][3, 5], found[Q][4, 4] = np.nan, np.inf

  interop.load(single, check_finite=True)
  tensors(spoil)(single)
  interop.load(single)
  with pytest.raises(ConfigError, match=f'not finite: 2 in {Q}'):
    interop.load(single, check_finite=True)
