"""What benchmarks compute besides times: plans, ratios, what is alike."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks import compile as compile_bench
from benchmarks import memory as memory_bench
from benchmarks import others, train_cpu
from ntk_jax.model import parameter_count


def test_plans_are_cut_where_the_layers_end() -> None:
  gemma3 = compile_bench.plan(compile_bench.GEMMA3, 26)
  # As its configuration has it: every sixth layer is global.
  assert gemma3 == tuple(int((i + 1) % 6 > 0) for i in range(26))


@pytest.mark.parametrize(
  ('name', 'depths', 'expected'),
  [
    ('uniform', (4, 64), (1, 1)),
    ('3 local, 1 global', (8, 64), (4, 4)),
    ('Gemma 3', (26, 62), (7, 7)),
  ],
)
def test_depths_compile_as_many_layers(
  name: str, depths: tuple[int, int], expected: tuple[int, int]
) -> None:
  pattern = next(
    pattern
    for plan_name, pattern, compared in compile_bench.PLANS
    if (plan_name, compared) == (name, depths)
  )
  plans = [compile_bench.plan(pattern, n) for n in depths]
  assert tuple(map(compile_bench.bodies, plans)) == expected


@pytest.mark.parametrize('what', compile_bench.WHAT)
def test_depth_is_in_the_program_and_not_in_its_size(what: str) -> None:
  texts = [
    compile_bench.lowered(what, compile_bench.plan((0,), n))().as_text()
    for n in (4, 64)
  ]
  assert all(f'tensor<{n}x128x128xf32>' in t for n, t in zip((4, 64), texts))
  short, long = (len(text.splitlines()) for text in texts)
  assert short == long


def test_compile_rows_compare_totals() -> None:
  times = np.array([[[1.0, 3.0], [2.0, 6.0]], [[1.0, 1.0], [1.0, 2.0]]])
  line = compile_bench.row('uniform', 'forward', (0,), (4, 64), times)
  # 8 / 4 and 3 / 2: their median.
  assert '**1.75**' in line
  assert '| 4 / 64 | 1 / 1 | 1.00 / 1.50 | 2.00 / 4.00 |' in line


def test_every_combination_of_what_saves_memory_is_measured() -> None:
  combinations = memory_bench.COMBINATIONS
  assert len(set(combinations)) == 4 * 2 * 2 * 2
  plain = memory_bench.Setting().config(64)
  assert (plain.loss_chunk, plain.model.mlp_chunk) == (128, None)
  saving = memory_bench.Setting('full', True, True, 2).config(64)
  assert saving.loss_chunk is None
  assert saving.model.mlp_chunk == memory_bench.TILE
  assert (saving.model.remat, saving.microbatches) == ('full', 2)
  plain.validate(devices=1)
  saving.validate(devices=1)


def test_a_budget_holds_what_lies_between_two_measured_lengths() -> None:
  gib = memory_bench.GIB
  points = [(1000, 0.5 * gib), (9000, 2.5 * gib)]
  line = memory_bench.row(memory_bench.Setting(tiled=True), points)
  # A GiB is a quarter of the way, 4 are beyond; 8000 tokens take 2.
  assert line == (
    '| none |  | yes |  | 0.50 | 2.50 | 3,000 | > 9,000 | **4,000** |'
  )


def test_offloading_is_judged_by_what_it_takes() -> None:
  def said(total: int, host: int) -> memory_bench.Compiled:
    return memory_bench.Compiled(total, 0, 0, host, None, 0.0)

  words = memory_bench.plain_on_a_cpu(said(100, 0), said(102, 0))
  assert 'takes 1.020 of the bytes of `attention`' in words
  words = memory_bench.plain_on_a_cpu(said(100, 0), said(102, 5))
  assert words == 'On this CPU 5 bytes are on a host.'


def test_the_model_has_the_size_that_it_is_said_to_have() -> None:
  assert parameter_count(train_cpu.CONFIG) == 13_701_632
  assert train_cpu.CONFIG.vocab == train_cpu.LLAMA['vocab_size']


def test_targets_are_the_next_tokens_of_the_row() -> None:
  tokens = np.arange(8, dtype=np.int32).reshape(2, 4)
  plain, packed = (train_cpu.batch(tokens, packed) for packed in (False, True))
  assert plain.targets.tolist() == [[1, 2, 3, -1], [5, 6, 7, -1]]
  assert plain.weights.tolist() == [[1, 1, 1, 0], [1, 1, 1, 0]]
  assert plain.positions is None
  assert packed.positions.tolist() == [[0, 1, 2, 3]] * 2
  assert (packed.segments == 1).all()


def test_the_peer_has_the_allocator_that_commands_have() -> None:
  # By its path: here `experiments` is the folder of its own tests.
  path = Path(__file__).parents[1] / 'experiments' / 'launch.py'
  spec = importlib.util.spec_from_file_location('launch', path)
  assert spec and spec.loader
  launch = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(launch)
  told = {k.rstrip('_'): int(v) for k, v in train_cpu.ALLOCATOR.items()}
  assert told == {
    name.replace('M_', 'MALLOC_', 1): value
    for name, (_, value) in launch._MALLOPT.items()
  }


def test_other_models_are_refused() -> None:
  losses = dict.fromkeys(train_cpu.CASES, 8.0)
  train_cpu.check_alike(losses | {'ours, bf16 compute': 8.01})
  with pytest.raises(SystemExit, match='not the same model'):
    train_cpu.check_alike(losses | {'ours': 8.01})
  with pytest.raises(SystemExit, match='not the same model'):
    train_cpu.check_alike(losses | {'ours': math.nan})


def test_ratios_are_taken_within_a_turn() -> None:
  seconds = {name: np.full(3, 2.0) for name in train_cpu.CASES}
  seconds['torch'] = np.array([2.0, 6.0, 9.0])
  seconds['ours'] = np.array([2.0, 4.0, 3.0])
  cpu = {name: 2 * s for name, s in seconds.items()}
  first = train_cpu.rows(512, seconds, cpu)[0]
  assert first.startswith(
    '| 8 x 512 | ours | 3.00 | 2.00 | 6.00 | 1,365 | **1.50x** '
  )
  assert 'T = 512: 1.50x, the bar of 0.95x is met' in train_cpu.verdict(
    512, seconds, cpu
  )
  slow = seconds | {'ours': np.full(3, 7.0)}
  assert 'the bar of 0.95x is missed' in train_cpu.verdict(512, slow, cpu)


def test_impatience_takes_what_comes_and_patience_the_quiet_one(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  loads = iter([0.9, 0.9, 0.1])

  def timed(run: others.Timed) -> others.Timed:
    del run
    return others.Timed(1.0, 1.0, next(loads))

  monkeypatch.setattr(others, 'timed', timed)
  monkeypatch.setattr(others.Patience, '_wait', lambda self: None)
  run = lambda: (1.0, 1.0)  # noqa: E731
  assert others.Patience(0, 0.2).timed(run).others == 0.9
  assert others.Patience(60, 0.2).timed(run).others == 0.1


def test_cpu_seconds_leave_idle_and_waiting_out(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  monkeypatch.setattr(others.os, 'sysconf', lambda name: 100)
  stat = 'cpu  100 20 30 4000 500 6 7 8 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n'
  assert others.busy_seconds(stat) == pytest.approx(1.71)
