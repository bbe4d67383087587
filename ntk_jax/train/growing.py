"""The course of a run whose length grows: rows, schemes, rates by its stage.

The schedule decides the length that a sequence may have; the sampling which
rows of a step have it; the row shape that holds it is a bucket, so that one
program serves every length within. What comes out is a function of the
schedule's state, which the checkpoint keeps, the step and the data.
"""

from __future__ import annotations

import collections
from collections.abc import Mapping
from typing import Any

import numpy as np

from ntk_jax.curriculum.clock import Clock, done
from ntk_jax.curriculum.stage import Stage
from ntk_jax.data.batch import NO_TARGET, Batch
from ntk_jax.data.pipeline import Batches, Pipeline
from ntk_jax.evaluation.probes import PROBES, Probes
from ntk_jax.model.params import Params
from ntk_jax.model.transformer import Controls
from ntk_jax.train.course import Given, Inputs
from ntk_jax.train.regularised import regularised
from ntk_jax.train.stages import Shape, Stages


class Growing:
  """A course with a length schedule, sampled rows, and what regularises."""

  def __init__(
    self, stages: Stages, pipeline: Pipeline, probes: Probes | None
  ) -> None:
    """Opens nothing.

    Args:
      stages: the settings, resolved.
      pipeline: rows.
      probes: measures held-out text, or None.
    """
    self._stages, self._pipeline, self._probes = stages, pipeline, probes
    self._schedule = stages.schedule
    self._growth: dict[str, Any] = self._schedule.start()
    self._tokens, self._attempt = 0, 0
    self._clocks: collections.deque[Clock] = collections.deque()
    self._announced: set[Shape] = set()
    self._stream: Batches | None = None

  def open(self, state: dict[str, Any] | None) -> None:
    """From the first row, or from where it stood."""
    if state is None:
      self._stream = self._pipeline.batches()
      return
    self._stream = self._pipeline.restore(state['data'])
    self._growth, self._tokens = state['growth'], state['tokens']
    self._attempt = state['attempt']

  def state(self) -> dict[str, Any]:
    """Where the data, the schedule and its back-offs stand."""
    return {
      'data': self._opened.state(),
      'growth': self._growth,
      'tokens': self._tokens,
      'attempt': self._attempt,
    }

  def close(self) -> None:
    """Stops what reads ahead."""
    if self._stream is not None:
      self._stream.close()

  def given(self, step: int) -> Given:
    """The next rows, at the length of the schedule."""
    stage, rows = self._stage, self._stages.rows(self._stage, step)
    batch = self._opened.read(rows)
    inputs = self._inputs(batch, stage, step)
    tokens = self._stages.tokens_of(rows)
    self._tokens += tokens
    note = {
      'learning_rate': float(inputs[2]),
      'length': stage.length,
      'row_length': rows.length,
      'rows': tokens // rows.length,
      'tokens': self._tokens,
      'epoch': self._pipeline.epochs(self._opened.row),
    }
    back = stage.attempt > self._attempt
    self._attempt = stage.attempt
    self._tick(Clock(step + 1, self._tokens))
    return Given(inputs, note, self._keeps(stage, step), back)

  def ahead(self, step: int) -> Inputs | None:
    """Inputs of a row shape that comes next, once for each."""
    stage = self._stage
    later = self._schedule.upcoming(self._growth)
    for shape, at in self._stages.shapes_ahead(stage, later, step + 1):
      if shape not in self._announced:
        self._announced.add(shape)
        return self._example(shape[0], at)
    return None

  def due(self, done: int) -> bool:
    """At the schedule's checks, and where held-out text is measured."""
    return self._checks(done) or self._measures(done)

  def measure(self, done: int, params: Params) -> dict[str, float]:
    """Held-out text and retrieval, if it is time or decided by now."""
    decides = self._checks(done) and {*PROBES} & {*self._schedule.watches}
    if self._probes is None or not (decides or self._measures(done)):
      return {}
    length = self._stage.length
    later = self._schedule.upcoming(self._growth)
    schemes = self._stages.schemes
    after = None if later is None else schemes(later)
    return self._probes(params, schemes(length), length, later, after)

  def learn(self, step: int, line: Mapping[str, Any]) -> None:
    """Advances a schedule that watches measurements."""
    if self._clocks:
      measured = {name: float(x) for name, x in line.items()}
      clock = self._clocks.popleft()
      self._growth = self._schedule.advance(self._growth, clock, measured)

  def turns(self, done: int) -> bool:
    """A growth that may be gone back on is saved first."""
    return self._keeps(self._stage, done)

  @property
  def _opened(self) -> Batches:
    assert self._stream is not None
    return self._stream

  @property
  def _stage(self) -> Stage:
    return self._schedule.stage(self._growth)

  def _tick(self, clock: Clock) -> None:
    """A step is given: by the clock alone, the schedule may go on at once."""
    if self._schedule.check_every:
      self._clocks.append(clock)
    else:
      self._growth = self._schedule.advance(self._growth, clock, {})

  def _keeps(self, stage: Stage, step: int) -> bool:
    grown = stage.begun == step > 0 and stage.length > stage.before
    return grown and self._schedule.backs_off

  def _checks(self, done: int) -> bool:
    """Whether the schedule decides now."""
    every = self._schedule.check_every
    return bool(every and done % every == 0)

  def _measures(self, done: int) -> bool:
    """Whether the settings ask for held-out text now."""
    every = self._stages.config.probe.every
    return bool(every and done % every == 0)

  def _inputs(self, batch: Batch, stage: Stage, step: int) -> Inputs:
    """A step's inputs, of its rows."""
    stages, settings = self._stages, self._stages.config.regularize
    share = done(Clock(step, self._tokens), stages.run, 'fraction')
    first = self._pipeline.host * len(batch.tokens)
    batch, controls = regularised(
      settings, batch, fraction=share, step=step, first_row=first
    )
    arrays, choice = stages.arrays(stage.length, batch)
    if choice is not None:
      controls = (controls or Controls())._replace(plan=choice)
    if 'near' in self._schedule.watches:
      near = np.int32(stage.before)
      controls = (controls or Controls())._replace(near=near)
    return batch, arrays, np.float32(stages.rate(stage, step)), controls

  def _example(self, row: int, step: int) -> Inputs:
    """Inputs of a row shape as a step will have them, of no meaning."""
    shape = self._stages.host_rows(row, self._pipeline.hosts), row
    nothing = np.zeros(shape, np.int32)
    batch = Batch(
      nothing,
      np.full(shape, NO_TARGET, np.int32),
      np.zeros(shape, np.float32),
      np.zeros(shape, np.bool_),
      np.broadcast_to(np.arange(row, dtype=np.int32), shape),
      nothing + 1,
    )
    return self._inputs(batch, self._stage, step)
