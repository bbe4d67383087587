"""What is shown and recorded of every step besides its own metrics."""

from __future__ import annotations

import json
from pathlib import Path

import jax

from ntk_jax import __version__
from ntk_jax.checkpoint import write_atomic
from ntk_jax.config import to_plain
from ntk_jax.data.pipeline import Pipeline
from ntk_jax.metrics import (
  Progress,
  TensorBoard,
  Throughput,
  flops_per_token,
)
from ntk_jax.model.params import active_parameter_count
from ntk_jax.train.log import Lines
from ntk_jax.train.settings import TrainConfig


class Watch:
  """Speed, events for TensorBoard, and a line of progress."""

  def __init__(
    self, config: TrainConfig, pipeline: Pipeline, folder: Path, leads: bool
  ) -> None:
    """Shows and writes nothing yet.

    Args:
      config: of the run.
      pipeline: its data.
      folder: where the run is.
      leads: whether this process shows and writes.
    """
    self._config, self._pipeline = config, pipeline
    self._folder, self._leads = folder, leads
    device = jax.devices()[0].device_kind
    self._speed = Throughput(device, jax.device_count())
    self._step_tokens = config.data.batch_rows * config.data.max_length
    self._board: TensorBoard | None = None
    self._progress: Progress | None = None
    self._begun, self._length = False, 0

  def __call__(self, steps: range, lines: Lines) -> None:
    """Adds to the lines of some steps, and shows them."""
    if not self._begun:
      self._begin(steps[0])
    tokens = sum(line['rows'] * line['row_length'] for line in lines)
    if any(line['compiles'] for line in lines):
      self._speed.restart()  # what waits for the compiler measures no speed
    else:
      flops = self._flops(lines[-1]['length'])
      lines[-1].update(self._speed.measure(tokens, flops))
    for step, line in zip(steps, lines):
      if self._board is not None:
        self._board.write(step, line)
    self._show(lines[-1]['length'], len(steps), tokens)

  def close(self) -> None:
    """Ends the line and the events."""
    if self._board is not None:
      self._board.close()
    if self._progress is not None:
      self._progress.close(f'run: {self._folder}')

  def _begin(self, step: int) -> None:
    """At the first step of a session: config.json, events, progress."""
    self._begun = True
    if not self._leads:
      return
    left = self._config.optimizer.steps - step
    note = {'version': __version__, 'jax': jax.__version__}
    note |= {'corpus': self._pipeline.corpus, 'config': to_plain(self._config)}
    text = json.dumps(note, indent=1)
    write_atomic(self._folder / 'config.json', text.encode())
    self._board = TensorBoard(self._folder / 'events', resume_at=step)
    self._progress = Progress(left * self._step_tokens)

  def _show(self, length: int, steps: int, tokens: int) -> None:
    if self._progress is None:
      return
    if length != self._length:
      self._length = length
      self._progress.stage(f'train at {length}')
    self._progress.advance(steps * self._step_tokens, tokens)

  def _flops(self, length: int) -> float:
    """Of a token, by formula."""
    config, model = self._config, self._config.model
    windows = [
      config.schemes_at(length)[number].window for number in model.plan
    ]
    looked_up = 0 if model.tied else model.vocab * model.dim
    return flops_per_token(
      active_parameter_count(model) - looked_up,
      model.heads * model.head_dim,
      length,
      windows,
    )
