"""Progress of a whole job on one line."""

from __future__ import annotations

import shutil
import sys
import time
from typing import TextIO

_SECONDS_BETWEEN_LINES = 10.0  # where a line cannot be rewritten in place
_ERASE = '\r\x1b[2K'


class Progress:
  """One line for the whole job: stage, share done, tokens/s, time left.

  Work is counted in tokens of a forward pass; a token of training counts
  three times. On a terminal the line is rewritten, elsewhere a new line
  comes every ten seconds and at the start of every stage.
  """

  def __init__(self, total: float, stream: TextIO | None = None) -> None:
    """Starts the clock.

    Args:
      total: work of the whole job.
      stream: where to write, standard error if None.
    """
    self._stream = stream or sys.stderr
    self._total = total
    self._done = 0.0
    self._start = time.monotonic()
    self._stage = ''
    self._stage_start = self._start
    self._stage_tokens = 0
    self._last_line = -_SECONDS_BETWEEN_LINES

  def stage(self, name: str) -> None:
    """Names what comes next."""
    self._stage, self._stage_tokens = name, 0
    self._stage_start = time.monotonic()
    self._write(force=True)

  def advance(self, work: float, tokens: int) -> None:
    """Counts finished work, and the tokens that it took."""
    self._done += work
    self._stage_tokens += tokens
    self._write()

  def skip(self, work: float) -> None:
    """Takes work off the job that an earlier run has done."""
    self._total -= work

  def close(self, message: str) -> None:
    """Ends the line with a message."""
    erase = _ERASE if self._stream.isatty() else ''
    print(f'{erase}{message}', file=self._stream, flush=True)

  def line(self, now: float) -> str:
    """The line as it stands at a moment of the monotonic clock."""
    share = min(1.0, self._done / max(self._total, 1e-9))
    text = f'[{share:4.0%}] {self._stage}'
    seconds = now - self._stage_start
    if self._stage_tokens and seconds > 0:
      text += f' | {self._stage_tokens / seconds:,.0f} tokens/s'
    if self._done > 0:
      left = (self._total - self._done) * (now - self._start) / self._done
      text += f' | {_clock(left)} left'
    return text

  def _write(self, force: bool = False) -> None:
    now = time.monotonic()
    in_place = self._stream.isatty()
    pause = 0.1 if in_place else _SECONDS_BETWEEN_LINES
    if not force and now - self._last_line < pause:
      return
    self._last_line = now
    if in_place:
      width = shutil.get_terminal_size().columns - 1
      self._stream.write(f'{_ERASE}{self.line(now)[:width]}')
    else:
      self._stream.write(self.line(now) + '\n')
    self._stream.flush()


def _clock(seconds: float) -> str:
  minutes, seconds = divmod(round(max(0.0, seconds)), 60)
  return f'{minutes}:{seconds:02d}'
