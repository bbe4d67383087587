"""A decoder as a GGUF file that llama.cpp runs, every static rope exact.

llama.cpp's own converter drops what its metadata cannot say: attention
factors, YaRN's settings, longrope's divisors. Here frequencies are written as
what they are: a base, divisors `rope_freqs.weight`, an attention factor.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np

from ntk_jax.errors import ConfigError, WorkdirError, unknown
from ntk_jax.interop.config_file import place
from ntk_jax.interop.fields import Written, written
from ntk_jax.interop.gguf_names import (
  GRAPHS,
  Stacked,
  interleaved,
  renamed,
  rope_settings,
  settings,
)
from ntk_jax.interop.host import Host
from ntk_jax.interop.settled import settled
from ntk_jax.model.shell import Transformer
from ntk_jax.scheme import Scheme
from ntk_jax.typing import NDArray

# dtype -> its numpy type, number of the file's type, number of a tensor's.
_DTYPES: dict[str, tuple[Any, int, int]] = {
  'float32': (np.float32, 0, 0),
  'float16': (np.float16, 1, 1),
  'bfloat16': (ml_dtypes.bfloat16, 32, 30),
}
_FREQUENCIES = 'rope_freqs.weight'
_ROUTER = 'ffn_gate_inp'


def save_gguf(
  model: Transformer,
  path: str | Path,
  *,
  dtype: str,
  freeze_length: int | None = None,
) -> None:
  """Writes a GGUF file of a llama, mixtral, qwen2 or qwen3 shaped decoder.

  Matrices are written in `dtype`; norms, biases and the router in float32, as
  llama.cpp wants them. What has no field is folded into the weights as
  `interop.save` does. One tensor at a time (all experts of a layer count as
  one) is gathered to the host; process 0 writes.

  The file holds no tokenizer (`tokenizer.ggml.model` is none): it runs on
  token ids. llama.cpp's own converter, on the folder that `interop.save`
  writes, adds one with `--vocab-only`.

  Args:
    model: weights, shape and schemes.
    path: of the file, which must not exist.
    dtype: 'float32', 'float16' or 'bfloat16'.
    freeze_length: as of `interop.save`; llama.cpp has no frequencies that
      depend on length, so every per-length method needs it.

  Raises:
    ConfigError: sliding windows, which llama.cpp ignores in these graphs;
      what they do not have; weights that overflow the dtype; no gguf package.
    WorkdirError: a file that exists, or a disk that refuses.

  Source: github.com/ggml-org/llama.cpp, `convert_hf_to_gguf.py` and
  `src/llama-model.cpp`.
  """
  gguf = _package()
  if dtype not in _DTYPES:
    raise unknown('dtype of a GGUF file', dtype, _DTYPES)
  _check_schemes(model.schemes, freeze_length)
  params = model.params
  found = written(
    model.config,
    model.schemes,
    origin=model.origin,
    freeze_length=freeze_length,
  )
  graph = _graph(found)
  layer = settled(model.schemes[model.config.plan[0]], freeze_length)
  rope, divisors = rope_settings(layer, graph)
  host = Host(params, found)
  stacks = renamed(entry.name for entry in host.entries())
  file = place(path)
  if file.exists():
    raise WorkdirError(f'{file} exists: it is never overwritten')
  if jax.process_index():
    for stack in stacks:
      _tensor(host, stack, dtype, found, graph)
    return
  with _whole_or_absent(file) as partial:
    writer = gguf.GGUFWriter(partial, graph)
    try:
      _add_keys(writer, graph, settings(found) | rope, dtype)
      _declare(writer, gguf, host, stacks, dtype, divisors)
      writer.write_header_to_file()
      writer.write_kv_data_to_file()
      writer.write_ti_data_to_file()
      if divisors is not None:
        writer.write_tensor_data(divisors.astype(np.float32))
      for stack in stacks:
        writer.write_tensor_data(_tensor(host, stack, dtype, found, graph))
    finally:
      writer.close()


def _package() -> Any:
  try:
    import gguf
  except ImportError:
    raise ConfigError(
      "GGUF files are written by the gguf package; pip install 'ntk_jax[gguf]'"
    ) from None
  return gguf


def _check_schemes(
  schemes: Sequence[Scheme], freeze_length: int | None
) -> None:
  """Raises ConfigError for what llama.cpp would ignore in silence."""
  for scheme in schemes:
    if scheme.window is not None:
      raise ConfigError(
        f'a sliding window of {scheme.window} cannot be written as GGUF: the '
        'llama and qwen graphs of llama.cpp attend to everything'
      )
    if scheme.per_length and freeze_length is None:
      raise ConfigError(
        f'{scheme.spec.method} cannot be written as GGUF: its frequencies '
        'depend on the length that is seen, and llama.cpp has one set of them; '
        'give freeze_length'
      )


def _graph(found: Written) -> str:
  name = found.family.name
  if name not in GRAPHS:
    raise ConfigError(
      f'a model of the family {name} is not written as GGUF; allowed: '
      f'{", ".join(GRAPHS)}'
    )
  if found.model.activation != 'silu':
    raise ConfigError(
      f'activation is {found.model.activation}: these graphs of llama.cpp have '
      'silu alone'
    )
  return GRAPHS[name]


def _add_keys(
  writer: Any, graph: str, keys: dict[str, Any], dtype: str
) -> None:
  for key, value in keys.items():
    add = {
      int: writer.add_uint32,
      float: writer.add_float32,
      str: writer.add_string,
    }[type(value)]
    add(f'{graph}.{key}', value)
  writer.add_file_type(_DTYPES[dtype][1])
  writer.add_quantization_version(2)
  writer.add_tokenizer_model('none')


def _declare(
  writer: Any,
  gguf: Any,
  host: Host,
  stacks: Sequence[Stacked],
  dtype: str,
  divisors: NDArray | None,
) -> None:
  """Names, shapes and types of all tensors, before the first is gathered."""
  if divisors is not None:
    f32 = np.dtype(np.float32)
    writer.add_tensor_info(_FREQUENCIES, divisors.shape, f32, 4 * divisors.size)
  for stack in stacks:
    shape = host.pieces[stack.sources[0]].shape
    if len(stack.sources) > 1:
      shape = (len(stack.sources), *shape)
    kind, _, number = _DTYPES[_dtype_of(stack, shape, dtype)]
    size = int(np.prod(shape)) * np.dtype(kind).itemsize
    raw = gguf.GGMLQuantizationType(number)
    writer.add_tensor_info(stack.name, shape, np.dtype(kind), size, raw)


def _dtype_of(stack: Stacked, shape: tuple[int, ...], dtype: str) -> str:
  """Matrices have the file's dtype; the router decides between experts."""
  plain = len(shape) == 1 or _ROUTER in stack.name
  return 'float32' if plain else dtype


def _tensor(
  host: Host, stack: Stacked, dtype: str, found: Written, graph: str
) -> NDArray:
  """A tensor of the file, gathered, permuted and cast."""
  rows = [host.read(name) for name in stack.sources]
  x = rows[0] if len(rows) == 1 else np.stack(rows)
  if graph == 'llama' and stack.permuted:
    model = found.model
    x = interleaved(x, model.heads if stack.permuted == 'q' else model.kv_heads)
  kind = _DTYPES[_dtype_of(stack, x.shape, dtype)][0]
  with np.errstate(over='ignore'):
    cast = np.ascontiguousarray(x).astype(kind)
  if np.isinf(cast).any() and not np.isinf(x).any():
    raise ConfigError(
      f'{stack.name} has values beyond {dtype}; write bfloat16 or float32'
    )
  return cast


@contextlib.contextmanager
def _whole_or_absent(file: Path) -> Any:
  """A path to write at, renamed when the file is whole."""
  partial = file.with_name(f'{file.name}.{os.getpid()}.partial')
  try:
    file.parent.mkdir(parents=True, exist_ok=True)
    yield partial
    os.replace(partial, file)
  except OSError as error:
    raise WorkdirError(
      f'cannot write {file}: {error.strerror or error}; free space or choose '
      'another place'
    ) from error
  finally:
    with contextlib.suppress(OSError):
      partial.unlink()
