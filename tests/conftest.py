"""What every test shares: the CPU, checked shapes, and nightly tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import jaxtyping
import pytest

# Before anything imports jax.
os.environ.setdefault('JAX_PLATFORMS', 'cpu')

# An int is accepted as a float, as type checkers do.
CHECKER = 'beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))'
# Floors 0-2: their annotated shapes and types are checked at every call.
CHECKED = tuple(
  f'ntk_jax.{name}'
  for name in (
    'config',
    'errors',
    'positions',
    'temperature',
    'rope',
    'mask',
    'scheme',
    'initializers',
    'curriculum',
    'attention',
  )
)


def pytest_addoption(parser: pytest.Parser) -> None:
  """Adds `--nightly`."""
  parser.addoption(
    '--nightly', action='store_true', help='also run the tests marked slow'
  )


def pytest_configure(config: pytest.Config) -> None:
  """Checks annotations at run time (JAXTYPING_DISABLE=1 turns that off)."""
  del config
  jaxtyping.install_import_hook(CHECKED, CHECKER)


@pytest.fixture(autouse=True)
def _unchecked(request: pytest.FixtureRequest) -> Iterator[None]:
  """Lets a test marked unchecked reach the function's own errors."""
  before = jaxtyping.config.jaxtyping_disable
  if request.node.get_closest_marker('unchecked'):
    jaxtyping.config.update('jaxtyping_disable', True)
  yield
  jaxtyping.config.update('jaxtyping_disable', before)


@pytest.fixture(autouse=True, scope='module')
def _forget_executables() -> Iterator[None]:
  """Frees what a module's tests compiled: gigabytes over a whole run."""
  yield
  import jax  # not above: the platform is chosen before its first import

  jax.clear_caches()


def pytest_collection_modifyitems(
  config: pytest.Config, items: list[pytest.Item]
) -> None:
  """Skips the slow tests of an ordinary run."""
  if config.getoption('--nightly'):
    return
  skip = pytest.mark.skip(reason='slow: runs with --nightly')
  for item in items:
    if 'slow' in item.keywords:
      item.add_marker(skip)
