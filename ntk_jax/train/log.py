"""The lines of a run: metrics of steps, fetched some at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from ntk_jax.metrics.jsonl import JsonLines
from ntk_jax.model.params import Params
from ntk_jax.step import StepMetrics
from ntk_jax.train.ahead import Waited
from ntk_jax.train.course import Course
from ntk_jax.train.spent import Spent

Lines = Sequence[dict[str, Any]]
Observe = Callable[[range, Lines], None]
SCALARS = 'loss', 'text', 'answers', 'near', 'grad_norm'


class Taken(NamedTuple):
  """What a step leaves to be written.

  Attributes:
    metrics: on the device.
    note: of the course.
    waited: for the compiler.
  """

  metrics: StepMetrics
  note: Mapping[str, float]
  waited: Waited


class Log:
  """Lines of steps, written by one process, learned from by all."""

  def __init__(
    self,
    path: Path,
    start: int,
    every: int,
    course: Course,
    observe: Observe,
    spent: Spent,
  ) -> None:
    """Opens the lines, and drops those of steps that will be taken again.

    Args:
      path: of the lines.
      start: the first step to come.
      every: steps that are fetched together.
      course: is told of every line.
      observe: may add to the lines.
      spent: the run's clocks.
    """
    self._lines = JsonLines(path) if jax.process_index() == 0 else None
    if self._lines is not None:
      self._lines.truncate_to(start)
    self._every, self._spent = every, spent
    self._course, self._observe = course, observe
    self._pending: list[Taken] = []

  def add(self, step: int, taken: Taken, params: Params, now: bool) -> bool:
    """Whether the step's metrics have been fetched.

    Args:
      step: its number.
      taken: what it left.
      params: after the step.
      now: whether to fetch in any case.
    """
    self._pending.append(taken)
    if not now and len(self._pending) < self._every:
      return False
    fetched = jax.device_get([taken.metrics for taken in self._pending])
    lines = [_line(m, t) for m, t in zip(fetched, self._pending)]
    steps = range(step + 1 - len(lines), step + 1)
    lines[-1].update(self._spent.kept())
    with self._spent.aside():
      lines[-1].update(self._course.measure(step + 1, params))
    for number, line in zip(steps, lines):
      self._course.learn(number, line)
    self._observe(steps, lines)
    self._write(steps, lines)
    self._pending = []
    if now and self._lines is not None:
      self._lines.sync()  # a checkpoint never knows more than the lines
    return True

  def close(self) -> None:
    """Closes the lines."""
    if self._lines is not None:
      self._lines.close()

  def _write(self, steps: range, lines: Lines) -> None:
    if self._lines is not None:
      for number, line in zip(steps, lines):
        self._lines.write(number, line)


def _line(metrics: StepMetrics, taken: Taken) -> dict[str, Any]:
  """The scalars of a step by name; groups of gradients as `grad/name`."""
  line = {name: getattr(metrics, name) for name in SCALARS}
  line['skipped'] = 1 - int(metrics.good)
  line |= {f'grad/{name}': n for name, n in metrics.groups.items()}
  line |= dict(taken.note)
  waited = taken.waited
  line['compiles'], line['compile_seconds'] = waited.compiles, waited.seconds
  return line | {'compiling': int(waited.beside)}
