"""Training: resumable to the bit, and stopped when it cannot go on."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from ntk_jax.data import retrieval
from ntk_jax.data.batch import Batch
from ntk_jax.data.mixture import Mixture
from ntk_jax.data.text import Corpus
from ntk_jax.errors import CheckpointError, NumericsError, Stopped
from ntk_jax.metrics.jsonl import read_lines
from ntk_jax.model import ModelConfig, Params, init_params
from ntk_jax.objective import Objective
from ntk_jax.optimizer import Schedule, adamw
from ntk_jax.rope.spec import RopeSpec
from ntk_jax.scheme import Scheme
from ntk_jax.step import StepConfig, init_state
from ntk_jax.temperature import Temperature
from ntk_jax.train import Loop, Plain, Trained, fit
from ntk_jax.train import loop as loop_module

CONFIG = ModelConfig(
  vocab=retrieval.VOCAB,
  dim=8,
  layers=1,
  heads=2,
  kv_heads=1,
  head_dim=4,
  mlp_dim=8,
)
STEP = StepConfig(Objective(CONFIG), adamw())
PLAIN = Scheme(RopeSpec('default', 4))
SCHEDULE = Schedule(peak=1e-2, steps=12, warmup=3)


class Killed(BaseException):
  """As SIGKILL: nothing handles it."""


@pytest.fixture(scope='module')
def mixture() -> Mixture:
  rng = np.random.default_rng(0)
  document = rng.integers(97, 123, size=3000, dtype=np.uint8)
  return Mixture(Corpus('made up', (document,), (), 'none'), 2, 32, seed=0)


def run(
  mixture: Mixture,
  folder: Path,
  *,
  schedule: Schedule = SCHEDULE,
  scheme: Scheme = PLAIN,
  save_every: int = 4,
  log_every: int = 1,
  kill_after: int = 99,
  about: dict[str, Any] | None = None,
) -> tuple[Trained, int]:
  """A run, and the steps that it took; killed after some of them."""
  counted: list[int] = []

  def observe(steps: range, lines: Any) -> None:
    for step, line in zip(steps, lines, strict=True):
      counted.append(step)
      if len(counted) == kill_after:
        raise Killed
      line['seen'] = len(counted)

  trained = fit(
    lambda: init_state(init_params(jax.random.key(0), CONFIG), STEP),
    Plain([scheme], mixture, schedule),
    Loop(STEP, schedule.steps, save_every, log_every=log_every),
    folder=folder,
    about=about,
    observe=observe,
  )
  assert counted == list(range(schedule.steps - len(counted), schedule.steps))
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
  path = tmp_path / 'a'
  with pytest.raises(Killed):
    run(mixture, path, kill_after=kill_after)
  trained, steps = run(mixture, path)
  assert steps == steps_left
  assert_same_run(trained, straight)


def test_often_killed(
  mixture: Mixture, straight: Trained, tmp_path: Path
) -> None:
  path = tmp_path / 'a'
  for kill_after in (5, 6, 3):
    with pytest.raises(Killed):
      run(mixture, path, kill_after=kill_after, save_every=2)
  trained, _ = run(mixture, path, save_every=5)
  assert_same_run(trained, straight)


def test_a_finished_run_is_read(
  mixture: Mixture, straight: Trained, tmp_path: Path
) -> None:
  path = tmp_path / 'a'
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
  assert json.dumps(straight.text_loss)


def test_a_line_per_step_has_what_was_measured(
  mixture: Mixture, straight: Trained, tmp_path: Path
) -> None:
  run(mixture, tmp_path, log_every=5)
  lines = read_lines(tmp_path / 'metrics.jsonl')
  assert [line['step'] for line in lines] == list(range(12))
  assert [line['seen'] for line in lines] == list(range(1, 13))
  for line, bits in zip(lines, straight.text_loss):
    np.testing.assert_allclose(line['text'] / np.log(2), bits, atol=1e-5)
    both = line['text'] + 0.5 * line['answers']
    np.testing.assert_allclose(line['loss'], both / 1.5, rtol=1e-5)
    assert line['skipped'] == 0
    groups = [line[name] for name in line if name.startswith('grad/')]
    np.testing.assert_allclose(
      np.sqrt(np.square(groups).sum()), line['grad_norm'], rtol=1e-5
    )


def test_another_run_is_refused(mixture: Mixture, tmp_path: Path) -> None:
  run(mixture, tmp_path, about={'model': {'dim': 8}})
  with pytest.raises(CheckpointError, match=r'model\.dim'):
    run(mixture, tmp_path, about={'model': {'dim': 16}})


def test_a_damaged_checkpoint_costs_its_steps_only(
  mixture: Mixture, straight: Trained, tmp_path: Path
) -> None:
  run(mixture, tmp_path)
  newest = tmp_path / 'checkpoints' / '12'
  shutil.rmtree(newest / 'arrays')
  trained, steps = run(mixture, tmp_path)
  assert steps == 4
  assert_same_run(trained, straight)
  assert (tmp_path / 'checkpoints' / 'bad-12').exists()


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_stops(
  mixture: Mixture,
  straight: Trained,
  tmp_path: Path,
  monkeypatch: pytest.MonkeyPatch,
  number: signal.Signals,
) -> None:
  step, taken = loop_module.train_step, []

  def signalled(*args: Any, **options: Any) -> Any:
    taken.append(1)
    if len(taken) == 6:
      signal.raise_signal(number)
    return step(*args, **options)

  monkeypatch.setattr(loop_module, 'train_step', signalled)
  with pytest.raises(Stopped) as stopped:
    run(mixture, tmp_path)
  assert stopped.value.step == 6
  assert stopped.value.code == (130 if number == signal.SIGINT else 0)
  trained, steps = run(mixture, tmp_path)
  assert steps == 6
  assert_same_run(trained, straight)


def seen_arrays(
  monkeypatch: pytest.MonkeyPatch, mixture: Mixture, path: Path, scheme: Scheme
) -> Any:
  """What entered the first step."""
  seen, step = [], loop_module.train_step

  def spy(state: Any, batch: Any, arrays: Any, *rest: Any, **options: Any):
    seen.append(arrays)
    return step(state, batch, arrays, *rest, **options)

  monkeypatch.setattr(loop_module, 'train_step', spy)
  run(mixture, path, schedule=Schedule(1e-2, 1, 0), scheme=scheme)
  return seen[0][0]


def test_a_scheme_sees_the_length_of_the_rows(
  mixture: Mixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  scheme = Scheme(RopeSpec('dynamic', 4, factor=1.0, original_length=8))
  found = seen_arrays(monkeypatch, mixture, tmp_path, scheme)
  expected = scheme.arrays(32, np.arange(32))
  for x, y in zip(found, expected, strict=True):
    assert np.array_equal(x, y)
  short = scheme.arrays(8, np.arange(8)).phases
  assert not np.array_equal(found.phases, short)


@dataclasses.dataclass(frozen=True)
class Packed(Mixture):
  """Two documents in every row."""

  def batch(self, step: int) -> Batch:
    batch = super().batch(step)
    half = np.arange(self.length) // (self.length // 2)
    rows = np.ones((self.rows, 1), np.int32)
    return batch._replace(
      positions=rows * (np.arange(self.length) % (self.length // 2)),
      segments=(rows * (half + 1)).astype(np.int32),
    )


def test_a_temperature_follows_positions_in_documents(
  mixture: Mixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  scheme = Scheme(RopeSpec('default', 4), Temperature('logn', length=4))
  packed = Packed(mixture.corpus, 2, 32, seed=0)
  found = seen_arrays(monkeypatch, packed, tmp_path, scheme).q_scale
  assert found.shape == (2, 32)
  np.testing.assert_array_equal(found[:, :16], found[:, 16:])
  assert found[0, 15] > found[0, 3] == 1


@dataclasses.dataclass(frozen=True)
class Poisoned(Mixture):
  """Weights that are not finite at some steps."""

  bad: tuple[int, ...] = ()

  def batch(self, step: int) -> Batch:
    batch = super().batch(step)
    if step in self.bad:
      batch.weights[:] = np.inf
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
  assert 'lower learning rate' in message
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
  lines = read_lines(path / 'metrics.jsonl')
  assert [line['step'] for line in lines if line['skipped']] == bad


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
