"""A saved folder holds the same bits, whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import socket
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from ntk_jax import interop
from ntk_jax.errors import ConfigError, WorkdirError
from ntk_jax.interop import saving, shards, tokenizer_files
from ntk_jax.model import Transformer
from ntk_jax.scheme import Scheme
from ntk_jax.temperature import Temperature
from tests import devices
from tests.interop.made import (
  EXPERTS,
  GEMMA2,
  GEMMA3,
  QWEN3,
  made,
  rope,
  spec,
  tokens,
)

FAMILIES: dict[str, tuple[dict[str, Any], list[Scheme]]] = {
  'llama': ({'qkv_bias': True, 'out_bias': True, 'mlp_bias': True}, [rope()]),
  'llama tied': ({'tied': True, 'kv_heads': 1}, [rope('yarn')]),
  'mistral': ({}, [rope('ntk_mixed', 16)]),
  'ministral': ({'layer_plan': (0, 1)}, [rope(window=8), rope()]),
  'qwen2': ({'qkv_bias': True}, [rope()]),
  'qwen3': (QWEN3, [rope()]),
  'gemma2': (GEMMA2 | {'layer_plan': (0, 1)}, [rope(window=8), rope()]),
  'gemma3': (GEMMA3 | {'layer_plan': (1, 0)}, [rope('yarn'), rope(window=8)]),
  'mixtral': (EXPERTS, [rope('ntk_by_parts', 16)]),
  'phi3': ({}, [rope(partial_rotary_factor=0.5)]),
}


def tensors_of(folder: Path) -> dict[str, np.ndarray]:
  found: dict[str, np.ndarray] = {}
  for file in folder.glob('*.safetensors'):
    found |= load_file(file)
  return found


def assert_same(a: Transformer, b: Transformer) -> None:
  def same(x: Any, y: Any) -> None:
    assert x.dtype == y.dtype
    np.testing.assert_array_equal(np.asarray(x), np.asarray(y))

  jax.tree.map(same, a.params, b.params)
  np.testing.assert_array_equal(a(tokens()), b(tokens()))


@pytest.mark.parametrize('name', FAMILIES)
def test_weights_come_back_to_the_bit(tmp_path: Path, name: str) -> None:
  fields, schemes = FAMILIES[name]
  model = made(schemes, **fields)
  interop.save(model, tmp_path / 'a')
  read = interop.load(tmp_path / 'a')
  assert_same(model, read)
  interop.save(read, tmp_path / 'b')
  first, second = (tensors_of(tmp_path / side) for side in 'ab')
  assert first.keys() == second.keys()
  for key, x in first.items():
    assert x.tobytes() == second[key].tobytes(), key
  configs = [(tmp_path / side / 'config.json').read_bytes() for side in 'ab']
  assert configs[0] == configs[1]


@pytest.mark.parametrize('dtype', ['float32', 'float16', 'bfloat16'])
def test_dtypes_are_kept(tmp_path: Path, dtype: str) -> None:
  model = made([rope()], dtype=jnp.dtype(dtype))
  interop.save(model, tmp_path / 'out')
  config = json.loads((tmp_path / 'out/config.json').read_text())
  assert config['dtype'] == config['torch_dtype'] == dtype
  assert {str(x.dtype) for x in tensors_of(tmp_path / 'out').values()} == {
    dtype
  }
  read = interop.load(tmp_path / 'out')
  assert_same_params(model, read)


def assert_same_params(a: Transformer, b: Transformer) -> None:
  for x, y in zip(jax.tree.leaves(a.params), jax.tree.leaves(b.params)):
    assert x.dtype == y.dtype
    np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def test_rows_are_where_hugging_face_has_them(tmp_path: Path) -> None:
  """By the reshapes of its classes, written out here once more."""
  model = made([rope(partial_rotary_factor=0.5)])
  interop.save(model, tmp_path / 'out')
  stored = tensors_of(tmp_path / 'out')
  p = model.params
  qkv = stored['model.layers.1.self_attn.qkv_proj.weight']
  np.testing.assert_array_equal(qkv[:32].T, p.layers['q'][1])
  np.testing.assert_array_equal(qkv[32:48].T, p.layers['k'][1])
  np.testing.assert_array_equal(qkv[48:].T, p.layers['v'][1])
  both = stored['model.layers.0.mlp.gate_up_proj.weight']
  np.testing.assert_array_equal(both[:24].T, p.layers['gate'][0])
  np.testing.assert_array_equal(both[24:].T, p.layers['up'][0])
  down = stored['model.layers.0.mlp.down_proj.weight']
  np.testing.assert_array_equal(down.T, p.layers['down'][0])
  np.testing.assert_array_equal(stored['model.embed_tokens.weight'], p.embed)
  assert p.unembed is not None
  np.testing.assert_array_equal(stored['lm_head.weight'].T, p.unembed)


def test_experts_are_where_mixtral_has_them(tmp_path: Path) -> None:
  model = made([rope()], **EXPERTS)
  interop.save(model, tmp_path / 'out')
  stored = tensors_of(tmp_path / 'out')
  layers = model.params.layers
  at = 'model.layers.1.block_sparse_moe.'
  same = np.testing.assert_array_equal
  same(stored[f'{at}gate.weight'].T, layers['router'][1])
  for name, leaf in (('w1', 'gate'), ('w3', 'up'), ('w2', 'down')):
    for expert in range(3):
      x = stored[f'{at}experts.{expert}.{name}.weight']
      same(x.T, layers[leaf][1, expert])


def test_mixed_dtypes_are_kept_and_aligned(tmp_path: Path) -> None:
  model = made([rope()], vocab=41, dim=33)
  half = model.params._replace(embed=model.params.embed.astype(jnp.float16))
  model.hold(half)
  interop.save(model, tmp_path / 'out')
  path = tmp_path / 'out/model.safetensors'
  stored = load_file(path)
  assert str(stored['model.embed_tokens.weight'].dtype) == 'float16'
  assert str(stored['model.norm.weight'].dtype) == 'float32'
  size = int.from_bytes(path.read_bytes()[:8], 'little')
  header = json.loads(path.read_bytes()[8 : 8 + size])
  assert size % 8 == 0
  assert header.pop('__metadata__') == {'format': 'pt'}
  for entry in header.values():
    width = {'F32': 4, 'F16': 2}[entry['dtype']]
    assert entry['data_offsets'][0] % width == 0


def test_shards_have_an_index(tmp_path: Path) -> None:
  model = made([rope()])
  interop.save(model, tmp_path / 'whole')
  interop.save(model, tmp_path / 'split', max_shard_bytes=9000)
  files = sorted(p.name for p in (tmp_path / 'split').glob('*.safetensors'))
  of = len(files)
  assert of > 2
  assert files[0] == f'model-00001-of-{of:05}.safetensors'
  index = json.loads(
    (tmp_path / 'split/model.safetensors.index.json').read_text()
  )
  whole = tensors_of(tmp_path / 'whole')
  assert index['weight_map'].keys() == whole.keys()
  assert index['metadata']['total_size'] == sum(
    x.nbytes for x in whole.values()
  )
  assert index['metadata']['total_parameters'] == sum(
    x.size for x in whole.values()
  )
  for name, file in index['weight_map'].items():
    with safe_open(tmp_path / 'split' / file, 'np') as opened:
      assert opened.metadata() == {'format': 'pt'}
      assert opened.get_tensor(name).tobytes() == whole[name].tobytes()
  for file in files:
    held = load_file(tmp_path / 'split' / file)
    assert len(held) == 1 or sum(x.nbytes for x in held.values()) <= 9000
  assert_same(model, interop.load(tmp_path / 'split'))


def test_it_is_what_the_library_writes(tmp_path: Path) -> None:
  model = made([rope()])
  interop.save(model, tmp_path / 'out')
  ours = tmp_path / 'out/model.safetensors'
  save_file(load_file(ours), tmp_path / 'theirs', metadata={'format': 'pt'})
  theirs = load_file(tmp_path / 'theirs')
  for name, x in load_file(ours).items():
    assert x.tobytes() == theirs[name].tobytes()
  assert ours.stat().st_size == (tmp_path / 'theirs').stat().st_size


def test_one_tensor_is_on_the_host_at_a_time(
  tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  asked: list[str] = []
  written: list[int] = []
  real = saving.Host.read

  def read(self: Any, name: str) -> np.ndarray:
    asked.append(name)
    written.append(sum(p.stat().st_size for p in tmp_path.rglob('*.safet*')))
    return real(self, name)

  monkeypatch.setattr(saving.Host, 'read', read)
  interop.save(made([rope()], vocab=40_000, layers=1), tmp_path / 'out')
  assert len(asked) == len(set(asked)) == 12
  assert max(written) > 2 * 40_000 * 32 * 4  # the large ones are in the file


TOKENIZER = {
  'tokenizer.json': b'{"version": "1.0",  "spaced":1}',
  'special_tokens_map.json': b'{"bos_token":"<s>"}\r\n',
  'tokenizer.model': b'\x00\xff\x01',
  'chat_template.jinja': b'{{ messages }}',
  'generation_config.json': b'{"eos_token_id": 2}',
  'tokenizer_config.json': b'{ "a":1 ,\n "model_max_length" : 4096,"z": []}',
}


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
  folder = tmp_path / 'tokenizer'
  folder.mkdir()
  for name, content in TOKENIZER.items():
    (folder / name).write_bytes(content)
  (folder / 'pytorch_model.bin').write_bytes(b'pickle')
  (folder / 'notes.txt').write_bytes(b'mine')
  return folder


def test_tokenizer_files_are_copied_verbatim(
  tmp_path: Path, tokenizer: Path
) -> None:
  interop.save(made([rope('yarn')]), tmp_path / 'out', tokenizer_from=tokenizer)
  out = tmp_path / 'out'
  assert {p.name for p in out.iterdir()} == {
    *TOKENIZER,
    'config.json',
    'model.safetensors',
  }
  for name, content in TOKENIZER.items():
    wanted = content.replace(b'4096', b'128')
    assert (out / name).read_bytes() == wanted


@pytest.mark.parametrize(
  ('before', 'after'),
  [
    ('{"model_max_length":1e30}', '{"model_max_length":128}'),
    (
      '{"model_max_length": 1000000000000000019884624838656, "b": 2}',
      '{"model_max_length": 128, "b": 2}',
    ),
    ('{"b": 2}', '{"b": 2}'),
  ],
)
def test_only_model_max_length_is_edited(
  tokenizer: Path, before: str, after: str
) -> None:
  (tokenizer / 'tokenizer_config.json').write_text(before)
  files = tokenizer_files.tokenizer_files(tokenizer, 128)
  found = files['tokenizer_config.json']
  got = found if isinstance(found, bytes) else found.read_bytes()
  assert got.decode() == after


@pytest.mark.parametrize(
  'text',
  ['{"model_max_length": 1, "x": {"model_max_length": 2}}', '{', '[]'],
)
def test_settings_that_cannot_be_edited_are_refused(
  tokenizer: Path, text: str
) -> None:
  (tokenizer / 'tokenizer_config.json').write_text(text)
  with pytest.raises(ConfigError, match=r'tokenizer_config\.json'):
    tokenizer_files.tokenizer_files(tokenizer, 128)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
  (tmp_path / 'empty').mkdir()
  with pytest.raises(ConfigError, match='tokenizer_from .* holds none of'):
    interop.save(
      made([rope()]), tmp_path / 'out', tokenizer_from=tmp_path / 'empty'
    )
  assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
  'name',
  [
    'config.json',
    'model.safetensors',
    'model.safetensors.index.json',
    'other.safetensors',
    'pytorch_model.bin',
    'x.gguf',
  ],
)
def test_a_checkpoint_is_never_overwritten(tmp_path: Path, name: str) -> None:
  (tmp_path / name).write_bytes(b'precious')
  with pytest.raises(WorkdirError, match=f'already holds {name}'):
    interop.save(made([rope()]), tmp_path)
  assert (tmp_path / name).read_bytes() == b'precious'
  assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_folder_with_other_files_is_used(tmp_path: Path) -> None:
  (tmp_path / 'report.md').write_text('mine')
  interop.save(made([rope()]), tmp_path)
  assert (tmp_path / 'report.md').read_text() == 'mine'
  assert interop.load(tmp_path).config.dim == 32


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
  (tmp_path / 'file').write_text('')
  with pytest.raises(WorkdirError, match='is a file'):
    interop.save(made([rope()]), tmp_path / 'file')
  with pytest.raises(WorkdirError, match='cannot write .*/file/out'):
    interop.save(made([rope()]), tmp_path / 'file/out')


@pytest.mark.parametrize('at', ['write_shard', 'index'])
def test_a_full_disk_leaves_nothing(
  tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
  real = getattr(shards, at)
  calls = []

  def full(*arguments: Any) -> Any:
    real(*arguments)
    calls.append(at)
    if at == 'index' or len(calls) == 2:
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  monkeypatch.setattr(saving, at, full)
  with pytest.raises(WorkdirError, match='No space left on device; free space'):
    interop.save(made([rope()]), tmp_path / 'out', max_shard_bytes=9000)
  assert list(tmp_path.iterdir()) == []
  monkeypatch.undo()
  (tmp_path / 'out').mkdir()
  monkeypatch.setattr(saving, at, full)
  calls.clear()
  with pytest.raises(WorkdirError):
    interop.save(made([rope()]), tmp_path / 'out', max_shard_bytes=9000)
  assert list((tmp_path / 'out').iterdir()) == []


def test_an_error_while_gathering_leaves_nothing(
  tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  def read(self: Any, name: str) -> np.ndarray:
    raise RuntimeError('the device is gone')

  monkeypatch.setattr(saving.Host, 'read', read)
  with pytest.raises(RuntimeError, match='gone'):
    interop.save(made([rope()]), tmp_path / 'out')
  assert list(tmp_path.iterdir()) == []


def test_the_index_appears_last(
  tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  order: list[str] = []
  real = os.replace

  def replace(source: Any, target: Any) -> None:
    order.append(Path(target).name)
    real(source, target)

  monkeypatch.setattr(saving.os, 'replace', replace)
  interop.save(made([rope()]), tmp_path / 'a', max_shard_bytes=9000)
  assert order[-1] == 'model.safetensors.index.json'
  order.clear()
  interop.save(made([rope()]), tmp_path / 'b')
  assert order == ['config.json', 'model.safetensors']


@pytest.mark.parametrize(
  ('schemes', 'arguments', 'says'),
  [
    ([Scheme(spec(), Temperature('logn', length=64))], {}, 'freeze_length'),
    ([rope('dynamic_yarn')], {}, 'dynamic_yarn cannot be exported'),
    ([rope()], {'max_shard_bytes': 0}, 'max_shard_bytes is 0'),
    ([rope()], {'freeze_length': -1}, 'freeze_length is -1'),
  ],
)
def test_refusals_touch_no_disk(
  tmp_path: Path, schemes: Any, arguments: Any, says: str
) -> None:
  with pytest.raises(ConfigError, match=says):
    interop.save(made(schemes), tmp_path / 'out', **arguments)
  assert list(tmp_path.iterdir()) == []


def test_a_dtype_that_is_not_written_is_named(tmp_path: Path) -> None:
  model = made([rope()])
  layers = model.params.layers
  eighth = layers['up'].astype(jnp.float8_e4m3fn)
  model.hold(model.params._replace(layers={**layers, 'up': eighth}))
  with pytest.raises(ConfigError, match='up is held in float8_e4m3fn'):
    interop.save(model, tmp_path / 'out')


def test_frozen_logits_are_those_of_the_length(tmp_path: Path) -> None:
  model = made([rope('dynamic_yarn')])
  interop.save(model, tmp_path / 'out', freeze_length=96)
  read = interop.load(tmp_path / 'out')
  for length in (24, 96):
    np.testing.assert_allclose(
      read(tokens(length)), model(tokens(length), length=96), atol=2e-5
    )
  config = json.loads((tmp_path / 'out/config.json').read_text())
  assert config['max_position_embeddings'] == 96


TWO = """
import sys
from pathlib import Path
import jax

out, port, index = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
jax.distributed.initialize(f'localhost:{port}', 2, index)
from ntk_jax import interop
from ntk_jax.sharding import MeshConfig, make_mesh

mesh = make_mesh(MeshConfig(fsdp=4, tensor=2))
model = interop.load(out / 'one', mesh=mesh)
assert not model.params.layers['q'].is_fully_addressable
interop.save(model, out / 'two')
print('done')
"""


@pytest.mark.slow
def test_two_processes_give_the_same_files(tmp_path: Path) -> None:
  interop.save(made([rope('yarn')]), tmp_path / 'one')
  with socket.socket() as free:
    free.bind(('localhost', 0))
    port = free.getsockname()[1]
  both = [
    devices.start('-c', TWO, tmp_path, port, index, devices=4)
    for index in range(2)
  ]
  for process in both:
    assert devices.output(process).endswith('done\n')
  for name in ('config.json', 'model.safetensors'):
    one, two = (tmp_path / side / name for side in ('one', 'two'))
    assert one.read_bytes() == two.read_bytes(), name


SHARDED = """
import sys
from pathlib import Path
import numpy as np
from ntk_jax import interop
from ntk_jax.sharding import MeshConfig, make_mesh
from tests.interop.made import made, rope

out = Path(sys.argv[1])
interop.save(made([rope('yarn')], qkv_bias=True), out / 'one')
mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
model = interop.load(out / 'one', mesh=mesh)
spread = model.params.layers['q'].sharding.device_set
assert len(spread) == 8, spread
interop.save(model, out / 'eight')
for name in ('config.json', 'model.safetensors'):
  a, b = (out / side / name for side in ('one', 'eight'))
  assert a.read_bytes() == b.read_bytes(), name
print('same')
"""


def test_sharded_arrays_give_the_same_files(tmp_path: Path) -> None:
  process = devices.start('-c', SHARDED, tmp_path, devices=8)
  assert devices.output(process).strip() == 'same'
