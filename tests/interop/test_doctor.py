"""The doctor: what it resolves, what it advises, what it prints."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from interop.configs import (
  ALL,
  CASES,
  CPP,
  DYNAMIC,
  LLAMA,
  LONGROPE,
  MISTRAL,
  PHI3,
  PHI3_KEYS,
  V4,
  V5,
  YARN,
  default,
  dual,
  new,
)
from ntk_jax.errors import ConfigError
from ntk_jax.interop import doctor

ROOT = Path(__file__).resolve().parent.parent.parent
GOLDEN = ROOT / 'tests' / 'golden' / 'interop'


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
    {'rope_scaling': {'rope_type': 'linear', 'factor': 1e308}},
  ],
)
def test_what_cannot_be_read_is_refused(change: dict) -> None:
  with pytest.raises(ConfigError):
    doctor.diagnose(LLAMA | change)


def test_a_divisor_that_stops_a_pair_is_still_json() -> None:
  """A wavelength beyond float64 is none."""
  divisors = [1.0] * 7 + [1e308]
  longrope = {'short_factor': divisors, 'long_factor': divisors}
  change = {
    'rope_type': 'longrope',
    'original_max_position_embeddings': 4096,
    'factor': 4.0,
    **longrope,
  }
  found = doctor.diagnose(LLAMA | {'rope_scaling': change})
  text = json.dumps(found.to_json(), allow_nan=False)
  assert json.loads(text)['ropes'][0]['scaled_wavelengths'][-1] is None


def test_a_tokenizer_without_an_end(tmp_path: Path) -> None:
  (tmp_path / 'config.json').write_text(json.dumps(LLAMA))
  settings = f'{{"model_max_length": 1{"0" * 400}}}'
  (tmp_path / 'tokenizer_config.json').write_text(settings)
  files = doctor.examine(tmp_path).files
  assert files is not None and files.tokenizer_length == 10**400


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
