"""What a study found, as the plain data that study.json holds."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ntk_jax.config import fingerprint, to_plain
from ntk_jax.data.retrieval import KEYS, VALUES
from ntk_jax.evaluation.intervals import DRAWS, Bootstrap, Interval
from ntk_jax.evaluation.score import Scores
from ntk_jax.extend.rank import LEARNED, SAME
from ntk_jax.metrics.versions import versions
from ntk_jax.study.arms import CONSTANT, Arm
from ntk_jax.study.curves import (
  COSTS,
  Curve,
  Lines,
  after,
  curve,
  over_seeds,
  ratios,
  reach,
)
from ntk_jax.study.settings import StudyConfig
from ntk_jax.typing import Float64, NDArray

PROTOCOL = 'study_curriculum-1'  # the rows, probes, intervals and rules
BAR = 0.75  # of constant length's CPU-seconds, that growth by loss may take
SAME_RECALL = 0.05  # share of hidden values; less is no difference
DRIVEN = ('threshold', 'quality')  # growth by loss


@dataclasses.dataclass(frozen=True)
class Done:
  """An arm with all of its seeds.

  Attributes:
    arm: what it is.
    lines: metrics of every step, by seed.
    scores: of the end of each run on held-out rows, by seed.
  """

  arm: Arm
  lines: Sequence[Lines]
  scores: Sequence[Scores]

  @property
  def loss(self) -> Float64[NDArray, 'seeds rows']:
    """Bits per byte of every held-out row, in the second half of positions."""
    return np.stack([s.loss[:, -1] for s in self.scores]).astype(np.float64)

  @property
  def whole(self) -> Float64[NDArray, 'seeds rows']:
    """The same over all positions."""
    each = [scores.position_loss.mean(axis=1) for scores in self.scores]
    return np.stack(each).astype(np.float64)

  @property
  def recall(self) -> Float64[NDArray, 'seeds rows']:
    """Share of hidden values found in every row."""
    each = [scores.hits[:, -1].mean(axis=-1) for scores in self.scores]
    return np.stack(each).astype(np.float64)


def study_outcome(
  config: StudyConfig,
  done: Sequence[Done],
  corpus: dict[str, Any],
  plan: dict[str, Any],
  command: str,
) -> dict[str, Any]:
  """Everything the report says.

  Args:
    config: the study's settings.
    done: every arm, the control first.
    corpus: name, sizes and fingerprint of the text.
    plan: steps of every arm, and what was projected.
    command: that does it again.

  Returns:
    A JSON-able mapping; `study.json` is this.
  """
  by_name = {each.arm.name: each for each in done}
  curves = {
    n: [curve(lines, d.arm.measures) for lines in d.lines]
    for n, d in by_name.items()
  }
  boot = Bootstrap(*by_name[CONSTANT].loss.shape)
  rows = [_row(each, by_name, curves, boot) for each in done]
  return {
    'protocol': PROTOCOL,
    'command': command,
    'config': to_plain(config),
    'config_fingerprint': fingerprint(config),
    'corpus': corpus,
    'seeds': list(range(config.seeds)),
    'versions': versions(),
    'plan': plan,
    'rules': {
      'bar': BAR,
      'same': SAME,
      'same_recall': SAME_RECALL,
      'learned': LEARNED,
      'chance': 1 / VALUES,
      'draws': DRAWS,
      'questions': config.rows * KEYS,
    },
    'full': config.full,
    'tokens': plan['steps'] * config.tokens_per_step,
    'epochs': max(line['epoch'] for d in done for line in d.lines[0][-1:]),
    'arms': rows,
  }


def _row(
  done: Done,
  by_name: dict[str, Done],
  curves: dict[str, list[Curve]],
  boot: Bootstrap,
) -> dict[str, Any]:
  """What there is to say of an arm."""
  arm = done.arm
  own, control = curves[arm.name], curves[CONSTANT]
  above = {} if arm.base is None else {'constant': CONSTANT, 'base': arm.base}
  return {
    'name': arm.name,
    'family': arm.family,
    'what': arm.what,
    'base': arm.base,
    'loss': boot.mean(done.loss).plain(),
    'whole_loss': boot.mean(done.whole).plain(),
    'recall': boot.mean(done.recall).plain(),
    'by_seed': {
      'loss': _rounded(done.loss.mean(axis=1)),
      'recall': _rounded(done.recall.mean(axis=1)),
    },
    'ends': {name: _ends(own, name) for name in COSTS},
    'compiles': _total(done.lines, 'compiles'),
    'compile_seconds': _total(done.lines, 'compile_seconds'),
    'reach': {name: ratios(own, control, name).plain() for name in COSTS},
    'learned': {name: _learned(own, name) for name in COSTS},
    'equal_time': _equal_time(own, control),
    'over': {k: _above(done, by_name[n], boot) for k, n in above.items()},
    'curves': [_points(each) for each in own],
    'lengths': [_stages(lines) for lines in done.lines],
  }


def _ends(curves: Sequence[Curve], cost: str) -> dict[str, Any]:
  """What whole runs cost."""
  return over_seeds([_number(c.costs[cost][-1]) for c in curves]).plain()


def _total(runs: Sequence[Lines], name: str) -> dict[str, Any]:
  """What the lines of a run sum up to."""
  return over_seeds([float(sum(x[name] for x in run)) for run in runs]).plain()


def _learned(curves: Sequence[Curve], cost: str) -> dict[str, Any]:
  """What it takes to find half of what is hidden, for good."""
  found = [reach(c.costs[cost], -c.recall, -LEARNED) for c in curves]
  return over_seeds(found).plain()


def _equal_time(
  own: Sequence[Curve], control: Sequence[Curve]
) -> dict[str, Any]:
  """Bits above the control when it ends, in CPU-seconds; negative is better.

  An arm that has ended by then keeps what it ended with.
  """
  above = []
  for run, reference in zip(own, control):
    spent = float(reference.costs['cpu'][-1])
    found = after(run.costs['cpu'], run.loss, spent)
    above.append(None if found is None else found - float(reference.loss[-1]))
  return over_seeds(above).plain()


def _above(done: Done, other: Done, boot: Bootstrap) -> dict[str, Any]:
  """Paired differences to another arm, and what they come to."""
  loss = boot.mean(done.loss - other.loss)
  recall = boot.mean(done.recall - other.recall)
  words = judged(loss, SAME), judged(negated(recall), SAME_RECALL)
  return {
    'arm': other.arm.name,
    'loss': loss.plain(),
    'recall': recall.plain(),
    'loss_verdict': words[0],
    'recall_verdict': words[1],
    'verdict': together(*words),
  }


def negated(interval: Interval) -> Interval:
  """The interval of the same thing with the other sign.

  >>> negated(Interval(1.0, 0.5, 2.0))
  Interval(mean=-1.0, low=-2.0, high=-0.5)
  """
  return Interval(-interval.mean, -interval.high, -interval.low)


def judged(above: Interval, same: float) -> str:
  """Whether less of something is sure: 'better', 'worse' or 'tie'.

  A tie is a difference below `same`, or one whose interval contains 0.

  >>> [judged(Interval(m, m - 0.02, m + 0.02), 0.03) for m in (-0.1, 0.1)]
  ['better', 'worse']
  >>> judged(Interval(-0.02, -0.025, -0.01), 0.03)
  'tie'
  >>> judged(Interval(-0.1, -0.25, 0.01), 0.03)
  'tie'
  """
  if abs(above.mean) < same or above.low <= 0 <= above.high:
    return 'tie'
  return 'better' if above.mean < 0 else 'worse'


def together(loss: str, recall: str) -> str:
  """One word for two verdicts.

  >>> [together(*pair) for pair in (
  ...   ('better', 'tie'), ('tie', 'tie'), ('tie', 'worse'))]
  ['helps', 'tie', 'hurts']
  >>> together('better', 'worse')
  'mixed'
  """
  both = {loss, recall}
  if both >= {'better', 'worse'}:
    return 'mixed'
  if 'better' in both:
    return 'helps'
  return 'hurts' if 'worse' in both else 'tie'


def _points(found: Curve) -> dict[str, Any]:
  """A curve as lists."""
  return {
    'steps': found.steps.tolist(),
    'loss': _rounded(found.loss),
    'recall': _rounded(found.recall),
    **{name: _rounded(values) for name, values in found.costs.items()},
  }


def _stages(lines: Lines) -> list[list[int]]:
  """Where the length of rows changes: pairs of step and length."""
  found: list[list[int]] = []
  for line in lines:
    length = int(line['length'])
    if not found or found[-1][1] != length:
      found.append([line['step'], length])
  return found


def _rounded(values: NDArray) -> list[float | None]:
  return [_number(x) for x in values]


def _number(value: float) -> float | None:
  return round(float(value), 6) if math.isfinite(value) else None
