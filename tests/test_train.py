"""Training: resumable to the bit, and stopped when it cannot go on."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from ntk_jax import train
from ntk_jax.checkpoint import load_tree
from ntk_jax.data import retrieval
from ntk_jax.data.mixture import Batch, Mixture
from ntk_jax.data.text import Corpus
from ntk_jax.errors import NumericsError, WorkdirError
from ntk_jax.model import ModelConfig, Params, init_params
from ntk_jax.optimizer import Schedule
from ntk_jax.rope.spec import RopeSpec
from ntk_jax.scheme import Scheme
from ntk_jax.step import init_state
from ntk_jax.train import Trained, fit

CONFIG = ModelConfig(
  vocab=retrieval.VOCAB,
  dim=8,
  layers=1,
  heads=2,
  kv_heads=1,
  head_dim=4,
  mlp_dim=8,
)
SCHEDULE = Schedule(peak=1e-2, steps=12, warmup=3)
TOKENS = 2 * 32


class Killed(BaseException):
  """As SIGKILL: nothing handles it."""


@pytest.fixture(scope='module')
def mixture() -> Mixture:
  rng = np.random.default_rng(0)
  document = rng.integers(97, 123, size=3000, dtype=np.uint8)
  return Mixture(Corpus('made up', (document,), (), 'none'), 2, 32, seed=0)


def run(
  mixture: Mixture,
  path: Path,
  *,
  schedule: Schedule = SCHEDULE,
  save_every: int = 4,
  kill_after: int = 99,
) -> tuple[Trained, int]:
  """A run, and the steps that it took; killed after some of them."""
  counted: list[int] = []

  def advance(tokens: int) -> None:
    counted.append(tokens)
    if len(counted) == kill_after:
      raise Killed

  trained = fit(
    init_params(jax.random.key(0), CONFIG),
    CONFIG,
    Scheme(RopeSpec('default', 4)),
    mixture,
    schedule,
    path=path,
    save_every=save_every,
    advance=advance,
  )
  assert set(counted) <= {TOKENS}
  return trained, len(counted)


def assert_same_run(first: Trained, second: Trained) -> None:
  assert first.text_loss == second.text_loss
  assert first.retrieval_loss == second.retrieval_loss
  for x, y in zip(*(jax.tree.leaves(t.params) for t in (first, second))):
    assert x.tobytes() == y.tobytes()


@pytest.fixture(scope='module')
def straight(
  mixture: Mixture, tmp_path_factory: pytest.TempPathFactory
) -> Trained:
  trained, steps = run(mixture, tmp_path_factory.mktemp('run') / 'a')
  assert steps == 12
  return trained


@pytest.mark.parametrize(
  ('kill_after', 'steps_left'),
  [
    (2, 12),  # before the first checkpoint
    (6, 8),  # two steps after one
    (8, 8),  # a step taken, not yet saved
    (9, 4),
    (12, 4),
  ],
)
def test_a_killed_run_goes_on_to_the_same_bits(
  mixture: Mixture,
  straight: Trained,
  tmp_path: Path,
  kill_after: int,
  steps_left: int,
) -> None:
  path = tmp_path / 'a.safetensors'
  with pytest.raises(Killed):
    run(mixture, path, kill_after=kill_after)
  trained, steps = run(mixture, path)
  assert steps == steps_left
  assert_same_run(trained, straight)


def test_often_killed(
  mixture: Mixture, straight: Trained, tmp_path: Path
) -> None:
  path = tmp_path / 'a.safetensors'
  for kill_after in (5, 6, 3):
    with pytest.raises(Killed):
      run(mixture, path, kill_after=kill_after, save_every=2)
  trained, _ = run(mixture, path, save_every=5)
  assert_same_run(trained, straight)


def test_a_finished_run_is_read(
  mixture: Mixture, straight: Trained, tmp_path: Path
) -> None:
  path = tmp_path / 'a.safetensors'
  first, _ = run(mixture, path)
  again, steps = run(mixture, path)
  assert steps == 0
  assert again.seconds == first.seconds > 0
  assert_same_run(again, straight)


def test_what_is_recorded(straight: Trained) -> None:
  assert len(straight.text_loss) == len(straight.retrieval_loss) == 12
  # Bits: an untrained model is near log2(VOCAB) = 8.7.
  assert 7.5 < straight.text_loss[0] < 10
  assert 7.5 < straight.retrieval_loss[0] < 10
  assert straight.text_loss[-1] < straight.text_loss[0]
  assert all(isinstance(x, np.ndarray) for x in straight.params.layers.values())
  assert json.dumps(straight.text_loss)


def test_the_start_is_not_changed(mixture: Mixture, tmp_path: Path) -> None:
  params = jax.device_get(init_params(jax.random.key(0), CONFIG))
  before = jax.tree.map(np.copy, params)
  scheme = Scheme(RopeSpec('default', 4))
  for start in (params, jax.tree.map(jax.numpy.asarray, params)):
    fit(
      start,
      CONFIG,
      scheme,
      mixture,
      Schedule(1e-2, 2, 0),
      path=tmp_path / str(type(start.embed)),
      save_every=1,
    )
    same = jax.tree.map(np.array_equal, before, jax.device_get(start))
    assert all(jax.tree.leaves(same))


def test_a_damaged_checkpoint_stops_the_run(
  mixture: Mixture, tmp_path: Path
) -> None:
  path = tmp_path / 'a.safetensors'
  run(mixture, path)
  path.write_bytes(path.read_bytes()[:-8])
  with pytest.raises(WorkdirError, match=r'a\.safetensors is not a whole'):
    run(mixture, path)


def test_a_scheme_sees_the_length_of_the_rows(
  mixture: Mixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  seen = []
  step = train.train_step

  def spy(state: Any, batch: Any, arrays: Any, *rest: Any, **options: Any):
    seen.append(arrays)
    return step(state, batch, arrays, *rest, **options)

  monkeypatch.setattr(train, 'train_step', spy)
  spec = RopeSpec('dynamic', 4, factor=1.0, original_length=8)
  scheme = Scheme(spec)
  fit(
    init_params(jax.random.key(0), CONFIG),
    CONFIG,
    scheme,
    mixture,
    Schedule(1e-2, 1, 0),
    path=tmp_path / 'a',
    save_every=1,
  )
  expected = scheme.arrays(32, np.arange(32))
  for x, y in zip(seen[0], expected, strict=True):
    assert np.array_equal(x, y)
  assert not np.array_equal(
    seen[0].phases, scheme.arrays(8, np.arange(8)).phases
  )


@dataclasses.dataclass(frozen=True)
class Poisoned(Mixture):
  """Weights that are not finite at some steps."""

  bad: tuple[int, ...] = ()

  def batch(self, step: int) -> Batch:
    batch = super().batch(step)
    if step in self.bad:
      batch.text[:] = np.inf
    return batch


def poisoned(mixture: Mixture, *bad: int) -> Poisoned:
  return Poisoned(mixture.corpus, 2, 32, seed=0, bad=bad)


LONG = Schedule(peak=1e-2, steps=25, warmup=3)


def test_ten_bad_steps_in_a_row_stop_the_run(
  mixture: Mixture, tmp_path: Path
) -> None:
  path = tmp_path / 'a'
  with pytest.raises(NumericsError) as error:
    run(poisoned(mixture, *range(5, 25)), path, schedule=LONG)
  message = str(error.value)
  assert 'stopped at step 14: 10 steps in a row' in message
  assert 'lower the learning rate' in message
  # The count survives a restart: it stops at the same step.
  with pytest.raises(NumericsError, match='stopped at step 14'):
    run(poisoned(mixture, *range(5, 25)), path, schedule=LONG)


def test_nine_bad_steps_in_a_row_are_skipped(
  mixture: Mixture, tmp_path: Path
) -> None:
  bad = [*range(2, 11), *range(12, 21)]
  path = tmp_path / 'a'
  trained, steps = run(poisoned(mixture, *bad), path, schedule=LONG)
  assert steps == 25
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(trained.params))
  state = init_state(init_params(jax.random.key(0), CONFIG))
  _, log = load_tree(path, state)
  assert log['skipped'] == 0


def test_skipped_steps_leave_no_trace_in_the_parameters(
  mixture: Mixture, tmp_path: Path
) -> None:
  one = Schedule(peak=1e-2, steps=1, warmup=0)
  three = dataclasses.replace(one, steps=3)
  first, _ = run(mixture, tmp_path / 'a', schedule=one)
  rest, _ = run(poisoned(mixture, 1, 2), tmp_path / 'b', schedule=three)
  same = jax.tree.map(np.array_equal, first.params, rest.params)
  assert isinstance(same, Params)
  assert all(jax.tree.leaves(same))
