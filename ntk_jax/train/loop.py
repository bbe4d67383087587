"""The loop: a course's inputs to parameters, resumable from a checkpoint."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from ntk_jax.checkpoint import Checkpoints, StopSignals
from ntk_jax.errors import Stopped
from ntk_jax.guard import stop_if_failing
from ntk_jax.metrics.jsonl import read_lines
from ntk_jax.model.params import Params
from ntk_jax.objective import control_specs, scheme_specs
from ntk_jax.sharding import batch_spec, place_local
from ntk_jax.step import (
  StepConfig,
  TrainState,
  state_shardings,
  train_step,
)
from ntk_jax.train.ahead import Ahead
from ntk_jax.train.course import Course, Inputs
from ntk_jax.train.kept import Kept
from ntk_jax.train.log import Log, Observe, Taken
from ntk_jax.train.spent import Spent

METRICS, STEPS, KEPT = 'metrics.jsonl', 'checkpoints', 'kept'
_LOSSES = 'text', 'answers'


@dataclasses.dataclass(frozen=True)
class Loop:
  """How a run goes.

  Attributes:
    step: what is compiled.
    steps: of the run.
    save_every: steps between checkpoints; the last step is always saved.
    keep: newest checkpoints that stay.
    log_every: steps whose metrics are fetched together; a device is not
      waited for in between, unless the course depends on them.
    mesh: the devices, or None for one.
    compile_ahead: whether the next program is compiled while one trains.
  """

  step: StepConfig
  steps: int
  save_every: int
  keep: int = 2
  log_every: int = 1
  mesh: Mesh | None = None
  compile_ahead: bool = True


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


def fit(
  start: Callable[[], TrainState],
  course: Course,
  loop: Loop,
  *,
  folder: Path,
  frozen: Params | None = None,
  about: dict[str, Any] | None = None,
  observe: Observe = lambda steps, lines: None,
) -> Trained:
  """Trains, or goes on from `folder`, or reads the finished run from it.

  Args:
    start: makes the state of step 0, on the mesh's devices if there is one;
      where there is a checkpoint only its shapes are asked.
    course: what each step is given.
    loop: how the run goes.
    folder: gets `checkpoints` and `metrics.jsonl`, one line per step, and
      `kept` if the course may go back.
    frozen: parameters that no step changes and no checkpoint holds.
    about: what the run is, in sections; a checkpoint of another is refused.
    observe: called whenever metrics are fetched, with the steps that they
      are of and the line of each, to which it may add numbers.

  Returns:
    The trained parameters with what was measured.

  Raises:
    NumericsError: if too many steps in a row were refused.
    CheckpointError: if no checkpoint is whole, of another run, or cannot be
      written.
    Stopped: after SIGTERM or Ctrl-C, once everything is saved.
  """
  shapes = _shapes(start, loop)
  with (
    StopSignals() as stop,
    Checkpoints(folder / STEPS, keep=loop.keep, run=about) as checkpoints,
    Kept(folder / KEPT, about) as kept,
  ):
    found = checkpoints.restore(shapes)
    first, state, was = 0, None, {}
    if found is not None:
      first, state, was = found.step, found.tree, found.about
    spent = Spent(was)
    log = Log(folder / METRICS, first, loop.log_every, course, observe, spent)
    static = {'config': loop.step, 'mesh': loop.mesh}
    ahead = Ahead(train_step, static, loop.compile_ahead)
    tools = _Tools(stop, checkpoints, kept, ahead, log, spent)
    course.open(was.get('data'))
    try:
      state = start() if state is None else state
      state, seconds = _advance(state, first, course, loop, frozen, tools)
    finally:
      course.close()
      tools.ahead.close()
      log.close()
  lines = read_lines(folder / METRICS)
  text, answers = ([_bits(line[n]) for line in lines] for n in _LOSSES)
  seconds = was['seconds'] if seconds is None else seconds
  return Trained(state.params, seconds, text, answers)


class _Tools(NamedTuple):
  """What a session has open."""

  stop: StopSignals
  checkpoints: Checkpoints
  kept: Kept
  ahead: Ahead
  log: Log
  spent: Spent


def _advance(
  state: TrainState,
  first: int,
  course: Course,
  loop: Loop,
  frozen: Params | None,
  tools: _Tools,
) -> tuple[TrainState, float | None]:
  """Steps from `first` to the last; the seconds that were saved last."""
  seconds = None
  for step in range(first, loop.steps):
    given = course.given(step)
    if given.back:
      state = tools.kept.back(step, state)
    if given.keep:
      tools.kept.keep(step, state)
    inputs = _placed(given.inputs, loop.mesh)
    (state, metrics), waited = tools.ahead.run(state, inputs, frozen)
    later = course.ahead(step)
    if later is not None:
      tools.ahead.prepare(state, _placed(later, loop.mesh), frozen)
    done = step + 1
    stopping = tools.stop.agreed(done)
    saving = stopping or done == loop.steps or done % loop.save_every == 0
    taken = Taken(metrics, given.note, waited)
    if tools.log.add(step, taken, state.params, saving or course.due(done)):
      stop_if_failing(state.guard, step, loop.step.guard)
    if saving or course.turns(done):
      spent = tools.spent.kept()
      seconds = spent['seconds']
      tools.checkpoints.save(done, state, spent | {'data': course.state()})
    if stopping:
      tools.checkpoints.wait()
      raise Stopped(done, tools.stop.exit_code)
  return state, seconds


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


def _placed(inputs: Inputs, mesh: Mesh | None) -> Inputs:
  """This host's rows as a part of the global batch."""
  if mesh is None:
    return inputs
  batch, schemes, rate, controls = inputs
  several = controls is not None and controls.plan is not None
  return (
    place_local(batch, jax.tree.map(batch_spec, batch), mesh),
    place_local(schemes, scheme_specs(schemes, several), mesh),
    rate,
    place_local(controls, control_specs(controls), mesh),
  )


def _bits(nats: float | None) -> float:
  return float('nan') if nats is None else round(nats / math.log(2.0), 5)
