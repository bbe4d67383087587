"""The optimizer against AdamW written again, and its schedule."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from ntk_jax.errors import ConfigError
from ntk_jax.optimizer import Schedule, adamw, global_norm


def test_updates_equal_the_equations() -> None:
  rng = np.random.default_rng(0)
  params = {
    'embed': rng.normal(size=(3, 5)),
    'layers': {'q': rng.normal(size=(2, 5, 4)), 'mlp_norm': np.ones((2, 5))},
  }
  as32 = {
    'embed': jnp.float32(params['embed']),
    'layers': {k: jnp.float32(v) for k, v in params['layers'].items()},
  }
  optimizer = adamw()
  state = optimizer.init(as32)
  leaves = {('embed',): 0.1, ('layers', 'q'): 0.1, ('layers', 'mlp_norm'): 0.0}
  m = dict.fromkeys(leaves, 0.0)
  v = dict.fromkeys(leaves, 0.0)
  # Small gradients are not clipped, large ones are.
  for t, size in enumerate((0.01, 3.0, 0.1), start=1):
    grads = {
      'embed': size * rng.normal(size=(3, 5)),
      'layers': {
        'q': size * rng.normal(size=(2, 5, 4)),
        'mlp_norm': size * rng.normal(size=(2, 5)),
      },
    }
    norm = np.sqrt(
      (grads['embed'] ** 2).sum()
      + sum((g**2).sum() for g in grads['layers'].values())
    )
    grads32 = {
      'embed': jnp.float32(grads['embed']),
      'layers': {k: jnp.float32(g) for k, g in grads['layers'].items()},
    }
    np.testing.assert_allclose(global_norm(grads32), norm, rtol=1e-6)
    updates, state = optimizer.update(grads32, state, as32)
    for path, decay in leaves.items():
      g, p, u = grads, params, updates
      for name in path:
        g, p, u = g[name], p[name], u[name]
      g = g * min(1.0, 1.0 / norm)
      m[path] = 0.9 * m[path] + 0.1 * g
      v[path] = 0.98 * v[path] + 0.02 * g**2
      first, second = m[path] / (1 - 0.9**t), v[path] / (1 - 0.98**t)
      expected = -first / (np.sqrt(second) + 1e-8) - decay * p
      np.testing.assert_allclose(u, expected, rtol=2e-5, atol=2e-6)


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
