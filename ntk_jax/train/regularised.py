"""Token regularisation applied to a batch: what the step reads in its place."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ntk_jax.curriculum.regularize import (
  RegularizeConfig,
  kept_count,
  loss_factor,
  mask_share,
)
from ntk_jax.curriculum.skips import pose_rows, random_rows
from ntk_jax.curriculum.thinning import (
  kept_keys,
  kept_places,
  masked_inputs,
  of_documents_with,
  row_rng,
  tokens_seen,
)
from ntk_jax.data.batch import Batch
from ntk_jax.long_ce import LongCE
from ntk_jax.model.transformer import Controls
from ntk_jax.typing import NDArray


def regularised(
  config: RegularizeConfig,
  batch: Batch,
  *,
  fraction: float,
  step: int,
  first_row: int,
) -> tuple[Batch, Controls | None]:
  """A batch with some of its tokens replaced or moved, and what else to do.

  A function of its arguments: what is drawn for a row depends on the step and
  on the row's number among those of all hosts, not on which host holds it or
  on what stands beside it. Off, the very same batch comes back, and no
  controls. On, controls are arrays of the same kind and shape at every step of
  a row shape and a number of kept tokens (`kept_counts` names all of these).

  Documents are told by segments; weights count the tokens that stand before
  one, whatever its positions become. Schemes whose temperature reads positions
  are to be made of the positions that come back.

  Args:
    config: what to do; it has no problems.
    batch: this host's rows [B, T], in numpy; not changed.
    fraction: of the run that is done, 0 to 1.
    step: of the run.
    first_row: number of the first of these rows among those of all hosts, of
      rows of this shape.

  Returns:
    The batch for the step, and its controls.

  >>> batch = Batch(*(np.ones((1, 8), t) for t in ('i4', 'i4', 'f4', '?')))
  >>> config = RegularizeConfig(keep_start=0.5, keep_multiple=1)
  >>> for fraction in (0.0, 1.0):
  ...   _, controls = regularised(
  ...     config, batch, fraction=fraction, step=1, first_row=0)
  ...   print(controls.kept)
  [[0 4 6 7]]
  None
  """
  if config.off:
    return batch, None
  segments = batch.segments
  if segments is None:
    segments = np.ones(batch.tokens.shape, np.int32)
  draw = _Draw(config.seed, step, first_row, segments)
  controls = Controls(
    kept=_kept(config, draw, fraction),
    kv_keep=_keep(config, draw, batch),
    emphasis=None
    if config.weight == 'even'
    else loss_factor(config, tokens_seen(segments)),
    long_ce=np.bool_(fraction >= config.long_from) if config.long_ce else None,
  )
  share = mask_share(config, fraction)
  if share:
    batch = batch._replace(tokens=_masked(config, draw, batch, share))
  if config.positions != 'plain':
    positions = _moved(config, batch, step, first_row)
    batch = batch._replace(positions=positions)
  return batch, controls


def long_ce_of(config: RegularizeConfig) -> LongCE | None:
  """What the objective of a run is told of LongCE.

  >>> long_ce_of(RegularizeConfig(long_ce=True, long_short=64))
  LongCE(short=64, stride=None, gamma=5.0)
  """
  if not config.long_ce:
    return None
  return LongCE(config.long_short, config.long_stride, config.long_gamma)


class _Draw:
  """The rows of a batch, each with a generator of its own for every use."""

  def __init__(
    self, seed: int, step: int, first_row: int, segments: NDArray
  ) -> None:
    self.segments = segments
    self._seed, self._step, self._first = seed, step, first_row

  def rows(
    self, use: str, make: Callable[[np.random.Generator, int], NDArray]
  ) -> NDArray:
    """What is made of each row: from its generator and its index here."""
    return np.stack(
      [
        make(row_rng(self._seed, use, self._step, self._first + i), i)
        for i in range(len(self.segments))
      ]
    )

  def spared(self, config: RegularizeConfig, batch: Batch, i: int) -> NDArray:
    """Tokens of a row whose documents hold a retrieval answer."""
    asked = np.asarray(batch.answers[i]) & config.spare_answers
    return of_documents_with(self.segments[i], asked)


def _kept(
  config: RegularizeConfig, draw: _Draw, fraction: float
) -> NDArray | None:
  """Places that the middle layers see."""
  segments = draw.segments
  count = kept_count(config, fraction, segments.shape[1])
  if count is None:
    return None
  return draw.rows('keep', lambda rng, i: kept_places(rng, segments[i], count))


def _keep(
  config: RegularizeConfig, draw: _Draw, batch: Batch
) -> NDArray | None:
  """Keys that later queries see."""
  if not config.forget:
    return None

  def keep(rng: np.random.Generator, i: int) -> NDArray:
    spared = draw.spared(config, batch, i)
    return kept_keys(rng, draw.segments[i], config.forget, spared)

  return draw.rows('forget', keep)


def _masked(
  config: RegularizeConfig, draw: _Draw, batch: Batch, share: float
) -> NDArray:
  """Input tokens, some of them replaced."""

  def mask(rng: np.random.Generator, i: int) -> NDArray:
    return masked_inputs(
      rng,
      np.asarray(batch.tokens[i]),
      draw.segments[i],
      share,
      mask_token=config.mask_token,
      vocab=config.mask_vocab,
      spared=draw.spared(config, batch, i),
    )

  return draw.rows('mask', mask)


def _moved(
  config: RegularizeConfig, batch: Batch, step: int, first_row: int
) -> NDArray:
  """Positions with skips, or random ones, by document."""
  B, T = batch.tokens.shape
  positions = batch.positions
  if positions is None:
    positions = np.broadcast_to(np.arange(T, dtype=np.int32), (B, T))
  seed, target = (config.seed, step), config.target_length or T
  if config.positions == 'random':
    return random_rows(
      seed, positions, batch.segments, target, first_row=first_row
    )
  return pose_rows(
    seed, positions, batch.segments, target, config.chunks, first_row=first_row
  )
