"""The multipliers by name, and one with its settings as a plain value."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ntk_jax.errors import ConfigError, unknown
from ntk_jax.temperature.multipliers import (
  PerHead,
  constant,
  entropy_invariant,
  grok,
  inkling,
  learned,
  llama4,
  logn,
  ministral,
  ssmax,
)
from ntk_jax.typing import Array, ArrayLike, Float32, Int


class Kind(NamedTuple):
  """A row of `TEMPERATURES`: n = p + 1, p the 0-based query position."""

  function: Callable[..., Array]
  formula: str
  source: str


TEMPERATURES = MappingProxyType(
  {
    'logn': Kind(logn, 'max(ln n / ln L0, 1)', 'kexue.fm/archives/8823'),
    'ssmax': Kind(ssmax, 's ln n + b', 'arXiv:2501.19399'),
    'llama4': Kind(llama4, '1 + scale ln(1 + floor(n / floor))', 'Llama 4'),
    'ministral': Kind(
      ministral, '1 + beta ln(1 + floor(p / L0))', 'Ministral 3, Mistral 4'
    ),
    'inkling': Kind(inkling, '1 + alpha ln max(n / floor, 1)', 'Inkling'),
    'grok': Kind(grok, 'max(log2 p / log2 T, 1)', 'Grok 2'),
    'learned': Kind(learned, 'scale_h ln n + bias_h', 'Mistral Large 4'),
    'entropy_invariant': Kind(
      entropy_invariant, 'kappa ln n / sqrt(d)', 'kexue.fm/archives/9034'
    ),
    'constant': Kind(constant, 'scale_h', 'arXiv:2404.12224'),
  }
)


@dataclasses.dataclass(frozen=True, init=False, repr=False)
class Temperature:
  """A temperature with its settings: a plain value, called on positions.

  Attributes:
    kind: a key of `TEMPERATURES`.
    settings: sorted pairs, the function's defaults included; one value per
      head is a tuple.

  Raises:
    ConfigError: an unknown kind, settings that are missing, unknown, not
      finite or refused by the function.

  >>> temperature = Temperature('logn', length=512)
  >>> print(temperature, temperature(np.array([511, 262143])))
  Temperature('logn', length=512) [1. 2.]
  """

  kind: str
  settings: tuple[tuple[str, int | float | tuple[float, ...]], ...]

  def __init__(self, kind: str, **settings: PerHead) -> None:
    """Takes the settings as the function of that kind names them."""
    if kind not in TEMPERATURES:
      raise unknown('temperature', kind, TEMPERATURES)
    signature = inspect.signature(TEMPERATURES[kind].function).parameters
    defaults = {k: v.default for k, v in signature.items() if k != 'p'}
    for name in settings:
      if name not in defaults:
        raise unknown(f'setting of temperature {kind!r}', name, defaults)
    every = {**defaults, **settings}
    missing = [k for k, v in every.items() if v is inspect.Parameter.empty]
    if missing:
      raise ConfigError(
        f'temperature {kind!r} needs {", ".join(missing)}; its settings are '
        f'{", ".join(defaults)}'
      )
    pairs = sorted((name, _plain(name, value)) for name, value in every.items())
    object.__setattr__(self, 'kind', kind)
    object.__setattr__(self, 'settings', tuple(pairs))
    jax.eval_shape(self, jax.ShapeDtypeStruct((), jnp.int32))  # checks values

  def __call__(self, p: Int[ArrayLike, '*p']) -> Float32[Array, '*q']:
    """The multipliers of q at 0-based query positions."""
    return TEMPERATURES[self.kind].function(p, **dict(self.settings))

  def __repr__(self) -> str:
    """As it is written in Python."""
    settings = ''.join(f', {name}={value!r}' for name, value in self.settings)
    return f'Temperature({self.kind!r}{settings})'


def _plain(name: str, value: PerHead) -> int | float | tuple[float, ...]:
  """A finite number or a tuple of them, without arrays."""
  array = np.asarray(value)
  if array.ndim > 1 or array.dtype.kind not in 'iuf':
    raise ConfigError(f'{name} is {value!r}, must be numbers, at most one dim')
  if not np.isfinite(array).all():
    raise ConfigError(f'{name} is {value!r}, must be finite')
  return array.item() if array.ndim == 0 else tuple(array.tolist())
