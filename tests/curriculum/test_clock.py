"""How far a run is, in each unit."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from ntk_jax.curriculum.clock import UNITS, Clock, Run, done, whole

RUN = Run(steps=40, step_tokens=1000, epoch_tokens=5000, length=100)


def test_units_agree_where_steps_are_equal() -> None:
  half = Clock(20, 20_000)
  found = {unit: done(half, RUN, unit) for unit in UNITS}
  assert found == {'fraction': 0.5, 'steps': 20, 'tokens': 20_000, 'epochs': 4}
  assert all(done(half, RUN, u) * 2 == whole(RUN, u) for u in UNITS)


def test_tokens_are_those_that_were_read() -> None:
  """A step of short rows reads less: only tokens and epochs see that."""
  less = Clock(20, 5_000)
  assert done(less, RUN, 'tokens') == 5_000
  assert done(less, RUN, 'epochs') == 1
  assert done(less, RUN, 'steps') == 20
  assert done(less, RUN, 'fraction') == 0.5


@given(
  steps=st.integers(1, 10**6),
  each=st.integers(1, 10**7),
  unit=st.sampled_from(UNITS),
)
@settings(deadline=None, derandomize=True, database=None)
def test_a_run_goes_from_nothing_to_the_whole(
  steps: int, each: int, unit: str
) -> None:
  run = Run(steps, each, 10**6, 2)
  marks = sorted({0, 1, steps // 2, steps - 1, steps})
  far = [done(Clock(n, n * each), run, unit) for n in marks]
  assert far[0] == 0
  assert far == sorted(set(far))
  assert far[-1] == whole(run, unit)
