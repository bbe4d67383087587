"""The rope of each kind of layer, in the numbers that a reader asks for."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from ntk_jax.interop.servers import Decoder, Layer
from ntk_jax.rope import RopeSpec
from ntk_jax.rope.frequencies import default_frequencies

_UNSCALED = ('default', 'proportional', 'ntk')  # as far as lengths tell
_LONGEST = 2**31 - 1  # that positions can tell
_EXTENDED = ('yarn', 'llama3', 'longrope')


@dataclasses.dataclass(frozen=True)
class Rope:
  """The rope of the layers that share one.

  Attributes:
    layers: their numbers.
    window: keys that a query sees, itself included; None sees all.
    method: a key of `ntk_jax.rope.METHODS`.
    theta: the base.
    factor: of the method; None where it takes none.
    attention_factor: multiplier of cos and sin at the target length.
    options: further settings of the method.
    rotary_dim: channels that turn.
    original_length: trained length in tokens.
    target_length: the length it is scaled for.
    critical_pairs: pairs whose unscaled wavelength is above the original
      length: they never turned once in training.
    wavelengths: theirs, unscaled, in tokens.
    scaled_wavelengths: theirs at the target length; None never turns.
    per_length: whether the frequencies change with the length.
  """

  layers: tuple[int, ...]
  window: int | None
  method: str
  theta: float
  factor: float | None
  attention_factor: float
  options: Mapping[str, Any]
  rotary_dim: int
  original_length: int
  target_length: int
  critical_pairs: int
  wavelengths: tuple[float, ...]
  scaled_wavelengths: tuple[float | None, ...]
  per_length: bool


def ropes_of(decoder: Decoder, meant: tuple[Layer, ...]) -> tuple[Rope, ...]:
  """One for each kind of layer, in order of appearance."""
  ropes = []
  for layer in dict.fromkeys(meant):
    members = tuple(i for i, other in enumerate(meant) if other == layer)
    ropes.append(_rope(decoder, layer, members))
  return tuple(ropes)


def _rope(decoder: Decoder, layer: Layer, members: tuple[int, ...]) -> Rope:
  spec = layer.spec
  original, target = _lengths(decoder, spec)
  unscaled = default_frequencies(spec.theta, spec.rotary_dim)
  inv_freq, attention = spec.frequencies(target)
  slow = unscaled * original < 2 * math.pi
  return Rope(
    layers=members,
    window=layer.window,
    method=spec.method,
    theta=spec.theta,
    factor=spec.factor,
    attention_factor=float(attention),
    options={k: _plain(v) for k, v in spec.options},
    rotary_dim=spec.rotary_dim,
    original_length=original,
    target_length=target,
    critical_pairs=int(slow.sum()),
    wavelengths=tuple(2 * math.pi / float(w) for w in unscaled[slow]),
    scaled_wavelengths=tuple(_wavelength(float(w)) for w in inv_freq[slow]),
    per_length=spec.per_length,
  )


def _wavelength(inv_freq: float) -> float | None:
  """In tokens; None where it is infinite, or as good as that."""
  tokens = 2 * math.pi / inv_freq if inv_freq else math.inf
  return tokens if tokens < math.inf else None


def _lengths(decoder: Decoder, spec: RopeSpec) -> tuple[int, int]:
  """Original and target length; what max_position_embeddings is differs."""
  length, factor = decoder.length, spec.factor or 1.0
  original = spec.original_length
  if spec.method == 'linear' and original is None:
    extended = decoder.family == 'gemma3_text' or decoder.config.get(
      'rope_condense_ratio'
    )
    original = max(1, round(length / factor)) if extended else length
  if original is None or spec.method in _UNSCALED:
    return length, length
  if spec.method in _EXTENDED and length > original:
    return original, length
  scaled = min(original * factor * (1 + 1e-12), _LONGEST)
  return original, math.floor(scaled)


def _plain(value: Any) -> Any:
  return list(value) if isinstance(value, tuple) else value
