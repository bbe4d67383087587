"""SIGTERM and Ctrl-C end a run between steps, with everything saved.

with StopSignals() as stop, Checkpoints(folder) as checkpoints:
  for step in range(start, steps):
    state = train_step(state)
    if stop.agreed(step):
      checkpoints.save(step + 1, state, about)
      checkpoints.wait()
      print(resume_line(step + 1))
      sys.exit(stop.exit_code)
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import Any

import jax
from jax.experimental import multihost_utils

_INTERRUPTED = 130  # what a shell reports after Ctrl-C


class StopSignals:
  """Turns SIGTERM and SIGINT into a wish to stop; use as a context manager.

  A Ctrl-C after the first signal kills at once, in the middle of a compile too.
  Where a run has several processes, a signal to one of them stops all after the
  same step: JAX's preemption service carries it, so jax.distributed must be
  initialised.

  Attributes:
    signal: the first signal that came, None before.
  """

  def __init__(self) -> None:
    """Nothing has come yet."""
    self.signal: signal.Signals | None = None
    self._before: dict[signal.Signals, Any] = {}

  @property
  def requested(self) -> bool:
    """Whether this process was asked to stop."""
    return self.signal is not None

  @property
  def exit_code(self) -> int:
    """130 after Ctrl-C; 0 after SIGTERM, which a scheduler sends."""
    return _INTERRUPTED if self.signal == signal.SIGINT else 0

  def agreed(self, step: int) -> bool:
    """Whether to stop after this step; all processes get the same answer."""
    if jax.process_count() == 1:
      return self.requested
    return multihost_utils.reached_preemption_sync_point(step)

  def __enter__(self) -> StopSignals:
    """Takes the signals over; only the main thread can."""
    taken = [signal.SIGINT]
    if jax.process_count() == 1:  # else SIGTERM is the preemption service's
      taken.append(signal.SIGTERM)
    for number in taken:
      self._before[number] = signal.signal(number, self._heard)
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    """Gives the signals back."""
    while self._before:
      signal.signal(*self._before.popitem())

  def _heard(self, number: int, frame: FrameType | None) -> None:
    # The kernel's answer to the next: a handler would wait for native code.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    self.signal = self.signal or signal.Signals(number)
    # Not print: it fails if the signal came in the middle of one.
    os.write(2, b'\nstopping after this step; Ctrl-C stops at once\n')
    if jax.process_count() > 1 and number == signal.SIGINT:
      signal.raise_signal(signal.SIGTERM)


def resume_line(step: int, command: Sequence[str] | None = None) -> str:
  """What to tell a user whose run was stopped.

  Args:
    step: steps done and saved.
    command: the words of the command; those of this process by default.

  >>> print(resume_line(40, ['python', '-m', 'experiments.train', '--run=a b']))
  stopped and saved after step 40; to go on, run the same command:
    python -m experiments.train '--run=a b'
  """
  words = shlex.join(sys.orig_argv if command is None else command)
  return f'stopped and saved after step {step}; to go on, run the same ' + (
    f'command:\n  {words}'
  )
