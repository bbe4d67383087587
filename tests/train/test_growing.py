"""Growing length: one program per row shape, resumed to the bit, undone."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import chex
import devices
import jax
import numpy as np
import pytest

from ntk_jax.curriculum import Clock, GrowthConfig, Stage
from ntk_jax.errors import CheckpointError
from ntk_jax.metrics.compiles import compiles_here
from ntk_jax.metrics.jsonl import read_lines
from ntk_jax.step import train_step
from ntk_jax.train import TrainConfig, run
from ntk_jax.train import job as job_module
from ntk_jax.train import loop as loop_module
from ntk_jax.train import stages as stages_module
from ntk_jax.train.kept import Kept
from train import growing_runs
from train.growing_runs import CONFIG, changed, lines_of

LOSSES = 'loss', 'text', 'answers', 'near', 'grad_norm'


class Killed(BaseException):
  """As SIGKILL: nothing handles it."""


def killed_after(
  count: int, config: TrainConfig, folder: Path, patch: pytest.MonkeyPatch
) -> None:
  """A run that ends as if killed once so many steps were fetched."""

  class Watch(job_module.Watch):
    def __call__(self, steps: range, lines: Any) -> None:
      super().__call__(steps, lines)
      if steps[-1] + 1 >= count:
        raise Killed

  with patch.context() as inner:
    inner.setattr(job_module, 'Watch', Watch)
    with pytest.raises(Killed):
      run(config, folder)


@pytest.fixture(scope='module')
def straight(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
  folder = tmp_path_factory.mktemp('straight')
  run(CONFIG, folder)
  return lines_of(folder)


def test_rows_get_longer_and_fewer(straight: list[dict[str, Any]]) -> None:
  short, long = straight[7], straight[8]
  assert (short['length'], short['row_length'], short['rows']) == (32, 32, 8)
  assert (long['length'], long['row_length'], long['rows']) == (64, 64, 4)
  assert [line['tokens'] for line in straight] == list(range(256, 4097, 256))
  assert straight[-1]['loss'] < straight[0]['loss']


@pytest.mark.parametrize('count', [6, 10])
def test_killed_around_a_growth_it_ends_with_the_same_bits(
  straight: list[dict[str, Any]],
  tmp_path: Path,
  monkeypatch: pytest.MonkeyPatch,
  count: int,
) -> None:
  killed_after(count, CONFIG, tmp_path, monkeypatch)
  run(CONFIG, tmp_path)
  assert lines_of(tmp_path) == straight


def test_killed_while_the_next_program_compiles(
  straight: list[dict[str, Any]], tmp_path: Path
) -> None:
  program, lines = growing_runs.__file__, tmp_path / 'metrics.jsonl'
  running = devices.start(program, tmp_path, devices=1)
  while running.poll() is None:
    if lines.exists() and b'"compiling": 1' in lines.read_bytes():
      running.kill()
    time.sleep(0.002)
  said = running.communicate()
  assert running.returncode == -9, said
  assert any(line['compiling'] for line in read_lines(lines))
  devices.output(devices.start(program, tmp_path, devices=1))
  assert lines_of(tmp_path) == straight


def test_one_row_shape_trains_as_rows_of_their_own(
  straight: list[dict[str, Any]], tmp_path: Path
) -> None:
  growth = dataclasses.replace(CONFIG.growth, buckets=(64,))
  run(changed(growth=growth), tmp_path)
  found = lines_of(tmp_path)
  assert [line['row_length'] for line in found] == [64] * 16
  for name in LOSSES:
    np.testing.assert_allclose(
      [line[name] for line in found],
      [line[name] for line in straight],
      rtol=1e-5,
    )


def test_inside_a_row_shape_nothing_is_compiled(
  tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  plain: Any = train_step
  once = chex.assert_max_traces(plain.__wrapped__, 1)
  jitted = jax.jit(
    once, static_argnames=('config', 'mesh'), donate_argnames='state'
  )
  monkeypatch.setattr(loop_module, 'train_step', jitted)
  growth = GrowthConfig('linear', start=32, over=0.9)
  run(changed(growth=growth, log_every=1), tmp_path)
  lines = read_lines(tmp_path / 'metrics.jsonl')
  assert len({line['length'] for line in lines}) > 10
  assert [line['compiles'] for line in lines] == [1] + [0] * 15


def test_the_next_row_shape_is_compiled_beside_the_steps(
  tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  """Once it is ready, the first step at it waits for nothing."""
  in_thread: list[int] = []

  class Patient(loop_module.Ahead):
    def _compile(self, state: Any, inputs: Any, frozen: Any) -> None:
      before = compiles_here().count
      super()._compile(state, inputs, frozen)
      in_thread.append(compiles_here().count - before)

    def run(self, state: Any, inputs: Any, frozen: Any) -> Any:
      after = super().run(state, inputs, frozen)
      for future in self._known.values():
        future.result()
      return after

  monkeypatch.setattr(loop_module, 'Ahead', Patient)
  jax.clear_caches()
  run(CONFIG, tmp_path)
  lines = read_lines(tmp_path / 'metrics.jsonl')
  assert in_thread == [1]
  assert sum(line['compiles'] for line in lines[1:]) == 0


class Scripted:
  """Grows at 4, goes back at 8, grows again at 12."""

  watches: tuple[str, ...] = ('near',)
  check_every, backs_off = 4, True

  def start(self) -> dict[str, Any]:
    return {'step': 0, 'near': 0.0}

  def advance(
    self, state: dict[str, Any], clock: Clock, measured: Mapping[str, float]
  ) -> dict[str, Any]:
    assert clock.tokens == 256 * clock.step
    near = 0.5 * state['near'] + measured['near']
    return {'step': clock.step, 'near': near}

  def stage(self, state: dict[str, Any]) -> Stage:
    number = state['step'] // 4
    return (
      Stage(32, 32, 0),
      Stage(64, 32, 4),
      Stage(32, 32, 8, attempt=1),
      Stage(64, 32, 12, attempt=1, rate=0.5),
    )[min(number, 3)]

  def lengths(self) -> tuple[int, ...]:
    return 32, 64

  def upcoming(self, state: dict[str, Any]) -> int | None:
    return 64 if self.stage(state).length == 32 else None


def test_a_growth_is_undone_and_resumed_to_the_bit(
  straight: list[dict[str, Any]],
  tmp_path: Path,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  monkeypatch.setattr(stages_module, 'schedule_of', lambda *_: Scripted())
  config = changed(growth=GrowthConfig('discrete', (32, 64), at=(0.25,)))
  run(config, tmp_path / 'a')
  found = lines_of(tmp_path / 'a')
  lengths = [line['length'] for line in found]
  assert lengths == [32] * 4 + [64] * 4 + [32] * 4 + [64] * 4
  # `near` is of the positions that the stage before had.
  assert found[5]['near'] != found[5]['text']
  assert found[3]['near'] == found[3]['text']
  rate = config.optimizer.learning_rate
  assert found[11]['learning_rate'] == pytest.approx(rate(11))
  assert found[12]['learning_rate'] == pytest.approx(rate(12) / 2)
  kept = sorted(p.name for p in (tmp_path / 'a/kept').iterdir() if p.is_dir())
  assert kept == ['12', '4']
  # After step 8 the parameters are those of step 4: without going back the
  # same rows have another loss.
  monkeypatch.setattr(Kept, 'back', lambda self, step, like: like)
  run(config, tmp_path / 'b')
  other = lines_of(tmp_path / 'b')
  assert other[:8] == found[:8]
  assert other[8]['loss'] != found[8]['loss']
  monkeypatch.undo()
  monkeypatch.setattr(stages_module, 'schedule_of', lambda *_: Scripted())
  for count in (9, 13):
    folder = tmp_path / str(count)
    killed_after(count, config, folder, monkeypatch)
    run(config, folder)
    assert lines_of(folder) == found, count


def test_what_was_kept_comes_back(tmp_path: Path) -> None:
  state: Any = {'x': np.arange(3.0), 'step': np.int32(4)}
  like: Any = jax.tree.map(np.zeros_like, state)
  other = jax.tree.map(lambda x: x + 1, state)
  with Kept(tmp_path / 'kept', None) as kept:
    with pytest.raises(CheckpointError, match='no state from before step 3'):
      kept.back(3, like)
    kept.keep(4, state)
    kept.keep(4, other)  # a run that goes on comes to the same bits
    kept.keep(9, other)
    chex.assert_trees_all_equal(kept.back(8, like), state)
  with Kept(tmp_path / 'kept', None) as kept:
    chex.assert_trees_all_equal(kept.back(8, like), state)


def test_nothing_is_kept_unless_asked(tmp_path: Path) -> None:
  with Kept(tmp_path / 'kept', None):
    pass
  assert not (tmp_path / 'kept').exists()
