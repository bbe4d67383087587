"""Steps that would spoil a run are skipped: not finite, too large, or a spike.

The judgement and its memory are arrays, so they live inside the jitted step
and go into the checkpoint. A skipped step selects the old values of parameters
and optimizer (`select`); nothing is multiplied by zero, which would turn a NaN
into a NaN. A value that was not accepted never enters the memory, so one bad
step is one skip.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from ntk_jax.errors import ConfigError, NumericsError
from ntk_jax.typing import Array, ArrayLike

Tree = TypeVar('Tree')


@dataclasses.dataclass(frozen=True)
class GuardConfig:
  """When a step is skipped, and when the run stops.

  A step is good if its loss and its gradient norm are both finite, within
  their absolute limit, and no spike. Against n good values before it, of
  mean m and standard deviation s, a value is a spike above

      early * max + slack             while n < settled (if n > 0)
      m + max(sigmas * s, slack)      from then on

  where the slack is `loss_slack` for the loss and `norm_slack * m` for the
  norm: little noise must not make a spike of a harmless step.

  A skipped step leaves the parameters alone. So where `patience` spikes follow
  each other on different batches, it is the data that have changed (or the
  parameters long before): skipping more cannot help. The next value within
  the absolute limits is accepted and the memory starts again from it. A run is
  thus never skipped for ever: values that are not finite or not within the
  limits stop it after `stop_after` skips in a row.

  Attributes:
    window: good values that are remembered.
    sigmas: standard deviations above the mean that make a spike.
    loss_slack: a loss above the mean by less nats than this is no spike.
    norm_slack: a norm above the mean by less than this share of it is no
      spike; clipping tames it.
    settled: good values that it takes to trust their deviation.
    early: multiple of the largest good value that makes a spike before that.
    max_loss: absolute limit in nats, from the first step; None for none.
    max_norm: absolute limit of the norm before clipping; None for none.
    patience: spikes in a row before a new level is accepted.
    stop_after: skips in a row, of whatever kind, that stop the run.
  """

  window: int = 128
  sigmas: float = 6.0
  loss_slack: float = 0.2
  norm_slack: float = 2.0
  settled: int = 32
  early: float = 10.0
  max_loss: float | None = 100.0
  max_norm: float | None = 1e6
  patience: int = 5
  stop_after: int = 10

  def validate(self) -> None:
    """Raises ConfigError, all problems in one message."""
    wrong = []
    if not 2 <= self.settled <= self.window:
      wrong.append(
        f'settled is {self.settled} with a window of {self.window}: at least '
        '2, at most the window'
      )
    if not 1 <= self.patience < self.stop_after:
      wrong.append(
        f'patience is {self.patience} with stop_after {self.stop_after}: at '
        'least 1, and below stop_after'
      )
    for name, least in (
      ('sigmas', 0.0),
      ('loss_slack', 0.0),
      ('norm_slack', 0.0),
      ('early', 1.0),
      ('max_loss', 0.0),
      ('max_norm', 0.0),
    ):
      value = getattr(self, name)
      if value is None and name.startswith('max_'):
        continue
      if not (math.isfinite(value) and value > least):
        wrong.append(f'{name} is {value}, must be finite and above {least:g}')
    if wrong:
      raise ConfigError('guard: ' + '; '.join(wrong))


class GuardState(NamedTuple):
  """What the guard remembers: a part of the train state.

  Attributes:
    losses: float32 ring of good losses [window].
    norms: float32 ring of good gradient norms [window].
    good: int32, values that the rings have taken since they were last empty.
    spikes: int32, spikes in a row.
    in_a_row: int32, skips in a row.
    skipped: int32, skips in all.
    restarts: int32, times that a new level was accepted.
  """

  losses: Array
  norms: Array
  good: Array
  spikes: Array
  in_a_row: Array
  skipped: Array
  restarts: Array


def init_guard(config: GuardConfig) -> GuardState:
  """A guard that has seen nothing."""
  ring = jnp.zeros(config.window, jnp.float32)
  zeros = (jnp.zeros((), jnp.int32) for _ in range(5))
  return GuardState(ring, jnp.zeros_like(ring), *zeros)


def judge(
  state: GuardState, loss: ArrayLike, norm: ArrayLike, config: GuardConfig
) -> tuple[Array, GuardState]:
  """Whether a step is good, and the memory after it; pure, for use under jit.

  Args:
    state: memory before the step.
    loss: mean loss of the step in nats, a scalar.
    norm: global norm of its gradient before clipping.
    config: the rule (static).

  Returns:
    A bool scalar, and the new memory.

  >>> config = GuardConfig()
  >>> state = init_guard(config)
  >>> for loss in (5.0, 4.0, float('nan'), 70.0, 3.0):
  ...   good, state = judge(state, loss, 1.0, config)
  ...   print(bool(good), int(state.good), int(state.skipped))
  True 1 0
  True 2 0
  False 2 1
  False 2 2
  True 3 2
  """
  loss, norm = jnp.float32(loss), jnp.float32(norm)
  sound = _within(loss, config.max_loss) & _within(norm, config.max_norm)
  spike = sound & (
    (loss > _limit(state.losses, state.good, config, nats=config.loss_slack))
    | (norm > _limit(state.norms, state.good, config, share=config.norm_slack))
  )
  new_level = spike & (state.spikes >= config.patience)
  good = sound & (~spike | new_level)
  seen = jnp.where(new_level, 0, state.good)
  here = (jnp.arange(config.window) == seen % config.window) & good
  return good, GuardState(
    losses=jnp.where(here, loss, state.losses),
    norms=jnp.where(here, norm, state.norms),
    good=seen + good,
    # What is not finite says nothing about a level: it leaves the count.
    spikes=jnp.where(good, 0, state.spikes + spike),
    in_a_row=jnp.where(good, 0, state.in_a_row + 1),
    skipped=state.skipped + ~good,
    restarts=state.restarts + new_level,
  )


def select(good: Array, new: Tree, old: Tree) -> Tree:
  """The new tree if the step is good, else the old one, leaf by leaf.

  >>> float(select(jnp.array(False), jnp.float32('nan'), jnp.float32(2)))
  2.0
  """
  return jax.tree.map(lambda n, o: jnp.where(good, n, o), new, old)


def forget(state: GuardState) -> GuardState:
  """The guard before a change of level that is planned, such as of length.

  Counts of skips stay; the next values are judged as the first ones were.
  """
  none = jnp.zeros((), jnp.int32)
  return state._replace(good=none, spikes=none)


def stop_if_failing(state: GuardState, step: int, config: GuardConfig) -> None:
  """Raises after too many skips in a row; on the host, after a step.

  Raises:
    NumericsError: naming the step and what to do.
  """
  in_a_row = int(state.in_a_row)
  if in_a_row >= config.stop_after:
    raise NumericsError(
      f'training stopped at step {step}: {in_a_row} steps in a row were '
      f'skipped ({int(state.skipped)} in all), because their loss or gradient '
      f'norm was not finite, above max_loss {config.max_loss} or max_norm '
      f'{config.max_norm}, or a spike; go on from the last checkpoint with a '
      'lower learning rate, or look at the data'
    )


def _within(value: Array, limit: float | None) -> Array:
  finite = jnp.isfinite(value)
  return finite if limit is None else finite & (value <= limit)


def _limit(
  ring: Array,
  good: Array,
  config: GuardConfig,
  *,
  nats: float = 0.0,
  share: float = 0.0,
) -> Array:
  """What a value must exceed to stand out from the good ones before it."""
  n = jnp.minimum(good, config.window)
  known = jnp.arange(config.window) < n
  count = jnp.maximum(n, 1)
  mean = jnp.sum(jnp.where(known, ring, 0.0)) / count
  variance = jnp.sum(jnp.where(known, (ring - mean) ** 2, 0.0)) / count
  slack = nats + share * mean
  late = mean + jnp.maximum(config.sigmas * jnp.sqrt(variance), slack)
  early = config.early * jnp.max(jnp.where(known, ring, 0.0)) + slack
  limit = jnp.where(n < config.settled, early, late)
  return jnp.where(n > 0, limit, jnp.inf)
