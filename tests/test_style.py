"""The bands of the house: sizes, annotations, names, docstrings."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ('ntk_jax', 'experiments', 'tests', 'benchmarks')
FILE_LINES = 500
FUNCTION_LINES = 80
ANNOTATED = 0.95
FORBIDDEN_NAMES = {'utils', 'util', 'helpers', 'helper', 'common', 'misc'}
# Written apart, so that this file passes its own test.
FORBIDDEN_NOTES = ('TO' + 'DO', 'FIX' + 'ME')

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(tree: ast.AST) -> Iterator[tuple[Function, bool]]:
  """All functions of a tree, each with whether it takes self or cls."""
  for node in ast.walk(tree):
    for child in ast.iter_child_nodes(node):
      if isinstance(child, Function):
        static = any(
          ast.unparse(d) == 'staticmethod' for d in child.decorator_list
        )
        yield child, isinstance(node, ast.ClassDef) and not static


def too_long(source: str) -> list[str]:
  """The file and its functions that are over the caps."""
  found = []
  lines = len(source.splitlines())
  if lines > FILE_LINES:
    found.append(f'the file has {lines} lines, at most {FILE_LINES}')
  for node, _ in functions(ast.parse(source)):
    lines = (node.end_lineno or node.lineno) - node.lineno + 1
    if lines > FUNCTION_LINES:
      found.append(f'{node.name} has {lines} lines, at most {FUNCTION_LINES}')
  return found


def arguments(source: str) -> tuple[list[str], list[str]]:
  """All arguments as `function(argument)`, and those without annotation."""
  every, bare = [], []
  for node, bound in functions(ast.parse(source)):
    args = [*node.args.posonlyargs, *node.args.args][bound:]
    args += node.args.kwonlyargs
    args += [a for a in (node.args.vararg, node.args.kwarg) if a]
    for arg in args:
      every.append(f'{node.name}({arg.arg})')
      if arg.annotation is None:
        bare.append(every[-1])
  return every, bare


def forbidden_names(path: str) -> list[str]:
  """Words of a path that say nothing about what is in the file."""
  words = path.removesuffix('.py').replace('/', '_').split('_')
  return [word for word in words if word in FORBIDDEN_NAMES]


def forbidden_notes(source: str) -> list[str]:
  """Notes that belong in an issue."""
  return [
    line.strip()
    for line in source.splitlines()
    if any(note in line for note in FORBIDDEN_NOTES)
  ]


def undocumented(source: str) -> list[str]:
  """The module, public classes, functions and methods without a docstring."""

  def visit(
    node: ast.Module | ast.ClassDef | Function, name: str
  ) -> Iterator[str]:
    if not ast.get_docstring(node):
      yield name
    if isinstance(node, Function):
      return
    for child in node.body:
      if isinstance(child, ast.ClassDef | Function):
        overload = any('overload' in ast.dump(d) for d in child.decorator_list)
        if not child.name.startswith('_') and not overload:
          yield from visit(child, child.name)

  return list(visit(ast.parse(source), 'module'))


def _files(*folders: str) -> list[str]:
  return sorted(
    str(path.relative_to(ROOT))
    for folder in folders
    for path in (ROOT / folder).rglob('*.py')
  )


@pytest.mark.parametrize('path', _files(*FOLDERS))
def test_file_is_in_the_bands(path: str) -> None:
  source = (ROOT / path).read_text()
  assert too_long(source) == []
  assert forbidden_names(path) == []
  assert forbidden_notes(source) == []


@pytest.mark.parametrize('path', _files('ntk_jax'))
def test_public_names_are_documented(path: str) -> None:
  assert undocumented((ROOT / path).read_text()) == []


def test_arguments_are_annotated() -> None:
  every, bare = [], []
  for path in _files('ntk_jax'):
    of_all, without = arguments((ROOT / path).read_text())
    every += of_all
    bare += [f'{path}: {name}' for name in without]
  share = 1 - len(bare) / max(1, len(every))
  assert share >= ANNOTATED, f'{share:.1%} of arguments annotated: {bare}'


LONG_FUNCTION = 'def f():\n' + '  x = 1\n' * FUNCTION_LINES
SNIPPET = '''
"""A module."""

def f(a: int, b, *rest, key: str = '') -> int:
  return a

class C:
  """A class."""
  def method(self, a) -> None: ...
  def _private(self) -> None: ...
  @property
  def size(self) -> int:
    """Documented."""
  @staticmethod
  def free(a): ...
  @typing.overload
  def free(self, a: int): ...

class D: ...
'''


@pytest.mark.parametrize(
  ('check', 'bad', 'good'),
  [
    (too_long, '\n' * (FILE_LINES + 1), '\n' * FILE_LINES),
    (too_long, LONG_FUNCTION, LONG_FUNCTION.replace('  x = 1\n', '', 1)),
    (
      too_long,
      'class C:\n' + LONG_FUNCTION.replace('\n', '\n ').replace('def', ' def'),
      'def f(): ...',
    ),
    (forbidden_names, 'ntk_jax/data/utils.py', 'ntk_jax/data/text.py'),
    (forbidden_names, 'ntk_jax/rope_helpers.py', 'ntk_jax/rope/rotate.py'),
    (forbidden_names, 'ntk_jax/common/a.py', 'ntk_jax/uncommon.py'),
    (forbidden_notes, 'x = 1  # TO' + 'DO: y', 'x = 1  # to do it twice'),
    (undocumented, 'x = 1', '"""Words."""'),
    (undocumented, '"""W."""\nclass C: ...', '"""W."""\nclass _C: ...'),
  ],
)
def test_an_offence_is_found(
  check: Callable[[str], list[str]], bad: str, good: str
) -> None:
  assert len(check(bad)) == 1
  assert check(good) == []


def test_bare_arguments_are_found() -> None:
  every, bare = arguments(SNIPPET)
  # Four of f, three of C's methods; self is not counted.
  assert len(every) == 7
  assert sorted(bare) == ['f(b)', 'f(rest)', 'free(a)', 'method(a)']


def test_missing_docstrings_are_found() -> None:
  assert undocumented(SNIPPET) == ['f', 'method', 'free', 'D']
