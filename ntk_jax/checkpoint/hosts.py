"""What the processes of one run must do together, or on one of them alone."""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import multihost_utils

from ntk_jax.errors import CheckpointError


def on_leader(action: Callable[[], None]) -> None:
  """Runs on process 0 alone; all wait, and all stop if it failed.

  Raises:
    CheckpointError: on the others, if process 0 raised an error.
  """
  error: Exception | None = None
  if jax.process_index() == 0:
    try:
      action()
    except Exception as raised:
      error = raised
  failed = on_any(error is not None)
  if error is not None:
    raise error
  if failed:
    raise CheckpointError('process 0 stopped: its message says why')


def on_any(flag: bool) -> bool:
  """True on all processes if it is on one of them."""
  if jax.process_count() == 1:
    return flag
  return bool(np.any(multihost_utils.process_allgather(np.array(flag))))
