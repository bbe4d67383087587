"""Documents packed into rows, without anything passing between them.

A plan says which piece of which document stands in which row. It is made once,
of the lengths of all documents, before hosts and workers share the rows. A row
keeps its documents apart by segment ids, and positions start at 0 in each.
"""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Sequence

import numpy as np

from ntk_jax.data.batch import NO_TARGET, Batch
from ntk_jax.errors import ConfigError
from ntk_jax.typing import Int, NDArray


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
  """Which pieces of documents stand in which row.

  Attributes:
    length: tokens that a row has room for.
    pieces: (document, start, stop) of every piece, row by row.
    offsets: the first piece of every row, and the number of pieces.
  """

  length: int
  pieces: Int[NDArray, 'pieces 3']
  offsets: Int[NDArray, 'rows+1']

  @property
  def rows(self) -> int:
    """How many rows there are."""
    return len(self.offsets) - 1

  @property
  def tokens(self) -> int:
    """How many tokens stand in them."""
    return int((self.pieces[:, 2] - self.pieces[:, 1]).sum())

  @property
  def utilisation(self) -> float:
    """The share of the room that tokens take."""
    return self.tokens / (self.rows * self.length)

  def row(self, number: int) -> list[tuple[int, int, int]]:
    """(document, start, stop) of the pieces of a row."""
    start, stop = self.offsets[number : number + 2]
    return [tuple(piece) for piece in self.pieces[start:stop].tolist()]


def plan_rows(lengths: Int[NDArray, 'documents'], max_length: int) -> Plan:
  """Best-fit decreasing: each piece, longest first, into the fullest row.

  Documents of up to `max_length` tokens stay whole; a longer one is cut into
  pieces of `max_length` and a rest. Of the rows with room the one with least
  room takes a piece. O(n log n) for n pieces, and a function of its arguments
  alone.

  Args:
    lengths: tokens of each document; empty ones appear nowhere.
    max_length: tokens of a row.

  Returns:
    The plan: every token of every document once.

  Raises:
    ConfigError: a max_length below 2, or no document of 2 tokens.

  Source: Ding et al. 2024, arXiv:2404.10830, section 3.

  >>> plan = plan_rows(np.array([3, 10, 2]), max_length=8)
  >>> [plan.row(i) for i in range(plan.rows)], plan.utilisation
  ([[(1, 0, 8)], [(0, 0, 3), (1, 8, 10), (2, 0, 2)]], 0.9375)
  """
  lengths = np.asarray(lengths, np.int64)
  if max_length < 2:
    raise ConfigError(f'max_length is {max_length}: at least 2 tokens a row')
  if lengths.max(initial=0) < 2:
    raise ConfigError(
      f'none of {len(lengths)} documents has 2 tokens: there is no next token '
      'to learn; name a corpus with longer documents'
    )
  counts = -(-lengths // max_length)
  document = np.repeat(np.arange(len(lengths)), counts)
  first = np.repeat(np.cumsum(counts) - counts, counts)
  start = (np.arange(len(document)) - first) * max_length
  stop = np.minimum(start + max_length, lengths[document])
  longest_first = np.argsort(start - stop, kind='stable')
  pieces = np.stack([document, start, stop], axis=1)[longest_first]
  row = _best_fit((pieces[:, 2] - pieces[:, 1]).tolist(), max_length)
  by_row = np.argsort(row, kind='stable')
  offsets = np.searchsorted(row[by_row], np.arange(row.max() + 2))
  return Plan(max_length, pieces[by_row], offsets)


def _best_fit(sizes: list[int], room: int) -> Int[NDArray, 'pieces']:
  """The row of each size, in order: that with least room of those that fit."""
  rows, count = np.empty(len(sizes), np.int64), 0
  by_room: dict[int, list[int]] = {}
  rooms: list[int] = []  # the keys of by_room, sorted
  for i, size in enumerate(sizes):
    at = bisect.bisect_left(rooms, size)
    if at == len(rooms):
      row, left = count, room - size
      count += 1
    else:
      row, left = by_room[rooms[at]].pop(), rooms[at] - size
      if not by_room[rooms[at]]:
        del by_room[rooms.pop(at)]
    if left and left not in by_room:
      bisect.insort(rooms, left)
      by_room[left] = []
    if left:
      by_room[left].append(row)
    rows[i] = row
  return rows


def pack_row(
  documents: Sequence[NDArray],
  pieces: Sequence[tuple[int, int, int]],
  length: int,
) -> Batch:
  """One row of pieces of documents, padded at its end.

  The target of a token is the next one of its document, in this row or not;
  a document's last token has none.

  Args:
    documents: token ids.
    pieces: (document, start, stop) of each piece, in their order in the row.
    length: tokens of the row, as many as the pieces have, or more.

  Returns:
    Arrays `[T]`; the weight of every target is 1.

  >>> row = pack_row([np.array([5, 6, 7]), np.array([8, 9])],
  ...   [(0, 0, 3), (1, 0, 2)], length=7)
  >>> print(row.tokens, row.targets)
  [5 6 7 8 9 0 0] [ 6  7 -1  9 -1 -1 -1]
  >>> print(row.positions, row.segments)
  [0 1 2 0 1 0 0] [1 1 1 2 2 0 0]
  """
  row = Batch(
    np.zeros(length, np.int32),
    np.full(length, NO_TARGET, np.int32),
    np.zeros(length, np.float32),
    np.zeros(length, np.bool_),
    np.zeros(length, np.int32),
    np.zeros(length, np.int32),
  )
  at = 0
  for number, (document, start, stop) in enumerate(pieces, start=1):
    end = at + stop - start
    follows = documents[document][start + 1 : stop + 1]
    row.tokens[at:end] = documents[document][start:stop]
    row.targets[at : at + len(follows)] = follows
    row.positions[at:end] = np.arange(stop - start)
    row.segments[at:end] = number
    at = end
  weights = (row.targets != NO_TARGET).astype(np.float32)
  return row._replace(weights=weights)


def blocks(batch: Batch, windows: int | Int[NDArray, 'rows']) -> Batch:
  """The same rows, in which no token sees what is before its block.

  A row falls into blocks of w tokens, of which the last may be shorter; j is
  seen from i where floor(i/w) w <= j <= i, in the same document. Segments are
  numbered anew from 1 along the row, and a piece of a document that a block
  opens anew starts at position 0 there. Blocks of whole rows change nothing.

  Args:
    batch: rows of T tokens.
    windows: w, in [2, T], of all rows or of each.

  Raises:
    ConfigError: a window below 2 or above T, or not one for each row.

  Source: Zhu et al. 2025, arXiv:2503.15450 (SkyLadder).

  >>> row = pack_row([np.arange(3), np.arange(4)], [(1, 0, 4), (0, 0, 3)], 8)
  >>> seen = blocks(Batch(*(x[None] for x in row)), 3)
  >>> print(seen.positions[0], seen.segments[0])
  [0 1 2 0 0 1 0 0] [1 1 1 2 3 3 4 0]
  """
  rows, T = batch.tokens.shape
  widths = np.asarray(windows)
  if (
    widths.shape not in ((), (rows,))
    or not ((widths >= 2) & (widths <= T)).all()
  ):
    raise ConfigError(
      f'windows are {windows}: one for all {rows} rows or one for each, each '
      f'at least 2 and at most the {T} tokens of a row'
    )
  begins = block_begins(widths, rows, T)
  segments, positions = batch.segments, batch.positions
  if segments is None:
    segments = np.ones((rows, T), np.int32)
  if positions is None:
    positions = np.broadcast_to(np.arange(T, dtype=np.int32), (rows, T))
  first = segments == np.take_along_axis(segments, begins, 1)
  before = np.take_along_axis(positions, begins, 1)
  return batch._replace(
    positions=np.where(first, positions - before, positions),
    segments=number_segments(segments, begins),
  )


def block_begins(
  windows: Int[NDArray, '...'], rows: int, length: int
) -> Int[NDArray, 'rows length']:
  """Where the block of each token begins: floor(i/w) w.

  >>> print(block_begins(np.array([2, 3]), 2, 5))
  [[0 0 2 2 4]
   [0 0 0 3 3]]
  """
  widths = np.broadcast_to(windows, rows)[:, None]
  places = np.arange(length)
  return places - places % widths


def number_segments(
  segments: Int[NDArray, 'rows length'], begins: Int[NDArray, 'rows length']
) -> Int[NDArray, 'rows length']:
  """Numbers 1, 2, ... along each row; a block begins a new one.

  Args:
    segments: of each token, differing between neighbours of a block; 0 is
      padding.
    begins: where the block of each token begins.

  >>> segments = np.array([[7, 7, 7, 1, 0]])
  >>> print(number_segments(segments, np.array([[0, 0, 2, 2, 2]])))
  [[1 1 2 3 0]]
  """
  opens = begins == np.arange(segments.shape[1])
  opens[:, 1:] |= segments[:, 1:] != segments[:, :-1]
  real = segments > 0
  counts = np.cumsum(opens & real, axis=1, dtype=np.int32)
  return np.where(real, counts, np.int32(0))


def cut(batch: Batch, length: int) -> Batch:
  """The same tokens in shorter rows: `[B, T]` -> `[B T / length, length]`.

  Each row falls into T / length rows that follow one another, so that tokens,
  targets and weights of a step stay the same: the `blocks` of a row, each a
  row of its own, in which segments count from 1. Cutting twice is cutting
  once.

  Args:
    batch: rows of T tokens.
    length: tokens of the new rows, a divisor of T, at least 2.

  Raises:
    ConfigError: a length that does not divide T, or below 2.

  >>> row = pack_row([np.arange(3), np.arange(4)], [(1, 0, 4), (0, 0, 3)], 8)
  >>> short = cut(Batch(*(x[None] for x in row)), 2)
  >>> print(short.positions.ravel(), short.segments.ravel())
  [0 1 0 1 0 1 0 0] [1 1 1 1 1 1 1 0]
  """
  T = batch.tokens.shape[1]
  if length < 2 or T % length:
    raise ConfigError(
      f'length is {length}: rows of {T} tokens are cut into rows of a length '
      'that divides it, at least 2'
    )
  if length == T and _begins_rows(batch):
    return batch
  rows = Batch(*(x.reshape(-1, length) for x in blocks(batch, length)))
  opened = rows.segments - rows.segments[:, :1] + np.int32(1)
  return rows._replace(segments=np.where(rows.segments > 0, opened, 0))


def _begins_rows(batch: Batch) -> bool:
  """Whether positions and segments of rows begin as those of whole ones."""
  segments, positions = batch.segments, batch.positions
  return (segments is None or bool((segments[:, 0] <= 1).all())) and (
    positions is None or not positions[:, 0].any()
  )
