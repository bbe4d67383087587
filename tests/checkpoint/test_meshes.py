"""A run goes on under another mesh, and in several processes."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import devices
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ntk_jax.checkpoint import Checkpoints, StopSignals
from ntk_jax.errors import WorkdirError

ROOT = Path(__file__).resolve().parents[2]
SPECS: dict[tuple[int, ...], dict[str, P]] = {
  (8,): {'w': P('a'), 'bias': P(None), 'narrow': P(None, 'a')},
  (2, 4): {'w': P('b', 'a'), 'bias': P('a'), 'narrow': P(('a', 'b'))},
}


def host_state() -> dict[str, np.ndarray]:
  rng = np.random.default_rng(0)
  return {
    'w': rng.normal(size=(16, 8)).astype(np.float32),
    'bias': rng.normal(size=6).astype(np.float32),
    'narrow': rng.normal(size=(8, 24)).astype(jnp.bfloat16),
  }


def mesh_of(shape: tuple[int, ...]) -> Mesh:
  names = ('a', 'b')[: len(shape)]
  return jax.make_mesh(shape, names, axis_types=(AxisType.Auto,) * len(shape))


def shardings(shape: tuple[int, ...]) -> dict[str, NamedSharding]:
  mesh = mesh_of(shape)
  specs = SPECS[shape].items()
  return {name: NamedSharding(mesh, spec) for name, spec in specs}


def like(shape: tuple[int, ...]) -> dict[str, jax.ShapeDtypeStruct]:
  where = shardings(shape)
  return {
    name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where[name])
    for name, x in host_state().items()
  }


def spread(shape: tuple[int, ...]) -> dict[str, jax.Array]:
  where = shardings(shape)
  return {
    name: jax.make_array_from_callback(
      x.shape, where[name], lambda index, x=x: x[index]
    )
    for name, x in host_state().items()
  }


def check(folder: Path, shape: tuple[int, ...]) -> None:
  """The state of the folder, restored to a mesh, shard by shard."""
  with Checkpoints(folder) as checkpoints:
    found = checkpoints.restore(like(shape))
  assert found is not None
  for name, array in host_state().items():
    restored = found.tree[name]
    assert restored.sharding == shardings(shape)[name]
    assert restored.dtype == array.dtype
    for shard in restored.addressable_shards:
      part = np.asarray(shard.data)
      assert part.tobytes() == array[shard.index].tobytes()


EIGHT = """
import sys
from pathlib import Path
from ntk_jax.checkpoint import Checkpoints
from tests.checkpoint.test_meshes import check, like, spread
wide, tall, one = (Path(sys.argv[1]) / name for name in ('wide', 'tall', 'one'))
with Checkpoints(wide) as checkpoints:
  checkpoints.save(1, spread((8,)), {})
with Checkpoints(tall) as checkpoints:
  checkpoints.save(1, spread((2, 4)), {})
check(wide, (8,))
check(wide, (2, 4))
check(tall, (8,))
check(one, (2, 4))
"""


def test_another_mesh(tmp_path: Path) -> None:
  """8 devices to 2 x 4 and back, to one device and from one."""
  plain = host_state()
  with Checkpoints(tmp_path / 'one') as checkpoints:
    checkpoints.save(1, jax.tree.map(jnp.asarray, plain), {})
  devices.output(devices.start('-c', EIGHT, tmp_path, devices=8))
  for name in ('wide', 'tall'):
    for kind in (np.asarray, jnp.asarray):
      with Checkpoints(tmp_path / name) as checkpoints:
        found = checkpoints.restore(jax.tree.map(kind, plain))
      assert found is not None
      for leaf, wanted in plain.items():
        assert isinstance(found.tree[leaf], type(kind(wanted)))
        assert np.asarray(found.tree[leaf]).tobytes() == wanted.tobytes()


def session(folder: Path, port: int, index: int, task: str) -> None:
  """One of two processes with four devices each."""
  jax.distributed.initialize(f'localhost:{port}', 2, index)
  if task == 'save':
    with Checkpoints(folder, keep=2) as checkpoints:
      for step in (1, 2, 3):
        checkpoints.save(step, spread((2, 4)), {'step': step})
  if task == 'restore':
    check(folder, (8,))
    print(sorted(p.name for p in folder.iterdir() if p.name != '.lock'))
  if task == 'refused':
    try:
      with Checkpoints(folder):
        print('opened')
    except WorkdirError as error:
      print(error)
  if task == 'stop':
    with StopSignals() as stop:
      for step in range(10_000):
        print('step', flush=True)
        time.sleep(0.02)
        if stop.agreed(step):
          print(f'stopped at {step}')
          sys.exit(stop.exit_code)


TWO = """
import sys
from pathlib import Path
from tests.checkpoint.test_meshes import session
session(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
"""


def two(folder: Path, task: str) -> list[subprocess.Popen[str]]:
  with socket.socket() as free:
    free.bind(('localhost', 0))
    port = free.getsockname()[1]
  args = [(folder, port, index, task) for index in range(2)]
  return [devices.start('-c', TWO, *arg, devices=4) for arg in args]


@pytest.mark.slow
def test_two_processes(tmp_path: Path) -> None:
  for process in two(tmp_path, 'save'):
    devices.output(process)
  path = max(
    (p for p in (tmp_path / '3' / 'arrays').rglob('*') if p.is_file()),
    key=lambda p: p.stat().st_size,
  )
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(bytes(content))
  for process in two(tmp_path, 'restore'):
    assert "['2', 'bad-3']\n" in devices.output(process)
  with Checkpoints(tmp_path):
    first, second = two(tmp_path, 'refused')
    assert f'is in use by process {os.getpid()};' in devices.output(first)
    assert 'process 0 stopped: its message says why\n' in devices.output(second)


@pytest.mark.slow
@pytest.mark.parametrize(
  ('number', 'codes'), [(signal.SIGTERM, (0, 0)), (signal.SIGINT, (0, 130))]
)
def test_a_signal_to_one_of_two_stops_both(
  tmp_path: Path, number: signal.Signals, codes: tuple[int, int]
) -> None:
  processes = two(tmp_path, 'stop')
  for process in processes:
    assert process.stdout is not None
    assert process.stdout.readline() == 'step\n'
  processes[1].send_signal(number)
  first, second = (devices.output(p, code) for p, code in zip(processes, codes))
  (stopped,) = re.findall(r'stopped at \d+\n', first)
  assert stopped in second
