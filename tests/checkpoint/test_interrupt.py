"""Signals become a wish to stop; a second Ctrl-C kills."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ntk_jax.checkpoint import StopSignals
from ntk_jax.checkpoint.interrupt import resume_line

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
  ('number', 'code'), [(signal.SIGTERM, 0), (signal.SIGINT, 130)]
)
def test_the_first_signal_is_a_wish(
  number: signal.Signals, code: int, capfd: pytest.CaptureFixture[str]
) -> None:
  before = signal.getsignal(number)
  with StopSignals() as stop:
    assert not stop.requested
    assert not stop.agreed(1)
    os.kill(os.getpid(), number)
    assert stop.requested
    assert stop.agreed(2)
    assert (stop.signal, stop.exit_code) == (number, code)
    os.kill(os.getpid(), signal.SIGTERM)  # schedulers repeat themselves
    assert stop.signal == number
  assert signal.getsignal(number) == before
  said = 'stopping after this step; Ctrl-C stops at once'
  assert said in capfd.readouterr().err


def test_handlers_come_back_after_an_error() -> None:
  before = signal.getsignal(signal.SIGINT)
  with pytest.raises(KeyError), StopSignals():
    raise KeyError
  assert signal.getsignal(signal.SIGINT) == before


DEAF = """
import time
from ntk_jax.checkpoint import StopSignals
with StopSignals():
  print('ready', flush=True)
  while True:
    try:
      time.sleep(60)
    except BaseException:
      pass  # a step that no exception ends
"""


@pytest.mark.parametrize('first', [signal.SIGTERM, signal.SIGINT])
def test_the_next_ctrl_c_kills_at_once(first: signal.Signals) -> None:
  with subprocess.Popen(
    [sys.executable, '-c', DEAF],
    env={**os.environ, 'PYTHONPATH': str(ROOT)},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
  ) as process:
    try:
      assert process.stdout is not None
      assert process.stderr is not None
      assert process.stdout.readline() == b'ready\n'
      process.send_signal(first)
      process.stderr.readline()
      assert b'stopping after this step' in process.stderr.readline()
      assert process.poll() is None
      process.send_signal(signal.SIGINT)
      assert process.wait(timeout=30) == -signal.SIGINT
    finally:
      process.kill()


def test_the_resume_line_is_this_process() -> None:
  said = resume_line(7).splitlines()
  assert said[0].startswith('stopped and saved after step 7; to go on')
  assert said[1].split()[0] == sys.orig_argv[0]
