"""How positions enter, by layer and by length: what a config says of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ntk_jax.errors import ConfigError
from ntk_jax.model.config import ModelConfig
from ntk_jax.rope.modifiers import Modifier
from ntk_jax.rope.spec import RopeSpec
from ntk_jax.scheme import Scheme
from ntk_jax.temperature import Temperature


@dataclasses.dataclass(frozen=True)
class SchemeConfig:
  """How positions enter the layers of one number in the layer plan.

  Attributes:
    method: a name of `ntk_jax.rope.METHODS`; 'proportional' with
      partial_rotary_factor 0 is NoPE.
    theta: base of the frequencies; None is the model's rope_theta.
    partial_rotary_factor: share of a head that turns.
    original_length: L0, where the method needs it.
    factor: the method's scale.
    attention_factor: of cos and sin; None is the method's own.
    options: other settings of the method, by name.
    modifiers: names of rope modifiers, or ('cope', n) and its like.
    temperature: a kind of `ntk_jax.temperature.Temperature`, or None.
    temperature_options: its settings, by name.
    window: keys that a query sees, or None for all.
  """

  method: str = 'default'
  theta: float | None = None
  partial_rotary_factor: float = 1.0
  original_length: int | None = None
  factor: float | None = None
  attention_factor: float | None = None
  options: Any = dataclasses.field(default_factory=dict)
  modifiers: tuple[Modifier, ...] = ()
  temperature: str | None = None
  temperature_options: Any = dataclasses.field(default_factory=dict)
  window: int | None = None

  def __hash__(self) -> int:
    """Options are mappings: their text stands for them."""
    return hash(repr(self))

  @classmethod
  def of(cls, scheme: Scheme) -> SchemeConfig:
    """The settings of a scheme; `scheme` makes an equal one of them.

    Raises:
      ConfigError: for a temperature that is not a `Temperature`.
    """
    spec, kind = scheme.spec, scheme.temperature
    if kind is not None and not isinstance(kind, Temperature):
      raise ConfigError(
        f'temperature is {kind!r}: a setting names one of '
        'ntk_jax.temperature.Temperature'
      )
    return cls(
      method=spec.method,
      theta=spec.theta,
      partial_rotary_factor=spec.partial_rotary_factor,
      original_length=spec.original_length,
      factor=spec.factor,
      attention_factor=spec.attention_factor,
      options=dict(spec.options),
      modifiers=spec.modifiers,
      temperature=None if kind is None else kind.kind,
      temperature_options={} if kind is None else dict(kind.settings),
      window=scheme.window,
    )

  def scheme(self, model: ModelConfig) -> Scheme:
    """The scheme of a model's heads.

    Raises:
      ConfigError: as `RopeSpec`, `Temperature` and `Scheme` do.
    """
    spec = RopeSpec(
      self.method,
      model.head_dim,
      theta=model.rope_theta if self.theta is None else self.theta,
      partial_rotary_factor=self.partial_rotary_factor,
      original_length=self.original_length,
      factor=self.factor,
      attention_factor=self.attention_factor,
      options=self.options,
      # JSON has lists for pairs.
      modifiers=tuple(
        m if isinstance(m, str) else tuple(m) for m in self.modifiers
      ),
    )
    for name in ('options', 'temperature_options'):
      value = getattr(self, name)
      if not isinstance(value, Mapping) or 'kind' in value:
        raise ConfigError(
          f'{name} is {value!r}: it holds settings by name, such as '
          "{'length': 4096}"
        )
    kind, options = self.temperature, dict(self.temperature_options)
    temperature = None if kind is None else Temperature(kind, **options)
    return Scheme(spec, temperature, self.window)


@dataclasses.dataclass(frozen=True)
class StageConfig:
  """What holds from a length on, in a run whose length grows.

  Attributes:
    from_length: the least length of a sequence for which it holds.
    schemes: one for each number in the layer plan, in place of the run's.
  """

  from_length: int
  schemes: tuple[SchemeConfig, ...]
