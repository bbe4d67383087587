"""What a server makes of a config.json: one value that all rules return."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from ntk_jax.interop.architectures import Architecture
from ntk_jax.model.config import ModelConfig
from ntk_jax.rope import RopeSpec
from ntk_jax.rope.families import family_of

SLIDING, FULL = 'sliding_attention', 'full_attention'
ORIGINAL = 'original_max_position_embeddings'
YARN_OPTIONS = (
  'beta_fast',
  'beta_slow',
  'mscale',
  'mscale_all_dim',
  'truncate',
)


class Unsupported(Exception):
  """A server that does not start on a config, and why."""


class Layer(NamedTuple):
  """A layer as a server runs it: its frequencies, its window."""

  spec: RopeSpec
  window: int | None


@dataclasses.dataclass(frozen=True)
class Reading:
  """What a server makes of a config.json.

  Attributes:
    layers: one entry per layer.
    max_length: tokens that it serves when told nothing; None is no bound.
    rows: positions that its tables hold; None is no bound.
    stale_after: tokens after which cached keys keep frequencies that new ones
      no longer have; None where that never happens.
    faults: what is wrong at every position, besides rope and windows.
    notes: rules that applied, in words; they explain a difference, if any.
  """

  layers: tuple[Layer, ...]
  max_length: int | None = None
  rows: int | None = None
  stale_after: int | None = None
  faults: tuple[str, ...] = ()
  notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Decoder:
  """What the rules of all servers start from.

  Attributes:
    config: the part of a config.json that is about the decoder.
    family: its model type.
    model: its shape, the class's defaults included.
    length: `max_position_embeddings`, likewise.
    windows: of every layer, None where it sees all.
  """

  config: Mapping[str, Any]
  family: str
  model: ModelConfig
  length: int
  windows: tuple[int | None, ...]

  @classmethod
  def of(cls, config: Mapping[str, Any], found: Architecture) -> Decoder:
    """From a config and what it means."""
    windows = tuple(found.schemes[i].window for i in found.model.plan)
    return cls(config, found.family.name, found.model, found.length, windows)

  @property
  def kinds(self) -> tuple[str, ...]:
    """The attention type of every layer."""
    return tuple(FULL if w is None else SLIDING for w in self.windows)

  @property
  def theta(self) -> float:
    """The base of the class, of global layers where they differ."""
    return family_of(self.config).theta

  @property
  def local_theta(self) -> float | None:
    """The base of the class for sliding layers, where it is their own."""
    return family_of(self.config).local_theta

  def spec(
    self, method: str, params: Mapping[str, Any], **others: Any
  ) -> RopeSpec:
    """A spec of this model's heads with the base of `params`."""
    share = params.get('partial_rotary_factor')
    return RopeSpec(
      method,
      self.model.head_dim,
      theta=params['rope_theta'],
      partial_rotary_factor=1.0 if share is None else share,
      **others,
    )
