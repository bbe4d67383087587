"""Mixed-window training: short documents keep the rope they know.

In one batch, documents of up to the original length L0 are read with the
original frequencies, factor and temperature, longer ones with the rescaled.
Every scheme then holds both along its first dim, and a plan says for each
token which one its document has: shapes are those of the rows, so one
executable serves every batch. The choice is never made within a document:
between tokens of two ropes there is no relative position.

At inference the same rule is: rescaled if, and only if, the highest position
+ 1 that a sequence sees is beyond L0, and what a cache holds is read again
when that changes. `Scheme.arrays(length)` and `generate` do so for methods
whose frequencies depend on length (`Scheme.per_length`). A fixed method knows
no original: `two_sided` of `two_sides.py` makes a scheme of that kind of both.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ntk_jax.curriculum.skips import document_spans
from ntk_jax.data.batch import Batch
from ntk_jax.errors import ConfigError
from ntk_jax.rope.spec import RopeSpec
from ntk_jax.scheme import Scheme, SchemeArrays
from ntk_jax.typing import Bool, Float32, Int, Int32, NDArray


class MixedRope:
  """For a batch, the arrays of both ropes and which one a token has.

  The length that a rescaled method sees is `length`, for all documents beyond
  L0, so a method whose frequencies depend on length trains on packed rows:
  a document either is short or counts as one of `length` tokens. Skipped
  positions count as they are: a document whose last one lies at or beyond L0
  is long.

  Source: LongRoPE2, Shang et al. 2025, arXiv:2502.20082, section 3.3.
  """

  def __init__(
    self,
    schemes: Sequence[Scheme],
    originals: Sequence[Scheme],
    original_length: int,
    length: int,
  ) -> None:
    """Takes what `usable` finds nothing wrong with, at any length.

    Args:
      schemes: of the layer plan, for documents beyond L0.
      originals: as many, for documents of up to L0.
      original_length: L0 in tokens.
      length: that a rescaled method sees: the target's. At or below L0, as
        in the first stages of a growing run, no document is long; the arrays
        keep their shapes.

    Raises:
      ConfigError: what `usable` says of any length beyond L0.
    """
    length = max(length, original_length + 1)
    wrong = usable(schemes, originals, original_length, length)
    if wrong:
      raise ConfigError('; '.join(wrong))
    self._pairs = tuple(zip(originals, schemes))
    self._original_length = original_length
    nowhere = np.zeros(0, np.int32)
    self._fixed = [
      (original.arrays(None, nowhere), scheme.arrays(length, nowhere))
      for original, scheme in self._pairs
    ]

  def __call__(
    self, batch: Batch
  ) -> tuple[tuple[SchemeArrays, ...], Int32[NDArray, 'B T']]:
    """Arrays `[2, ...]` of every scheme, and `Controls.plan`.

    Over a mesh they are placed by `scheme_specs(arrays, alternatives=True)`
    and `control_specs` of `ntk_jax.objective`.
    """
    positions = positions_of(batch)
    arrays = tuple(
      SchemeArrays(
        np.stack([short.phases, long.phases]),
        np.stack([short.attention_factor, long.attention_factor]),
        np.stack([_multipliers(scheme, positions) for scheme in pair]),
        long.window,
      )
      for (short, long), pair in zip(self._fixed, self._pairs)
    )
    long = long_documents(positions, batch.segments, self._original_length)
    return arrays, long.astype(np.int32)


def long_documents(
  positions: Int[NDArray, 'B T'],
  segments: Int[NDArray, 'B T'] | None,
  original_length: int,
) -> Bool[NDArray, 'B T']:
  """Of every token, whether its document's highest position + 1 is beyond L0.

  Args:
    positions: by document.
    segments: 1, 2, ... along a row, 0 is padding, which is short; None is one
      document a row.
    original_length: L0.

  >>> positions = np.array([[0, 1, 2, 0, 1, 0]])
  >>> segments = np.array([[1, 1, 1, 2, 2, 0]])
  >>> print(long_documents(positions, segments, 2).astype(int))
  [[1 1 1 0 0 0]]
  """
  if segments is None:
    segments = np.ones(positions.shape, np.int32)
  starts, stops = document_spans(segments)
  long = np.zeros(positions.size, np.bool_)
  if len(starts):
    # Of what lies between two starts only padding is not of the document.
    real = np.where(segments > 0, positions, 0).reshape(-1)
    beyond = np.maximum.reduceat(real, starts) >= original_length
    long[segments.reshape(-1) > 0] = np.repeat(beyond, stops - starts)
  return long.reshape(positions.shape)


def positions_of(batch: Batch) -> Int32[NDArray, 'B T']:
  """The positions of a batch, also where it leaves them out.

  >>> row = np.zeros((2, 3), np.int32)
  >>> positions_of(Batch(row, row, np.float32(row), row > 0)).tolist()
  [[0, 1, 2], [0, 1, 2]]
  """
  shape = batch.tokens.shape
  plain = np.arange(shape[1], dtype=np.int32)
  given = plain if batch.positions is None else batch.positions
  return np.broadcast_to(np.asarray(given, np.int32), shape)


def usable(
  schemes: Sequence[Scheme],
  originals: Sequence[Scheme],
  original_length: int,
  length: int,
) -> list[str]:
  """What keeps two ropes from being mixed by document; nothing if they can.

  A method whose frequencies depend on length can, if it changes at L0.

  Args:
    schemes: of the layer plan, for documents beyond L0.
    originals: as many, for documents of up to L0.
    original_length: L0 in tokens.
    length: that a rescaled method sees.

  >>> plain = Scheme(RopeSpec('default', 8))
  >>> yarn = Scheme(RopeSpec('yarn', 8, original_length=32, factor=4.0))
  >>> usable([yarn], [plain], 32, 128)
  []
  >>> usable([yarn], [plain], 32, 16)
  ['length is 16: mixed rope needs one beyond original_length, 32']
  """
  wrong = []
  if original_length < 1:
    wrong.append(f'original_length is {original_length}, must be at least 1')
  if length <= original_length:
    wrong.append(
      f'length is {length}: mixed rope needs one beyond original_length, '
      f'{original_length}'
    )
  if len(schemes) != len(originals):
    wrong.append(
      f'{len(originals)} original schemes for {len(schemes)}: give one for each'
    )
  for number, (scheme, original) in enumerate(zip(schemes, originals)):
    wrong += [
      f'schemes[{number}]: {text}'
      for text in _unlike(scheme, original, original_length)
    ]
  return wrong


def original_of(
  scheme: Scheme, original_length: int, theta: float | None = None
) -> Scheme:
  """The scheme of the model before it was extended, where that is known.

  A method whose frequencies depend on length has its own short side. Of any
  other it is plain RoPE of the base theta, with the window and the
  temperature of the scheme.

  Args:
    scheme: for documents beyond L0.
    original_length: L0 in tokens.
    theta: of the model before; None is the scheme's.

  Raises:
    ConfigError: a temperature that is not 1 up to L0, of which nobody can say
      here whether the model had it before.

  >>> scheme = Scheme(RopeSpec('ntk', 8, theta=5e5, factor=8.0), window=64)
  >>> print(original_of(scheme, 32, theta=1e4).spec.describe())
  default: w_i = theta^(-2i/d)
    theta 10000
    attention factor 1
    wavelengths 6.283 to 6283 tokens in 4 pairs of 8 channels
  """
  if scheme.per_length:
    return scheme
  if not unscaled_below(scheme, original_length):
    raise ConfigError(
      f'temperature {scheme.temperature!r} is not 1 at all positions below '
      f'original_length, {original_length}: the original scheme is not known; '
      'give it'
    )
  spec = scheme.spec
  method = 'proportional' if spec.method == 'proportional' else 'default'
  plain = RopeSpec(
    method,
    spec.head_dim,
    theta=spec.theta if theta is None else theta,
    partial_rotary_factor=spec.partial_rotary_factor,
  )
  return Scheme(plain, scheme.temperature, scheme.window)


def unscaled_below(scheme: Scheme, length: int) -> bool:
  """Whether a scheme's temperature changes nothing at positions below a length.

  >>> from ntk_jax.temperature import Temperature
  >>> logn = Scheme(RopeSpec('default', 8), Temperature('logn', length=32))
  >>> unscaled_below(logn, 32), unscaled_below(logn, 33)
  (True, False)
  """
  return bool((_multipliers(scheme, np.arange(length)) == 1).all())


def _unlike(
  scheme: Scheme, original: Scheme, original_length: int
) -> list[str]:
  """Why one array cannot hold both."""
  wrong, spec = [], scheme.spec
  if spec.per_length and spec.original_length != original_length:
    wrong.append(
      f'{spec.method} changes at its original_length, {spec.original_length}, '
      f'and documents are told apart at {original_length}: make them one'
    )
  if spec.rotary_dim != original.spec.rotary_dim:
    wrong.append(
      f'{spec.rotary_dim} channels turn and {original.spec.rotary_dim} of the '
      'original: a model has one number'
    )
  if scheme.window != original.window:
    wrong.append(
      f'window is {scheme.window} and {original.window} of the original: a '
      'layer has one'
    )
  return wrong


def _multipliers(
  scheme: Scheme, positions: Int[NDArray, '*T']
) -> Float32[NDArray, '*T']:
  """Those of q at positions, float32 on the host."""
  if scheme.temperature is None:
    return np.ones(positions.shape, np.float32)
  return np.asarray(scheme.arrays(None, positions).q_scale)
