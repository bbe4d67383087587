"""One run on one device, on a mesh, and on two processes: the same losses."""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path

import devices
import numpy as np
import pytest

from ntk_jax.metrics.jsonl import read_lines

ROOT = Path(__file__).resolve().parents[2]


def start(
  folder: Path, mesh: str, count: int, *process: str, steps: int = 6
) -> subprocess.Popen[str]:
  """The tiny run in a process of its own."""
  program = 'tests/train/run_tiny.py'
  return devices.start(program, folder, steps, mesh, *process, devices=count)


def losses(folder: Path) -> np.ndarray:
  lines = read_lines(folder / 'metrics.jsonl')
  assert [line['step'] for line in lines] == list(range(6))
  names = ('loss', 'text', 'answers', 'grad_norm')
  return np.array([[line[name] for name in names] for line in lines])


@pytest.fixture(scope='module')
def one_device(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
  folder = tmp_path_factory.mktemp('one')
  devices.output(start(folder, '1,1,1', 1))
  found = losses(folder)
  assert found[-1, 0] < found[0, 0]  # it learns
  return found


def test_killed_at_any_moment_it_ends_with_the_same_bits(
  one_device: np.ndarray, tmp_path: Path
) -> None:
  lines = tmp_path / 'metrics.jsonl'
  running = start(tmp_path, '1,1,1', 1)
  while running.poll() is None:
    if lines.exists() and lines.read_bytes().count(b'\n') >= 4:
      running.kill()
      break
    time.sleep(0.005)
  running.communicate()
  devices.output(start(tmp_path, '1,1,1', 1))
  np.testing.assert_array_equal(losses(tmp_path), one_device)


def test_a_mesh_trains_as_one_device(
  one_device: np.ndarray, tmp_path: Path
) -> None:
  devices.output(start(tmp_path, '2,2,2', 8))
  np.testing.assert_allclose(losses(tmp_path), one_device, rtol=1e-4)


def test_two_processes_train_as_one(
  one_device: np.ndarray, tmp_path: Path
) -> None:
  with socket.socket() as free:
    free.bind(('localhost', 0))
    port = str(free.getsockname()[1])
  both = [start(tmp_path, '2,1,2', 2, rank, port) for rank in ('0', '1')]
  for process in both:
    devices.output(process)
  np.testing.assert_allclose(losses(tmp_path), one_device, rtol=1e-4)


def test_a_run_goes_on_under_another_mesh(
  one_device: np.ndarray, tmp_path: Path
) -> None:
  devices.output(start(tmp_path, '2,2,1', 4, steps=3))
  devices.output(start(tmp_path, '1,1,2', 2))
  found = losses(tmp_path)
  # Three steps had a learning rate of a shorter run.
  np.testing.assert_allclose(found[:2], one_device[:2], rtol=1e-4)
  assert found[-1, 0] < found[0, 0]
