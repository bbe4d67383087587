"""What holds at each length of a run: row shapes, schemes, learning rate."""

from __future__ import annotations

import bisect
import functools
from collections.abc import Iterator

from ntk_jax.curriculum.regularize import kept_count
from ntk_jax.curriculum.sampling import RowPlan, length_shares, row_plan
from ntk_jax.curriculum.schedule import schedule_of, stage_rate
from ntk_jax.curriculum.stage import LengthSchedule, Stage
from ntk_jax.data.batch import Batch
from ntk_jax.scheme import Scheme, SchemeArrays
from ntk_jax.train.alternatives import MixedRope, original_of
from ntk_jax.train.course import Arrays
from ntk_jax.train.settings import TrainConfig
from ntk_jax.typing import Int32, NDArray

# A row shape, and how many of its tokens the middle layers see (None: all).
Shape = tuple[int, int | None]


class Stages:
  """The settings of a run, asked at a stage of its growth.

  Attributes:
    run: what its schedule counts in.
    schedule: of the length.
    config: the settings.
  """

  def __init__(self, config: TrainConfig, epoch_tokens: int) -> None:
    """Resolves the settings.

    Args:
      config: checked before.
      epoch_tokens: of a pass over the packed rows.
    """
    self.config, self.run = config, config.run_of(epoch_tokens)
    self.schedule: LengthSchedule = schedule_of(config.growth, self.run)
    self._rate = config.optimizer.learning_rate

  def rows(self, stage: Stage, step: int) -> RowPlan:
    """The rows of a step: how long, and what each sees."""
    config = self.config
    return row_plan(
      config.sampling,
      stage,
      self._bucket,
      self.run.step_tokens,
      step,
      config.data.batch_rows if config.growth.batch == 'rows' else None,
    )

  def tokens_of(self, rows: RowPlan) -> int:
    """Tokens of a step, padding included."""
    if rows.rows is None:
      return self.run.step_tokens
    return rows.rows * rows.length

  @property
  def shortest(self) -> int:
    """The length of the first stage."""
    return self.schedule.stage(self.schedule.start()).length

  def host_rows(self, length: int, hosts: int) -> int:
    """Rows of a length that a host gives to a step."""
    rows = self.config.data.batch_rows
    if self.config.growth.batch == 'tokens':
      rows = self.run.step_tokens // length
    return rows // hosts

  def rate(self, stage: Stage, step: int) -> float:
    """The learning rate of a step."""
    return self._rate(step) * stage_rate(self.config.growth, stage, step)

  @functools.cache  # noqa: B019 (a run has few lengths, and one of these)
  def schemes(self, length: int) -> tuple[Scheme, ...]:
    """One for each number of the layer plan, at a length."""
    return self.config.schemes_at(length)

  def arrays(
    self, length: int, batch: Batch
  ) -> tuple[tuple[SchemeArrays, ...], Int32[NDArray, 'B T'] | None]:
    """What enters the step, and which of two ropes each token has, if two."""
    target = self.config.regularize.target_length
    if self.config.regularize.positions == 'plain':
      target = None
    if self.config.mixed_rope is not None:
      return self._mixed(length, target or length)(batch)
    T = batch.tokens.shape[1]
    return self._arrays(length)(target or length, batch.positions, T), None

  def shapes_ahead(
    self, stage: Stage, upcoming: int | None, step: int
  ) -> Iterator[tuple[Shape, int]]:
    """Shapes that steps may have next, and a step that would have each.

    Args:
      stage: the present one.
      upcoming: the next length.
      step: the next one.
    """
    lengths = [n for n, _ in length_shares(self.config.sampling, stage)]
    rows = [self._bucket(n) for n in lengths]
    if upcoming is not None:
      rows.append(self._bucket(upcoming))
    for row in dict.fromkeys(rows):
      yield (row, self._kept(row, step)), step
      later = self._next_kept(row, step)
      if later is not None:
        yield (row, self._kept(row, later)), later

  def _kept(self, row: int, step: int) -> int | None:
    """How many tokens the middle layers see at a step; None is all."""
    return kept_count(self.config.regularize, step / self.run.steps, row)

  def _next_kept(self, row: int, step: int) -> int | None:
    """The step from which they see more."""
    steps = range(step, self.run.steps)
    now = self._kept(row, step)
    if now is None or not steps:
      return None
    at = bisect.bisect_left(
      steps, True, key=lambda later: self._kept(row, later) != now
    )
    return steps[at] if at < len(steps) else None

  def _bucket(self, length: int) -> int:
    return self.config.growth.bucket(length, self.run)

  @functools.cache  # noqa: B019
  def _arrays(self, length: int) -> Arrays:
    return Arrays(self.schemes(length), by_row=self._varies)

  @functools.cache  # noqa: B019
  def _mixed(self, length: int, seen: int) -> MixedRope:
    short = self.config.mixed_rope
    assert short is not None
    schemes = self.schemes(length)
    before = self.config.model.rope_theta
    originals = [original_of(scheme, short, before) for scheme in schemes]
    # Where no document is long, the arrays still have the shapes of both.
    return MixedRope(schemes, originals, short, max(seen, short + 1))

  @functools.cached_property
  def _varies(self) -> bool:
    """Whether some stage has a temperature: then all have its shapes."""
    return any(
      scheme.temperature is not None
      for schemes in self.config.all_schemes()
      for scheme in schemes
    )
