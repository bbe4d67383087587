"""Settings of token regularisation, and what they ask for at a time of a run.

Which tokens a run's settings drop, forget or replace is drawn in
`curriculum.thinning`; everything is off unless asked for, and nothing of it is
known to evaluation, which is given plain batches and no controls.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from ntk_jax.errors import unknown
from ntk_jax.typing import Float32, Int, NDArray

WEIGHTS = ('even', 'position', 'distance')
POSITIONS = ('plain', 'pose', 'random')
_MOST_LEVELS = 4
_EPSILON = 1e-9  # of a fraction of the run: its steps are no thinner


@dataclasses.dataclass(frozen=True)
class RegularizeConfig:
  """What is done to the tokens of training rows; by default nothing.

  Attributes:
    keep_start: share of tokens that the middle layers see at first
      (random-LTD); 1 is all.
    keep_until: fraction of the run from which they see all.
    keep_levels: shares that there are from first to last, all included.
    keep_multiple: kept tokens of a row are a multiple of it.
    forget: largest share of keys that a document hides (FCM); each document
      draws its own from 0 to this.
    mask_inputs: share of input tokens that are replaced; targets stay.
    mask_token: what replaces them; None is a random token.
    mask_vocab: random tokens are ids below it; None takes earlier tokens of
      the same document.
    mask_fade_from: fraction of the run from which that share falls, linearly
      to 0 at the end; 1 keeps it.
    spare_answers: whether documents that a retrieval question is asked in keep
      their inputs and keys: without its needle an answer cannot be learned.
    weight: of the loss of a text target: 'even', by 'position' or 'distance',
      see `loss_factor`.
    weight_context: tokens of context in the formula of the weight.
    weight_power: exponent of 'position'.
    weight_slope: of 'distance', per doubling of context.
    weight_cap: largest weight, before the mean is made 1.
    long_ce: whether text targets weigh by what long context tells of them.
    long_short: tokens of the short context that it is compared with.
    long_stride: targets scored by each short pass; None is `long_short`.
    long_gamma: largest such weight, before the mean is made 1.
    long_from: fraction of the run from which it is done.
    positions: 'plain', 'pose' (chunks with skips between) or 'random'.
    target_length: positions are below it, unless plain.
    chunks: of PoSE.
    seed: of all that is drawn.
  """

  keep_start: float = 1.0
  keep_until: float = 2 / 3
  keep_levels: int = 4
  keep_multiple: int = 8
  forget: float = 0.0
  mask_inputs: float = 0.0
  mask_token: int | None = None
  mask_vocab: int | None = None
  mask_fade_from: float = 0.8
  spare_answers: bool = True
  weight: str = 'even'
  weight_context: int = 1024
  weight_power: float = 1.0
  weight_slope: float = 1.0
  weight_cap: float = 3.0
  long_ce: bool = False
  long_short: int = 1024
  long_stride: int | None = None
  long_gamma: float = 5.0
  long_from: float = 2 / 3
  positions: str = 'plain'
  target_length: int | None = None
  chunks: int = 2
  seed: int = 0

  @property
  def off(self) -> bool:
    """Whether a batch stays as it is, at all times."""
    return not (
      self.keep_start < 1
      or self.forget
      or self.mask_inputs
      or self.weight != 'even'
      or self.long_ce
      or self.positions != 'plain'
    )

  def problems(self, *, length: int, vocab: int, layers: int) -> list[str]:
    """Everything that is wrong, in words.

    Args:
      length: tokens of the longest rows.
      vocab: ids that the model has.
      layers: of the model.

    >>> RegularizeConfig(forget=1.0).problems(length=64, vocab=9, layers=4)
    ['forget is 1.0: a share in [0, 1), 0 turns it off']
    """
    return (
      self._wrong_shares()
      + self._wrong_keep(length, layers)
      + self._wrong_masking(vocab)
      + self._wrong_weights(length)
      + self._wrong_long(length)
      + self._wrong_positions(length)
    )

  def _wrong_shares(self) -> list[str]:
    wrong = [
      f'{name} is {getattr(self, name)}: a share in [0, 1), 0 turns it off'
      for name in ('forget', 'mask_inputs')
      if not 0 <= getattr(self, name) < 1
    ]
    wrong += [
      f'{name} is {getattr(self, name)}: a fraction of the run, in [0, 1]'
      for name in ('mask_fade_from', 'long_from')
      if not 0 <= getattr(self, name) <= 1
    ]
    if self.seed < 0:
      wrong.append(f'seed is {self.seed}, must be at least 0')
    return wrong

  def _wrong_keep(self, length: int, layers: int) -> list[str]:
    wrong = []
    if not 0 < self.keep_start <= 1:
      wrong.append(
        f'keep_start is {self.keep_start}: a share above 0, 1 drops nothing'
      )
    if not 0 < self.keep_until <= 1:
      wrong.append(
        f'keep_until is {self.keep_until}: a fraction of the run, in (0, 1]'
      )
    if not 1 <= self.keep_levels <= _MOST_LEVELS:
      wrong.append(
        f'keep_levels is {self.keep_levels}: 1 to {_MOST_LEVELS}, each is '
        'compiled for every length'
      )
    if self.keep_multiple < 1:
      wrong.append(f'keep_multiple is {self.keep_multiple}: at least 1')
    if wrong or self.keep_start == 1:
      return wrong
    if self.keep_levels == 1:
      wrong.append(
        f'keep_levels is 1 with keep_start {self.keep_start}: the first share '
        'and all tokens are two levels'
      )
    if layers < 3:
      wrong.append(
        f'keep_start is {self.keep_start} with {layers} layers: tokens skip '
        'the layers between the first and the last, so it takes 3'
      )
    if self.keep_multiple >= length:
      wrong.append(
        f'keep_multiple is {self.keep_multiple}: below the length {length}, '
        'or no row can be thinned'
      )
    return wrong

  def _wrong_masking(self, vocab: int) -> list[str]:
    wrong = []
    token, below = self.mask_token, self.mask_vocab
    if token is not None and not 0 <= token < vocab:
      wrong.append(
        f'mask_token is {token}: an id of the vocabulary, 0 to {vocab - 1}'
      )
    if below is not None and not 1 <= below <= vocab:
      wrong.append(f'mask_vocab is {below}: 1 to {vocab}, the vocabulary')
    if token is not None and below is not None:
      wrong.append(
        f'mask_token is {token} and mask_vocab {below}: a fixed token or a '
        'random one, give one of them'
      )
    return wrong

  def _wrong_weights(self, length: int) -> list[str]:
    if self.weight not in WEIGHTS:
      return [str(unknown('weight', self.weight, WEIGHTS))]
    wrong = []
    if self.weight_context < 1:
      wrong.append(f'weight_context is {self.weight_context}: at least 1 token')
    for name in ('weight_power', 'weight_slope'):
      value = getattr(self, name)
      if not (math.isfinite(value) and value >= 0):
        wrong.append(f'{name} is {value}: finite, 0 or more')
    if not (math.isfinite(self.weight_cap) and self.weight_cap > 0):
      wrong.append(
        f'weight_cap is {self.weight_cap}: finite and above 0, or all weights '
        'are 0'
      )
    if wrong or self.weight == 'even':
      return wrong
    if not loss_factor(self, np.array(length)) > 0:
      wrong.append(
        f'weight_context {self.weight_context} with weight_power '
        f'{self.weight_power} makes all weights 0 at length {length}: lower '
        'one of them'
      )
    if self.weight == 'distance' and self.weight_context >= length:
      wrong.append(
        f'weight_context is {self.weight_context}: below the length {length}, '
        'or all targets weigh the same'
      )
    return wrong

  def _wrong_long(self, length: int) -> list[str]:
    if not self.long_ce:
      return []
    wrong = []
    if not 1 <= self.long_short < length:
      wrong.append(
        f'long_short is {self.long_short}: from 1 to below the length '
        f'{length}, which it is compared with'
      )
    if self.long_stride is not None and self.long_stride < 1:
      wrong.append(f'long_stride is {self.long_stride}: at least 1, or None')
    if not (math.isfinite(self.long_gamma) and self.long_gamma > 0):
      wrong.append(f'long_gamma is {self.long_gamma}: finite and above 0')
    if self.keep_start < 1 and self.long_from < self.keep_until:
      wrong.append(
        f'long_from is {self.long_from} and keep_until {self.keep_until}: '
        'tokens are compared once none are dropped; begin no earlier'
      )
    return wrong

  def _wrong_positions(self, length: int) -> list[str]:
    if self.positions not in POSITIONS:
      return [str(unknown('positions', self.positions, POSITIONS))]
    wrong = []
    if self.positions != 'plain':
      target = self.target_length
      if target is None or target < length:
        wrong.append(
          f'target_length is {target} with {self.positions} positions: at '
          f'least the length {length}'
        )
      if self.chunks < 1:
        wrong.append(f'chunks is {self.chunks}: at least 1')
    return wrong


def keep_share(config: RegularizeConfig, fraction: float) -> float:
  """The share of tokens that the middle layers see (random-LTD).

  `k = floor((levels - 1) fraction / keep_until)`, at most levels - 1, and
  `share = keep_start + (1 - keep_start) k / (levels - 1)`: a line from
  keep_start to all tokens, rounded down to one of a few levels, so that every
  row shape there will be is known beforehand. All only from keep_until on.

  Args:
    config: the settings.
    fraction: of the run that is done, 0 to 1.

  Source: the linear schedule of Yao et al. 2022, arXiv:2211.11586, section 3.2
  (whose step is a number of tokens).

  >>> config = RegularizeConfig(keep_start=0.25)
  >>> [keep_share(config, f) for f in (0.0, 0.3, 0.66, 0.7, 1.0)]
  [0.25, 0.5, 0.75, 1.0, 1.0]
  """
  if config.keep_start >= 1 or fraction >= config.keep_until - _EPSILON:
    return 1.0
  steps = config.keep_levels - 1
  level = math.floor(steps * fraction / config.keep_until + _EPSILON)
  return config.keep_start + (1 - config.keep_start) * level / steps


def kept_count(
  config: RegularizeConfig, fraction: float, length: int
) -> int | None:
  """How many tokens of a row the middle layers see; None is all.

  The share of the row, rounded down to a multiple of `keep_multiple`, but at
  least that.

  Args:
    config: the settings.
    fraction: of the run that is done.
    length: tokens of a row, padding included.

  >>> config = RegularizeConfig(keep_start=0.25)
  >>> [kept_count(config, f, 100) for f in (0.0, 0.3, 0.7)]
  [24, 48, None]
  """
  share = keep_share(config, fraction)
  if share == 1:
    return None
  multiple = config.keep_multiple
  count = max(1, int(share * length + _EPSILON) // multiple) * multiple
  return count if count < length else None


def kept_counts(
  config: RegularizeConfig, length: int
) -> tuple[int | None, ...]:
  """All that `kept_count` will ever give for a length, in their order.

  Each is a program to be compiled; there are at most `keep_levels`.

  >>> kept_counts(RegularizeConfig(keep_start=0.25), 100)
  (24, 48, 72, None)
  >>> kept_counts(RegularizeConfig(), 100)
  (None,)
  """
  steps = config.keep_levels - 1
  fractions = [config.keep_until * k / max(steps, 1) for k in range(steps)]
  counts = [kept_count(config, f, length) for f in (*fractions, 1.0)]
  return tuple(dict.fromkeys(counts))


def mask_share(config: RegularizeConfig, fraction: float) -> float:
  """The share of inputs that are replaced: it fades out before the end.

  `mask_inputs` until `mask_fade_from`, then a line to 0 at the end of the run:
  a model that ends on corrupted inputs has never met what it will be served.

  >>> config = RegularizeConfig(mask_inputs=0.2, mask_fade_from=0.5)
  >>> [mask_share(config, f) for f in (0.0, 0.5, 0.75, 1.0)]
  [0.2, 0.2, 0.1, 0.0]
  """
  left = 1 - config.mask_fade_from
  if left <= 0 or fraction <= config.mask_fade_from:
    return config.mask_inputs
  return config.mask_inputs * max(0.0, 1 - fraction) / left


def loss_factor(
  config: RegularizeConfig, seen: Int[NDArray, '*B']
) -> Float32[NDArray, '*B']:
  """The weight of a text target by the context that it is predicted from.

  With c tokens seen, c0 the `weight_context` and p, a, cap the others:

      even:      1
      position:  min(cap, min(1, c / c0)^p)
      distance:  min(cap, 1 + a log2(max(1, c / c0)))

  The objective scales them to mean 1 over the text targets of all devices, so
  that neither the learning rate nor the share of retrieval answers changes
  with the mix of documents. Most tokens of packed rows have little context:
  both forms take weight from them, the first from the shortest contexts, the
  second for every doubling beyond c0.

  Args:
    config: the settings.
    seen: tokens of the same document up to the one that predicts, itself
      included: what stands in the row, whatever its positions say.

  Returns:
    One factor each, 0 or more, before they are scaled.

  >>> print(loss_factor(RegularizeConfig(weight='position', weight_context=4),
  ...   np.array([1, 2, 4, 8])))
  [0.25 0.5  1.   1.  ]
  >>> print(loss_factor(RegularizeConfig(weight='distance', weight_context=4),
  ...   np.array([1, 4, 8, 64])))
  [1. 1. 2. 3.]
  """
  share = np.asarray(seen, np.float64) / config.weight_context
  if config.weight == 'even':
    factor = np.ones(share.shape)
  elif config.weight == 'position':
    factor = np.minimum(share, 1) ** config.weight_power
  else:
    factor = 1 + config.weight_slope * np.log2(np.maximum(share, 1))
  return np.asarray(np.minimum(factor, config.weight_cap), np.float32)
