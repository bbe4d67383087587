"""What makes lengths unfit for stages or for rows, in words."""

from __future__ import annotations

from collections.abc import Sequence

from ntk_jax.curriculum.shapes import doublings


def ladder_problems(
  name: str, lengths: Sequence[int], full: int, multiple: int = 1
) -> list[str]:
  """What is wrong with lengths that should grow up to the full one.

  >>> for text in ladder_problems('lengths', (512, 200, 900), 1024, 64):
  ...   print(text)
  lengths is 512, 200, 900: each must be above the one before
  lengths ends at 900: the last must be the full length, 1024
  lengths has 200: all but the last must be multiples of 64, such as 192 or 256
  """
  if not lengths:
    return [f'{name} is empty: give the lengths of the stages, the last {full}']
  wrong = []
  if any(length < 2 for length in lengths):
    wrong.append(
      f'{name} has {min(lengths)}: a sequence takes at least 2 tokens'
    )
  if any(b <= a for a, b in zip(lengths, lengths[1:])):
    listed = ', '.join(map(str, lengths))
    wrong.append(f'{name} is {listed}: each must be above the one before')
  if lengths[-1] != full:
    wrong.append(
      f'{name} ends at {lengths[-1]}: the last must be the full length, {full}'
    )
  if odd := [n for n in lengths[:-1] if multiple > 0 and n % multiple]:
    below = odd[0] // multiple * multiple
    near = f'{below} or ' if below else ''
    wrong.append(
      f'{name} has {", ".join(map(str, odd))}: all but the last must be '
      f'multiples of {multiple}, such as {near}{below + multiple}'
    )
  return wrong


def start_problems(
  start: int | None, full: int, multiple: int, doubled: bool
) -> list[str]:
  """What is wrong with the first length of a ramp or of doublings.

  >>> print(*start_problems(96, 1024, multiple=1, doubled=True))
  start is 96: doubled again and again it does not meet the full length, 1024; \
use 1024 divided by a power of two
  """
  if start is None:
    return [
      'start is missing, the length that growth begins with: 8 to 64 with one '
      'row shape, 256 or more with rows of their own, are known to work'
    ]
  if not 2 <= start < full:
    return [
      f'start is {start}: it must be at least 2 and below the full length, '
      f"{full} (kind 'constant' does not grow)"
    ]
  if not doubled:
    return []
  if full % start or (full // start).bit_count() != 1:
    return [
      f'start is {start}: doubled again and again it does not meet the full '
      f'length, {full}; use {full} divided by a power of two'
    ]
  lengths = doublings(start, full)
  return ladder_problems('start, doubled,', lengths, full, multiple)


def cut_problems(name: str, shapes: Sequence[int], full: int) -> list[str]:
  """Row shapes that packed rows of the full length cannot be cut into.

  Args:
    name: of the setting that they come from.
    shapes: lengths of rows.
    full: tokens of a packed row.

  >>> print(*cut_problems('lengths', (96, 128), 128))
  lengths has 96, which does not divide 128: rows are cut from packed ones of \
128; use lengths that divide it, or buckets=(128,), one row shape for all
  """
  odd = [shape for shape in shapes if full % shape]
  if not odd:
    return []
  return [
    f'{name} has {", ".join(map(str, odd))}, which does not divide {full}: '
    f'rows are cut from packed ones of {full}; use lengths that divide it, '
    f'or buckets=({full},), one row shape for all'
  ]


def moment_problems(
  at: Sequence[float], lengths: Sequence[int], end: float, unit: str
) -> list[str]:
  """What is wrong with the times at which stages begin.

  >>> print(*moment_problems((0.5, 1.5), (8, 16, 32), 1.0, 'fraction'))
  at has 1.5: a stage must begin within the run, after 0 and before 1 (fraction)
  >>> for text in moment_problems((9.0, 9.0), (512, 1024), 90.0, 'steps'):
  ...   print(text)
  at has 2 entries: 2 lengths need 1, when each after the first begins
  at is 9, 9: each must be above the one before
  """
  wrong = []
  if len(at) != len(lengths) - 1:
    wrong.append(
      f'at has {len(at)} entries: {len(lengths)} lengths need '
      f'{max(0, len(lengths) - 1)}, when each after the first begins'
    )
  if outside := [t for t in at if not 0 < t < end]:
    wrong.append(
      f'at has {", ".join(f"{t:g}" for t in outside)}: a stage must begin '
      f'within the run, after 0 and before {end:g} ({unit})'
    )
  if any(b <= a for a, b in zip(at, at[1:])):
    listed = ', '.join(f'{t:g}' for t in at)
    wrong.append(f'at is {listed}: each must be above the one before')
  return wrong
