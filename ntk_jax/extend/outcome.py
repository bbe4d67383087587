"""What a job found, as the plain data that report.json holds.

Everything but `times` depends only on settings, corpus and versions: a run
that was killed and resumed gives the same result as one that was not.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
from typing import Any

import numpy as np

from ntk_jax.config import fingerprint, to_plain
from ntk_jax.data.retrieval import KEYS, VALUES
from ntk_jax.data.text import Corpus
from ntk_jax.evaluation.intervals import DRAWS, Bootstrap, Interval
from ntk_jax.evaluation.score import Scores
from ntk_jax.extend import rank as rules
from ntk_jax.extend.answer import choose
from ntk_jax.extend.methods import Candidate
from ntk_jax.extend.problem import Line, problem_facts
from ntk_jax.extend.rank import Standing, base_retrieval, rank
from ntk_jax.extend.resolved import resolved_scheme
from ntk_jax.extend.settings import ExtendConfig, fast
from ntk_jax.metrics.versions import versions
from ntk_jax.model import parameter_count
from ntk_jax.train import Trained

PROTOCOL = 'extend-1'  # the rows, questions, intervals and rules of ranking
CONTROL = 'none'  # the unextended model; tuned, plain continuation
_FEWEST_QUESTIONS = 256  # fewer leave retrieval too uncertain to judge by
_NARROWEST_BIN = 16  # positions; fewer bytes are too noisy to plot
# Settings that the command takes as --config.NAME.
NO_FLAG = (
  'train_length',
  'train_steps',
  'tune_steps',
  'tokens_per_step',
  'learning_rate',
  'tune_learning_rate',
)
_BIN_GROWTH = 2 ** (1 / 3) - 1  # 3 bins per doubling of the position


@dataclasses.dataclass(frozen=True)
class Row:
  """One method on all models.

  Attributes:
    candidate: the method.
    scores: with a leading axis of seeds.
    seconds: wall time of all the work on it.
  """

  candidate: Candidate
  scores: Scores
  seconds: float


def outcome(
  config: ExtendConfig,
  corpus: Corpus,
  models: list[Trained],
  compared: list[Row],
  tuned: list[Row],
  others: list[dict[str, str]],
  lines: list[Line],
) -> dict[str, Any]:
  """Everything a report says, ranked.

  Args:
    config: the job's settings.
    corpus: the text.
    models: the base models, by seed.
    compared: methods without training, the unextended model among them.
    tuned: fine-tuned methods, plain continuation ('none') among them.
    others: name and reason of methods that are not applicable.
    lines: of the problem; none of them where it was not measured.

  Returns:
    A JSON-able mapping; `report.json` is this.
  """
  base = _by_name(compared)[CONTROL].scores
  boot = Bootstrap(*base.loss.shape[:2])
  edges = _bin_edges(config.lengths[-1])
  before = _described(config, compared, base, boot, edges)
  after = _described(config, tuned, base, boot, edges)
  for row in after['rows']:
    row |= _what_tuning_did(row['name'], compared, tuned, config, boot)
  facts = _base_facts(config, models, base, boot)
  return {
    'protocol': PROTOCOL,
    'command': command(config),
    'config': to_plain(config),
    'config_fingerprint': fingerprint(config),
    'corpus': corpus.describe(),
    'seeds': list(range(config.seeds)),
    'versions': versions(),
    'rules': {
      'keeps': rules.KEEPS,
      'learned': rules.LEARNED,
      'same': rules.SAME,
      'chance': 1 / VALUES,
      'draws': DRAWS,
      'rows': config.rows,
      'questions': config.rows * KEYS,
    },
    'lengths': {
      'train': config.train_length,
      'target': config.target,
      'all': list(config.lengths),
    },
    'position_edges': edges.tolist(),
    'base': facts,
    'problem': problem_facts(config, lines) if lines else None,
    'compared': before,
    'tuned': after,
    'not_applicable': others,
    'notes': _notes(config, facts),
    'times': {
      'train': sum(model.seconds for model in models),
      'compare': {row.candidate.name: row.seconds for row in compared},
      'tune': {row.candidate.name: row.seconds for row in tuned},
      'problem': {line.role: line.seconds for line in lines},
    },
  }


def to_json(result: dict[str, Any]) -> str:
  """The text of report.json."""
  return json.dumps(result, indent=1, allow_nan=False) + '\n'


def _by_name(rows: list[Row]) -> dict[str, Row]:
  return {row.candidate.name: row for row in rows}


def _described(
  config: ExtendConfig,
  rows: list[Row],
  base: Scores,
  boot: Bootstrap,
  edges: np.ndarray,
) -> dict[str, Any]:
  """The answer of one comparison, and its rows in the order of their rank."""
  by_name = _by_name(rows)
  target = config.lengths.index(config.target)
  standings = rank({n: row.scores for n, row in by_name.items()}, base, target)
  per_length = {n for n, r in by_name.items() if r.candidate.scheme.per_length}
  return {
    'answer': to_plain(choose(standings, per_length)),
    'rows': [
      _standing(standing)
      | _measured(by_name[standing.name].scores, boot, edges)
      | _candidate(by_name[standing.name].candidate, config.target)
      for standing in standings
    ],
  }


def _standing(standing: Standing) -> dict[str, Any]:
  plain = dataclasses.asdict(standing)
  return {
    name: value.plain() if isinstance(value, Interval) else value
    for name, value in plain.items()
    if name != 'loss'  # which is by length in `_measured`
  }


def _measured(
  scores: Scores, boot: Bootstrap, edges: np.ndarray
) -> dict[str, Any]:
  """Loss and retrieval by length, by depth and by position."""
  lengths = range(scores.loss.shape[-1])
  by_position = scores.position_loss.mean(axis=(0, 1))
  sums = np.add.reduceat(by_position, edges[:-1])
  return {
    'loss': [boot.mean(scores.loss[:, :, n]).plain() for n in lengths],
    'retrieval': [
      boot.mean(scores.hits[:, :, n].mean(-1)).plain() for n in lengths
    ],
    'retrieval_by_depth': _rounded(scores.hits.mean(axis=(0, 1))),
    'loss_by_position': _rounded(sums / np.diff(edges)),
  }


def _candidate(candidate: Candidate, length: int) -> dict[str, Any]:
  return {
    'label': candidate.label,
    'family': candidate.family,
    **resolved_scheme(candidate.scheme, length),
  }


def _what_tuning_did(
  name: str,
  compared: list[Row],
  tuned: list[Row],
  config: ExtendConfig,
  boot: Bootstrap,
) -> dict[str, Any]:
  """Paired differences at the target: to before, and to the control."""
  target = config.lengths.index(config.target)
  row = _by_name(tuned)[name].scores
  before = _by_name(compared)[name].scores
  control = _by_name(tuned)[CONTROL].scores

  def above(other: Scores) -> dict[str, Any]:
    loss = row.loss[:, :, target] - other.loss[:, :, target]
    hits = (row.hits - other.hits)[:, :, target].mean(-1)
    return {
      'loss': boot.mean(loss).plain(),
      'retrieval': boot.mean(hits).plain(),
    }

  over = None if name == CONTROL else above(control)
  return {'over_before': above(before), 'over_control': over}


def _base_facts(
  config: ExtendConfig, models: list[Trained], base: Scores, boot: Bootstrap
) -> dict[str, Any]:
  """The unextended models at L0."""
  steps = config.train_steps if config.checkpoint is None else 0
  last = max(1, steps // 10)
  learned = base_retrieval(base, boot)
  tokens = config.batch_rows(config.train_length) * config.train_length
  return {
    'parameters': parameter_count(models[0].params),
    'steps': steps,
    'tokens': steps * tokens,
    'final_text_loss': [_end(m.text_loss, last) for m in models],
    'final_retrieval_loss': [_end(m.retrieval_loss, last) for m in models],
    'loss': boot.mean(base.loss[:, :, 0]).plain(),
    'retrieval': learned.plain(),
    'retrieval_by_seed': _rounded(base.hits[:, :, 0].mean(axis=(1, 2))),
    'learned': learned.mean >= rules.LEARNED,
  }


def _end(losses: list[float], steps: int) -> float | None:
  """The mean of the last steps of a training run, but for skipped ones."""
  last = np.array(losses[-steps:], np.float64)
  finite = last[np.isfinite(last)]
  return round(float(finite.mean()), 5) if len(finite) else None


def _notes(config: ExtendConfig, base: dict[str, Any]) -> list[str]:
  """What a reader must know before trusting the numbers."""
  notes = []
  if config.rows * KEYS < _FEWEST_QUESTIONS:
    notes.append(
      f'Only {config.rows} rows and {config.rows * KEYS} questions per length '
      'were read: this shows the way, not the answer.'
    )
  failed = [
    str(seed)
    for seed, found in enumerate(base['retrieval_by_seed'])
    if found < rules.LEARNED
  ]
  if base['learned'] and failed:
    notes.append(
      f'The model of seed {", ".join(failed)} did not learn retrieval; it '
      'pulls all retrieval figures down and widens their intervals.'
    )
  return notes


def command(config: ExtendConfig) -> str:
  """The command line that does a job again."""
  quick = config.model == fast(config).model
  usual = fast(ExtendConfig()) if quick else ExtendConfig()
  words = ['python -m experiments.extend', *(['--fast'] if quick else [])]
  read = ('model', *(() if config.checkpoint is None else ('train_length',)))
  for name, value in _flags(config).items():
    if value != _flags(usual)[name] and name not in read:
      prefix = 'config.' if name in NO_FLAG else ''
      text = ','.join(value) if isinstance(value, tuple) else str(value)
      words.append(shlex.quote(f'--{prefix}{name}={text}'))
  return ' '.join(words)


def _flags(config: ExtendConfig) -> dict[str, Any]:
  """Settings by the names that flags have."""
  fields = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
  mesh = dataclasses.asdict(fields.pop('mesh'))
  return fields | {f'mesh_{axis}': size for axis, size in mesh.items()}


def _bin_edges(longest: int) -> np.ndarray:
  """Edges of position bins: even on a log scale, but not too narrow."""
  edges, width = [0], _NARROWEST_BIN
  while longest - edges[-1] >= 2 * width:
    edges.append(edges[-1] + width)
    width = max(_NARROWEST_BIN, round(edges[-1] * _BIN_GROWTH))
  return np.array([*edges, longest])


def _rounded(values: np.ndarray) -> list[Any]:
  return np.round(values, 6).tolist()
