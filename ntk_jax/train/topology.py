"""TPUs that are not there: libtpu compiles for them, nothing runs."""

from __future__ import annotations

import importlib.util
import os

import jax
from jax.experimental import topologies

from ntk_jax.errors import ConfigError

# What libtpu asks of a machine that has no TPU: no metadata server, one host,
# and other processes that have loaded it too.
_WITHOUT_TPU = {
  'TPU_SKIP_MDS_QUERY': '1',
  'TPU_WORKER_HOSTNAMES': 'localhost',
  'TPU_ACCELERATOR_TYPE': 'v5litepod-16',
  'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
}
_SAID = 200  # characters of a message of libtpu


def topology(name: str) -> list[jax.Device]:
  """The devices of a TPU that is not there, to compile for.

  Args:
    name: a kind and how its chips stand: `v5e:4x4`, `v5p:2x2x1`, `v6e:2x2`.

  Raises:
    ConfigError: if libtpu is not installed, or does not know the name.
  """
  if importlib.util.find_spec('libtpu') is None:
    raise ConfigError(
      f'target {name!r}: compiling for a TPU takes libtpu, which is not '
      'installed; pip install "jax[tpu]" (Linux on x86_64), or leave the '
      'target out for this machine'
    )
  if jax.default_backend() != 'tpu':
    for variable, value in _WITHOUT_TPU.items():
      os.environ.setdefault(variable, value)
  try:
    return list(topologies.get_topology_desc(name, 'tpu').devices)
  except Exception as error:  # of many kinds, none of them public
    said = ' '.join(str(error).split())
    raise ConfigError(
      f'target {name!r} is no TPU that libtpu can compile for: a kind and its '
      f'chips, as v5e:4x4, v5p:2x2x1 or v6e:2x2 ({said[:_SAID]})'
    ) from error
