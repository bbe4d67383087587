"""Results made up for tests: scores by hand, all else as in a real run."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from ntk_jax.data.text import Corpus
from ntk_jax.diagnostics import Measured
from ntk_jax.evaluation.score import Scores
from ntk_jax.extend.methods import candidate, select
from ntk_jax.extend.outcome import Row, outcome
from ntk_jax.extend.problem import Line
from ntk_jax.extend.rank import stack
from ntk_jax.extend.settings import ExtendConfig
from ntk_jax.model import Params
from ntk_jax.train import Trained

BASE_LOSS = 2.2  # bits per byte of the unextended model at L0


class Made(NamedTuple):
  """What a made-up method does: loss at the target, change at L0, finds."""

  loss: float
  change: float
  found: float


def scores(
  made: Made, config: ExtendConfig, *, found_at_start: float, seed: int
) -> Scores:
  """Scores of one seed: rows differ in difficulty, methods a little by row."""
  lengths = np.array(config.lengths)
  far = np.log2(lengths / lengths[0]) / np.log2(config.target_factor)
  start = BASE_LOSS + made.change
  by_length = start + (made.loss - start) * far
  rng = np.random.default_rng(round(1000 * made.loss))
  difficulty = np.random.default_rng(1).normal(0, 0.3, (config.rows, 1))
  difficulty -= difficulty.mean()
  noise = rng.normal(0, 0.02, (config.rows, len(lengths)))
  loss = by_length + difficulty + noise - noise.mean(0) + 0.01 * seed
  rate = np.clip(found_at_start + (made.found - found_at_start) * far, 0, 1)
  hits = np.random.default_rng(2).random((config.rows, len(lengths), 8))
  positions = np.arange(lengths[-1])
  curve = np.interp(positions, lengths, by_length) + 4 / (1 + positions)
  return Scores(
    loss.astype(np.float32),
    (hits < rate[:, None]).astype(np.float32),
    (curve + difficulty).astype(np.float32),
  )


class Course(NamedTuple):
  """Where a line of the problem starts, at L0, and is at the target."""

  entropy: tuple[float, float]
  far_loss: tuple[float, float]
  grad_norm: tuple[float, float]


def made_line(
  role: str, name: str, course: Course, config: ExtendConfig, seconds: float
) -> Line:
  """A line even in log length, of as many seeds; heads differ in entropy."""
  far = np.log2(np.array(config.lengths) / config.train_length)
  far /= np.log2(config.target_factor)
  heads = np.linspace(-0.05, 0.05, 16).reshape(4, 4)
  entropy, far_loss, grad_norm = (
    (start + (end - start) * far).astype(np.float32) for start, end in course
  )
  by_length = [
    Measured((x + heads).astype(np.float32), y, z)
    for x, y, z in zip(entropy, far_loss, grad_norm)
  ]
  return Line(role, name, [by_length] * config.seeds, seconds)


def made_result(
  compared: dict[str, Made],
  tuned: dict[str, Made],
  *,
  found_at_start: float = 0.97,
  seeds: int = 1,
  failed_seed: int | None = None,
  rows: int = 32,
  slowness: float = 1.0,
  problem: dict[tuple[str, str], Course] | None = None,
) -> dict[str, Any]:
  """A whole result of made-up methods; `none` must be in both.

  Args:
    compared: methods without training.
    tuned: methods after fine-tuning.
    found_at_start: retrieval of every method at L0.
    seeds: how many models.
    failed_seed: a seed whose model does not learn retrieval.
    rows: test rows.
    slowness: multiplies all times.
    problem: its lines by role and method; if None those of `PROBLEM`, the
      method being the first of `tuned`.
  """
  config = ExtendConfig(methods=tuple(compared), seeds=seeds, rows=rows)

  def described(methods: dict[str, Made], seconds: float) -> list[Row]:
    return [
      Row(
        candidate(name, config.setting),
        stack(
          [
            scores(
              made,
              config,
              found_at_start=0.2 if seed == failed_seed else found_at_start,
              seed=seed,
            )
            for seed in range(seeds)
          ]
        ),
        slowness * seconds,
      )
      for name, made in methods.items()
    ]

  if problem is None:
    shown = next(iter(tuned))
    problem = {
      (role, 'none' if role == 'untreated' else shown): course
      for role, course in PROBLEM.items()
      if role != 'treated' or shown != 'none'
    }
  text = np.zeros(40_000, np.uint8)
  corpus = Corpus('made-up text', (text,) * 9, (text,), '0123456789abcdef')
  params = Params(
    embed=jnp.zeros((408, 128)),
    layers={'q': jnp.zeros((4, 194_000))},
    final_norm=jnp.zeros(128),
  )
  losses = [3.0, 2.5] * 120
  model = Trained(params, slowness * 101.0, losses, losses)
  _, others = select(('all',), config.setting)
  return outcome(
    config,
    corpus,
    [model] * seeds,
    described(compared, 9.0),
    described(tuned, 22.0),
    others,
    [
      made_line(*of, course, config, slowness * 4.0)
      for of, course in problem.items()
    ],
  )


def every_method() -> list[str]:
  """Names of all methods that the default setting defines."""
  candidates, _ = select(('all',), ExtendConfig().setting)
  return [candidate.name for candidate in candidates]


PROBLEM = {
  'untreated': Course((0.34, 0.45), (2.4, 3.4), (0.64, 2.4)),
  'treated': Course((0.28, 0.31), (2.7, 2.9), (1.1, 1.9)),
  'tuned': Course((0.23, 0.23), (2.58, 2.59), (0.83, 0.87)),
}
NONE = Made(3.30, 0.0, 0.29)
TUNED = {
  'yarn': Made(2.32, 0.18, 0.96),
  'linear': Made(2.91, 0.9, 0.96),
  'none': Made(2.45, 0.10, 0.60),
}


def clear_winner(**changes: Any) -> dict[str, Any]:
  """YaRN is first by far, others keep retrieval, some lose it."""
  return made_result(
    {
      'none': NONE,
      'window': Made(2.40, 0.0, 0.16),
      'linear': Made(3.67, 1.6, 0.96),
      'ntk': Made(3.12, 0.5, 0.72),
      'yarn': Made(2.80, 0.49, 0.955),
      'by_parts': Made(2.95, 0.40, 0.96),
      'yarn_scaled': Made(3.01, 0.34, 0.965),
      'dynamic': Made(3.12, 0.0, 0.72),
      'ntk+logn': Made(3.11, 0.5, 0.76),
    },
    TUNED,
    **changes,
  )


def all_tied(**changes: Any) -> dict[str, Any]:
  """Three methods within 0.03 bits, all keep retrieval."""
  return made_result(
    {
      'none': NONE,
      'yarn': Made(2.85, 0.49, 0.96),
      'by_parts': Made(2.86, 0.45, 0.96),
      'yarn_scaled': Made(2.87, 0.34, 0.96),
    },
    {
      'yarn': Made(2.32, 0.18, 0.96),
      'by_parts': Made(2.34, 0.2, 0.96),
      'none': Made(2.33, 0.1, 0.96),
    },
    **changes,
  )


def none_passes(**changes: Any) -> dict[str, Any]:
  """Every method loses retrieval, before and after fine-tuning."""
  return made_result(
    {
      'none': NONE,
      'window': Made(2.40, 0.0, 0.16),
      'ntk': Made(3.12, 0.5, 0.72),
      'linear': Made(3.67, 1.6, 0.60),
    },
    {
      'ntk': Made(2.5, 0.2, 0.7),
      'linear': Made(2.9, 0.5, 0.7),
      'none': Made(2.6, 0.1, 0.5),
    },
    **changes,
  )


def undecided(**changes: Any) -> dict[str, Any]:
  """The lowest loss may or may not keep retrieval; another surely does."""
  return made_result(
    {
      'none': NONE,
      'yarn': Made(2.80, 0.49, 0.88),
      'linear': Made(3.67, 1.6, 0.97),
    },
    {'yarn': Made(2.32, 0.18, 0.88), 'none': Made(2.45, 0.10, 0.88)},
    **changes,
  )


def not_learned(**changes: Any) -> dict[str, Any]:
  """The base model finds less than half of the values at its own length."""
  return clear_winner(found_at_start=0.2, **changes)
