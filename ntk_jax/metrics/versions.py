"""What computed the numbers of a result."""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path

import jax

from ntk_jax import __version__


def versions() -> dict[str, str]:
  """Packages, system, processor and backend, by name."""
  device = jax.devices()[0]
  return {
    'ntk_jax': __version__,
    'python': platform.python_version(),
    **{name: metadata.version(name) for name in ('jax', 'jaxlib', 'numpy')},
    'system': f'{platform.system()} {platform.machine()}',
    'processor': _processor(),
    'backend': f'{device.platform} ({device.device_kind})',
  }


def _processor() -> str:
  """The model of the CPU, as far as the system tells."""
  try:
    lines = Path('/proc/cpuinfo').read_text().splitlines()
  except OSError:  # not Linux
    return platform.processor() or 'unknown'
  named = [line for line in lines if line.startswith('model name')]
  return named[0].partition(':')[2].strip() if named else platform.machine()
