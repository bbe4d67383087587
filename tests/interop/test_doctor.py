"""What servers make of configs, against what was measured on the servers.

The oracles of errors are small formulas in numpy, written here. Which config
each server gets right was measured: transformers 5.23 and 4.57 by their own
modules, vLLM 0.32 by its tables, llama.cpp by its logits.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ntk_jax.errors import ConfigError
from ntk_jax.interop import doctor
from ntk_jax.interop.doctor.compare import verdict
from ntk_jax.interop.servers import Layer, Reading
from ntk_jax.rope import RopeSpec

ROOT = Path(__file__).resolve().parent.parent.parent
GOLDEN = ROOT / 'tests' / 'golden' / 'interop'
V4, V5, VLLM, CPP = 'transformers v4', 'transformers v5', 'vLLM', 'llama.cpp'

# The small model of the measurements: original length 32, head_dim 16.
LLAMA: dict[str, Any] = {
  'model_type': 'llama',
  'vocab_size': 256,
  'hidden_size': 64,
  'intermediate_size': 96,
  'num_hidden_layers': 2,
  'num_attention_heads': 4,
  'num_key_value_heads': 2,
  'max_position_embeddings': 128,
}
MISTRAL = LLAMA | {'model_type': 'mistral', 'sliding_window': 16}
QWEN2 = LLAMA | {'model_type': 'qwen2'}
PHI3 = LLAMA | {
  'model_type': 'phi3',
  'original_max_position_embeddings': 32,
  'rope_theta': 1e4,
}
GEMMA3 = LLAMA | {
  'model_type': 'gemma3_text',
  'num_hidden_layers': 7,
  'head_dim': 16,
  'query_pre_attn_scalar': 16,
  'sliding_window': 16,
}
YARN = {
  'rope_type': 'yarn',
  'factor': 4.0,
  'original_max_position_embeddings': 32,
}
LLAMA3 = {
  'rope_type': 'llama3',
  'factor': 4.0,
  'low_freq_factor': 1.0,
  'high_freq_factor': 4.0,
  'original_max_position_embeddings': 32,
}
LINEAR = {'rope_type': 'linear', 'factor': 8.0}
DYNAMIC = {'rope_type': 'dynamic', 'factor': 4.0}
LONG = [1.0 + 0.4 * i for i in range(8)]
LONGROPE = {
  'rope_type': 'longrope',
  'factor': 4.0,
  'short_factor': [1.0] * 8,
  'long_factor': LONG,
  'original_max_position_embeddings': 32,
}
PHI3_KEYS = {'type': 'longrope', 'short_factor': [1.0] * 8, 'long_factor': LONG}


def old(config: Mapping[str, Any], params: Any, **others: Any) -> dict:
  """The spelling of transformers 4."""
  return {**config, 'rope_theta': 1e4, 'rope_scaling': params, **others}


def new(config: Mapping[str, Any], params: Any, **others: Any) -> dict:
  """The spelling of transformers 5."""
  params = {'rope_theta': 1e4, **params}
  return {**config, 'rope_parameters': params, **others}


def dual(config: Mapping[str, Any], params: Any, **others: Any) -> dict:
  """Both."""
  return new(old(config, params), params, **others)


def kinds(config: Mapping[str, Any]) -> dict[str, str]:
  """Server -> kind of verdict."""
  return {k: v.kind for k, v in doctor.diagnose(config).verdicts.items()}


def default(dim: int = 16, theta: float = 1e4) -> np.ndarray:
  """Unscaled frequencies."""
  return theta ** (-np.arange(0, dim, 2) / dim)


def difference(
  a: np.ndarray, b: np.ndarray, length: int, fa: float = 1.0, fb: float = 1.0
) -> float:
  """Largest difference of cos and sin over positions below a length."""
  p = np.arange(length)[:, None]
  cos = np.abs(fa * np.cos(p * a) - fb * np.cos(p * b)).max()
  return float(max(cos, np.abs(fa * np.sin(p * a) - fb * np.sin(p * b)).max()))


OTHER = [*['sliding_attention', 'full_attention'] * 3, 'full_attention']
ALL = (V4, V5, VLLM, CPP)
MODERN = (V5, VLLM, CPP)
# Name -> config, servers that are exact, servers that do not start.
CASES: dict[str, tuple[dict, tuple[str, ...], tuple[str, ...]]] = {
  'default': (old(LLAMA, None), ALL, ()),
  'nothing said': (LLAMA, ALL, ()),
  'linear v4': (old(LLAMA, LINEAR), ALL, ()),
  'linear v5': (new(LLAMA, LINEAR), MODERN, ()),
  'linear dual': (dual(LLAMA, LINEAR), ALL, ()),
  'linear, type': (old(LLAMA, {'type': 'linear', 'factor': 8.0}), ALL, ()),
  'linear, whole factor': (
    dual(LLAMA, LINEAR | {'factor': 8}),
    (V4, V5, CPP),
    (VLLM,),
  ),
  'condense ratio': (LLAMA | {'rope_condense_ratio': 8}, (), ()),
  'llama3': (dual(LLAMA, LLAMA3), ALL, ()),
  'llama3 of qwen2': (dual(QWEN2, LLAMA3), (V4, V5, VLLM), ()),
  'yarn v4': (old(LLAMA, YARN), ALL, ()),
  'yarn v5': (new(LLAMA, YARN), MODERN, ()),
  'yarn, factor 1': (
    dual(LLAMA, YARN | {'attention_factor': 1.0}),
    (V4, V5, VLLM),
    (),
  ),
  'yarn, mscale': (
    dual(LLAMA, YARN | {'mscale': 0.7, 'mscale_all_dim': 1.3}),
    (V4, V5, VLLM),
    (),
  ),
  'yarn, beta': (dual(LLAMA, YARN | {'beta_slow': 0.25}), (V4, V5, VLLM), ()),
  'yarn, truncate': (
    dual(LLAMA, YARN | {'truncate': False}),
    (V4, V5, VLLM),
    (),
  ),
  'yarn, null truncate': (
    dual(LLAMA, YARN | {'truncate': None}),
    (V4, V5, VLLM),
    (),
  ),
  'yarn, null beta': (
    dual(LLAMA, YARN | {'beta_fast': None}),
    (V4, V5, CPP),
    (VLLM,),
  ),
  'yarn of mistral': (
    dual(MISTRAL | {'sliding_window': None}, YARN),
    ALL,
    (),
  ),
  'dynamic': (dual(LLAMA, DYNAMIC, max_position_embeddings=32), (), ()),
  'longrope, v4 without top length': (old(LLAMA, LONGROPE), (), ()),
  'carrier': (
    dual(
      LLAMA,
      LONGROPE
      | {
        'short_factor': LONG,
        'attention_factor': 1.1,
        'short_mscale': 1.1,
        'long_mscale': 1.1,
      },
      original_max_position_embeddings=32,
    ),
    (V4, V5, VLLM),
    (),
  ),
  'proportional': (
    new(LLAMA, {'rope_type': 'proportional', 'partial_rotary_factor': 0.5}),
    (V5, VLLM),
    (),
  ),
  'mistral window': (dual(MISTRAL, YARN), (V4, V5, VLLM), ()),
  'qwen2, windows off': (QWEN2 | {'sliding_window': 16}, ALL, ()),
  'qwen2, mixed windows': (
    QWEN2
    | {'use_sliding_window': True, 'sliding_window': 16}
    | {'max_window_layers': 1},
    (V4, V5),
    (VLLM,),
  ),
  'ministral': (
    MISTRAL
    | {'model_type': 'ministral'}
    | {'layer_types': ['sliding_attention', 'full_attention']},
    (V4, V5, VLLM),
    (CPP,),
  ),
  'phi3, three keys': (PHI3 | {'rope_scaling': PHI3_KEYS}, (V4, V5), ()),
  'phi3, more keys': (PHI3 | {'rope_scaling': LONGROPE}, (V5,), (V4,)),
  'phi3, linear': (PHI3 | {'rope_scaling': LINEAR}, (), ALL),
  'phi3, default': (PHI3, ALL, ()),
  'gemma2': (
    LLAMA
    | {'model_type': 'gemma2', 'head_dim': 16, 'sliding_window': 16}
    | {'query_pre_attn_scalar': 16},
    ALL,
    (),
  ),
  'gemma2, scalar': (
    LLAMA
    | {'model_type': 'gemma2', 'head_dim': 16, 'sliding_window': 16}
    | {'query_pre_attn_scalar': 24},
    (V4, V5, VLLM),
    (),
  ),
  'gemma3 v4': (
    old(GEMMA3, LINEAR, rope_local_base_freq=1e4) | {'rope_theta': 1e6},
    ALL,
    (),
  ),
  'gemma3 v5': (
    GEMMA3
    | {
      'rope_parameters': {
        'full_attention': {**LINEAR, 'rope_theta': 1e6},
        'sliding_attention': {'rope_type': 'default', 'rope_theta': 1e4},
      }
    },
    MODERN,
    (),
  ),
  'gemma3, other layers': (
    GEMMA3 | {'layer_types': OTHER},
    (V4, V5, VLLM),
    (),
  ),
}


@pytest.mark.parametrize('name', CASES)
def test_verdicts_are_those_measured(name: str) -> None:
  config, exact, unsupported = CASES[name]
  found = kinds(config)
  assert [s for s in ALL if found[s] == 'exact'] == [*exact]
  refused = [s for s in ALL if found[s] == 'unsupported']
  if name in ('proportional', 'longrope, v4 without top length'):
    refused = [s for s in refused if s != V4]  # see their own tests
  assert refused == [*unsupported]


def test_a_new_spelling_alone_is_silently_unscaled_in_transformers_4() -> None:
  judged = doctor.diagnose(new(LLAMA, LINEAR)).verdicts[V4]
  w = default()
  assert judged.kind == 'wrong'
  # linear: max_position_embeddings is the trained length.
  assert judged.error == pytest.approx(difference(w / 8, w, 1024), rel=1e-9)
  assert judged.position == 1
  assert 'theta is 10000 and no scaling' in judged.why


def test_an_unread_attention_factor_is_wrong_from_the_first_token() -> None:
  config = dual(LLAMA, YARN | {'attention_factor': 1.0})
  judged = doctor.diagnose(config).verdicts[CPP]
  expected = 0.1 * math.log(4)  # cos at position 0
  assert judged.error == pytest.approx(expected, abs=1e-12)
  assert judged.position == 0
  assert 'attention_factor' in judged.why


def test_vllm_takes_its_own_attention_factor_of_longrope() -> None:
  params = LONGROPE | {'short_factor': LONG, 'attention_factor': 1.05}
  config = dual(LLAMA, params, original_max_position_embeddings=32)
  judged = doctor.diagnose(config).verdicts[VLLM]
  expected = math.sqrt(1 + math.log(4) / math.log(32)) - 1.05
  assert expected == pytest.approx(0.133, abs=1e-3)
  assert judged.kind == 'wrong'
  assert judged.error == pytest.approx(expected, abs=1e-12)
  assert 'short_mscale' in judged.why


def test_vllm_has_long_divisors_alone() -> None:
  config = dual(LLAMA, LONGROPE, original_max_position_embeddings=32)
  found = doctor.diagnose(config)
  judged = found.verdicts[VLLM]
  w, a = default(), math.sqrt(1 + math.log(4) / math.log(32))
  short = difference(w, w / LONG, 32, a, a)
  assert judged.error == pytest.approx(short, rel=1e-9)
  assert judged.max_length == 32
  assert any('--max-model-len 128' in line for line in found.advice)


def test_cached_keys_of_transformers_stay_under_old_frequencies() -> None:
  config = dual(LLAMA, DYNAMIC, max_position_embeddings=32)
  judged = doctor.diagnose(config).verdicts[V5]
  alpha = 4 * 128 / 32 - 3
  at_target = default(theta=1e4 * alpha ** (16 / 14))
  assert judged.position == 32
  expected = difference(default(), at_target, 32)
  assert judged.error == pytest.approx(expected, rel=1e-9)
  assert 'generate()' in judged.why


def test_phi3_alone_drops_its_cache() -> None:
  assert kinds(PHI3 | {'rope_scaling': PHI3_KEYS})[V5] == 'exact'
  config = dual(LLAMA, LONGROPE, original_max_position_embeddings=32)
  assert doctor.diagnose(config).verdicts[V5].position == 32


def test_dynamic_ends_where_the_table_of_vllm_does() -> None:
  config = dual(LLAMA, DYNAMIC, max_position_embeddings=32)
  verdicts = doctor.diagnose(config).verdicts
  assert verdicts[VLLM].position == verdicts[CPP].position == 32
  assert verdicts[VLLM].max_length == 128
  at_target = default(theta=1e4 * 13 ** (16 / 14))
  expected = difference(default(), at_target, 32)
  assert verdicts[VLLM].error == pytest.approx(expected, rel=1e-9)
  assert verdicts[CPP].error > expected  # positions 32 to 127 as well
  assert 'IndexError' in verdicts[VLLM].why


def test_longrope_of_transformers_4_needs_a_top_level_length() -> None:
  judged = doctor.diagnose(old(LLAMA, LONGROPE)).verdicts[V4]
  assert judged.kind == 'wrong'
  assert 'top level' in judged.why
  without = {k: v for k, v in LONGROPE.items() if k != 'factor'}
  judged = doctor.diagnose(old(LLAMA, without)).verdicts[V4]
  assert judged.kind == 'unsupported'
  assert 'TypeError' in judged.why


def test_a_length_inside_is_overwritten_by_phi3() -> None:
  config = {k: v for k, v in PHI3.items() if not k.startswith('original')}
  judged = doctor.diagnose(new(config, LONGROPE)).verdicts[V5]
  assert judged.kind == 'wrong'
  assert '4096' in judged.why


def test_proportional_is_unknown_to_transformers_4() -> None:
  params = {'rope_type': 'proportional', 'partial_rotary_factor': 0.5}
  config = dual(LLAMA, params)
  assert doctor.diagnose(config).verdicts[V4].kind == 'unsupported'
  halved = dual(LLAMA, params | {'factor': 2.0})
  assert 'factor of proportional' in doctor.diagnose(halved).verdicts[VLLM].why


@pytest.mark.parametrize('window', [16, 100])
def test_an_unread_window_is_wrong_from_its_length_on(window: int) -> None:
  found = doctor.diagnose(MISTRAL | {'sliding_window': window})
  judged = found.verdicts[CPP]
  assert (judged.kind, judged.position, judged.error) == (
    'wrong',
    window,
    None,
  )
  assert any(f'up to {window} tokens' in line for line in found.advice)


def test_a_window_as_long_as_the_target_is_no_window() -> None:
  assert kinds(MISTRAL | {'sliding_window': 128})[CPP] == 'exact'


def test_partial_heads_do_not_fit_transformers_llama() -> None:
  found = kinds(LLAMA | {'rope_theta': 1e4, 'partial_rotary_factor': 0.5})
  assert found == {V4: 'unsupported', V5: 'wrong', VLLM: 'exact', CPP: 'wrong'}


def test_ropes_are_resolved_by_kind_of_layer() -> None:
  local, full = doctor.diagnose(CASES['gemma3 v5'][0]).ropes
  assert (local.method, local.window, local.theta) == ('default', 16, 1e4)
  assert (full.method, full.window, full.factor) == ('linear', None, 8.0)
  assert full.layers == (5,)
  # 128 is the extended length of Gemma 3.
  assert (full.original_length, full.target_length) == (16, 128)


def test_critical_pairs_are_those_that_never_turned() -> None:
  llama2 = LLAMA | {'head_dim': 128, 'max_position_embeddings': 32768}
  yarn = YARN | {'factor': 8.0, 'original_max_position_embeddings': 4096}
  (rope,) = doctor.diagnose(dual(llama2, yarn)).ropes
  waves = 2 * math.pi / default(128)
  assert rope.critical_pairs == int((waves > 4096).sum()) == 18
  assert rope.wavelengths == pytest.approx(waves[waves > 4096])
  assert rope.scaled_wavelengths[-1] == pytest.approx(8 * waves[-1])
  assert rope.attention_factor == pytest.approx(0.1 * math.log(8) + 1)


def test_channels_that_do_not_turn_have_no_attention_factor() -> None:
  half = RopeSpec('default', 4, partial_rotary_factor=0.5, attention_factor=1.2)
  whole = RopeSpec(
    'proportional', 4, partial_rotary_factor=0.5, attention_factor=1.2
  )
  reading = Reading((Layer(whole, None),))
  found = verdict((Layer(half, None),), reading, 8)
  assert (found.kind, found.position) == ('wrong', 0)
  assert found.error == pytest.approx(0.2)


@pytest.mark.parametrize(
  ('length', 'target', 'served'),
  [(32, 128, 32), (128, 128, 128), (256, 256, 256)],
)
def test_yarn_reaches_what_its_lengths_say(
  length: int, target: int, served: int
) -> None:
  found = doctor.diagnose(dual(LLAMA, YARN, max_position_embeddings=length))
  assert found.target_length == target
  judged = found.verdicts[VLLM]
  assert judged.max_length == served
  # Its table holds factor * original positions.
  assert judged.position == (128 if target > 128 else None)


@pytest.mark.parametrize('name', CASES)
def test_the_block_does_what_it_promises(name: str) -> None:
  config, exact, _ = CASES[name]
  block = doctor.diagnose(config).block
  assert block is not None
  pasted = {k: v for k, v in config.items() if k not in block.removed}
  again = doctor.diagnose(pasted | dict(block.keys))
  assert {k: v.kind for k, v in again.verdicts.items()} == block.verdicts
  assert list(block.verdicts.values()).count('exact') >= len(exact)
  if 'fixed' not in block.form:
    first = doctor.diagnose(config)
    for a, b in zip(first.ropes, again.ropes, strict=True):
      assert a.scaled_wavelengths == pytest.approx(b.scaled_wavelengths)
      assert a.attention_factor == pytest.approx(b.attention_factor)
  assert json.loads(json.dumps(block.keys)) == block.keys


def test_dynamic_is_fixed_as_a_raised_base() -> None:
  block = doctor.diagnose(
    dual(LLAMA, DYNAMIC, max_position_embeddings=32)
  ).block
  assert block is not None and block.form == 'dual, fixed at 128 tokens'
  assert set(block.verdicts.values()) == {'exact'}
  assert block.keys['rope_theta'] == pytest.approx(1e4 * 13 ** (16 / 14))


def test_phi3_gets_the_three_keys() -> None:
  block = doctor.diagnose(new(PHI3, LONGROPE)).block
  assert block is not None
  assert set(block.keys['rope_scaling']) == set(PHI3_KEYS)
  assert block.verdicts[V4] == block.verdicts[V5] == 'exact'


STALE = ('llama_dynamic', 'llama_longrope')


@pytest.mark.parametrize('name', ['config.v4.json', 'config.dual.json'])
@pytest.mark.parametrize(
  'folder', ['gemma2', 'gemma3', *sorted(p.name for p in GOLDEN.glob('*_*'))]
)
def test_goldens_are_right_in_transformers(folder: str, name: str) -> None:
  config = json.loads((GOLDEN / folder / name).read_text())
  verdicts = doctor.diagnose(config).verdicts
  found = {(verdicts[s].kind, verdicts[s].position) for s in (V4, V5)}
  # Logits of fresh forward passes agree; cached decoding is off from 32 on.
  assert found == {('wrong', 32) if folder in STALE else ('exact', None)}


def test_a_folder_is_looked_at() -> None:
  found = doctor.examine(GOLDEN / 'llama_yarn')
  assert found.files is not None
  assert found.files.problem is None
  assert found.files.parameters == found.parameters
  assert found.files.tensors == 21
  assert not found.files.index


def test_files_of_a_folder(tmp_path: Path) -> None:
  (tmp_path / 'config.json').write_text(json.dumps(dual(LLAMA, YARN)))
  told = {'model_max_length': 64}
  (tmp_path / 'tokenizer_config.json').write_text(json.dumps(told))
  (tmp_path / 'generation_config.json').write_text('{}')
  (tmp_path / 'model.safetensors').write_bytes(b'no header')
  found = doctor.examine(tmp_path)
  assert found.files is not None
  assert 'model.safetensors' in (found.files.problem or '')
  assert found.files.generation_config
  assert any('model_max_length is 64' in line for line in found.advice)


def test_words_say_what_was_found() -> None:
  found = doctor.diagnose(dual(MISTRAL, YARN | {'attention_factor': 1.0}))
  page = doctor.text(found)
  assert max(map(len, page.splitlines())) <= 100
  for words in (
    'mistral: 2 layers',
    'window 16',
    'critical dimension',
    'Advice',
  ):
    assert words in page
  block = page[page.index('\n{') :]
  assert found.block is not None
  assert json.loads(block) == found.block.keys
  table = doctor.markdown(found).splitlines()
  assert len(table) == 2 + len(ALL)
  assert {line.count('|') for line in table} == {6}
  piped = dataclasses.replace(found, verdicts={V4: doctor.Verdict('no', 'a|b')})
  assert 'a\\|b' in doctor.markdown(piped)
  assert (
    json.loads(json.dumps(found.to_json()))['verdicts'][CPP]['position'] == 0
  )


@pytest.mark.parametrize(
  'change',
  [
    {'rope_scaling': {'rope_type': 'yarm', 'factor': 2.0}},
    {'rope_scaling': {'factor': 2.0}},
    {'rope_theta': 1e4, 'rope_parameters': {'rope_theta': 5e5}},
    {'model_type': 'no_such'},
    {'num_hidden_layers': 0},
  ],
)
def test_what_cannot_be_read_is_refused(change: dict) -> None:
  with pytest.raises(ConfigError):
    doctor.diagnose(LLAMA | change)


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
  """The doctor in a process of its own."""
  return subprocess.run(
    [sys.executable, '-m', 'experiments.doctor', *arguments],
    cwd=ROOT,
    env=os.environ | {'JAX_PLATFORMS': 'cpu'},
    capture_output=True,
    text=True,
    timeout=120,
  )


def test_the_command_prints_a_page_or_json(tmp_path: Path) -> None:
  path = tmp_path / 'config.json'
  path.write_text(json.dumps(new(LLAMA, YARN)))
  page = command(str(path))
  assert page.returncode == 0, page.stderr
  assert 'transformers v4  wrong' in page.stdout
  plain = command(str(tmp_path), '--json')
  assert plain.returncode == 0, plain.stderr
  assert json.loads(plain.stdout)['files']['problem'].startswith('neither')


@pytest.mark.parametrize(
  ('content', 'says'),
  [
    (None, 'does not exist'),
    ('{', 'not valid JSON'),
    ('{"model_type": "llama", "rope_scaling": {"factor": 2}}', 'rope_type'),
  ],
)
def test_the_command_refuses(
  tmp_path: Path, content: str | None, says: str
) -> None:
  path = tmp_path / 'config.json'
  if content is not None:
    path.write_text(content)
  done = command(str(path))
  assert done.returncode == 2
  assert done.stderr.startswith('error: ')
  assert says in done.stderr
  assert done.stderr.count('\n') == 1


def test_nothing_is_started() -> None:
  source = (
    'import sys; from ntk_jax.interop import doctor\n'
    f'doctor.text(doctor.examine({str(GOLDEN / "llama_yarn")!r}))\n'
    "bridge = sys.modules['jax._src.xla_bridge']\n"
    'assert not bridge._backends, bridge._backends\n'
    "heavy = {'flax', 'optax', 'orbax', 'grain', 'torch'} & set(sys.modules)\n"
    'assert not heavy, heavy\n'
  )
  done = subprocess.run(
    [sys.executable, '-c', source],
    cwd=ROOT,
    env=os.environ | {'JAX_PLATFORMS': 'cpu'},
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert done.returncode == 0, done.stderr
