"""What every command shares: flags, errors as one message, the allocator."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Sequence

import jax
from absl import app, flags, logging

from ntk_jax.checkpoint.interrupt import resume_line
from ntk_jax.errors import ConfigError, NumericsError, Stopped

USAGE_ERROR, FAILED, INTERRUPTED = 2, 1, 130
_CACHE = 'jax_compilation_cache_dir'
# How config flags say that a file or a field is not there.
_NO_SUCH_CONFIG = (OSError, AttributeError, KeyError, TypeError)

# glibc's mallopt: one arena, no mmap, never trimmed. XLA's buffers come and go
# with every step, and by default each costs fresh pages from the kernel.
_MALLOPT = {
  'M_ARENA_MAX': (-8, 1),
  'M_MMAP_MAX': (-4, 0),
  'M_TRIM_THRESHOLD': (-1, 2**31 - 1),
  'M_TOP_PAD': (-2, 2**28),
}


def run(
  main: Callable[..., None],
  define: Callable[[], object] | None = None,
  *,
  positional: bool = False,
) -> None:
  """Parses flags, runs `main`, and turns errors into a message and a code.

  A wrong setting ends with one message and code 2, failed training with code
  1, an interrupt with code 130; none shows a traceback.

  Args:
    main: what to run.
    define: defines flags that look at the command line when they are defined,
      as those of a config file do.
    positional: whether `main` takes what stands on the command line beside
      flags; without, that is an error.
  """
  app.run(
    lambda argv: sys.exit(_guarded(main, argv, positional)),
    flags_parser=lambda argv: _parse(argv, define),
  )


def _parse(
  argv: Sequence[str], define: Callable[[], object] | None
) -> list[str]:
  try:
    if define is not None:
      define()
    return flags.FLAGS(argv)
  except SystemExit:  # absl has shown a help page, and ends with code 1
    sys.exit(0)
  except (flags.Error, *_NO_SUCH_CONFIG) as error:
    text = str(error).replace('\\n', ' ').replace("\\'", "'").strip('"')
    if not isinstance(error, flags.Error):
      text = f'no such field or file: {text}'
    text = _own_words(text)
    _refuse(f'{text}\nPass --help to see what there is.')
    sys.exit(USAGE_ERROR)


def _own_words(text: str) -> str:
  """A ConfigError of a config file without the traceback that flags add."""
  name = f'{ConfigError.__module__}.{ConfigError.__name__}: '
  _, found, words = text.rpartition(name)
  return words.strip() if found else text


def _guarded(
  main: Callable[..., None], argv: Sequence[str], positional: bool
) -> int:
  try:
    if len(argv) > 1 and not positional:
      raise ConfigError(
        f'stray arguments: {" ".join(argv[1:])}; settings are given as '
        '--name=value (see --help)'
      )
    keep_freed_memory()
    if not flags.FLAGS['verbosity'].present:  # orbax tells of every file
      logging.set_verbosity(logging.WARNING)
    main(*argv[1:])
    return 0
  except ConfigError as error:
    _refuse(str(error))
    return USAGE_ERROR
  except NumericsError as error:
    _refuse(str(error))
    return FAILED
  except Stopped as stop:
    print(resume_line(stop.step), file=sys.stderr, flush=True)
    return stop.code
  except KeyboardInterrupt:
    _refuse('interrupted; the same command goes on from the last checkpoint')
    return INTERRUPTED


def cache_compiled(folder: str | os.PathLike[str]) -> None:
  """Keeps compiled programs in a folder, unless the user has named another.

  A run that goes on finds them there: JAX's persistent compilation cache,
  which JAX_COMPILATION_CACHE_DIR moves, and JAX_ENABLE_COMPILATION_CACHE=0
  turns off.
  """
  if getattr(jax.config, _CACHE) is None:
    jax.config.update(_CACHE, os.fspath(folder))


def _refuse(message: str) -> None:
  print(f'error: {message}', file=sys.stderr, flush=True)


def keep_freed_memory() -> bool:
  """Tells glibc to keep freed memory; returns whether it listened.

  A training step on a CPU is 1.1-1.4x faster for it. Elsewhere nothing
  happens.
  """
  if not sys.platform.startswith('linux'):
    return False
  try:
    if not os.confstr('CS_GNU_LIBC_VERSION'):
      return False
    libc = ctypes.CDLL(None)
    heard = [libc.mallopt(key, value) for key, value in _MALLOPT.values()]
    return all(heard)
  except (AttributeError, OSError, ValueError):  # another C library
    return False
