"""Grow-P2: every length in every cycle, the short ones first."""

from __future__ import annotations

import functools

import numpy as np

from ntk_jax.typing import Int, NDArray


def sub_cycle_weights(count: int) -> Int[NDArray, 'lengths sub_cycles']:
  """Weight of each length (rows, short to long) in each part of a cycle.

  The b-th length weighs 2^(n-1-b), .., 2^(n-1) up to its own part, and what
  is left of 2^0 .. 2^(n-1), falling, after it.

  >>> print(sub_cycle_weights(4))
  [[8 4 2 1]
   [4 8 2 1]
   [2 4 8 1]
   [1 2 4 8]]
  """
  rows = []
  for b in range(count):
    up = range(count - 1 - b, count)
    down = range(count - 2 - b, -1, -1)
    rows.append([2**e for e in (*up, *down)])
  return np.array(rows)


def cycle_counts(steps: int, count: int) -> Int[NDArray, 'lengths sub_cycles']:
  """Steps of each length in each part of a cycle of so many steps.

  Rows sum to equal shares of the steps (those left over go to the longest),
  spread over the parts by `sub_cycle_weights`.

  >>> print(cycle_counts(62, 4))
  [[8 4 2 1]
   [4 8 2 1]
   [2 4 8 2]
   [1 2 4 9]]
  """
  weights = sub_cycle_weights(count)
  shares = np.full(count, steps // count)
  shares[count - steps % count :] += 1
  edges = np.cumsum(weights, axis=1) * shares[:, None] // weights[0].sum()
  return np.diff(edges, prepend=0, axis=1)


@functools.lru_cache(maxsize=4)
def cycle_order(
  steps: int, count: int, seed: int, cycle: int
) -> tuple[int, ...]:
  """Which length each step of a cycle has: numbers from 0, the shortest.

  Steps are shuffled within a part of the cycle, never across parts, by a
  generator of (seed, cycle).

  >>> cycle_order(15, 3, seed=0, cycle=0)
  (1, 0, 0, 1, 2, 1, 2, 1, 0, 0, 0, 2, 2, 2, 1)
  """
  generator = np.random.default_rng([seed, cycle])
  order: list[int] = []
  for counts in cycle_counts(steps, count).T:
    part = np.repeat(np.arange(count), counts)
    order += generator.permutation(part).tolist()
  return tuple(order)


def cycled(step: int, steps: int, cycles: int, count: int, seed: int) -> int:
  """Which length a step of Grow-P2 has: a number from 0, the shortest.

  A pure function of (seed, step): a resumed run needs nothing else.

  Of the two algorithms of that name this is the one of OLMo-core: a cycle has
  as many parts as there are lengths, and each length spends a fixed count of
  its steps in each part. The one published with the paper draws every step's
  length at random with odds 2^k for the short ones, until a bucket of
  documents runs dry. Here any length can be cut from any packed row, so that
  nothing runs dry, and fixed counts give each length its share in every cycle
  exactly, not only on average.

  Args:
    step: 0-based, below `steps`.
    steps: that the cycles take together.
    cycles: they are of equal length, up to one step.
    count: of lengths.
    seed: of the order within the parts.

  Source: Pouransari et al. 2024 (arXiv 2405.13226), section 3.3; 8 cycles.

  >>> [cycled(step, 16, 2, 2, seed=0) for step in range(16)]
  [1, 0, 0, 1, 1, 1, 0, 0, 1, 0, 0, 0, 1, 1, 0, 1]
  """
  cycle = ((step + 1) * cycles - 1) // steps
  begin, end = cycle * steps // cycles, (cycle + 1) * steps // cycles
  return cycle_order(end - begin, count, seed, cycle)[step - begin]
