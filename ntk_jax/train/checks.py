"""What of a run's settings does not go together, each in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ntk_jax.curriculum.regularize import RegularizeConfig
from ntk_jax.errors import ConfigError, caught
from ntk_jax.evaluation.probes import PROBES
from ntk_jax.model.config import ModelConfig
from ntk_jax.scheme import Scheme
from ntk_jax.sharding import MeshConfig
from ntk_jax.train.alternatives import original_of, usable
from ntk_jax.train.log import SCALARS

if TYPE_CHECKING:
  from ntk_jax.train.settings import TrainConfig


def metric_names(config: TrainConfig) -> tuple[str, ...]:
  """What a schedule may watch: scalars of a line, and what is held out."""
  return (*SCALARS, *PROBES)


def scheme_problems(config: TrainConfig) -> list[str]:
  """Schemes that cannot be made, or not be trained with, by their place."""
  numbered = [('schemes', config.schemes)]
  numbered += [
    (f'stages[{i}].schemes', stage.schemes)
    for i, stage in enumerate(config.stages)
  ]
  wrong = []
  for name, schemes in numbered:
    if len(schemes) < len(config.schemes):
      wrong.append(
        f'{name} has {len(schemes)}, schemes {len(config.schemes)}: a stage '
        'has one for each number of the layer plan too'
      )
    for number, each in enumerate(schemes):
      wrong += caught(
        lambda each=each: _try(each.scheme(config.model), config),
        f'{name}[{number}]',
      )
  return wrong


def _try(scheme: Scheme, config: TrainConfig) -> None:
  """Raises ConfigError for a scheme that packed rows cannot be trained with."""
  known = config.mixed_rope is not None or skips(config.regularize)
  if scheme.per_length and not known:
    raise ConfigError(
      f'the frequencies of {scheme.spec.method} depend on the length of each '
      'document, and packed rows hold several: train with a method of fixed '
      "frequencies, with skipped positions (regularize.positions='pose'), "
      'which stand for one length, or with mixed_rope, which tells short '
      'documents from long ones'
    )
  scheme.arrays(None, np.arange(1))


def skips(regularize: RegularizeConfig) -> bool:
  """Whether positions stand for those of a longer text."""
  return regularize.positions != 'plain'


def growth_problems(config: TrainConfig) -> list[str]:
  """What is wrong with the growth of a run, and what its rows are made of."""
  full, model = config.data.max_length, config.model
  # How long an epoch is, is not known before the text is read.
  run, metrics = config.run_of(1), metric_names(config)
  parts = {
    'growth': config.growth.problems(run, metrics),
    'sampling': config.sampling.problems(full),
    'regularize': config.regularize.problems(
      length=full, vocab=model.vocab, layers=model.layers
    ),
    'probe': config.probe.problems(),
  }
  wrong = [f'{name}: {text}' for name, texts in parts.items() for text in texts]
  begun = [stage.from_length for stage in config.stages]
  if begun != sorted(set(begun)) or not all(2 <= n <= full for n in begun):
    wrong.append(
      f'stages begin at lengths {begun}: they increase, from 2 to '
      f'data.max_length, {full}'
    )
  if not wrong and config.mixed_rope is not None:
    wrong += caught(lambda: _try_mixed(config), 'mixed_rope')
  return wrong


def _try_mixed(config: TrainConfig) -> None:
  """Raises ConfigError for schemes that cannot be mixed by document."""
  short, regularize = config.mixed_rope, config.regularize
  assert short is not None
  length = config.data.max_length
  if skips(regularize) and regularize.target_length is not None:
    length = regularize.target_length
  schemes = config.build_schemes()
  before = config.model.rope_theta
  originals = [original_of(scheme, short, before) for scheme in schemes]
  if wrong := usable(schemes, originals, short, length):
    raise ConfigError('; '.join(wrong))


def fit_problems(config: TrainConfig, hosts: int) -> list[str]:
  """What the mesh cannot split evenly."""
  data, mesh = config.data, config.mesh
  parts = mesh.batch * config.microbatches
  wrong = _uneven(
    ('data.batch_rows', data.batch_rows, parts, 'data x fsdp x microbatches'),
    ('data x fsdp', mesh.batch, hosts, 'the number of hosts'),
  )
  tokens = data.batch_rows * data.max_length // parts
  if not wrong and tokens % mesh.tensor:
    wrong.append(
      f'{tokens} tokens per device and microbatch: tensor is {mesh.tensor}, '
      f'so their number must be a multiple of {mesh.tensor}'
    )
  return wrong + split_problems(config.model, mesh)


def split_problems(model: ModelConfig, mesh: MeshConfig) -> list[str]:
  """What of a model a mesh cannot split evenly.

  >>> split_problems(ModelConfig(vocab=9, heads=4), MeshConfig(tensor=2))
  ['model.vocab is 9: tensor is 2, so it must be a multiple of 2']
  """
  wrong = _uneven(
    ('model.heads', model.heads, mesh.tensor, 'tensor'),
    ('model.mlp_dim', model.mlp_dim, mesh.tensor, 'tensor'),
    ('model.vocab', model.vocab, mesh.tensor, 'tensor'),
    ('model.dim', model.dim, mesh.fsdp, 'fsdp'),
  )
  kv = model.kv_heads
  if kv % mesh.tensor and mesh.tensor % kv:
    wrong.append(
      f'model.kv_heads is {kv} and tensor {mesh.tensor}: one must divide the '
      'other, so that shards hold whole heads or copies of one'
    )
  return wrong


def _uneven(*rows: tuple[str, int, int, str]) -> list[str]:
  """Of (name, count, parts, what the parts are), those that do not divide."""
  return [
    f'{name} is {count}: {what} is {size}, so it must be a multiple of {size}'
    for name, count, size, what in rows
    if count % size
  ]
