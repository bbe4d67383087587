"""What a run reports: its progress, its metrics, its speed."""

from __future__ import annotations

from ntk_jax.metrics.jsonl import JsonLines, read_lines
from ntk_jax.metrics.progress import Progress
from ntk_jax.metrics.tensorboard import TensorBoard
from ntk_jax.metrics.throughput import (
  Throughput,
  flops_per_token,
  peak_flops,
)

__all__ = [
  'JsonLines',
  'Progress',
  'TensorBoard',
  'Throughput',
  'flops_per_token',
  'peak_flops',
  'read_lines',
]
