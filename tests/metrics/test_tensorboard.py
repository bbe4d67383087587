"""Event files, read back record by record."""

from __future__ import annotations

import importlib
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from ntk_jax.metrics import TensorBoard

ROOT = Path(__file__).resolve().parents[2]


def events(folder: Path) -> list[Any]:
  """The events of a folder: length, checksum, protobuf, checksum."""
  event: Any = importlib.import_module('tensorboardX.proto.event_pb2').Event
  found = []
  for path in sorted(folder.iterdir()):
    data, at = path.read_bytes(), 0
    while at < len(data):
      (size,) = struct.unpack_from('<Q', data, at)
      found.append(event.FromString(data[at + 12 : at + 12 + size]))
      at += 12 + size + 4
  return found


def scalars(folder: Path) -> list[tuple[int, str, float]]:
  return [
    (event.step, value.tag, value.simple_value)
    for event in events(folder)
    for value in event.summary.value
  ]


def test_numbers_by_step_and_name(tmp_path: Path) -> None:
  board = TensorBoard(tmp_path / 'events')
  board.write(0, {'loss': jnp.float32(2.5), 'grad_norm/q': 1})
  board.write(7, {'loss': 0.5})
  board.close()
  assert scalars(tmp_path / 'events') == [
    (0, 'loss', 2.5),
    (0, 'grad_norm/q', 1.0),
    (7, 'loss', 0.5),
  ]


def test_a_resumed_run_hides_what_it_repeats(tmp_path: Path) -> None:
  first = TensorBoard(tmp_path)
  for step in range(4):
    first.write(step, {'loss': 1.0})
  first.close()
  second = TensorBoard(tmp_path, resume_at=2)
  second.write(2, {'loss': 0.5})
  second.close()
  starts = [
    event.step for event in events(tmp_path) if event.session_log.status == 1
  ]
  assert starts == [2]


def test_it_is_loaded_when_it_is_used() -> None:
  done = subprocess.run(
    [
      sys.executable,
      '-c',
      'import sys, ntk_jax.metrics\nassert "tensorboardX" not in sys.modules',
    ],
    cwd=ROOT,
  )
  assert done.returncode == 0
