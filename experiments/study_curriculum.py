"""Does growing the length of rows help, and does anything else?

Trains the same small byte-level model in every way that this package knows, on
the same tokens under the same learning rate: rows of constant length, growth
by a schedule, growth by loss, mixed lengths, each regulariser on top of
growth, and skipped positions on short rows. Every arm is measured at the full
length on held-out text that hides values and asks for them, with three seeds.

It leaves study.md (which arms help, which do not, where so small a study says
nothing), study.json, study.csv and figures in the workdir. First it times a few
steps of each row shape and says how many minutes it will take; over --minutes
all arms get fewer steps.

  python -m experiments.study_curriculum
  python -m experiments.study_curriculum --arms=steps,threshold --seeds=5
  python -m experiments.study_curriculum --minutes=20
  python -m experiments.study_curriculum --fast

Running again reuses what is finished: more arms and seeds are added, a killed
run goes on from its last checkpoint. Other steps, minutes or text need another
--workdir. Time on the clock and CPU-seconds are part of the result: leave the
machine alone meanwhile.

Arms (what an arm stands on is added to those named):"""

from __future__ import annotations

import dataclasses
from typing import Any

from absl import flags

from experiments import launch
from ntk_jax.errors import ConfigError
from ntk_jax.study import ARMS, StudyConfig, study, tiny
from ntk_jax.study.page import study_table

__doc__ += ''.join(  # what --help shows
  f'\n  {arm.name:<10} {arm.what.replace("`", "")}' for arm in ARMS
)
_DEFAULT = StudyConfig()
_ARMS = flags.DEFINE_list(
  'arms', None, "arms to train, or 'all' (the default, but for --fast)"
)
_SEEDS = flags.DEFINE_integer(
  'seeds', None, f'trainings of every arm (default: {_DEFAULT.seeds})'
)
_MINUTES = flags.DEFINE_float(
  'minutes',
  None,
  'the longest that all of it may take by its own projection (default: '
  f'{_DEFAULT.minutes:g})',
)
_STEPS = flags.DEFINE_integer(
  'steps',
  None,
  f'steps of every arm, a multiple of {_DEFAULT.probe_every} (default: '
  f'{_DEFAULT.steps})',
)
_LENGTHS = flags.DEFINE_list(
  'lengths',
  None,
  'of the stages of growth, each dividing the next; the last is the full one '
  f'(default: {",".join(map(str, _DEFAULT.lengths))})',
)
_CORPUS = flags.DEFINE_string(
  'corpus',
  None,
  'a text file or folder to train on and test with (default: the sources of '
  "the running Python's standard library)",
)
_WORKDIR = flags.DEFINE_string(
  'workdir',
  None,
  'where runs and the report go (default: runs/study, or runs/study-fast with '
  '--fast)',
)
_FAST = flags.DEFINE_boolean(
  'fast', False, 'a tiny model, few steps and arms, to see the way in seconds'
)
_SETTINGS = (_ARMS, _SEEDS, _MINUTES, _STEPS, _LENGTHS, _CORPUS)


def main() -> None:
  """Runs the study that the flags describe and prints its table."""
  given: dict[str, Any] = {
    flag.name: flag.value for flag in _SETTINGS if flag.value is not None
  }
  if 'arms' in given:
    given['arms'] = tuple(name.strip() for name in given['arms'])
  if 'lengths' in given:
    given['lengths'] = _whole_numbers(given['lengths'])
  config = tiny(_DEFAULT) if _FAST.value else _DEFAULT
  default = 'runs/study-fast' if _FAST.value else 'runs/study'
  config = dataclasses.replace(config, **given)
  print(study_table(study(config, _WORKDIR.value or default)))


def _whole_numbers(words: list[str]) -> tuple[int, ...]:
  try:
    return tuple(int(word) for word in words)
  except ValueError as error:
    raise ConfigError(
      f'lengths are {",".join(words)}: whole numbers, such as 64,128,256,512'
    ) from error


if __name__ == '__main__':
  launch.run(main)
