"""What a checkpoint becomes: to the bit, in which dtypes, on which devices."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import devices
import jax
import make_checkpoint
import numpy as np
import pytest
from safetensors import safe_open

from interop.goldens import FOLDER
from ntk_jax import interop
from ntk_jax.errors import ConfigError
from ntk_jax.interop.families import FAMILIES
from ntk_jax.interop.tensors import tensors
from ntk_jax.model import parameter_count

SHARDED = FOLDER / 'llama_mqa_bf16_sharded'


def stored(folder: Path) -> dict[str, np.ndarray]:
  found = {}
  for path in folder.glob('*.safetensors'):
    with safe_open(path, framework='np') as file:
      found |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
  return found


@pytest.mark.parametrize(
  'name', ['llama_mqa_bf16_sharded', 'gemma2', 'phi3_longrope', 'mistral_yarn']
)
def test_every_bit_is_in_its_place(name: str) -> None:
  folder = FOLDER / name
  model, files = interop.load(folder), stored(folder)
  params: dict[str, Any] = {**model.params._asdict(), **model.params.layers}
  read = 0
  family = FAMILIES[interop.architecture(config_of(folder)).family.name]
  for piece in tensors(model.config, family):
    for part in piece.parts:
      wanted = files[piece.name][part.start : part.stop]
      found = np.asarray(params[part.leaf][part.at])
      assert found.dtype == wanted.dtype
      wanted = wanted.T if part.transposed else wanted
      assert found.tobytes() == np.ascontiguousarray(wanted).tobytes()
      read += wanted.size
  assert read == sum(a.size for a in files.values())


def config_of(folder: Path) -> dict[str, Any]:
  from ntk_jax.interop.config_file import read_json

  return read_json(folder / 'config.json')


@pytest.mark.parametrize(
  ('name', 'given', 'params', 'compute'),
  [
    ('llama_mqa_bf16_sharded', None, 'bfloat16', 'float32'),
    ('llama_mqa_bf16_sharded', 'float32', 'float32', 'float32'),
    ('llama_mqa_bf16_sharded', 'bfloat16', 'bfloat16', 'bfloat16'),
    ('mistral_yarn', None, 'float16', 'float32'),
    ('llama_default', None, 'float32', 'float32'),
  ],
)
def test_dtypes(
  name: str, given: str | None, params: str, compute: str
) -> None:
  model = interop.load(FOLDER / name, dtype=given)
  assert {str(x.dtype) for x in jax.tree.leaves(model.params)} == {params}
  assert model.config.precision.params == params
  assert model.config.precision.compute == compute


def test_it_remembers_its_config() -> None:
  assert '"bos_token_id"' in interop.load(SHARDED).origin


MESH = """
import sys
import jax, numpy as np
from jax.sharding import PartitionSpec as P
from ntk_jax import interop
from ntk_jax.sharding import MeshConfig, make_mesh, param_specs

ids = np.arange(24)[None] % 64
for folder in sys.argv[1:]:
  mesh = make_mesh(MeshConfig(data=1, fsdp=2, tensor=4))
  model, alone = interop.load(folder, mesh=mesh), interop.load(folder)
  specs = param_specs(model.params, mesh, model.config.kv_heads)
  leaves = zip(
    jax.tree.leaves(model.params), jax.tree.leaves(alone.params),
    jax.tree.leaves(specs, is_leaf=lambda x: isinstance(x, P)),
    strict=True)
  for sharded, whole, spec in leaves:
    assert sharded.sharding.is_equivalent_to(
      jax.sharding.NamedSharding(mesh, spec), sharded.ndim), (spec, sharded)
    assert np.asarray(sharded).tobytes() == np.asarray(whole).tobytes()
  off = abs(np.asarray(model(ids, length=24)) - alone(ids, length=24)).max()
  assert off < 1e-4, off
  print('equal')
"""


def test_each_device_holds_its_shard() -> None:
  folders = [FOLDER / name for name in ('phi3_longrope', 'qwen2_window_mixed')]
  process = devices.start('-c', MESH, *folders, devices=8)
  assert devices.output(process) == 'equal\n' * 2


@pytest.mark.parametrize(
  ('family', 'count'),
  [
    # Of the class's own defaults, as transformers 5.23 counts them.
    ('llama', 6_738_415_616),
    ('mistral', 7_241_732_096),
    ('ministral', 7_241_732_096),
    ('phi3', 3_821_079_552),
    ('gemma2', 2_614_341_888),
  ],
)
def test_a_family_s_defaults(family: str, count: int) -> None:
  found = interop.architecture({'model_type': family})
  assert parameter_count(found.model) == count


@pytest.mark.parametrize(
  ('config', 'windows'),
  [
    ({'model_type': 'mistral'}, [4096] * 4),
    ({'model_type': 'mistral', 'sliding_window': None}, [None] * 4),
    ({'model_type': 'llama', 'sliding_window': 7}, [None] * 4),
    ({'model_type': 'phi3'}, [None] * 4),
    ({'model_type': 'phi3', 'sliding_window': 2047}, [2047] * 4),
    ({'model_type': 'qwen2', 'max_window_layers': 2}, [None] * 4),
    (
      {
        'model_type': 'qwen2',
        'use_sliding_window': True,
        'sliding_window': 8,
        'max_window_layers': 3,
      },
      [None, None, None, 8],
    ),
    ({'model_type': 'gemma2'}, [4096, None] * 2),
    ({'model_type': 'gemma3_text'}, [4096] * 4),
    (
      {'model_type': 'gemma3_text', 'sliding_window_pattern': 2},
      [4096, None] * 2,
    ),
    (
      {
        'model_type': 'ministral',
        'layer_types': ['full_attention'] + ['sliding_attention'] * 3,
        'sliding_window': 5,
      },
      [None, 5, 5, 5],
    ),
  ],
)
def test_windows(config: dict[str, Any], windows: list[int | None]) -> None:
  found = interop.architecture({'num_hidden_layers': 4, **config})
  assert [found.schemes[i].window for i in found.model.plan] == windows


@pytest.mark.parametrize(
  ('changes', 'says'),
  [
    ({'layer_types': ['full_attention']}, 'a list of 4'),
    ({'layer_types': ['chunked_attention'] * 4}, "'chunked_attention'"),
    (
      {'layer_types': ['sliding_attention'] * 4, 'sliding_window': None},
      'sliding_window is null',
    ),
    ({'layer_types': ['sliding_attention'] * 4}, 'use_sliding_window is false'),
    ({'use_sliding_window': 'no'}, 'use_sliding_window'),
    (
      {'use_sliding_window': True, 'max_window_layers': 0, 'sliding_window': 0},
      'sliding_window is 0',
    ),
    ({'use_sliding_window': True, 'max_window_layers': -1}, 'is -1'),
  ],
)
def test_windows_without_sense(changes: dict[str, Any], says: str) -> None:
  config = {'model_type': 'qwen2', 'num_hidden_layers': 4, **changes}
  with pytest.raises(ConfigError, match=says):
    interop.architecture(config)


@pytest.mark.parametrize(
  ('family', 'stray'),
  [
    ('llama', {'num_local_experts': 8, 'num_experts_per_tok': 2}),
    ('qwen3', {'num_local_experts': 8}),
    ('llama', {'query_pre_attn_scalar': 7}),
    (
      'mistral',
      {
        'query_pre_attn_scalar': 128,
        'attn_logit_softcapping': 5.0,
        'final_logit_softcapping': 5.0,
      },
    ),
    ('gemma3_text', {'attn_logit_softcapping': 50.0}),
    ('mistral', {'use_sliding_window': False}),
    ('phi3', {'use_sliding_window': None}),
    ('gemma2', {'max_window_layers': -1}),
  ],
)
def test_keys_of_other_families_mean_nothing(
  family: str, stray: dict[str, Any]
) -> None:
  """As the class of the family does not read them."""
  config = {'model_type': family, 'num_hidden_layers': 4}
  assert interop.architecture(config | stray) == interop.architecture(config)


@pytest.mark.parametrize(
  'family', ['llama', 'mistral', 'ministral', 'mixtral', 'qwen2', 'qwen3']
)
def test_null_heads_of_keys_are_as_many_as_of_queries(family: str) -> None:
  config = {'model_type': family, 'num_attention_heads': 16}
  found = interop.architecture(config | {'num_key_value_heads': None})
  assert found.model.kv_heads == 16


def test_the_condense_ratio_of_longchat() -> None:
  """Which transformers does not know: positions divided by it."""
  folder = FOLDER / 'longchat_linear8'
  wanted = interop.architecture(config_of(folder))
  old = {k: v for k, v in config_of(folder).items() if 'rope' not in k}
  found = interop.architecture(old | {'rope_condense_ratio': 8})
  assert found.schemes[0].spec.factor == wanted.schemes[0].spec.factor == 8
  np.testing.assert_array_equal(
    found.schemes[0].spec.frequencies()[0],
    wanted.schemes[0].spec.frequencies()[0],
  )


def test_a_name_on_the_hub(
  tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  make_checkpoint.make(tmp_path / 'cache')
  asked = {}

  def snapshot_download(name: str, **options: Any) -> str:
    asked.update(options, name=name)
    return str(tmp_path / 'cache')

  hub = types.ModuleType('huggingface_hub')
  monkeypatch.setattr(
    hub, 'snapshot_download', snapshot_download, raising=False
  )
  monkeypatch.setitem(sys.modules, 'huggingface_hub', hub)
  monkeypatch.chdir(tmp_path)
  model = interop.load('someone/tiny', revision='abc')
  assert model.config.vocab == make_checkpoint.CONFIG['vocab_size']
  assert asked['name'] == 'someone/tiny'
  assert asked['revision'] == 'abc'
  assert not any('bin' in p or 'py' in p for p in asked['allow_patterns'])
  with pytest.raises(ConfigError, match='revision is for names on the hub'):
    interop.load(tmp_path / 'cache', revision='abc')


@pytest.mark.parametrize('there', [False, True])
def test_a_hub_that_does_not_answer(
  there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  def snapshot_download(name: str, **_: Any) -> str:
    raise OSError(f'{name}: no network\nsecond line')

  hub = types.ModuleType('huggingface_hub')
  monkeypatch.setattr(
    hub, 'snapshot_download', snapshot_download, raising=False
  )
  monkeypatch.setitem(sys.modules, 'huggingface_hub', hub if there else None)
  monkeypatch.chdir(tmp_path)
  says = 'no network$' if there else 'pip install'
  with pytest.raises(ConfigError, match=says):
    interop.load('someone/tiny')
