"""How much host memory loading a checkpoint takes, beside the parameters.

Makes a llama of random bfloat16 weights in three files, then loads it in
processes of their own and reports the peak of their anonymous memory (what
is mapped from the files can be dropped by the system and does not count) over
what they held before, in bytes of the parameters. Beside it the two usual
other ways: all tensors in a dict before any is placed, and layers stacked by
`jnp.stack`. Run from the root of a clone:

  python -m benchmarks.load --out=benchmarks/results/load.md
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from benchmarks import page
from ntk_jax import interop
from ntk_jax.interop.families import FAMILIES
from ntk_jax.interop.tensors import tensors
from ntk_jax.sharding import MeshConfig, make_mesh

FILES = 3
DEVICES = 8


def config(layers: int, dim: int) -> dict[str, Any]:
  """A llama with the proportions of the 7B one."""
  return {
    'architectures': ['LlamaForCausalLM'],
    'model_type': 'llama',
    'hidden_size': dim,
    'intermediate_size': dim * 11 // 4,
    'num_hidden_layers': layers,
    'num_attention_heads': dim // 64,
    'num_key_value_heads': dim // 64,
    'vocab_size': 8192,
    'rms_norm_eps': 1e-5,
  }


def make(folder: Path, settings: dict[str, Any]) -> int:
  """Writes the checkpoint; the bytes of its parameters."""
  (folder / 'config.json').write_text(json.dumps(settings))
  model = interop.architecture(settings).model
  pieces = list(tensors(model, FAMILIES['llama']))
  rng = np.random.default_rng(0)
  weight_map, size = {}, 0
  for i in range(FILES):
    name = f'model-{i + 1:05}-of-{FILES:05}.safetensors'
    part = pieces[i * len(pieces) // FILES : (i + 1) * len(pieces) // FILES]
    arrays = {
      piece.name: rng.normal(size=piece.shape).astype(ml_dtypes.bfloat16)
      for piece in part
    }
    save_file(arrays, folder / name, {'format': 'pt'})
    weight_map |= dict.fromkeys(arrays, name)
    size += sum(array.nbytes for array in arrays.values())
  index = {'metadata': {'total_size': size}, 'weight_map': weight_map}
  (folder / 'model.safetensors.index.json').write_text(json.dumps(index))
  return size


def stream(folder: Path) -> Any:
  """`interop.load` on one device."""
  return interop.load(folder).params


def stream_sharded(folder: Path) -> Any:
  """`interop.load` over a mesh."""
  mesh = make_mesh(MeshConfig(fsdp=2, tensor=DEVICES // 2))
  return interop.load(folder, mesh=mesh).params


def _arrays(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
  for path in sorted(folder.glob('*.safetensors')):
    with safe_open(path, framework='np') as file:
      for name in file.keys():  # noqa: SIM118 (no mapping)
        yield name, file.get_tensor(name)


def whole_dict(folder: Path) -> Any:
  """All tensors on the host, then all on the device."""
  found = dict(_arrays(folder))
  return {name: jnp.array(array.T) for name, array in found.items()}


def stacked(folder: Path) -> Any:
  """Tensor by tensor to the device, layers joined by `jnp.stack` there."""
  found: dict[str, list[jax.Array]] = {}
  for name, array in _arrays(folder):
    kind = name.split('.', 3)[-1] if 'layers' in name else name
    found.setdefault(kind, []).append(jnp.array(array.T))
  return {kind: jnp.stack(found.pop(kind)) for kind in list(found)}


WAYS: dict[str, Callable[[Path], Any]] = {
  'interop.load': stream,
  f'interop.load over {DEVICES} devices': stream_sharded,
  'jnp.stack of the layers': stacked,
  'all tensors in a dict first': whole_dict,
}


def anonymous() -> int:
  """Bytes of this process's memory that no file backs."""
  for line in Path('/proc/self/status').read_text().splitlines():
    if line.startswith('RssAnon:'):
      return int(line.split()[1]) * 1024
  raise RuntimeError('/proc/self/status does not say RssAnon')


def measure(way: str, folder: Path) -> None:
  """Prints the peak over the start and the seconds of one way."""
  jax.block_until_ready(jnp.zeros(8) + 1)
  start, peak, done = anonymous(), [0], threading.Event()

  def watch() -> None:
    while not done.wait(0.001):
      peak[0] = max(peak[0], anonymous())

  watcher = threading.Thread(target=watch)
  watcher.start()
  began = time.perf_counter()
  jax.block_until_ready(WAYS[way](folder))
  seconds = time.perf_counter() - began
  done.set()
  watcher.join()
  print(json.dumps([peak[0] - start, seconds]))


def apart(way: str, folder: Path) -> tuple[int, float]:
  """`measure` in a process of its own."""
  count = DEVICES if 'devices' in way else 1
  flags = f'--xla_force_host_platform_device_count={count}'
  found = subprocess.run(
    [sys.executable, '-m', 'benchmarks.load', f'--way={way}', f'--in={folder}'],
    env=os.environ | {'XLA_FLAGS': flags, 'JAX_PLATFORMS': 'cpu'},
    stdout=subprocess.PIPE,
    text=True,
    check=True,
  )
  peak, seconds = json.loads(found.stdout)
  return peak, seconds


def main() -> None:
  """Makes the checkpoint, measures each way, prints the table."""
  flags = page.parser(__doc__, layers=12, dim=1536)
  flags.add_argument('--way', choices=WAYS, help='measure this way alone')
  flags.add_argument('--in', type=Path, dest='folder', help='a checkpoint')
  args = flags.parse_args()
  if args.way:
    measure(args.way, args.folder)
    return
  before = page.load()
  with tempfile.TemporaryDirectory() as folder:
    size = make(Path(folder), config(args.layers, args.dim))
    rows = [(way, *apart(way, Path(folder))) for way in WAYS]
  lines = [
    '# Host memory of loading a checkpoint',
    '',
    f'{size / 2**20:.0f} MiB of bfloat16 parameters, {args.layers} layers, in '
    f'{FILES} files. Peak of anonymous memory over the start, by parameters.',
    '',
    '| way | peak / parameters | seconds |',
    '|---|---:|---:|',
    *(f'| {way} | {peak / size:.2f} | {s:.1f} |' for way, peak, s in rows),
    '',
    page.conditions(before),
    '',
  ]
  page.publish('\n'.join(lines), args.out)


if __name__ == '__main__':
  main()
