"""Every example in a docstring runs, and floors 0-2 have one per function."""

from __future__ import annotations

import ast
import doctest
import importlib
from collections.abc import Iterator
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
# Functions that need no example, each with its reason.
EXEMPT: dict[str, str] = {}

Documented = ast.Module | ast.ClassDef | ast.FunctionDef


def docstrings(
  node: Documented, name: str
) -> Iterator[tuple[str, Documented, str]]:
  """(dotted name, node, docstring or '') of a module and all it defines.

  They are read from the source, so that a function counts whatever decorator
  (jit, custom_vjp, a type checker) has replaced it.
  """
  yield name, node, ast.get_docstring(node) or ''
  for child in node.body:
    if isinstance(child, ast.ClassDef | ast.FunctionDef):
      yield from docstrings(child, f'{name}.{child.name}')


def failures(source: str, module: str, scope: dict[str, object]) -> str:
  """Runs the examples of a source; what doctest prints of those that fail."""
  said: list[str] = []
  runner = doctest.DocTestRunner(
    verbose=False,
    optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS,
  )
  for name, node, text in docstrings(ast.parse(source), module):
    line = getattr(node, 'lineno', 1)
    test = doctest.DocTestParser().get_doctest(
      text, dict(scope), name, f'{module}.py', line
    )
    runner.run(test, out=said.append)
  return ''.join(said)


def without_example(source: str, module: str) -> list[str]:
  """Public functions of a source that show no example."""
  tree = ast.parse(source)
  return [
    name
    for name, node, text in docstrings(tree, module)
    if node in tree.body
    and isinstance(node, ast.FunctionDef)
    and not node.name.startswith('_')
    and '>>> ' not in text
  ]


def _modules() -> list[str]:
  names = []
  for path in sorted(PACKAGE.rglob('*.py')):
    parts = path.relative_to(ROOT).with_suffix('').parts
    names.append('.'.join(p for p in parts if p != '__init__'))
  return names


def _source(module: str) -> str:
  path = ROOT.joinpath(*module.split('.'))
  path = path / '__init__.py' if path.is_dir() else path.with_suffix('.py')
  return path.read_text()


@pytest.mark.parametrize('module', _modules())
def test_examples_print_what_they_say(module: str) -> None:
  scope = dict(vars(importlib.import_module(module)))
  said = failures(_source(module), module, scope)
  assert not said, said


@pytest.mark.parametrize(
  'module',
  [m for m in _modules() if (m.split('.') + [''])[1] in FLOORS_0_TO_2],
)
def test_floors_0_to_2_show_examples(module: str) -> None:
  missing = without_example(_source(module), module)
  assert [name for name in missing if name not in EXEMPT] == []


def test_exempt_functions_exist_and_lack_an_example() -> None:
  missing = {n for m in _modules() for n in without_example(_source(m), m)}
  assert set(EXEMPT) <= missing


WRONG = '''
"""A module.

>>> 1 + 1
2
"""
import functools

@functools.cache
def f(x):
  """Doubles.

  >>> f(2)
  5
  """
  return 2 * x

def g(x):
  """Shows nothing."""

class C:
  """A class."""
  def h(self):
    """Its method.

    >>> C().h()
    'h'
    """
    return 'h'
'''


def test_a_wrong_example_fails() -> None:
  scope: dict[str, object] = {}
  exec(WRONG, scope)
  said = failures(WRONG, 'm', scope)
  assert 'Expected:\n    5\nGot:\n    4' in said
  assert said.count('Expected:') == 1
  assert failures(WRONG.replace('5', '4'), 'm', scope) == ''


def test_a_missing_example_is_found() -> None:
  assert without_example(WRONG, 'm') == ['m.g']
