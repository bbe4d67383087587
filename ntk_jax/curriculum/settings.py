"""The settings of a growing length, all checked at once."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection

from ntk_jax.curriculum import shapes
from ntk_jax.curriculum.clock import UNITS, Run, whole
from ntk_jax.curriculum.ladder import (
  cut_problems,
  ladder_problems,
  moment_problems,
  start_problems,
)
from ntk_jax.curriculum.pace import SHAPES, Pace, plan_problems, planned
from ntk_jax.curriculum.quality import QualityConfig, quality_problems
from ntk_jax.errors import ConfigError, unknown

BY_QUALITY = ('threshold', 'quality')
STAGED = ('discrete', 'grow_p2', *BY_QUALITY)
KINDS = ('constant', *SHAPES, 'doubling', *STAGED)
BATCHES = ('tokens', 'rows')
BOUNDARIES = ('keep', 'dip', 'rewarm')


@dataclasses.dataclass(frozen=True)
class GrowthConfig:
  """How the length grows in a run, in which rows, and what a growth does.

  Kinds, by what they follow:

      constant   the full length at every step
      linear root exponential cosine sine step
                 a shape from `start` to the full length
      doubling   start, 2 start, 4 start, ..: each for as long as a straight
                 ramp lies between it and its double
      discrete   each of `lengths`, from `at` on
      grow_p2    cycles through `lengths`, each with the same share of the
                 steps, the short ones mostly first
      threshold quality
                 each of `lengths`, until measurements say that it is learned

  Attributes:
    kind: one of those.
    lengths: of the stages (discrete, grow_p2, threshold, quality), increasing;
      the last is the full length.
    start: the first length of a shape (rounded up to a multiple) and of
      doubling.
    multiple: lengths are multiples of it, but for the full one.
    unit: of `over` and `at`: 'fraction' of the run's steps, 'steps', 'tokens'
      read or 'epochs'.
    over: when the full length is reached; of grow_p2, when the cycles end.
    at: when each length after the first begins (discrete); () gives each a
      share of `over` in proportion to its length.
    root: of the shape 'root'; 1 is a straight ramp.
    cycles: of grow_p2, within `over`.
    step: height of the stairs of the shape 'step'.
    buckets: row shapes, increasing, the last the full length. A length lives
      in the smallest that holds it, the rest of such a row being further
      sequences. () is one for each stage (fewer, longer rows: real speed);
      (full length,) is one for all: no recompile.
    batch: what is constant: the 'tokens' of a step, or its 'rows' (then a
      step of short rows reads fewer tokens).
    boundary: the learning rate where a stage begins: 'keep', 'dip' (times
      `boundary_scale`, back over `boundary_steps`) or 'rewarm' (from 0).
    boundary_steps: until the learning rate is what it would be.
    boundary_scale: of 'dip'.
    seed: of the order of grow_p2.
    quality: of the kinds 'threshold' and 'quality'.

  Source: shapes, DeepSpeed's curriculum scheduler (root, linear, discrete)
  and SkyLadder (arXiv 2503.15450), whose best runs grow for 64 % of their
  tokens; doubling, OLMo-core; grow_p2, arXiv 2405.13226.
  """

  kind: str = 'constant'
  lengths: tuple[int, ...] = ()
  start: int | None = None
  multiple: int = 1
  unit: str = 'fraction'
  over: float = 0.64
  at: tuple[float, ...] = ()
  root: float = 2.0
  cycles: int = 8
  step: int = 1024
  buckets: tuple[int, ...] = ()
  batch: str = 'tokens'
  boundary: str = 'keep'
  boundary_steps: int = 0
  boundary_scale: float = 1.0
  seed: int = 0
  quality: QualityConfig = QualityConfig()

  def stage_lengths(self, run: Run) -> tuple[int, ...]:
    """Lengths that can occur, or () for a shape, which has many.

    >>> run = Run(steps=9, step_tokens=4096, epoch_tokens=8192, length=1024)
    >>> GrowthConfig('doubling', start=128).stage_lengths(run)
    (128, 256, 512, 1024)
    """
    if self.kind in STAGED:
      return self.lengths
    if self.kind == 'doubling' and self.start is not None:
      return shapes.doublings(self.start, run.length)
    return (run.length,) if self.kind == 'constant' else ()

  def row_shapes(self, run: Run) -> tuple[int, ...]:
    """Lengths that rows can have, increasing: what is compiled.

    >>> run = Run(steps=9, step_tokens=4096, epoch_tokens=8192, length=1024)
    >>> GrowthConfig('doubling', start=128).row_shapes(run)
    (128, 256, 512, 1024)
    >>> GrowthConfig('linear', start=8).row_shapes(run)
    (1024,)
    """
    return self.buckets or self.stage_lengths(run) or (run.length,)

  def bucket(self, length: int, run: Run) -> int:
    """The row shape of a length: the smallest that holds it.

    Raises:
      ConfigError: for a length above the full one.

    >>> run = Run(steps=9, step_tokens=4096, epoch_tokens=8192, length=1024)
    >>> growth = GrowthConfig('linear', start=8, buckets=(256, 1024))
    >>> [growth.bucket(length, run) for length in (8, 256, 257, 1024)]
    [256, 256, 1024, 1024]
    """
    for shape in self.row_shapes(run):
      if length <= shape:
        return shape
    raise ConfigError(
      f'length is {length}: rows have at most {run.length} tokens, the full '
      'length; raise data.max_length'
    )

  def step_tokens(self, length: int, run: Run) -> int:
    """Tokens that a step of a length reads, padding included.

    >>> run = Run(steps=9, step_tokens=8192, epoch_tokens=8192, length=1024)
    >>> growth = GrowthConfig('doubling', start=256, batch='rows')
    >>> [growth.step_tokens(length, run) for length in (256, 512, 1024)]
    [2048, 4096, 8192]
    """
    if self.batch == 'tokens':
      return run.step_tokens
    return run.step_tokens // run.length * self.bucket(length, run)

  def pace(self, run: Run) -> Pace:
    """The length of every step, for the kinds that follow the clock.

    Raises:
      ConfigError: for the kinds that follow measurements.

    >>> run = Run(steps=70, step_tokens=4096, epoch_tokens=8192, length=1024)
    >>> GrowthConfig('doubling', start=256, over=0.5).pace(run).at
    (0.16666666666666666, 0.5)
    """
    if self.kind in BY_QUALITY:
      raise ConfigError(
        f'kind {self.kind!r} grows by measurements: what it does is not known '
        'beforehand'
      )
    lengths = self.stage_lengths(run)
    staged = self.kind in ('constant', 'doubling', 'discrete')
    return Pace(
      run,
      'stages' if staged else self.kind,
      self.unit,
      self.over,
      self.start or 1,
      self.multiple,
      self.root,
      self.step,
      lengths,
      self.at or shapes.stage_starts(lengths, self.over),
      self.cycles,
      self.seed,
    )

  def problems(self, run: Run, known_metrics: Collection[str]) -> list[str]:
    """Everything that is wrong, in words, each with what would be right.

    Args:
      run: that it is for.
      known_metrics: names that a schedule may watch.

    >>> run = Run(steps=70, step_tokens=4096, epoch_tokens=8192, length=1024)
    >>> GrowthConfig('discrete', (512, 1024)).problems(run, ())
    []
    >>> print(*GrowthConfig('linaer', over=2.0).problems(run, ()))
    unknown kind of growth 'linaer': did you mean 'linear'? Allowed: constant, \
linear, root, exponential, cosine, sine, step, doubling, discrete, grow_p2, \
threshold, quality
    """
    wrong = self._word_problems() + self._number_problems()
    # Steps, rows and full length have checks of their own, elsewhere.
    if (
      self.kind not in KINDS or min(run.steps, run.length, run.step_tokens) < 1
    ):
      return wrong
    unfit = self._length_problems(run)
    wrong += self._unused_problems() + unfit + self._boundary_problems()
    if self.kind in BY_QUALITY:
      if not unfit:
        wrong += quality_problems(self, run, known_metrics)
    elif self.unit in UNITS:
      wrong += self._time_problems(run)
    if not wrong and self.kind not in ('constant', *BY_QUALITY):
      wrong += self._plan_problems(run)
    return wrong

  def _word_problems(self) -> list[str]:
    return [
      str(unknown(what, value, allowed))
      for what, value, allowed in (
        ('kind of growth', self.kind, KINDS),
        ('unit of growth', self.unit, UNITS),
        ('batch of growth', self.batch, BATCHES),
        ('boundary of growth', self.boundary, BOUNDARIES),
      )
      if value not in allowed
    ]

  def _number_problems(self) -> list[str]:
    wrong = [
      f'{name} is {getattr(self, name)}, must be at least {least}'
      for name, least in (
        ('multiple', 1),
        ('cycles', 1),
        ('step', 1),
        ('boundary_steps', 0),
        ('seed', 0),
      )
      if getattr(self, name) < least
    ]
    for name in ('over', 'root'):
      value = getattr(self, name)
      if not (math.isfinite(value) and value > 0):
        wrong.append(f'{name} is {value}, must be finite and above 0')
    if not 0 < self.boundary_scale <= 1:
      wrong.append(
        f'boundary_scale is {self.boundary_scale}, must be in (0, 1]: it '
        'multiplies the learning rate'
      )
    return wrong

  def _unused_problems(self) -> list[str]:
    """Settings that the kind would not read."""
    return [
      f'{name} is {value}, which kind {self.kind!r} does not read: it is of '
      f'{", ".join(kinds)}'
      for name, value, kinds in (
        ('lengths', self.lengths, STAGED),
        ('start', self.start, (*SHAPES, 'doubling')),
        ('at', self.at, ('discrete',)),
      )
      if value not in ((), None) and self.kind not in kinds
    ]

  def _length_problems(self, run: Run) -> list[str]:
    full, wrong = run.length, []
    if self.kind in STAGED:
      wrong += ladder_problems('lengths', self.lengths, full, self.multiple)
    elif self.kind != 'constant':
      doubled = self.kind == 'doubling'
      wrong += start_problems(self.start, full, self.multiple, doubled)
    if self.buckets:
      wrong += ladder_problems('buckets', self.buckets, full)
    if run.step_tokens < full:
      wrong.append(
        f'a step of {run.step_tokens} tokens has 0 rows of {full}: raise '
        'data.batch_rows or lower data.max_length'
      )
    elif not wrong:
      name = 'buckets' if self.buckets else 'lengths'
      wrong += cut_problems(name, self.row_shapes(run), full)
    return wrong

  def _boundary_problems(self) -> list[str]:
    kind, steps = self.boundary, self.boundary_steps
    if kind not in BOUNDARIES:
      return []
    if kind == 'keep':
      return [
        f"{name} is {value}, which boundary 'keep' does not read: use "
        "'dip' or 'rewarm'"
        for name, value, default in (
          ('boundary_steps', steps, 0),
          ('boundary_scale', self.boundary_scale, 1.0),
        )
        if value != default
      ]
    wrong = []
    if self.kind in ('constant', 'grow_p2'):
      wrong.append(
        f'boundary is {kind!r}: kind {self.kind!r} has no boundaries between '
        "stages; use 'keep'"
      )
    if steps == 0:
      wrong.append(
        f'boundary is {kind!r} and boundary_steps 0: give the steps that the '
        'learning rate takes to come back'
      )
    if kind == 'dip' and self.boundary_scale == 1:
      wrong.append(
        "boundary is 'dip' and boundary_scale 1, which is no dip: lower it, "
        'to 0.5 for example'
      )
    return wrong

  def _time_problems(self, run: Run) -> list[str]:
    if self.unit == 'epochs' and run.epoch_tokens < 1:
      return [f'unit is epochs, and an epoch has {run.epoch_tokens} tokens']
    end, wrong = whole(run, self.unit), []
    if self.at and self.kind == 'discrete':
      wrong += moment_problems(self.at, self.lengths, end, self.unit)
    elif self.over > end and self.kind != 'constant':
      wrong.append(
        f'over is {self.over:g}, outside the run, which has {end:g} '
        f'({self.unit}): lower it, or raise the steps'
      )
    return wrong

  def _plan_problems(self, run: Run) -> list[str]:
    """What shows only once every step has its length."""
    pace = self.pace(run)
    if self.kind == 'grow_p2':
      return self._cycle_problems(pace)
    plan = planned(pace, lambda length: self.step_tokens(length, run))
    return plan_problems(plan, run, pace.lengths, self.boundary_steps)

  def _cycle_problems(self, pace: Pace) -> list[str]:
    wrong, steps = [], pace.growing_steps
    if self.batch == 'rows':
      wrong.append(
        "batch is 'rows': grow_p2 gives each length the same share of the "
        "tokens by equal tokens a step; use batch='tokens'"
      )
    if steps // self.cycles < len(self.lengths):
      wrong.append(
        f'{self.cycles} cycles in {steps} steps are too short for '
        f'{len(self.lengths)} lengths: lower cycles or raise over'
      )
    return wrong
