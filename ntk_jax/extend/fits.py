"""Whether fine-tuning a checkpoint fits the device, before it is loaded."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import jax

from ntk_jax.errors import ConfigError
from ntk_jax.extend.settings import ExtendConfig
from ntk_jax.memory import (
  WITHIN,
  device_memory,
  gib,
  step_need,
  tree_bytes,
)
from ntk_jax.trainable import Trainable, trained_shapes


def memory_line(config: ExtendConfig, has: int | None = None) -> str:
  """One line: what fine-tuning needs, and what this device has.

  Over a mesh it is one device of many, which on a CPU share its memory.

  Args:
    config: the job's settings, those of the checkpoint filled in.
    has: bytes of the device; None asks it.

  Raises:
    ConfigError: if it needs more than the device has by more than the formula
      may be off by, with the setting that would fit.
  """
  has = _device(config) if has is None else has
  needs = tuning_need(config)
  if has is None:
    return f'needs {gib(needs)}; what this device has is unknown'
  line = f'needs {gib(needs)}, this device has {gib(has)}'
  if needs <= has:
    return line
  line = f'{line}; {_remedy(config, has)}'
  if needs > WITHIN * has:
    raise ConfigError(f'fine-tuning {line}')
  return f'{line}; it may still fit, the forecast is good to {WITHIN}x'


def _device(config: ExtendConfig) -> int | None:
  """Bytes of one device of the mesh."""
  found = device_memory()
  shared = jax.default_backend() == 'cpu'
  return found // config.mesh.size if found and shared else found


def tuning_need(config: ExtendConfig) -> int:
  """Bytes of a device in fine-tuning; the checkpoint stays loaded beside."""
  trainable = Trainable.parse(config.trainable)
  need = step_need(
    config.model,
    config.batch_rows(config.target),
    config.target,
    trainable=trainable,
    moments=(config.moments, config.moments),
    mesh=config.mesh,
  )
  _, whole = trained_shapes(config.model, Trainable('lora'))  # as stored
  _, frozen = trained_shapes(config.model, trainable)
  shards = config.mesh.fsdp * config.mesh.tensor
  return need.total + (tree_bytes(whole) - tree_bytes(frozen)) // shards


def _remedy(config: ExtendConfig, has: int) -> str:
  """The least change of settings that fits, in words."""
  smallest = config
  for words, other in _smaller(config):
    if tuning_need(other) <= has:
      return f'{words} would fit, with {gib(tuning_need(other))}'
    smallest = min(smallest, other, key=tuning_need)
  return (
    f'no setting fits, the smallest takes {gib(tuning_need(smallest))}: use a '
    'shorter --target_length, a larger device, or more of them (--mesh_fsdp)'
  )


def _smaller(config: ExtendConfig) -> Iterator[tuple[str, ExtendConfig]]:
  """Settings in the order of how little they change."""
  rows = config.batch_rows(config.target)
  parts = config.mesh.batch
  if rows > parts:
    tokens = parts * config.target
    config = dataclasses.replace(config, tokens_per_step=tokens)
    each = 'batch' if parts == 1 else 'part of the mesh'
    yield f'one row a {each} (--config.tokens_per_step={tokens})', config
  if config.moments == 'float32':
    yield (
      '--moments=bfloat16',
      dataclasses.replace(config, moments='bfloat16'),
    )
  for kind in ('attention', 'lora'):
    if kind != config.trainable:
      yield (
        f'--trainable={kind}',
        dataclasses.replace(config, trainable=kind),
      )
