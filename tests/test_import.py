"""Importing is free: no device, and floors 0-2 need only jax and numpy."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / 'ntk_jax'
FLOORS_0_TO_2 = (
  'typing',
  'errors',
  'config',
  'positions',
  'temperature',
  'rope',
  'mask',
  'scheme',
  'initializers',
  'curriculum',
  'attention',
)
BLOCKED = (
  'absl',
  'flax',
  'grain',
  'matplotlib',
  'optax',
  'orbax',
  'safetensors',
  'tensorboardX',
  'tokenizers',
)
BLOCK = f"""
import sys

class Blocked:
  def find_spec(self, name, path=None, target=None):
    if name.partition('.')[0] in {BLOCKED!r}:
      raise ImportError(f'{{name}} is blocked')

sys.meta_path.insert(0, Blocked())
"""
NO_BACKEND = """
import sys
bridge = sys.modules.get('jax._src.xla_bridge')
if bridge is not None:
  assert hasattr(bridge, '_backends'), 'jax keeps its backends elsewhere now'
  assert not bridge._backends, f'started {sorted(bridge._backends)}'
"""


def _python(source: str) -> subprocess.CompletedProcess[str]:
  return subprocess.run(
    [sys.executable, '-c', source],
    cwd=ROOT,
    env=os.environ | {'JAX_PLATFORMS': 'cpu'},
    capture_output=True,
    text=True,
    timeout=120,
  )


def _floors_0_to_2() -> list[str]:
  found = []
  for path in sorted(PACKAGE.rglob('*.py')):
    parts = path.relative_to(ROOT).with_suffix('').parts
    if parts[1] in FLOORS_0_TO_2:
      found.append('.'.join(p for p in parts if p != '__init__'))
  return found


@pytest.mark.parametrize(
  'statement',
  [
    'import ntk_jax',
    'from ntk_jax import rope',
    'from ntk_jax import attention, model, temperature',
    'from ntk_jax import *',
  ],
)
def test_import_starts_no_backend(statement: str) -> None:
  done = _python(statement + NO_BACKEND)
  assert done.returncode == 0, done.stderr


def test_a_started_backend_is_noticed() -> None:
  done = _python('import jax; jax.devices()' + NO_BACKEND)
  assert done.returncode == 1
  assert 'AssertionError: started' in done.stderr


def test_import_loads_nothing() -> None:
  """`import ntk_jax` imports neither jax nor any module of its own."""
  done = _python(
    'import sys, time; start = time.perf_counter(); import ntk_jax\n'
    "print(f'{1e3 * (time.perf_counter() - start):.1f} ms')\n"
    "loaded = [m for m in sys.modules if m.startswith(('jax', 'ntk_jax.'))]\n"
    'assert not loaded, loaded'
  )
  assert done.returncode == 0, done.stderr
  print('import ntk_jax:', done.stdout)


def test_floors_0_to_2_need_jax_alone() -> None:
  imports = '\n'.join(f'import {name}' for name in _floors_0_to_2())
  done = _python(BLOCK + imports)
  assert done.returncode == 0, done.stderr


def test_the_pure_decoder_needs_no_flax() -> None:
  done = _python(BLOCK + 'from ntk_jax.model import forward, init_params')
  assert done.returncode == 0, done.stderr
  done = _python(BLOCK + 'from ntk_jax.model import Transformer')
  assert 'flax is blocked' in done.stderr


def test_the_block_blocks() -> None:
  done = _python(BLOCK + 'import ntk_jax.optimizer')
  assert done.returncode == 1
  assert 'optax is blocked' in done.stderr


def test_top_level_names_exist() -> None:
  import ntk_jax

  for name in ntk_jax.__all__:
    assert name in dir(ntk_jax)
    assert getattr(ntk_jax, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
  import ntk_jax

  with pytest.raises(AttributeError, match="no attribute 'yarn_me'"):
    _ = ntk_jax.yarn_me
