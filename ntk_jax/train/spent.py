"""The time of a run over all its sessions, what is measured counted apart."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any


class Spent:
  """Wall and processor seconds, those of earlier sessions included."""

  def __init__(self, before: dict[str, Any] | None = None) -> None:
    """Starts the clocks where `kept` said that they stood."""
    before = before or {}
    self._wall = time.monotonic() - before.get('seconds', 0.0)
    self._cpu = time.process_time() - before.get('cpu_seconds', 0.0)
    self._wall_aside = before.get('measure_seconds', 0.0)
    self._cpu_aside = before.get('measure_cpu_seconds', 0.0)

  @property
  def seconds(self) -> float:
    """Wall seconds."""
    return time.monotonic() - self._wall

  @property
  def cpu_seconds(self) -> float:
    """Seconds of this process on all cores; on an accelerator, of its host."""
    return time.process_time() - self._cpu

  @contextlib.contextmanager
  def aside(self) -> Iterator[None]:
    """What is done within is measurement: it counts apart."""
    wall, cpu = self.seconds, self.cpu_seconds
    try:
      yield
    finally:
      wall, cpu = self.seconds - wall, self.cpu_seconds - cpu
      self._wall, self._cpu = self._wall + wall, self._cpu + cpu
      self._wall_aside += wall
      self._cpu_aside += cpu

  def kept(self) -> dict[str, float]:
    """What a checkpoint keeps of it."""
    return {
      'seconds': self.seconds,
      'cpu_seconds': self.cpu_seconds,
      'measure_seconds': self._wall_aside,
      'measure_cpu_seconds': self._cpu_aside,
    }
