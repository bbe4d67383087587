"""Studies made up for tests: curves and scores by hand, all else as in one."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from ntk_jax.evaluation.score import Scores
from ntk_jax.study.arms import arms_named
from ntk_jax.study.command import study_command
from ntk_jax.study.outcome import Done, study_outcome
from ntk_jax.study.settings import StudyConfig

STEPS, EVERY, FULL = 24, 4, 128
CONFIG = StudyConfig(
  arms=('steps', 'threshold', 'forget', 'mask'),
  lengths=(32, 64, FULL),
  tokens_per_step=256,
  steps=STEPS,
  probe_every=EVERY,
  probe_rows=2,
  rows=16,
)
CORPUS = {'name': 'a', 'files': 2, 'bytes': 9, 'fingerprint': 'f00d'}


class Made(NamedTuple):
  """What a made-up arm does.

  Attributes:
    falls: bits per byte that its loss falls by every step, from 5.
    ends: loss of its end on held-out rows.
    found: share of hidden values that it finds then.
    seconds: CPU-seconds of a step.
    begins: steps at which it goes to the next length.
  """

  falls: float
  ends: float
  found: float
  seconds: float = 1.0
  begins: tuple[int, ...] = ()


ARMS = {
  'constant': Made(0.05, 3.0, 0.0),
  'steps': Made(0.1, 2.5, 1.0, 0.5, (8, 16)),
  'threshold': Made(0.1, 2.45, 1.0, 0.625, (4, 8)),
  'forget': Made(0.1, 2.3, 1.0, 0.5, (8, 16)),
  'mask': Made(0.1, 2.7, 0.5, 0.5, (8, 16)),
}


def lines(made: Made, seed: int = 0) -> list[dict[str, Any]]:
  """Metrics of every step; the first waits two seconds for the compiler."""
  found = []
  for step in range(STEPS):
    length = (32, 64, FULL)[sum(step >= b for b in made.begins)]
    length = length if made.begins else FULL
    done = step + 1
    line = {
      'step': step,
      'tokens': 256.0 * done,
      'cpu_seconds': made.seconds * done + 2.0,
      'seconds': made.seconds * done / 2 + 2.0,
      'length': length,
      'rows': 256 // length,
      'epoch': 0.01 * done,
      'measure_seconds': 0.25 * (step // EVERY),
      'measure_cpu_seconds': 0.5 * (step // EVERY),
      'compiles': int(step == 0),
      'compile_seconds': 2.0 * (step == 0),
    }
    if done % EVERY == 0:
      bits = 5 - made.falls * done + 0.01 * seed
      line['probe/full'] = bits * math.log(2.0)
      line['probe/full_recall'] = made.found * done / STEPS
    found.append(line)
  return found


def scores(made: Made, seed: int = 0) -> Scores:
  """Scores of 16 rows; rows differ in difficulty, alike for all arms."""
  difficulty = np.random.default_rng(seed).normal(0, 0.3, (CONFIG.rows, 1))
  noise = np.random.default_rng(round(1000 * made.ends)).normal(
    0, 0.01, difficulty.shape
  )
  loss = made.ends + difficulty + noise - noise.mean()
  hits = np.arange(CONFIG.rows * 8).reshape(CONFIG.rows, 1, 8)
  return Scores(
    loss.astype(np.float32),
    (hits % 100 < 100 * made.found).astype(np.float32),
    np.tile(loss - 0.1, (1, FULL)).astype(np.float32),
  )


def made_study(**other: Made) -> dict[str, Any]:
  """What study.json would hold."""
  made = ARMS | other
  done = [
    Done(
      arm,
      [lines(made[arm.name], seed) for seed in range(CONFIG.seeds)],
      [scores(made[arm.name], seed) for seed in range(CONFIG.seeds)],
    )
    for arm in arms_named(CONFIG.arms)
  ]
  plan = {'steps': STEPS, 'asked': STEPS, 'minutes': 3.0}
  found = study_outcome(CONFIG, done, CORPUS, plan, study_command(CONFIG))
  times = {'seconds': 120.0, 'scoring_seconds': 6.0}
  return found | times | {'parameters': 830000}
