"""The optimizer against AdamW written again, and its schedule."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntk_jax.errors import ConfigError
from ntk_jax.optimizer import Schedule, adamw, global_norm


def as_float32(tree: dict[str, np.ndarray]) -> dict[str, jax.Array]:
  return {name: jnp.asarray(x, jnp.float32) for name, x in tree.items()}


def test_updates_equal_the_equations() -> None:
  rng = np.random.default_rng(0)
  shapes = {'embed': (3, 5), 'q': (2, 5, 4), 'mlp_norm': (2, 5)}
  decays = {'embed': 0.1, 'q': 0.1, 'mlp_norm': 0.0}
  params = {name: rng.normal(size=shape) for name, shape in shapes.items()}
  first = {name: np.zeros(shape) for name, shape in shapes.items()}
  second = {name: np.zeros(shape) for name, shape in shapes.items()}
  optimizer = adamw()
  update: Any = optimizer.update  # its trees may be anything
  state = optimizer.init(as_float32(params))
  # Small gradients are not clipped, large ones are.
  for t, size in enumerate((0.01, 3.0, 0.1), start=1):
    grads = {n: size * rng.normal(size=shape) for n, shape in shapes.items()}
    norm = np.sqrt(sum((g**2).sum() for g in grads.values()))
    np.testing.assert_allclose(global_norm(as_float32(grads)), norm, rtol=1e-6)
    updates, state = update(as_float32(grads), state, as_float32(params))
    for name, decay in decays.items():
      g = grads[name] * min(1.0, 1.0 / norm)
      first[name] = 0.9 * first[name] + 0.1 * g
      second[name] = 0.98 * second[name] + 0.02 * g**2
      m, v = first[name] / (1 - 0.9**t), second[name] / (1 - 0.98**t)
      expected = -m / (np.sqrt(v) + 1e-8) - decay * params[name]
      found = np.asarray(updates[name])
      np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-6)


def test_schedule_warms_up_and_ends_at_a_tenth() -> None:
  schedule = Schedule(peak=2e-3, steps=240, warmup=40)
  schedule.validate()
  rates = [schedule(step) for step in range(240)]
  np.testing.assert_allclose(rates[:40], 2e-3 * np.arange(1, 41) / 40)
  assert max(rates) == rates[39] == rates[40] == 2e-3
  assert all(x > y for x, y in zip(rates[40:], rates[41:]))
  np.testing.assert_allclose(rates[-1], 2e-4)


@pytest.mark.parametrize(('steps', 'warmup'), [(1, 0), (2, 0), (2, 1), (9, 8)])
def test_short_schedules_are_positive(steps: int, warmup: int) -> None:
  schedule = Schedule(peak=1.0, steps=steps, warmup=warmup)
  schedule.validate()
  assert all(0 < schedule(step) <= 1 for step in range(steps))


@pytest.mark.parametrize(
  ('schedule', 'says'),
  [
    (Schedule(0.0, 10, 1), 'learning rate is 0.0, must be above 0'),
    (Schedule(-1.0, 10, 1), 'learning rate is -1.0'),
    (Schedule(float('nan'), 10, 1), 'learning rate is nan'),
    (Schedule(float('inf'), 10, 1), 'learning rate is inf'),
    (Schedule(1.0, 0, 0), '0 steps with a warm-up of 0'),
    (Schedule(1.0, 10, 10), '10 steps with a warm-up of 10'),
    (Schedule(1.0, 10, -1), '10 steps with a warm-up of -1'),
  ],
)
def test_what_cannot_train_is_refused(schedule: Schedule, says: str) -> None:
  with pytest.raises(ConfigError) as error:
    schedule.validate()
  assert says in str(error.value)
