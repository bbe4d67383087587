"""Imports go upwards in one list only, and heavy ones live in one file."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / 'ntk_jax'

# A module imports only what stands above it (or beside it, in its folder).
ORDER = (
  # 0 words
  'typing',
  'errors',
  'config',
  # 1 maths
  'positions',
  'temperature',
  'rope',
  'mask',
  'scheme',
  'initializers',
  'curriculum',
  # 2 attention
  'attention',
  # 3 model
  'sharding',
  'model',
  'interop',
  # 4 learning
  'data',
  'loss',
  'long_ce',
  'learning_rate',
  'optimizer',
  'trainable',
  'accumulate',
  'guard',
  'objective',
  'step',
  'memory',
  'traffic',
  'checkpoint',
  'metrics',
  # 5 programs
  'plot',
  'generate',
  'evaluation',
  'train',
  'diagnostics',
  'plan',
  'report',
  'extend',
  'study',
)

# Dependency -> the file or folder of the package that may import it.
HOMES: dict[str, str | tuple[str, ...]] = {
  'absl': 'data/pipeline.py',  # grain asks absl for flags
  'flax': 'model/',
  'gguf': 'interop/gguf_saving.py',
  'grain': 'data/pipeline.py',
  'matplotlib': 'plot/',
  'optax': 'optimizer.py',
  'tensorboardX': 'metrics/tensorboard.py',
  'tokenizers': 'data/tokenize.py',
  'orbax': 'checkpoint/manager.py',
  'safetensors': ('checkpoint/files.py', 'interop/'),
}
NOWHERE = (
  'benchmarks',
  'experiments',
  'tensorflow',
  'tests',
  'torch',
  'transformers',
)


def imported(tree: ast.AST, module: str, package: bool) -> Iterator[str]:
  """Dotted names that a module imports, wherever in the file that happens.

  Args:
    tree: the parsed source.
    module: its dotted name; relative imports start there.
    package: whether the file is an `__init__.py`.
  """
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      base = node.module or ''
      if node.level:
        parents = module.split('.')
        parents = parents[: len(parents) - node.level + package]
        base = '.'.join([*parents, *([base] if base else [])])
      yield from (f'{base}.{alias.name}' for alias in node.names)
    elif isinstance(node, ast.Call) and node.args:
      called = ast.unparse(node.func).split('.')[-1]
      first = node.args[0]
      if called in ('import_module', '__import__') and isinstance(
        first, ast.Constant
      ):
        yield str(first.value)


def _listed(homes: str | tuple[str, ...]) -> str:
  return homes if isinstance(homes, str) else ' and '.join(homes)


def offences(source: str, path: str) -> list[str]:
  """What is wrong with the imports of a file, `path` relative to ntk_jax."""
  package = path.endswith('__init__.py')
  parts = path.removesuffix('.py').removesuffix('/__init__').split('/')
  here = parts[0]
  if here not in ORDER:
    return [f'{path}: add {here!r} to ORDER in tests/test_layering.py']
  found = []
  tree = ast.parse(source)
  for name in imported(tree, '.'.join(['ntk_jax', *parts]), package):
    top, _, rest = name.partition('.')
    if top in NOWHERE:
      found.append(f'{path} imports {name}: the package never imports {top}')
    elif top in HOMES and not path.startswith(HOMES[top]):
      found.append(
        f'{path} imports {name}: only {_listed(HOMES[top])} imports {top}'
      )
    elif top == 'ntk_jax' and rest != '__version__':
      target = rest.partition('.')[0]
      if target not in ORDER:
        found.append(
          f'{path} imports {name}: import from the module that defines it'
          ' (if it is a new module, add it to ORDER)'
        )
      elif ORDER.index(target) > ORDER.index(here):
        found.append(f'{path} imports {name}, which stands below it')
  return found


def _files() -> list[str]:
  paths = (path.relative_to(PACKAGE) for path in PACKAGE.rglob('*.py'))
  # The lazy top level names every floor, and imports none until asked.
  return sorted(str(path) for path in paths if str(path) != '__init__.py')


@pytest.mark.parametrize('path', _files())
def test_imports_go_upwards(path: str) -> None:
  assert offences((PACKAGE / path).read_text(), path) == []


def test_order_names_each_module_once() -> None:
  assert len(set(ORDER)) == len(ORDER)


@pytest.mark.parametrize(
  ('path', 'source', 'says'),
  [
    ('rope/phase.py', 'from ntk_jax.scheme import Scheme', 'stands below'),
    ('temperature.py', 'import ntk_jax.rope.spec', 'stands below'),
    ('loss.py', 'def f():\n  from ntk_jax import plot', 'stands below'),
    (
      'scheme.py',
      'if TYPE_CHECKING:\n  from ntk_jax.model.layers import x',
      'stands below',
    ),
    ('rope/phase.py', 'from .. import scheme', 'stands below'),
    ('rope/__init__.py', 'from ..attention import api', 'stands below'),
    (
      'mask.py',
      "import importlib\nimportlib.import_module('ntk_jax.train')",
      'stands below',
    ),
    ('plot.py', 'from ntk_jax import RopeSpec', 'the module that defines it'),
    ('plot.py', 'import ntk_jax', 'the module that defines it'),
    ('train.py', 'from ntk_jax.novel import x', 'add it to ORDER'),
    ('novel.py', '', "add 'novel' to ORDER"),
    ('novel/part.py', '', "add 'novel' to ORDER"),
    ('step.py', 'import optax', 'only optimizer.py imports optax'),
    ('loss.py', 'def f():\n  from flax import nnx', 'only model/ imports'),
    ('data/text.py', 'import grain.python', 'only data/pipeline.py'),
    ('report.py', 'from matplotlib import pyplot', 'only plot/'),
    ('extend/job.py', 'from absl import flags', 'only data/pipeline.py'),
    ('data/pack.py', 'import tokenizers', 'only data/tokenize.py'),
    (
      'model/cache.py',
      'import safetensors.numpy',
      'only checkpoint/files.py and interop/',
    ),
    ('checkpoint/steps.py', 'import orbax.checkpoint', 'only checkpoint/man'),
    ('train.py', 'from experiments import extend', 'never imports exp'),
  ],
)
def test_an_offence_is_found(path: str, source: str, says: str) -> None:
  found = offences(source, path)
  assert len(found) == 1
  assert says in found[0]


@pytest.mark.parametrize(
  ('path', 'source'),
  [
    ('rope/spec.py', 'from ntk_jax.rope.frequencies import METHODS'),
    ('rope/spec.py', 'from . import frequencies'),
    ('rope/__init__.py', 'from .spec import RopeSpec'),
    ('extend/job.py', 'def f():\n  from ntk_jax import plot'),
    ('report/page.py', 'from ntk_jax import plot, __version__'),
    ('optimizer.py', 'import optax'),
    ('model/transformer.py', 'from flax import nnx'),
    ('typing.py', 'import jax, numpy, typing'),
  ],
)
def test_a_good_import_passes(path: str, source: str) -> None:
  assert offences(source, path) == []
