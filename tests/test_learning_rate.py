"""Learning rates against their equations."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ntk_jax.errors import ConfigError
from ntk_jax.learning_rate import Schedule

NAN = float('nan')


def test_cosine_warms_up_and_ends_at_a_tenth() -> None:
  schedule = Schedule(peak=2e-3, steps=240, warmup=40)
  schedule.validate()
  rates = [schedule(step) for step in range(240)]
  np.testing.assert_allclose(rates[:40], 2e-3 * np.arange(1, 41) / 40)
  assert max(rates) == rates[39] == rates[40] == 2e-3
  assert all(x > y for x, y in zip(rates[40:], rates[41:]))
  np.testing.assert_allclose(rates[-1], 2e-4)


def test_the_numbers_of_earlier_runs_stand() -> None:
  """To the bit: a run that is gone on with has the learning rates it had."""
  schedule = Schedule(3e-3, 240, 40)
  for step in range(40, 240):
    done = (step - 40) / 199
    assert schedule(step) == 3e-3 * (0.55 + 0.45 * math.cos(math.pi * done))


@pytest.mark.parametrize('final', [0.0, 0.1, 0.5, 1.0])
def test_cosine_ends_at_its_final_share(final: float) -> None:
  schedule = Schedule(1e-2, 100, 10, final=final)
  schedule.validate()
  assert schedule(10) == 1e-2
  np.testing.assert_allclose(schedule(99), 1e-2 * final, atol=1e-18)


@pytest.mark.parametrize('curve', ['linear', '1-sqrt'])
@pytest.mark.parametrize('final', [0.0, 0.1])
def test_wsd_is_flat_and_then_falls(curve: str, final: float) -> None:
  schedule = Schedule(2.0, 200, 20, 'wsd', 0.25, curve, final)
  schedule.validate()
  rates = np.array([schedule(step) for step in range(200)])
  np.testing.assert_allclose(rates[:20], 2 * np.arange(1, 21) / 20)
  assert (rates[20:150] == 2).all()
  u = np.arange(1, 51) / 50
  fall = u if curve == 'linear' else np.sqrt(u)
  np.testing.assert_allclose(
    rates[150:], 2 * (1 - (1 - final) * fall), atol=1e-15
  )


def test_wsd_does_not_depend_on_its_length_before_the_decay() -> None:
  short, long = (
    Schedule(1e-3, steps, 10, shape='wsd', decay=0.1) for steps in (100, 1000)
  )
  assert [short(k) for k in range(90)] == [long(k) for k in range(90)]


@pytest.mark.parametrize(
  ('shape', 'steps', 'warmup'),
  [
    *(('cosine', *pair) for pair in ((1, 0), (2, 0), (2, 1), (9, 8))),
    *(('wsd', *pair) for pair in ((1, 0), (2, 0), (2, 1), (9, 7))),
  ],
)
def test_short_schedules_are_positive(
  shape: str, steps: int, warmup: int
) -> None:
  schedule = Schedule(peak=1.0, steps=steps, warmup=warmup, shape=shape)
  schedule.validate()
  assert all(0 < schedule(step) <= 1 for step in range(steps))


@pytest.mark.parametrize(
  ('schedule', 'says'),
  [
    (Schedule(0.0, 10, 1), 'learning rate is 0.0, must be above 0'),
    (Schedule(-1.0, 10, 1), 'learning rate is -1.0'),
    (Schedule(NAN, 10, 1), 'learning rate is nan'),
    (Schedule(float('inf'), 10, 1), 'learning rate is inf'),
    (Schedule(1.0, 0, 0), '0 steps with a warm-up of 0'),
    (Schedule(1.0, 10, 10), '10 steps with a warm-up of 10'),
    (Schedule(1.0, 10, -1), '10 steps with a warm-up of -1'),
    (Schedule(1.0, 10, 1, 'cosin'), "'cosin': did you mean 'cosine'?"),
    (Schedule(1.0, 10, 1, curve='sqrt'), "'sqrt': did you mean '1-sqrt'?"),
    (Schedule(1.0, 10, 1, final=1.5), 'final share is 1.5'),
    (Schedule(1.0, 10, 1, final=NAN), 'final share is nan'),
    (Schedule(1.0, 10, 1, 'wsd', decay=0.0), 'decay share is 0.0'),
    (Schedule(1.0, 10, 1, 'wsd', decay=NAN), 'decay share is nan'),
    (
      Schedule(1.0, 10, 6, 'wsd', decay=0.5),
      'a warm-up of 6 and a decay of 5 steps do not fit into 10',
    ),
  ],
)
def test_what_cannot_train_is_refused(schedule: Schedule, says: str) -> None:
  with pytest.raises(ConfigError) as error:
    schedule.validate()
  assert says in str(error.value)


def test_all_problems_at_once() -> None:
  with pytest.raises(ConfigError, match='learning rate.*0 steps.*final share'):
    Schedule(0.0, 0, 0, final=2).validate()
