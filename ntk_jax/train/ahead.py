"""Training steps whose programs are compiled before they are needed.

A program is compiled once for the shapes of its inputs. The next ones are
named while the current one trains, and a thread compiles them; what a step
waits for all the same is counted. The program itself is that of `train_step`:
jit finds what the thread compiled, because it was lowered with the places of
the state's arrays too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, NamedTuple

import jax
import numpy as np

from ntk_jax.metrics.compiles import compiles_here
from ntk_jax.model.params import Params
from ntk_jax.step import StepMetrics, TrainState

Key = tuple[Any, ...]


class Waited(NamedTuple):
  """What a step lost to the compiler.

  Attributes:
    compiles: programs that were compiled while it waited.
    seconds: that it waited, for those or for the thread.
    beside: whether the thread was compiling when the step began.
  """

  compiles: int
  seconds: float
  beside: bool


class Ahead:
  """Runs steps, and compiles the programs of later ones beside them."""

  def __init__(
    self,
    step: Callable[..., Any],
    static: Mapping[str, Any],
    background: bool = True,
  ) -> None:
    """Starts nothing.

    Args:
      step: `train_step`, jitted.
      static: its arguments that are compiled in.
      background: whether `prepare` does anything.
    """
    self._step, self._static, self._background = step, static, background
    self._thread = ThreadPoolExecutor(1, 'compile')
    self._known: dict[Key, Future[None]] = {}

  def prepare(
    self, state: TrainState, inputs: tuple[Any, ...], frozen: Params | None
  ) -> bool:
    """Compiles for inputs of these shapes, in the background.

    Args:
      state: the state that steps change; only its shapes and places are read.
      inputs: what `run` would take.
      frozen: as there.

    Returns:
      Whether a compile was started.
    """
    key = _shapes(inputs)
    if not self._background or key in self._known:
      return False
    asked = jax.tree.map(_shape, (state, inputs, frozen))
    self._known[key] = self._thread.submit(self._compile, *asked)
    return True

  def run(
    self, state: TrainState, inputs: tuple[Any, ...], frozen: Params | None
  ) -> tuple[tuple[TrainState, StepMetrics], Waited]:
    """One step, and what it waited for.

    Args:
      state: donated.
      inputs: batch, schemes, learning rate and controls.
      frozen: parameters that are not trained.
    """
    key, began = _shapes(inputs), time.monotonic()
    beside = any(not future.done() for future in self._known.values())
    if key in self._known:
      wait([self._known[key]])  # its error, if any, comes up in the call
    else:
      self._known[key] = _done()
    waited, before = time.monotonic() - began, compiles_here().count
    after = self._call(state, inputs, frozen)
    compiled = compiles_here().count - before
    if compiled:
      waited = time.monotonic() - began
    return after, Waited(compiled, waited, beside)

  def close(self) -> None:
    """Ends the thread: after the compile that it is at, if any."""
    self._thread.shutdown(cancel_futures=True)

  def _call(self, state: Any, inputs: Any, frozen: Any) -> Any:
    batch, schemes, rate, controls = inputs
    given = {'controls': controls, 'frozen': frozen, **self._static}
    return self._step(state, batch, schemes, rate, **given)

  def _compile(self, state: Any, inputs: Any, frozen: Any) -> None:
    batch, schemes, rate, controls = inputs
    given = {'controls': controls, 'frozen': frozen, **self._static}
    lower: Any = getattr(self._step, 'lower')  # noqa: B009 (of jit)
    lower(state, batch, schemes, rate, **given).compile()


def _done() -> Future[None]:
  future: Future[None] = Future()
  future.set_result(None)
  return future


def _shapes(inputs: Any) -> Key:
  """What tells programs apart: structure, shapes and dtypes."""
  leaves, structure = jax.tree.flatten(inputs)
  return structure, tuple((np.shape(x), x.dtype) for x in leaves)


def _shape(x: Any) -> Any:
  """An array's shape, and its place where it has been put there."""
  placed = isinstance(x, jax.Array) and x.committed
  return jax.ShapeDtypeStruct(
    np.shape(x), x.dtype, sharding=x.sharding if placed else None
  )
