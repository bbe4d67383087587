"""The loop: batches to parameters, resumable from its last checkpoint."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from ntk_jax.checkpoint import Checkpoints, StopSignals
from ntk_jax.data.batch import Batch
from ntk_jax.errors import Stopped
from ntk_jax.guard import stop_if_failing
from ntk_jax.metrics.jsonl import JsonLines, read_lines
from ntk_jax.model.params import Params
from ntk_jax.objective import scheme_specs
from ntk_jax.optimizer import Schedule
from ntk_jax.scheme import Scheme, SchemeArrays
from ntk_jax.sharding import batch_spec, place_local
from ntk_jax.step import (
  StepConfig,
  StepMetrics,
  TrainState,
  state_shardings,
  train_step,
)
from ntk_jax.typing import NDArray

METRICS, STEPS = 'metrics.jsonl', 'checkpoints'
_LOSSES = 'text', 'answers'


class Stream(Protocol):
  """Batches in order, and where it stands among them."""

  def __next__(self) -> Batch: ...

  def state(self) -> dict[str, Any]:
    """JSON-able; `Source.stream` goes on from it."""
    ...

  def close(self) -> None:
    """Stops what reads ahead."""
    ...


class Source(Protocol):
  """Where batches come from: the same ones for the same state."""

  @property
  def length(self) -> int:
    """Tokens of a row."""
    ...

  def stream(self, state: dict[str, Any] | None) -> Stream:
    """From the start, or from where a stream stood."""
    ...


@dataclasses.dataclass(frozen=True)
class Loop:
  """How a run goes.

  Attributes:
    step: what is compiled.
    schedule: learning rate by step, and how many steps.
    save_every: steps between checkpoints; the last step is always saved.
    keep: newest checkpoints that stay.
    log_every: steps whose metrics are fetched together; a device is not
      waited for in between.
    mesh: the devices, or None for one.
  """

  step: StepConfig
  schedule: Schedule
  save_every: int
  keep: int = 2
  log_every: int = 1
  mesh: Mesh | None = None


class Trained(NamedTuple):
  """The end of a run.

  Attributes:
    params: the parameters, where the run had them.
    seconds: wall time of all its sessions together.
    text_loss: bits per token of every step.
    retrieval_loss: bits per question of every step.
  """

  params: Params
  seconds: float
  text_loss: list[float]
  retrieval_loss: list[float]


Lines = Sequence[dict[str, Any]]
Observe = Callable[[range, Lines, Stream], None]


def fit(
  start: Callable[[], TrainState],
  schemes: Sequence[Scheme],
  source: Source,
  loop: Loop,
  *,
  folder: Path,
  frozen: Params | None = None,
  about: dict[str, Any] | None = None,
  observe: Observe = lambda steps, lines, stream: None,
) -> Trained:
  """Trains, or goes on from `folder`, or reads the finished run from it.

  Args:
    start: makes the state of step 0, on the mesh's devices if there is one;
      where there is a checkpoint only its shapes are asked.
    schemes: how positions enter, one for each number of the layer plan.
    source: batches.
    loop: how the run goes.
    folder: gets `checkpoints` and `metrics.jsonl`, one line per step.
    frozen: parameters that no step changes and no checkpoint holds.
    about: what the run is, in sections; a checkpoint of another is refused.
    observe: called whenever metrics are fetched, with the steps that they
      are of, the line of each, to which it may add numbers, and the stream,
      which stands behind the last of them.

  Returns:
    The trained parameters with what was measured.

  Raises:
    NumericsError: if too many steps in a row were refused.
    CheckpointError: if no checkpoint is whole, of another run, or cannot be
      written.
    Stopped: after SIGTERM or Ctrl-C, once everything is saved.
  """
  with (
    StopSignals() as stop,
    Checkpoints(folder / STEPS, keep=loop.keep, run=about) as checkpoints,
  ):
    found = checkpoints.restore(_shapes(start, loop))
    if found is None:
      first, state, seconds, position = 0, start(), 0.0, None
    else:
      first, state = found.step, found.tree
      seconds, position = found.about['seconds'], found.about['data']
    log = _Log(folder / METRICS, first, loop.log_every, observe)
    began = time.monotonic() - seconds
    stream = source.stream(position)
    try:
      arrays = _Arrays(schemes, source.length, loop.mesh)
      for step in range(first, loop.schedule.steps):
        batch = next(stream)
        state, metrics = train_step(
          state,
          _placed(batch, loop.mesh),
          arrays(batch.positions),
          np.float32(loop.schedule(step)),
          frozen=frozen,
          config=loop.step,
          mesh=loop.mesh,
        )
        done = step + 1
        stopping = stop.agreed(done)
        last = stopping or done == loop.schedule.steps
        saving = last or done % loop.save_every == 0
        if log.add(step, metrics, stream, now=saving):
          stop_if_failing(state.guard, step, loop.step.guard)
        if saving:
          seconds = time.monotonic() - began
          kept = {'seconds': seconds, 'data': stream.state()}
          checkpoints.save(done, state, kept)
        if stopping:
          checkpoints.wait()
          raise Stopped(done, stop.exit_code)
    finally:
      stream.close()
      log.close()
  lines = read_lines(folder / METRICS)
  text, answers = ([_bits(line[n]) for line in lines] for n in _LOSSES)
  return Trained(state.params, seconds, text, answers)


def _shapes(start: Callable[[], TrainState], loop: Loop) -> TrainState:
  """Shapes of a state, and where its arrays live on a mesh."""
  shapes = jax.eval_shape(start)
  if loop.mesh is None:
    return shapes
  return jax.tree.map(
    lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
    shapes,
    state_shardings(shapes, loop.step, loop.mesh),
  )


class _Log:
  """Metrics of steps, fetched some at a time and written by one process."""

  def __init__(
    self, path: Path, start: int, every: int, observe: Observe
  ) -> None:
    self._lines = JsonLines(path) if jax.process_index() == 0 else None
    if self._lines is not None:
      self._lines.truncate_to(start)
    self._every, self._observe = every, observe
    self._pending: list[StepMetrics] = []

  def add(
    self, step: int, metrics: StepMetrics, stream: Stream, now: bool
  ) -> bool:
    """Whether the step's metrics have been fetched."""
    self._pending.append(metrics)
    if not now and len(self._pending) < self._every:
      return False
    lines = [_line(values) for values in jax.device_get(self._pending)]
    steps = range(step + 1 - len(lines), step + 1)
    self._observe(steps, lines, stream)
    if self._lines is not None:
      for number, line in zip(steps, lines):
        self._lines.write(number, line)
    self._pending = []
    if now and self._lines is not None:
      self._lines.sync()  # a checkpoint never knows more than the lines
    return True

  def close(self) -> None:
    if self._lines is not None:
      self._lines.close()


def _line(metrics: StepMetrics) -> dict[str, Any]:
  """The scalars of a step by name; groups of gradients as `grad/name`."""
  line = {
    name: getattr(metrics, name)
    for name in ('loss', 'text', 'answers', 'grad_norm')
  }
  line['skipped'] = 1 - int(metrics.good)
  return line | {f'grad/{name}': n for name, n in metrics.groups.items()}


class _Arrays:
  """Arrays of the schemes for a batch's positions, made once if they can."""

  def __init__(
    self, schemes: Sequence[Scheme], length: int, mesh: Mesh | None
  ) -> None:
    self._schemes, self._length, self._mesh = schemes, length, mesh
    self._plain: tuple[SchemeArrays, ...] | None = None

  def __call__(self, positions: NDArray | None) -> tuple[SchemeArrays, ...]:
    varies = any(scheme.temperature is not None for scheme in self._schemes)
    if positions is None or not varies:
      if self._plain is None:
        self._plain = self._make(np.arange(self._length))
      return self._plain
    return self._make(positions)

  def _make(self, positions: NDArray) -> tuple[SchemeArrays, ...]:
    made = tuple(s.arrays(self._length, positions) for s in self._schemes)
    if self._mesh is None:
      return made
    return place_local(made, scheme_specs(made), self._mesh)


def _placed(batch: Batch, mesh: Mesh | None) -> Batch:
  """This host's rows as a part of the global batch."""
  if mesh is None:
    return batch
  return place_local(batch, jax.tree.map(batch_spec, batch), mesh)


def _bits(nats: float | None) -> float:
  return float('nan') if nats is None else round(nats / math.log(2.0), 5)
