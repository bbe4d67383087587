"""How often this process has compiled, and for how long, by thread."""

from __future__ import annotations

import functools
import threading
from typing import Any, NamedTuple

import jax

_COMPILED = '/jax/core/compile/backend_compile_duration'


class Compiles(NamedTuple):
  """Compiles of a thread since it was first asked about.

  Attributes:
    count: programs compiled, or read from the persistent cache.
    seconds: that they took.
  """

  count: int = 0
  seconds: float = 0.0


_by_thread: dict[int, Compiles] = {}


def compiles_here() -> Compiles:
  """Of the thread that calls; a difference of two calls is what lay between.

  >>> before = compiles_here()
  >>> _ = jax.jit(lambda x: x * 3.25 - 1)(2.0)
  >>> compiles_here().count - before.count
  1
  """
  _listen()
  return _by_thread.get(threading.get_ident(), Compiles())


@functools.cache
def _listen() -> None:
  listener: Any = _heard  # (of the event, its seconds, and more)
  jax.monitoring.register_event_duration_secs_listener(listener)


def _heard(event: str, seconds: float, **_: Any) -> None:
  if event == _COMPILED:
    thread = threading.get_ident()
    before = _by_thread.get(thread, Compiles())
    _by_thread[thread] = Compiles(before.count + 1, before.seconds + seconds)
