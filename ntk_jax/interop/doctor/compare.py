"""How far what a server runs is from what the config means."""

from __future__ import annotations

import dataclasses

import numpy as np

from ntk_jax.interop.servers import Layer, Reading
from ntk_jax.rope import RopeSpec
from ntk_jax.typing import NDArray

# Above what float64 frequencies written as text and read again come to.
TOLERANCE = 1e-6
_EVERY = 2**13  # positions looked at one by one, at both ends
_BETWEEN = 2**12  # and between


@dataclasses.dataclass(frozen=True)
class Verdict:
  """What a server makes of a config.

  Attributes:
    kind: exact, wrong or unsupported.
    why: what is read otherwise than it means; empty where exact.
    error: largest |cos| or |sin| error (attention factor included) up to the
      target length; None where no angle is wrong.
    position: the first position that is wrong, or whose presence makes others
      wrong; None where none is.
    max_length: tokens that the server takes when told nothing.
    notes: what else to know.
  """

  kind: str
  why: str = ''
  error: float | None = None
  position: int | None = None
  max_length: int | None = None
  notes: tuple[str, ...] = ()


def verdict(meant: tuple[Layer, ...], reading: Reading, target: int) -> Verdict:
  """Compares all layers, over all positions below the target length."""
  errors, positions = [], []
  pairs = dict.fromkeys(zip(meant, reading.layers, strict=True))
  for want, have in pairs:
    error, position = _angles(want.spec, have.spec, target, reading.rows)
    if position is not None:
      errors.append(error)
      positions.append(position)
    windows = [w for w in (want.window, have.window) if w is not None]
    if want.window != have.window and min(windows) < target:
      positions.append(min(windows))
  ends = reading.rows
  if ends is not None and ends < target:
    positions.append(ends)
  stale = reading.stale_after
  if stale is not None and stale < target:
    errors.append(max(_stale(have.spec, stale, target) for _, have in pairs))
    positions.append(stale)
  if reading.faults:
    positions.append(0)
  wrong = bool(positions)
  why = [*reading.faults, *(reading.notes if wrong else ())]
  if wrong and ends is not None and ends < target:
    why.append(f'its table ends at {ends} positions (IndexError beyond)')
  return Verdict(
    'wrong' if wrong else 'exact',
    '; '.join(why),
    max(errors, default=None),
    min(positions, default=None),
    reading.max_length,
    () if wrong else reading.notes,
  )


def _angles(
  want: RopeSpec, have: RopeSpec, target: int, rows: int | None
) -> tuple[float, int | None]:
  """Largest error, and the first position that is wrong, over lengths."""
  if want == have:
    return 0.0, None
  worst, first, right = 0.0, None, 0
  for length in _lengths(want, have, target):
    a, b = want.frequencies(length), have.frequencies(length)
    seen = positions_below(min(length, rows or length))
    errors = _errors(a, b, seen)
    wrong = np.flatnonzero(errors > TOLERANCE)
    worst = max(worst, float(errors.max()))
    if len(wrong) == 0:
      right = length
    elif first is None:
      # Where shorter sequences are right, the next token is to blame.
      first = right or int(seen[wrong[0]])
  return worst, first


def _lengths(want: RopeSpec, have: RopeSpec, target: int) -> list[int]:
  """Lengths to look at: where frequencies change, and the target."""
  changes = {s.original_length or 1 for s in (want, have) if s.per_length}
  edges = {n for change in changes for n in (change, change + 1)}
  return sorted({n for n in edges if n < target} | {target})


def _stale(spec: RopeSpec, length: int, target: int) -> float:
  """The error of keys that were rotated at a length and read at the target."""
  before, after = spec.frequencies(length), spec.frequencies(target)
  return float(_errors(before, after, positions_below(length)).max())


def _errors(
  a: tuple[NDArray, NDArray], b: tuple[NDArray, NDArray], positions: NDArray
) -> NDArray:
  """By position, the largest difference of cos and sin over pairs."""
  size = max(len(a[0]), len(b[0]))
  (wa, fa), (wb, fb) = (
    (np.pad(w, (0, size - len(w))), _padded(f, size, len(w))) for w, f in (a, b)
  )
  different = (wa != wb) | (fa != fb)
  if not different.any():
    return np.zeros(len(positions))
  angles_a = positions[:, None] * wa[different]
  angles_b = positions[:, None] * wb[different]
  fa, fb = fa[different], fb[different]
  return np.maximum(
    np.abs(np.cos(angles_a) * fa - np.cos(angles_b) * fb).max(1),
    np.abs(np.sin(angles_a) * fa - np.sin(angles_b) * fb).max(1),
  )


def _padded(factor: NDArray, size: int, pairs: int) -> NDArray:
  """The attention factor of each pair; channels that do not turn have 1."""
  return np.where(np.arange(size) < pairs, factor, 1.0)


def positions_below(length: int) -> NDArray:
  """Positions 0 to length - 1, of long ranges a sample with both ends.

  >>> len(positions_below(100)), int(positions_below(10**6)[-1])
  (100, 999999)
  """
  if length <= 2 * _EVERY + _BETWEEN:
    return np.arange(length)
  middle = np.geomspace(_EVERY, length - _EVERY, _BETWEEN).astype(np.int64)
  ends = np.arange(_EVERY), np.arange(length - _EVERY, length)
  return np.unique(np.concatenate([ends[0], middle, ends[1]]))
