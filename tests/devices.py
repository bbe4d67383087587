"""Programs of tests in processes of their own, on virtual devices."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def start(*arguments: Any, devices: int) -> subprocess.Popen[str]:
  """Python with these arguments, from the root of the clone.

  Args:
    arguments: as `-c` and a source, or the path of a program and its own.
    devices: how many of the CPU there are to be.
  """
  flags = f'--xla_force_host_platform_device_count={devices}'
  path = os.pathsep.join((str(ROOT), str(ROOT / 'tests')))
  return subprocess.Popen(
    [sys.executable, *map(str, arguments)],
    cwd=ROOT,
    env=os.environ
    | {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': flags, 'PYTHONPATH': path},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def output(
  process: subprocess.Popen[str], code: int = 0, timeout: float = 600
) -> str:
  """What it printed; it has to end with this code."""
  out, errors = process.communicate(timeout=timeout)
  assert process.returncode == code, errors[-3000:]
  return out
