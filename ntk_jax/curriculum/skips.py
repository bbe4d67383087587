"""Positions with skips: short documents that teach the distances of long ones.

On the host, for packed rows: each document has a draw of its own and nothing
passes between documents. A row's draw is a function of the seed's words and
of the row's number alone, whatever the hosts and the rows of a batch.

Position skips leave tokens out, they do not move them: the tokens between two
chunks are the ones that a document of `target_length` tokens would have there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ntk_jax.curriculum.draws import (
  RowDraws,
  distinct_places,
  drawn_subsets,
)
from ntk_jax.errors import ConfigError
from ntk_jax.scheme import Scheme, SchemeArrays
from ntk_jax.temperature.scalars import check_integer
from ntk_jax.typing import Bool, Int, Int32, NDArray


def pose_rows(
  seed: Sequence[int],
  positions: Int[NDArray, 'B T'],
  segments: Int[NDArray, 'B T'] | None,
  target_length: int,
  chunks: int = 2,
  *,
  first_row: int = 0,
) -> Int32[NDArray, 'B T']:
  """PoSE: every document of a packed row spread over a long target.

  A document of n tokens is cut into contiguous chunks, all choices of cuts
  as likely. Its first chunk stays where it is; chunk c moves by skip u_c, of
  draws from 0 ... target_length - n, each as likely, sorted. So positions of
  a document increase and stay below the target. It is
  `ntk_jax.rope.pose_positions` for documents in place of rows.

  A layer with a sliding window compares positions here, not indices: a query
  sees the keys less than `window` positions away. Across a skip of the window
  or more it therefore sees nothing of the chunks before, as in a real text of
  the target length; within its chunk all is as without skips. Such a layer
  learns no new distances, and at chunk starts it sees fewer keys.

  Args:
    seed: words such as (seed, step); the row's number is added.
    positions: of the tokens, rising by document; skips are added to them.
    segments: 1, 2, ... for the documents of a row, each in one piece, 0 is
      padding, which stays; None is one document a row.
    target_length: positions are below it.
    chunks: pieces of a document; one with fewer tokens stays plain, and with
      1 all do.
    first_row: number of the first row among all hosts' rows.

  Raises:
    ConfigError: target_length or chunks below 1; positions that do not rise
      in a document, or one that reaches beyond the target.

  Source: Zhu et al. 2023, arXiv:2309.10400, section 3.2.

  >>> plain = np.array([[0, 1, 2, 3, 4, 5, 0, 1, 2, 0]])
  >>> segments = np.array([[1, 1, 1, 1, 1, 1, 2, 2, 2, 0]])
  >>> print(pose_rows((0, 7), plain, segments, target_length=100))
  [[ 0  1 33 34 35 36  0 26 27  0]]
  """
  check_integer('chunks', chunks, least=1)
  positions = np.asarray(positions, np.int32)
  starts, stops, last = _checked(positions, segments, target_length)
  whole = stops - starts >= max(chunks, 2)
  starts, stops, last = starts[whole], stops[whole], last[whole]
  if chunks == 1 or not len(starts):
    return positions.copy()
  rows = RowDraws(seed, first_row, starts // positions.shape[1])
  u_DC2 = rows.uniform(np.full(len(starts), 2 * (chunks - 1)))
  u_DC2 = u_DC2.reshape(len(starts), chunks - 1, 2)
  cuts_DC = distinct_places(u_DC2[..., 0], stops - starts - 1)
  most_D1 = (target_length - last)[:, None]
  skips_DC = np.sort((u_DC2[..., 1] * most_D1).astype(np.int64), axis=1)
  steps = np.zeros(positions.size + 1, np.int64)
  steps[starts[:, None] + cuts_DC] = np.diff(skips_DC, axis=1, prepend=0)
  np.subtract.at(steps, stops, skips_DC[:, -1])
  moved = positions + np.cumsum(steps[:-1]).reshape(positions.shape)
  return moved.astype(np.int32)


def random_rows(
  seed: Sequence[int],
  positions: Int[NDArray, 'B T'],
  segments: Int[NDArray, 'B T'] | None,
  target_length: int,
  *,
  first_row: int = 0,
) -> Int32[NDArray, 'B T']:
  """Random positions: n of the target's for a document of n tokens, in order.

  Every set of n positions from 0 ... target_length - 1 is as likely.

  Args:
    seed: words such as (seed, step); the row's number is added.
    positions: of the tokens; those of documents are replaced.
    segments: as in `pose_rows`.
    target_length: positions are below it.
    first_row: number of the first row among all hosts' rows.

  Raises:
    ConfigError: target_length below 1; positions that do not rise in a
      document, or one that reaches beyond the target.

  Source: Ruoss et al. 2023, arXiv:2305.16843, section 3.1.

  >>> plain = np.array([[0, 1, 2, 3, 4, 0, 1, 2, 0]])
  >>> segments = np.array([[1, 1, 1, 1, 1, 2, 2, 2, 0]])
  >>> print(random_rows((0, 7), plain, segments, target_length=100))
  [[21 26 33 34 44 30 31 67  0]]
  """
  positions = np.asarray(positions, np.int32)
  starts, stops, _ = _checked(positions, segments, target_length)
  found = positions.copy()
  if len(starts):
    rows = RowDraws(seed, first_row, starts // positions.shape[1])
    drawn = drawn_subsets(rows, stops - starts, target_length)
    found[_real(positions, segments)] = drawn
  return found


def skipped_arrays(
  schemes: Sequence[Scheme],
  target_length: int,
  positions: Int[NDArray, '*B T'],
) -> tuple[SchemeArrays, ...]:
  """What schemes give to rows whose positions are skipped.

  The length that a method sees is the target's: frequencies that depend on
  it are those of the long text that the positions stand for, in documents of
  any length. So every rope method trains with skips, on packed rows too.

  Args:
    schemes: of the layer plan.
    target_length: what `pose_rows` or `random_rows` were told.
    positions: what temperatures read: the skipped ones, as a long text would
      have them; or the plain ones, for a temperature that is to count the
      keys that a query has now.

  Raises:
    ConfigError: as `Scheme.arrays` does.

  >>> from ntk_jax.rope.spec import RopeSpec
  >>> dynamic = RopeSpec('dynamic', 4, factor=1.0, original_length=8)
  >>> arrays = skipped_arrays([Scheme(dynamic)], 32, np.array([[0, 1, 31]]))[0]
  >>> w = arrays.phases[-1, 0] / 2**32 * 2 * np.pi  # 0.01 in a short text
  >>> round(float(w), 8)
  0.0025
  """
  check_integer('target_length', target_length, least=1)
  return tuple(scheme.arrays(target_length, positions) for scheme in schemes)


def document_spans(
  segments: Int[NDArray, 'B T'],
) -> tuple[Int[NDArray, 'D'], Int[NDArray, 'D']]:
  """First and one-past-last token of every document, in flat rows.

  >>> document_spans(np.array([[1, 1, 2, 0], [1, 1, 1, 1]]))
  (array([0, 2, 4]), array([2, 3, 8]))
  """
  B, T = segments.shape
  edges = np.zeros((B, T + 1), np.bool_)
  edges[:, 0] = edges[:, -1] = True
  edges[:, 1:-1] = segments[:, 1:] != segments[:, :-1]
  real = segments > 0
  starts = np.flatnonzero(edges[:, :-1] & real)
  stops = np.flatnonzero(edges[:, 1:] & real) + 1
  return starts, stops


def _real(
  positions: Int[NDArray, 'B T'], segments: Int[NDArray, 'B T'] | None
) -> Bool[NDArray, 'B T']:
  """Where there is a document."""
  if segments is None:
    return np.ones(positions.shape, np.bool_)
  return segments > 0


def _checked(
  positions: Int[NDArray, 'B T'],
  segments: Int[NDArray, 'B T'] | None,
  target_length: int,
) -> tuple[Int[NDArray, 'D'], Int[NDArray, 'D'], Int[NDArray, 'D']]:
  """Starts and stops of documents in flat rows, and their last positions."""
  check_integer('target_length', target_length, least=1)
  real = _real(positions, segments)
  spans = real.astype(np.int32) if segments is None else segments
  starts, stops = document_spans(spans)
  flat = positions.reshape(-1)
  follows = real.reshape(-1).copy()
  follows[starts] = False
  at = np.flatnonzero(follows)
  if not (flat[at] > flat[at - 1]).all():
    raise ConfigError(
      'positions do not rise within a document: give those of packed rows, '
      '0, 1, 2, ... in each, and segments that keep documents apart'
    )
  last = flat[stops - 1].astype(np.int64)
  if len(last) and last.max() >= target_length:
    raise ConfigError(
      f'a document has position {last.max()}, target_length is '
      f'{target_length}: it must be at least the length of rows'
    )
  return starts, stops, last
