"""The errors that a user can meet, each one message: what, value, remedy."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable

_LONGEST_MESSAGE = 2000


class ConfigError(ValueError):
  """A setting is wrong: names the field, the value and what is allowed.

  Commands print the message without a traceback and exit with code 2. A value
  that would fill pages is cut short, and what does not print, as a name from
  a stranger's file may hold, is spelled out.

  >>> len(str(ConfigError('x' * 10_000)))
  2000
  >>> print(ConfigError('no file ' + chr(7)))
  no file \\x07
  """

  def __init__(self, message: str) -> None:
    """Keeps what a reader can take in, in one line."""
    if not message.isprintable():
      message = ''.join(
        c if c.isprintable() else repr(c)[1:-1] for c in message
      )
    if len(message) > _LONGEST_MESSAGE:
      message = message[: _LONGEST_MESSAGE - 4] + ' ...'
    super().__init__(message)


class WorkdirError(ConfigError):
  """A working directory is not to be used: unwritable, taken, another run's."""


class CheckpointError(WorkdirError):
  """A checkpoint could not be saved, or none can be restored."""


class NumericsError(RuntimeError):
  """Training met values that are not finite too many times in a row."""


class Stopped(BaseException):
  """A signal has ended a run after a step, with everything saved.

  Attributes:
    step: steps done and saved.
    code: what the process should exit with.
  """

  def __init__(self, step: int, code: int) -> None:
    """Keeps both."""
    super().__init__(f'stopped after step {step}')
    self.step, self.code = step, code


def unknown(what: str, value: object, allowed: Iterable[str]) -> ConfigError:
  """An unknown name, with the nearest allowed one and the whole list.

  >>> print(unknown('method', 'yarm', ['linear', 'yarn']))
  unknown method 'yarm': did you mean 'yarn'? Allowed: linear, yarn
  """
  names = list(allowed)
  near = difflib.get_close_matches(str(value), names, n=1)
  hint = f' did you mean {near[0]!r}?' if near else ''
  return ConfigError(
    f'unknown {what} {value!r}:{hint} Allowed: {", ".join(names)}'
  )


def caught(check: Callable[[], object], name: str = '') -> list[str]:
  """The message of the ConfigError that a check raises, or nothing.

  Args:
    check: is called.
    name: of what is checked, put before the message once.

  >>> def check():
  ...   raise unknown('method', 'ntl', ['ntk'])
  >>> print(*caught(check, 'schemes[0]'))
  schemes[0]: unknown method 'ntl': did you mean 'ntk'? Allowed: ntk
  """
  try:
    check()
  except ConfigError as error:
    text = str(error)
    return [f'{name}: {text.removeprefix(f"{name}: ")}' if name else text]
  return []
