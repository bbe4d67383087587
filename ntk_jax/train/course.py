"""What each step of a run is given: rows, schemes, learning rate, controls.

The loop asks a course for the inputs of one step after the other, and tells it
what was measured. `Plain` is the course of a run that never changes; that of a
run whose length grows is in `growing.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from ntk_jax.data.batch import Batch
from ntk_jax.model.params import Params
from ntk_jax.model.transformer import Controls
from ntk_jax.optimizer import Schedule
from ntk_jax.scheme import Scheme, SchemeArrays
from ntk_jax.typing import NDArray

# The inputs of a step as `train_step` takes them, on the host.
Inputs = tuple[Batch, tuple[SchemeArrays, ...], np.float32, Controls | None]


class Given(NamedTuple):
  """What a step is given.

  Attributes:
    inputs: batch (this host's rows), schemes, learning rate and controls.
    note: numbers for the step's line.
    keep: whether the state before this step must be kept, to go back to.
    back: whether to go back to the state that was kept last.
  """

  inputs: Inputs
  note: Mapping[str, float]
  keep: bool = False
  back: bool = False


class Course(Protocol):
  """What a run is given, step by step. Its state is JSON-able."""

  def open(self, state: dict[str, Any] | None) -> None:
    """From the start, or from where a course stood."""
    ...

  def given(self, step: int) -> Given:
    """The inputs of the next step."""
    ...

  def ahead(self, step: int) -> Inputs | None:
    """Inputs of the shapes that come after the present ones, if others do."""
    ...

  def due(self, done: int) -> bool:
    """Whether the next step depends on what is measured up to here."""
    ...

  def measure(self, done: int, params: Params) -> dict[str, float]:
    """What is to be measured now, beside the steps' own numbers."""
    ...

  def learn(self, step: int, line: Mapping[str, Any]) -> None:
    """Takes in what was measured of a step; called for each, in order."""
    ...

  def turns(self, done: int) -> bool:
    """Whether to save now, as the state after these steps will be kept."""
    ...

  def state(self) -> dict[str, Any]:
    """Where it stands; `open` goes on from it."""
    ...

  def close(self) -> None:
    """Stops what reads ahead."""
    ...


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


class Plain:
  """Rows of one length under the same schemes, from the first step on."""

  def __init__(
    self, schemes: Sequence[Scheme], source: Source, schedule: Schedule
  ) -> None:
    """Opens nothing.

    Args:
      schemes: one for each number of the layer plan.
      source: batches.
      schedule: the learning rate of a step.
    """
    self._source, self._schedule = source, schedule
    self._arrays = Arrays(schemes)
    self._stream: Stream | None = None

  def open(self, state: dict[str, Any] | None) -> None:
    """Starts the stream of batches."""
    self._stream = self._source.stream(state)

  def given(self, step: int) -> Given:
    """The next batch."""
    assert self._stream is not None
    batch, rate = next(self._stream), self._schedule(step)
    arrays = self._arrays(self._source.length, batch.positions)
    inputs = batch, arrays, np.float32(rate), None
    return Given(inputs, {'learning_rate': rate})

  def ahead(self, step: int) -> Inputs | None:
    """Shapes never change."""

  def due(self, done: int) -> bool:
    """Nothing depends on measurements."""
    return False

  def measure(self, done: int, params: Params) -> dict[str, float]:
    """Nothing is."""
    return {}

  def learn(self, step: int, line: Mapping[str, Any]) -> None:
    """Nothing to learn."""

  def turns(self, done: int) -> bool:
    """Nothing is ever gone back to."""
    return False

  def state(self) -> dict[str, Any]:
    """That of the stream."""
    assert self._stream is not None
    return self._stream.state()

  def close(self) -> None:
    """Closes the stream."""
    if self._stream is not None:
      self._stream.close()


class Arrays:
  """Arrays of schemes for a batch's positions, made once where they can be."""

  def __init__(self, schemes: Sequence[Scheme], by_row: bool = False) -> None:
    """Makes none yet.

    Args:
      schemes: one for each number of the layer plan.
      by_row: whether multipliers have a row for each of the batch, though
        these schemes have no temperature: the shapes of those that have.
    """
    self._schemes = tuple(schemes)
    own = any(scheme.temperature is not None for scheme in schemes)
    self._by_row = by_row or own
    self._plain: dict[tuple[int, int], tuple[SchemeArrays, ...]] = {}

  def __call__(
    self, length: int, positions: NDArray | None, row: int | None = None
  ) -> tuple[SchemeArrays, ...]:
    """The arrays.

    Args:
      length: highest position + 1 that a document may have.
      positions: of the rows; None is 0, 1, 2, ...
      row: tokens of a row, where that is not the length.
    """
    if positions is not None and self._by_row:
      return self._make(length, positions)
    key = length, row or length
    if key not in self._plain:
      self._plain[key] = self._make(length, np.arange(key[1]))
    return self._plain[key]

  def _make(self, length: int, positions: NDArray) -> tuple[SchemeArrays, ...]:
    return tuple(s.arrays(length, positions) for s in self._schemes)
