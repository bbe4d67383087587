"""The study as its reader meets it: project, train every arm, score, report.

Every arm of every seed is a run in a folder of its own, all arms of a seed
before the next seed. What is finished is not done again; a run that was
interrupted goes on from its last checkpoint.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from ntk_jax.checkpoint import load_tree, save_tree, write_atomic
from ntk_jax.config import fingerprint
from ntk_jax.data.text import load_corpus
from ntk_jax.errors import WorkdirError
from ntk_jax.evaluation.score import Scores, TestRows, evaluate
from ntk_jax.extend.workdir import Workdir
from ntk_jax.metrics.jsonl import read_lines
from ntk_jax.model.params import Params, parameter_count
from ntk_jax.study.arms import ARMS, Arm, arms_named, train_config
from ntk_jax.study.command import study_command
from ntk_jax.study.outcome import Done, study_outcome
from ntk_jax.study.page import study_csv, study_page
from ntk_jax.study.projection import (
  TIMED_STEPS,
  prices,
  projection,
  steps_within,
)
from ntk_jax.study.settings import StudyConfig
from ntk_jax.train import TrainConfig, run
from ntk_jax.train.loop import METRICS

_PLAN = 'plan.json'


class Ended(NamedTuple):
  """One run: an arm with a seed.

  Attributes:
    lines: metrics of every step.
    scores: of its end on held-out rows.
    seconds: that scoring took.
    parameters: of the model.
  """

  lines: Sequence[dict[str, Any]]
  scores: Scores
  seconds: float
  parameters: int


def study(config: StudyConfig, workdir: str | Path) -> dict[str, Any]:
  """Trains every arm with every seed and leaves a report in the workdir.

  Args:
    config: what to compare; checked first, before any work.
    workdir: where runs and the report go. Finished runs are reused.

  Returns:
    What study.json holds.

  Raises:
    ConfigError: for a wrong setting, corpus or workdir, or too little time.
    NumericsError: if the training of an arm failed.
    Stopped: after a signal, once everything is saved.
  """
  config.validate()
  arms = arms_named(config.arms)
  corpus = load_corpus(config.corpus)
  rows = TestRows.from_corpus(corpus, (config.full,), config.rows)
  with Workdir(Path(workdir), config.base(corpus.fingerprint)) as directory:
    plan = _plan(config, arms, directory.path)
    ended: dict[str, list[Ended]] = {arm.name: [] for arm in arms}
    for seed in range(config.seeds):
      for arm in arms:
        _say(f'seed {seed}, arm {arm.name}: {arm.what}')
        folder = directory.path / f'seed{seed}'
        runs = ended[arm.name]
        runs.append(_ended(config, arm, plan['steps'], rows, folder, seed))
    result = _result(config, arms, ended, corpus.describe(), plan)
    _write(result, directory.path)
  _say(f'report: {directory.path / "study.md"}')
  return result


def _plan(
  config: StudyConfig, arms: tuple[Arm, ...], folder: Path
) -> dict[str, Any]:
  """How many steps every arm takes: decided once for a workdir."""
  path = folder / _PLAN
  if path.exists():
    plan = _read_plan(path)
    _say(f'{plan["steps"]} steps an arm, as planned in {path}')
    return plan
  _say(f'timing {TIMED_STEPS} steps at each of {config.lengths}')
  cost = prices(_timed(config, folder / 'timing'))
  found = projection(config, arms, cost)
  steps = steps_within(config, found)
  plan = {
    'steps': steps,
    'asked': config.steps,
    'minutes': round(found.minutes(steps), 2),
    'asked_minutes': round(found.minutes(config.steps), 2),
    'prices': cost.plain(),
  }
  runs = len(arms) * config.seeds
  text = f'projected: {found.minutes(config.steps):.1f} minutes for {runs} runs'
  text += f' of {config.steps} steps'
  if steps < config.steps:
    text += (
      f'; over {config.minutes:g}, so all arms take {steps}: '
      f'{found.minutes(steps):.1f} minutes'
    )
  _say(text)
  write_atomic(path, json.dumps(plan, indent=1).encode())
  return plan


def _read_plan(path: Path) -> dict[str, Any]:
  try:
    plan = dict(json.loads(path.read_text()))
    plan['steps'] = int(plan['steps'])
  except (OSError, KeyError, TypeError, ValueError) as error:
    raise WorkdirError(
      f'{path} is damaged ({error}); choose another --workdir'
    ) from error
  return plan


def _timed(config: StudyConfig, folder: Path) -> list[dict[str, Any]]:
  """Lines of a run that takes a few steps at each length."""
  growth = next(arm for arm in ARMS if arm.name == 'steps')
  steps = TIMED_STEPS * len(config.lengths)
  settings = train_config(growth, config, steps, 0)
  never = dataclasses.replace(settings.probe, every=0)
  _trained(dataclasses.replace(settings, probe=never), folder, config.fresh)
  return read_lines(folder / METRICS)


def _ended(
  config: StudyConfig,
  arm: Arm,
  steps: int,
  rows: TestRows,
  folder: Path,
  seed: int,
) -> Ended:
  """One run with its scores, trained or read."""
  settings = train_config(arm, config, steps, seed)
  folder = folder / f'{arm.name}-{fingerprint(settings)}'
  path = folder / 'scores.safetensors'
  if path.exists():
    scores, note = load_tree(path, rows.empty_scores())
  else:
    params = _trained(settings, folder, config.fresh)
    began = time.monotonic()
    # The schemes of training: none of the arms has others at the end.
    schemes = settings.build_schemes()
    scores = evaluate(params, settings.model, schemes, rows)
    note: dict[str, Any] = {
      'seconds': time.monotonic() - began,
      'parameters': parameter_count(params),
    }
    save_tree(path, scores, note)
  lines = read_lines(folder / METRICS)
  return Ended(lines, scores, note['seconds'], note['parameters'])


def _trained(settings: TrainConfig, folder: Path, fresh: bool) -> Params:
  """The end of a run; a fresh one compiles all of its programs itself."""
  if fresh:
    jax.clear_caches()
  return run(settings, folder).params


def _result(
  config: StudyConfig,
  arms: tuple[Arm, ...],
  ended: dict[str, list[Ended]],
  corpus: dict[str, Any],
  plan: dict[str, Any],
) -> dict[str, Any]:
  done = [
    Done(arm, [e.lines for e in runs], [e.scores for e in runs])
    for arm, runs in zip(arms, ended.values())
  ]
  every = [one for runs in ended.values() for one in runs]
  found = study_outcome(config, done, corpus, plan, study_command(config))
  return found | {
    'parameters': every[0].parameters,
    'seconds': sum(one.lines[-1]['seconds'] for one in every),
    'scoring_seconds': sum(one.seconds for one in every),
  }


def _write(result: dict[str, Any], folder: Path) -> None:
  """study.md, study.json, study.csv and the plots."""
  from ntk_jax.plot.study import save_study

  text = json.dumps(result, indent=1, allow_nan=False) + '\n'
  write_atomic(folder / 'study.json', text.encode())
  write_atomic(folder / 'study.csv', study_csv(result).encode())
  save_study(result, folder)
  write_atomic(folder / 'study.md', study_page(result).encode())


def _say(text: str) -> None:
  print(text, file=sys.stderr, flush=True)
