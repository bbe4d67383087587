"""Messages that name the remedy."""

from __future__ import annotations

import pytest

from ntk_jax.errors import ConfigError, NumericsError, WorkdirError, unknown


def test_a_near_name_is_suggested() -> None:
  message = str(unknown('method', 'dynmic', ('linear', 'dynamic')))
  assert message == (
    "unknown method 'dynmic': did you mean 'dynamic'? Allowed: linear, dynamic"
  )


@pytest.mark.parametrize('value', ['', 'zzz', None, 7])
def test_without_a_near_name_all_are_listed(value: object) -> None:
  message = str(unknown('method', value, iter(['linear', 'yarn'])))
  assert message == f'unknown method {value!r}: Allowed: linear, yarn'


def test_a_message_is_one_line_that_prints() -> None:
  message = str(ConfigError('the file \ta\nb \x1b[31m \ud800 is ämpty'))
  assert message == r'the file \ta\nb \x1b[31m \ud800 is ämpty'


def test_kinds() -> None:
  assert isinstance(unknown('x', 'y', []), ConfigError)
  assert issubclass(ConfigError, ValueError)
  assert issubclass(WorkdirError, ConfigError)  # a command exits with 2
  assert not issubclass(NumericsError, ConfigError)
