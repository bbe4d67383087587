"""A training run from its config: data, devices, parameters, the loop."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from ntk_jax.config import to_plain
from ntk_jax.data.pipeline import Pipeline, corpus_of
from ntk_jax.data.text import Corpus
from ntk_jax.data.tokenize import tokenize
from ntk_jax.errors import ConfigError
from ntk_jax.evaluation.probes import PROBES, Probes
from ntk_jax.model.params import init_params
from ntk_jax.sharding import make_mesh
from ntk_jax.step import StepConfig, TrainState, init_state, state_shardings
from ntk_jax.train.checks import metric_names
from ntk_jax.train.growing import Growing
from ntk_jax.train.loop import Loop, Trained, fit
from ntk_jax.train.settings import TrainConfig
from ntk_jax.train.stages import Stages
from ntk_jax.train.watch import Watch


def run(config: TrainConfig, workdir: str | Path) -> Trained:
  """Trains, goes on with, or reads the finished run of a folder.

  Leaves in the workdir: config.json, metrics.jsonl, events for TensorBoard
  and checkpoints.

  Args:
    config: what to do; checked first, before any work.
    workdir: where to keep the run; the same one goes on with it.

  Raises:
    ConfigError: for wrong settings, all at once; for text that cannot be
      read; for a workdir of another run.
    NumericsError: if training failed.
    Stopped: after a signal, once everything is saved.
  """
  hosts, host = jax.process_count(), jax.process_index()
  config.validate(jax.device_count(), hosts)
  data = dataclasses.replace(config.data, vocab=config.model.vocab)
  data.validate(hosts=hosts)
  corpus = corpus_of(data)
  pipeline = Pipeline.of(data, corpus, host=host, hosts=hosts)
  stages = Stages(config, pipeline.plan.rows * data.max_length)
  _check_epochs(stages)
  mesh = make_mesh(config.mesh) if config.mesh.size > 1 else None
  folder = Path(workdir)
  loop = Loop(
    config.step,
    config.optimizer.steps,
    config.save_every,
    config.keep,
    config.log_every,
    mesh,
    config.compile_ahead,
  )
  probes = _probes(stages, corpus, pipeline, mesh)
  watch = Watch(config, pipeline, folder, leads=host == 0)
  try:
    return fit(
      functools.partial(initial_state, config.step, config.seed, mesh),
      Growing(stages, pipeline, probes),
      loop,
      folder=folder,
      about=_about(config, pipeline),
      observe=watch,
    )
  finally:
    watch.close()


def _probes(
  stages: Stages, corpus: Corpus, pipeline: Pipeline, mesh: Mesh | None
) -> Probes | None:
  """What is measured on held-out text on the way, if anything."""
  config, watches = stages.config, {*stages.schedule.watches}
  if not config.probe.every and not watches & {*PROBES}:
    return None
  return Probes.of(
    config.probe,
    config.model,
    tokenize(corpus.held_out, pipeline.tokenizer),
    shortest=stages.shortest,
    full=stages.run.length,
    watches=watches,
    symbols=pipeline.tokenizer.vocab if config.data.key_value else None,
    full_schemes=config.build_schemes(),
    mesh=mesh,
  )


def _about(config: TrainConfig, pipeline: Pipeline) -> dict[str, Any]:
  """What a run is: of another one no checkpoint is taken."""
  names = 'model', 'schemes', 'growth', 'stages', 'sampling', 'regularize'
  about = {name: to_plain(getattr(config, name)) for name in names}
  return about | {
    'mixed_rope': {'below': config.mixed_rope},
    'data': {'fingerprint': pipeline.fingerprint},
  }


def _check_epochs(stages: Stages) -> None:
  """Raises ConfigError for a growth that lies beyond the run in epochs."""
  growth = stages.config.growth
  if wrong := growth.problems(stages.run, metric_names(stages.config)):
    raise ConfigError('; '.join(f'growth: {text}' for text in wrong))


def initial_state(
  config: StepConfig, seed: int, mesh: Mesh | None
) -> TrainState:
  """A state drawn where it lives: no device ever holds all of it."""
  model = config.objective.model

  def make() -> TrainState:
    return init_state(init_params(jax.random.key(seed), model), config)

  if mesh is None:
    return jax.jit(make)()
  places = state_shardings(jax.eval_shape(make), config, mesh)
  return jax.jit(make, out_shardings=places)()
