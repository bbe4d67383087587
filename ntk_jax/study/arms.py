"""The arms of the study: what each changes in a run of constant length.

Each regulariser stands on growth by steps, not on constant length. In the
budget of this study constant length does not learn to recall, so a regulariser
on top of it would be judged by a model that does not look back yet; growth is
cheaper too, which leaves time for seeds. Skipped positions stand on short rows,
which are what they are for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from ntk_jax.curriculum.quality import QualityConfig
from ntk_jax.curriculum.regularize import RegularizeConfig
from ntk_jax.curriculum.sampling import LengthMix, SamplingConfig
from ntk_jax.curriculum.settings import GrowthConfig
from ntk_jax.errors import ConfigError, unknown
from ntk_jax.evaluation.probes import ProbeConfig
from ntk_jax.study.curves import PROBED
from ntk_jax.study.settings import StudyConfig
from ntk_jax.train.settings import TrainConfig

CONSTANT = 'constant'
_ALL = 'all'
_WATCH, _THRESHOLD = 'answers', 0.2  # nats per hidden value
_STAY = 1 / 16  # shortest stage, a share of the run
_LONG = 0.34  # share of long rows: Olmo 3's mixture

Change = Callable[[StudyConfig, TrainConfig], TrainConfig]
Shares = dict[int, float]


@dataclasses.dataclass(frozen=True)
class Arm:
  """One way to train.

  Attributes:
    name: as flags and folders have it.
    family: 'growth', 'mixed', 'regulariser' or 'positions'; the control is
      a family of its own.
    what: one sentence that says what it does.
    base: the arm that it changes in one way, None for the control.
    change: from the run of constant length to this one.
    shares: by length of rows, the share of steps that it is expected to spend
      there; for the projection alone.
    work: of a step, relative to a plain one of the same rows.
    programs: that it compiles, relative to one for each of those lengths.
    measures: whether it reads the probes: then their time is its own.
  """

  name: str
  family: str
  what: str
  base: str | None
  change: Change
  shares: Callable[[StudyConfig], Shares]
  work: float = 1.0
  programs: float = 1.0
  measures: bool = False


def _whole(config: StudyConfig) -> Shares:
  return {config.full: 1.0}


def _short(config: StudyConfig) -> Shares:
  return {short_length(config): 1.0}


def _even(config: StudyConfig) -> Shares:
  return dict.fromkeys(config.lengths, 1 / len(config.lengths))


def _ramp(config: StudyConfig) -> Shares:
  """What loss-driven growth is expected to do: most at the full length."""
  *short, full = config.lengths
  return dict.fromkeys(short, 0.45 / len(short)) | {full: 0.55}


def short_length(config: StudyConfig) -> int:
  """Rows of the arms that never see the full length: a quarter of it.

  >>> short_length(StudyConfig()), short_length(StudyConfig(lengths=(64, 128)))
  (256, 64)
  """
  quarter = [n for n in config.lengths if 4 * n <= config.full]
  return quarter[-1] if quarter else config.lengths[0]


def steps_growth(config: StudyConfig) -> GrowthConfig:
  """Every length for an equal share of the run."""
  parts = len(config.lengths)
  at = tuple(i / parts for i in range(1, parts))
  return GrowthConfig(kind='discrete', lengths=config.lengths, at=at)


def _constant(config: StudyConfig, run: TrainConfig) -> TrainConfig:
  return run


def _steps(config: StudyConfig, run: TrainConfig) -> TrainConfig:
  return dataclasses.replace(run, growth=steps_growth(config))


def _by_loss(kind: str) -> Change:
  def change(config: StudyConfig, run: TrainConfig) -> TrainConfig:
    quality = QualityConfig(watch=_WATCH, threshold=_THRESHOLD, min_stay=_STAY)
    if kind == 'quality':  # it decides where the curves are measured
      every = config.probe_every / run.optimizer.steps
      quality = dataclasses.replace(quality, check=min(every, 1.0))
    growth = GrowthConfig(kind=kind, lengths=config.lengths, quality=quality)
    return dataclasses.replace(run, growth=growth)

  return change


def _shuffled(config: StudyConfig, run: TrainConfig) -> TrainConfig:
  """Every length as often as in `steps`, twice in every short cycle."""
  cycles = max(1, run.optimizer.steps // (2 * len(config.lengths)))
  growth = GrowthConfig(
    kind='grow_p2', lengths=config.lengths, over=1.0, cycles=cycles
  )
  return dataclasses.replace(run, growth=growth)


def _long_share(config: StudyConfig, run: TrainConfig) -> TrainConfig:
  lengths, shares = (config.full, short_length(config)), (_LONG, 1 - _LONG)
  mix = LengthMix(config.full, lengths, shares)
  return dataclasses.replace(run, sampling=SamplingConfig(mixtures=(mix,)))


def _regularised(
  settings: Callable[[StudyConfig], RegularizeConfig],
) -> Change:
  def change(config: StudyConfig, run: TrainConfig) -> TrainConfig:
    regularize = dataclasses.replace(settings(config), seed=run.seed)
    return dataclasses.replace(_steps(config, run), regularize=regularize)

  return change


def _weights(config: StudyConfig) -> RegularizeConfig:
  return RegularizeConfig(
    weight='position', weight_context=config.full, weight_power=0.5
  )


def _long_ce(config: StudyConfig) -> RegularizeConfig:
  return RegularizeConfig(long_ce=True, long_short=short_length(config))


def _rows_of(config: StudyConfig, run: TrainConfig) -> TrainConfig:
  """Rows of a quarter of the full length, as many tokens a step."""
  length = short_length(config)
  rows = config.tokens_per_step // length
  data = dataclasses.replace(run.data, max_length=length, batch_rows=rows)
  return dataclasses.replace(run, data=data)


def _skipped(config: StudyConfig, run: TrainConfig) -> TrainConfig:
  skips = RegularizeConfig(
    positions='pose', target_length=config.full, seed=run.seed
  )
  return dataclasses.replace(_rows_of(config, run), regularize=skips)


_CONTROL = Arm(
  CONSTANT,
  'control',
  'rows of the full length from the first step to the last',
  None,
  _constant,
  _whole,
)
_STEPS = Arm(
  'steps',
  'growth',
  'every length for an equal share of the run, shortest first',
  CONSTANT,
  _steps,
  _even,
)
_SHORT = Arm(
  'short',
  'positions',
  'rows of a quarter of the full length, all along',
  CONSTANT,
  _rows_of,
  _short,
)
ARMS = (
  _CONTROL,
  _STEPS,
  Arm(
    'threshold',
    'growth',
    'grows when the smoothed loss of hidden values falls below '
    f'{_THRESHOLD} nats',
    CONSTANT,
    _by_loss('threshold'),
    _ramp,
  ),
  Arm(
    'quality',
    'growth',
    'the controller: grows below the threshold or where progress flattens, '
    'between half and twice its planned stay',
    CONSTANT,
    _by_loss('quality'),
    _ramp,
    measures=True,
  ),
  Arm(
    'shuffled',
    'mixed',
    'another length every step: each as often as in `steps`, in no order, its '
    'control',
    CONSTANT,
    _shuffled,
    _even,
  ),
  Arm(
    'long34',
    'mixed',
    f'{100 * _LONG:.0f}% of rows at the full length, the others at a quarter '
    'of it',
    CONSTANT,
    _long_share,
    _whole,
  ),
  Arm(
    'ltd',
    'regulariser',
    'random-LTD: middle layers see half of the tokens at first, all of them '
    'from two thirds of the run on',
    'steps',
    _regularised(lambda _: RegularizeConfig(keep_start=0.5)),
    _even,
    programs=1.75,  # shares that are kept change within stages
  ),
  Arm(
    'forget',
    'regulariser',
    'forgetful masking: up to 15% of earlier tokens cannot be seen',
    'steps',
    _regularised(lambda _: RegularizeConfig(forget=0.15)),
    _even,
    1.1,
  ),
  Arm(
    'mask',
    'regulariser',
    'a tenth of the input tokens are replaced by random ones',
    'steps',
    _regularised(lambda _: RegularizeConfig(mask_inputs=0.1)),
    _even,
  ),
  Arm(
    'weight',
    'regulariser',
    'the loss of a token weighs more the more it can see',
    'steps',
    _regularised(_weights),
    _even,
  ),
  Arm(
    'long_ce',
    'regulariser',
    'LongCE: tokens that a short context predicts worse weigh more',
    'steps',
    _regularised(_long_ce),
    _even,
    1.35,
    programs=1.25,  # it begins within a stage
  ),
  _SHORT,
  Arm(
    'pose',
    'positions',
    'PoSE: the rows of `short` with positions that skip ahead, up to the full '
    'length',
    'short',
    _skipped,
    _short,
  ),
)
BY_NAME = {arm.name: arm for arm in ARMS}


def arms_named(names: tuple[str, ...]) -> tuple[Arm, ...]:
  """Arms by name, with what they are held against, in the order of `ARMS`.

  Raises:
    ConfigError: for an unknown name, or none.

  >>> [arm.name for arm in arms_named(('pose',))]
  ['constant', 'short', 'pose']
  """
  if not names:
    raise ConfigError(f'arms is empty: name some of {", ".join(BY_NAME)}')
  if names == (_ALL,):
    return ARMS
  wanted = {CONSTANT}
  for name in names:
    if name not in BY_NAME:
      raise unknown('arm', name, (*BY_NAME, _ALL))
    wanted |= {name, BY_NAME[name].base or CONSTANT}
  return tuple(arm for arm in ARMS if arm.name in wanted)


def train_config(
  arm: Arm, config: StudyConfig, steps: int, seed: int
) -> TrainConfig:
  """The run of an arm: the control's, changed, measured at the full length."""
  run = arm.change(config, config.train(steps, seed))
  probe = ProbeConfig(
    every=min(config.probe_every, steps),
    rows=config.probe_rows,
    names=PROBED,
    full=config.full,
  )
  return dataclasses.replace(run, probe=probe)
