"""A training run from its config: data, devices, parameters, the loop."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from ntk_jax import __version__
from ntk_jax.checkpoint import write_atomic
from ntk_jax.config import to_plain
from ntk_jax.data.pipeline import Batches, Pipeline
from ntk_jax.metrics import (
  Progress,
  TensorBoard,
  Throughput,
  flops_per_token,
)
from ntk_jax.model.params import active_parameter_count, init_params
from ntk_jax.sharding import make_mesh
from ntk_jax.step import StepConfig, TrainState, init_state, state_shardings
from ntk_jax.train.loop import Lines, Loop, Stream, Trained, fit
from ntk_jax.train.settings import TrainConfig


@dataclasses.dataclass(frozen=True)
class PackedSource:
  """A pipeline as the loop reads it."""

  pipeline: Pipeline

  @property
  def length(self) -> int:
    """Tokens of a row."""
    return self.pipeline.config.max_length

  def stream(self, state: dict[str, Any] | None) -> Batches:
    """From the first row, or from where a stream stood."""
    if state is None:
      return self.pipeline.batches()
    return self.pipeline.restore(state)


def run(config: TrainConfig, workdir: str | Path) -> Trained:
  """Trains, goes on with, or reads the finished run of a folder.

  Leaves in the workdir: config.json, metrics.jsonl, events for TensorBoard
  and checkpoints.

  Args:
    config: what to do; checked first, before any work.
    workdir: where to keep the run; the same one goes on with it.

  Raises:
    ConfigError: for wrong settings, all at once; for text that cannot be
      read; for a workdir of another run.
    NumericsError: if training failed.
    Stopped: after a signal, once everything is saved.
  """
  hosts, host = jax.process_count(), jax.process_index()
  config.validate(jax.device_count(), hosts)
  data = dataclasses.replace(config.data, vocab=config.model.vocab)
  pipeline = Pipeline.of(data, host=host, hosts=hosts)
  mesh = make_mesh(config.mesh) if config.mesh.size > 1 else None
  folder = Path(workdir)
  about = {
    'model': to_plain(config.model),
    'schemes': to_plain(config.schemes),
    'data': {'fingerprint': pipeline.fingerprint},
  }
  loop = Loop(
    config.step,
    config.optimizer.learning_rate,
    config.save_every,
    config.keep,
    config.log_every,
    mesh,
  )
  watch = _Watch(config, pipeline, folder, leads=host == 0)
  try:
    return fit(
      functools.partial(initial_state, config.step, config.seed, mesh),
      config.build_schemes(),
      PackedSource(pipeline),
      loop,
      folder=folder,
      about=about,
      observe=watch,
    )
  finally:
    watch.close()


def initial_state(
  config: StepConfig, seed: int, mesh: Mesh | None
) -> TrainState:
  """A state drawn where it lives: no device ever holds all of it."""
  model = config.objective.model

  def make() -> TrainState:
    return init_state(init_params(jax.random.key(seed), model), config)

  if mesh is None:
    return jax.jit(make)()
  places = state_shardings(jax.eval_shape(make), config, mesh)
  return jax.jit(make, out_shardings=places)()


class _Watch:
  """What is shown and recorded of every step besides its own metrics."""

  def __init__(
    self, config: TrainConfig, pipeline: Pipeline, folder: Path, leads: bool
  ) -> None:
    self._config, self._pipeline = config, pipeline
    self._folder, self._leads = folder, leads
    data, model = config.data, config.model
    self._tokens = data.batch_rows * data.max_length
    device = jax.devices()[0].device_kind
    self._speed = Throughput(device, jax.device_count())
    windows = [config.schemes[number].window for number in model.plan]
    looked_up = 0 if model.tied else model.vocab * model.dim
    self._flops = flops_per_token(
      active_parameter_count(model) - looked_up,
      model.heads * model.head_dim,
      data.max_length,
      windows,
    )
    self._board: TensorBoard | None = None
    self._progress: Progress | None = None
    self._compiled = False

  def __call__(self, steps: range, lines: Lines, stream: Stream) -> None:
    """Adds to the lines of some steps, and shows them."""
    if self._compiled:
      tokens = len(steps) * self._tokens
      lines[-1].update(self._speed.measure(tokens, self._flops))
    else:  # the first ones waited for the compiler: no measure of speed
      self._begin(steps[0])
      self._speed.restart()
      self._compiled = True
    rows = self._config.data.batch_rows
    for step, line in zip(steps, lines):
      # Counted from the stream: an earlier session may have had other batches.
      row = stream.state()['row'] - (steps[-1] - step) * rows
      line['learning_rate'] = self._config.optimizer.learning_rate(step)
      line['epoch'] = self._pipeline.epochs(row)
      line['tokens'] = float(row * self._config.data.max_length)
      if self._board is not None:
        self._board.write(step, line)
    if self._progress is not None:
      tokens = len(steps) * self._tokens
      self._progress.advance(tokens, tokens)

  def close(self) -> None:
    """Ends the line and the events."""
    if self._board is not None:
      self._board.close()
    if self._progress is not None:
      self._progress.close(f'run: {self._folder}')

  def _begin(self, step: int) -> None:
    """At the first step of a session: config.json, events, progress."""
    if not self._leads:
      return
    left = self._config.optimizer.steps - step
    note = {'version': __version__, 'jax': jax.__version__}
    note |= {'corpus': self._pipeline.corpus, 'config': to_plain(self._config)}
    text = json.dumps(note, indent=1)
    write_atomic(self._folder / 'config.json', text.encode())
    self._board = TensorBoard(self._folder / 'events', resume_at=step)
    self._progress = Progress(left * self._tokens)
    self._progress.stage(f'train at {self._config.data.max_length}')
