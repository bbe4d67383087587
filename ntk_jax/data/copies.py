"""Packing where documents are read several times in an epoch, or not at all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ntk_jax.curriculum.upsampling import upsample_long
from ntk_jax.data.pack import Plan, plan_rows
from ntk_jax.data.settings import DataConfig
from ntk_jax.typing import Int, NDArray


def plan_epoch(
  config: DataConfig,
  lengths: Int[NDArray, 'documents'],
  sources: Sequence[str] = (),
) -> Plan:
  """The rows of an epoch: each document once, or long ones more often.

  Args:
    config: settings.
    lengths: tokens of each document.
    sources: where each is from; () is all the same.

  Raises:
    ConfigError: as `plan_rows` does.
  """
  if config.long_share is None or config.long_from is None:
    return plan_rows(lengths, config.max_length)
  numbers = np.zeros(len(lengths), np.int64)
  if sources:
    numbers = np.unique(sources, return_inverse=True)[1]
  counts = upsample_long(
    lengths,
    numbers,
    longer_than=config.long_from,
    share=config.long_share,
    seed=config.seed,
  )
  return plan_copies(lengths, counts, config.max_length, config.seed)


def plan_copies(
  lengths: Int[NDArray, 'documents'],
  counts: Int[NDArray, 'documents'],
  max_length: int,
  seed: int,
) -> Plan:
  """Rows of whole copies of documents, no row with two of the same.

  As many plans of `plan_rows`, one after the other, as the most frequent
  document has copies. Each document is in as many of them as it has copies,
  from a plan drawn by lot on: long and short ones are mixed in all of them,
  and fill rows as well as ever.

  Args:
    lengths: tokens of each document.
    counts: copies of each.
    max_length: tokens of a row.
    seed: of the lots.

  Raises:
    ConfigError: as `plan_rows` does.

  >>> plan = plan_copies(np.array([5, 2]), np.array([2, 1]), 8, seed=0)
  >>> [plan.row(i) for i in range(plan.rows)]
  [[(0, 0, 5)], [(0, 0, 5), (1, 0, 2)]]
  """
  turns = int(counts.max(initial=1))
  first = np.random.default_rng(seed).integers(turns, size=len(lengths))
  plans = []
  for turn in range(turns):
    read = (turn - first) % turns < counts
    kept = np.where(read, lengths, 0)
    if turns == 1 or kept.max(initial=0) >= 2:
      plans.append(plan_rows(kept, max_length))
  pieces = [plan.pieces for plan in plans]
  sizes = np.concatenate([np.diff(plan.offsets) for plan in plans])
  offsets = np.concatenate([[0], np.cumsum(sizes)])
  return Plan(max_length, np.concatenate(pieces), offsets)
