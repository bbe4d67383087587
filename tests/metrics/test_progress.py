"""The progress line, under a clock of our own."""

from __future__ import annotations

import io
import time

import pytest

from ntk_jax.metrics.progress import Progress


class Clock:
  """A monotonic clock that is told the time."""

  def __init__(self) -> None:
    self.now = 5000.0

  def __call__(self) -> float:
    return self.now


class Terminal(io.StringIO):
  def isatty(self) -> bool:
    return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
  clock = Clock()
  monkeypatch.setattr(time, 'monotonic', clock)
  return clock


def test_what_the_line_says(clock: Clock) -> None:
  progress = Progress(total=4000, stream=io.StringIO())
  progress.stage('seed 0: train at 128')
  assert progress.line(clock.now) == '[  0%] seed 0: train at 128'
  clock.now += 10
  progress.advance(work=3 * 500, tokens=500)
  # 1500 of 4000 in 10 s: 2500 more take 16.7 s.
  line = '[ 38%] seed 0: train at 128 | 50 tokens/s | 0:17 left'
  assert progress.line(clock.now) == line


def test_speed_is_of_the_stage_and_time_left_of_the_job(clock: Clock) -> None:
  progress = Progress(total=300_000, stream=io.StringIO())
  progress.stage('one')
  clock.now += 100
  progress.advance(100_000, 100_000)
  progress.stage('two')
  clock.now += 10
  progress.advance(50_000, 50_000)
  # 150k in 110 s, so 150k more in as long.
  assert progress.line(clock.now) == '[ 50%] two | 5,000 tokens/s | 1:50 left'


def test_work_of_an_earlier_run_is_taken_off(clock: Clock) -> None:
  progress = Progress(total=4000, stream=io.StringIO())
  progress.skip(2000)
  progress.stage('score')
  clock.now += 10
  progress.advance(1000, 1000)
  assert progress.line(clock.now) == '[ 50%] score | 100 tokens/s | 0:10 left'


@pytest.mark.parametrize('total', [0.0, 10.0])
def test_the_share_stays_at_most_all(clock: Clock, total: float) -> None:
  progress = Progress(total=total, stream=io.StringIO())
  progress.stage('x')
  clock.now += 1
  progress.advance(20, 20)
  assert progress.line(clock.now) == '[100%] x | 20 tokens/s | 0:00 left'


def test_a_file_gets_a_line_per_stage_and_every_ten_seconds(
  clock: Clock,
) -> None:
  stream = io.StringIO()
  progress = Progress(total=100, stream=stream)
  progress.stage('one')
  for _ in range(25):
    clock.now += 1
    progress.advance(1, 10)
  progress.stage('two')
  progress.close('done')
  assert stream.getvalue().splitlines() == [
    '[  0%] one',
    '[ 10%] one | 10 tokens/s | 1:30 left',
    '[ 20%] one | 10 tokens/s | 1:20 left',
    '[ 25%] two | 1:15 left',
    'done',
  ]


def test_a_terminal_has_one_line_written_over(
  clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setenv('COLUMNS', '24')
  stream = Terminal()
  progress = Progress(total=100, stream=stream)
  progress.stage('one')
  for _ in range(3):
    clock.now += 0.05
    progress.advance(1, 10)
  progress.close('done')
  # At most ten times a second, cut to the width, erased before each writing.
  assert stream.getvalue().split('\r\x1b[2K') == [
    '',
    '[  0%] one',
    '[  2%] one | 200 tokens'[:23],
    'done\n',
  ]


def test_it_writes_to_standard_error(
  capsys: pytest.CaptureFixture[str],
) -> None:
  progress = Progress(total=1)
  progress.stage('train')
  progress.close('end')
  out, err = capsys.readouterr()
  assert out == ''
  assert err == '[  0%] train\nend\n'
