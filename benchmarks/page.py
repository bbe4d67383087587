"""The page that a benchmark leaves: what it ran on, and where it is written."""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np


def cpu() -> str:
  """The processor, as it names itself."""
  info = Path('/proc/cpuinfo')
  lines = info.read_text().splitlines() if info.exists() else []
  names = [
    line.split(':')[1] for line in lines if line.startswith('model name')
  ]
  return (names or [platform.processor()])[0].strip()


def load() -> float:
  """What the machine does at the moment: its load average of a minute."""
  return os.getloadavg()[0]


def conditions(load: float, *versions: str) -> str:
  """Date, machine, its load, and versions: jax, numpy, others, Python.

  Args:
    load: before anything was measured.
    versions: of what else was measured, as `torch 2.13.0`.
  """
  found = f'jax {jax.__version__}', f'numpy {np.__version__}', *versions
  return (
    f'{datetime.date.today()}, {jax.default_backend()}: {cpu()}, '
    f'{os.cpu_count()} cores, load average {load:.1f} at the start; '
    f'{", ".join(found)}, Python {platform.python_version()}'
  )


def parser(doc: str | None, **numbers: int) -> argparse.ArgumentParser:
  """Flags of a benchmark: whole numbers with their defaults, and --out."""
  flags = argparse.ArgumentParser(description=doc)
  for name, default in numbers.items():
    flags.add_argument(f'--{name}', type=int, default=default)
  flags.add_argument('--out', type=Path, help='a Markdown file to write')
  return flags


def peer_parser(doc: str | None, **numbers: int) -> argparse.ArgumentParser:
  """The same for two programs in turns: the peer's Python, and a quiet CPU."""
  flags = parser(doc, **numbers)
  flags.add_argument('--peer_python', default=sys.executable)
  flags.add_argument('--cores', type=int, default=os.cpu_count())
  flags.add_argument(
    '--patience',
    type=float,
    default=0,
    help='seconds per case to wait for a quiet machine',
  )
  flags.add_argument(
    '--others', type=float, default=0.2, help='cores that is quiet'
  )
  return flags


def publish(text: str, out: Path | None) -> None:
  """Prints a page, and writes it where --out says."""
  print(text)
  if out:
    out.write_text(text)


def main(report: Callable[..., str], doc: str | None, **numbers: int) -> None:
  """A benchmark as a command.

  Args:
    report: measures, and returns the page; takes the numbers by name.
    doc: what --help says.
    numbers: flags and their defaults.
  """
  given = vars(parser(doc, **numbers).parse_args())
  out = given.pop('out')
  publish(report(**given), out)
