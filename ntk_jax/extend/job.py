"""The job as its reader meets it: train or load, compare, tune, rank, report.

Of a model that it trains it shows the problem too, without a method and with
the best. (For a checkpoint that would take gradients of all parameters, which
adapters are there to avoid.) A checkpoint is exported on request.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import jax

from ntk_jax.checkpoint import write_atomic
from ntk_jax.data.text import load_corpus
from ntk_jax.evaluation.score import TestRows
from ntk_jax.extend.answer import to_show, to_tune
from ntk_jax.extend.exported import check_free, export
from ntk_jax.extend.fits import memory_line
from ntk_jax.extend.imported import Checkpoint, resolved, subject
from ntk_jax.extend.methods import Candidate, select
from ntk_jax.extend.outcome import Row, outcome, to_json
from ntk_jax.extend.problem import LINES, Line, draw_line, problem_work
from ntk_jax.extend.rank import rank, stack
from ntk_jax.extend.settings import ExtendConfig
from ntk_jax.extend.stages import Stages, training_work
from ntk_jax.extend.subject import Subject
from ntk_jax.extend.workdir import Workdir
from ntk_jax.metrics import Progress
from ntk_jax.report import markdown, results_csv
from ntk_jax.sharding import make_mesh


def run(config: ExtendConfig, workdir: str | Path) -> dict[str, Any]:
  """Trains, compares, tunes and ranks; leaves a report in the workdir.

  Args:
    config: what to do; checked first, before any work.
    workdir: where stages and the report go. Finished stages are reused.

  Returns:
    What report.json holds.

  Raises:
    ConfigError: for a wrong setting, corpus or workdir.
  """
  config, model, checkpoint = _prepared(config)
  candidates, others = select(config.methods, model.setting)
  rows = TestRows.from_corpus(
    model.corpus, config.lengths, config.rows, model.symbols
  )
  base = config.base(model.corpus.fingerprint)
  if model.about is not None:
    base['checkpoint'] = model.about['fingerprint']
  with Workdir(Path(workdir), base) as directory:
    progress = Progress(_work(config, candidates, rows))
    seeds = _stages(config, model, rows, directory.path, progress)
    models = [stages.base() for stages in seeds]
    params = [model.params for model in models]
    compared = _compare(seeds, params, candidates)
    none = _index_of_none(candidates)
    standings = rank(
      {row.candidate.name: row.scores for row in compared},
      compared[none].scores,
      config.lengths.index(config.target),
    )
    shown, lines = to_show(standings, candidates), []
    if checkpoint is None:
      lines = _untrained_lines(seeds, params, candidates[none], shown)
    tuned = []
    for candidate in to_tune(standings, candidates):
      row, ends, name = _tune(seeds, params, candidate)
      tuned.append(row)
      if candidate is shown and checkpoint is None:
        lines.append(draw_line('tuned', seeds, ends, candidate, name))
      del ends
    result = outcome(config, model.text, models, compared, tuned, others, lines)
    if checkpoint is not None:
      result |= {'unit': 'token', 'checkpoint': model.about}
      if config.export is not None:
        result['export'] = export(
          config, checkpoint, result, seeds[0], params[0], tuned
        )
    _write(result, directory.path)
    progress.close(f'report: {directory.path / "report.md"}')
  return result


def _prepared(
  config: ExtendConfig,
) -> tuple[ExtendConfig, Subject, Checkpoint | None]:
  """Everything that can be wrong, before anything is trained or loaded."""
  if config.checkpoint is None:
    config.validate(jax.device_count())
    select(config.methods, config.setting)
    corpus = load_corpus(config.corpus)
    return config, Subject(corpus, config.setting, corpus), None
  config, checkpoint = resolved(config)
  config.validate(jax.device_count())
  check_free(config.export)
  line = memory_line(config)
  print(f'fine-tuning {line}', file=sys.stderr, flush=True)
  found = subject(config, checkpoint)
  return (
    config,
    dataclasses.replace(found, about={**(found.about or {}), 'memory': line}),
    checkpoint,
  )


def _stages(
  config: ExtendConfig,
  model: Subject,
  rows: TestRows,
  workdir: Path,
  progress: Progress,
) -> list[Stages]:
  """Those of every seed, over the same devices."""
  mesh = make_mesh(config.mesh) if config.mesh.size > 1 else None
  return [
    Stages(config, model, rows, seed, workdir / f'seed{seed}', progress, mesh)
    for seed in range(config.seeds)
  ]


def _index_of_none(candidates: list[Candidate]) -> int:
  return [candidate.name for candidate in candidates].index('none')


def _compare(
  seeds: list[Stages], params: list[Any], candidates: list[Candidate]
) -> list[Row]:
  """Every method on every seed's model."""
  rows = []
  for candidate in candidates:
    scored = [s.compare(p, candidate) for s, p in zip(seeds, params)]
    scores, seconds = zip(*scored)
    rows.append(Row(candidate, stack(list(scores)), sum(seconds)))
  return rows


def _untrained_lines(
  seeds: list[Stages], params: list[Any], none: Candidate, shown: Candidate
) -> list[Line]:
  """The problem as it is, and under a method if there is one to show."""
  lines = [draw_line('untreated', seeds, params, none)]
  if shown is not none:
    lines.append(draw_line('treated', seeds, params, shown))
  return lines


def _tune(
  seeds: list[Stages], params: list[Any], candidate: Candidate
) -> tuple[Row, list[Any], str]:
  """One method tuned and scored on every seed's model; the models' name."""
  ends, name = [], ''
  scores, tuning, scoring = [], 0.0, 0.0
  for stages, base in zip(seeds, params):
    trained, name = stages.tune(base, candidate)
    score, seconds = stages.compare(trained.params, candidate, name)
    scores.append(score)
    tuning += trained.seconds
    scoring += seconds
    ends.append(trained.params)
  return Row(candidate, stack(scores), tuning + scoring), ends, name


def _work(
  config: ExtendConfig, candidates: list[Candidate], rows: TestRows
) -> float:
  """Work of the whole job, in tokens of a forward pass."""
  tokens = [
    config.batch_rows(n) * n for n in (config.train_length, config.target)
  ]
  here = config.checkpoint is None
  train = training_work(config.train_steps, tokens[0]) if here else 0
  scoring = sum(rows.work(c.schemes) for c in candidates)
  tune = 3 * (
    training_work(config.tune_steps, tokens[1]) + scoring / len(candidates)
  )
  lines = len(LINES) * problem_work(config) if here else 0
  return config.seeds * (train + scoring + tune + lines)


def _write(result: dict[str, Any], folder: Path) -> None:
  """report.md, report.json, results.csv and the plots."""
  from ntk_jax import plot

  write_atomic(folder / 'report.json', to_json(result).encode())
  write_atomic(folder / 'results.csv', results_csv(result).encode())
  plot.save_all(result, folder)
  write_atomic(folder / 'report.md', markdown(result).encode())
