"""What is varied: divisors, gains, norms and temperatures, at every length."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from ntk_jax import initializers, temperature
from ntk_jax.model.config import ModelConfig
from ntk_jax.model.params import Params
from ntk_jax.scheme import Scheme
from ntk_jax.typing import Array, NDArray

Multiplier = Callable[[NDArray], Any]  # of q, by 0-based position
DIVISORS = {'1/sqrt(d)': 'sqrt', '1/d': 'linear'}
NAIVE, AWARE = 'gain sqrt(n/n0)', 'length-aware gain'
NORM = 'norm of each head'
LOGN, FLAT_ENTROPY = 'q * log n', 'q * flat entropy'
FLAT_VARIANCE = 'q * flat variance'
FITTED_ENTROPY = 'q * fit of entropy'
FITTED_VARIANCE = 'q * fit of variance'
_TEMPERATURES = (FLAT_VARIANCE, LOGN, FLAT_ENTROPY)


@dataclasses.dataclass(frozen=True)
class Variant:
  """A way to start or to read a model.

  Attributes:
    name: what tables call it.
    divisor: of q . k in place of the model's own, or None.
    gain: of the attention output: '', 'naive' or 'aware'.
    head_norm: an RMS norm over each head's output.
    temperature: a multiplier of q by position, or None.
  """

  name: str
  divisor: str | None = None
  gain: str = ''
  head_norm: bool = False
  temperature: Multiplier | None = None


class Applied(NamedTuple):
  """A model under a variant at a length.

  Attributes:
    params: its parameters.
    config: its shape.
    multiplier: of q, on top of its schemes', or None.
    gain: of the attention output, one per layer.
  """

  params: Params
  config: ModelConfig
  multiplier: Multiplier | None
  gain: NDArray


@dataclasses.dataclass(frozen=True)
class Model:
  """A model that is measured.

  Attributes:
    params: its parameters.
    config: its shape.
    schemes: one for each number of its layer plan.
    reference: n0, the length at which variants change nothing.
    rho: mean correlation of values [L] by length, once it is measured.
  """

  params: Params
  config: ModelConfig
  schemes: tuple[Scheme, ...]
  reference: int
  rho: dict[int, NDArray] = dataclasses.field(default_factory=dict)

  def under(self, variant: Variant, n: int) -> Applied:
    """The model under a variant for n keys."""
    params, config = self.params, self.config
    gain = self._gain(variant.gain, n)
    layers = dict(params.layers)
    if variant.gain:
      out = layers['out']
      layers['out'] = out * jnp.asarray(gain[:, None, None], out.dtype)
    if variant.head_norm and not config.head_norm:
      shape = config.layers, config.heads * config.head_dim
      layers['head_norm'] = jnp.ones(shape, layers['out'].dtype)
      config = dataclasses.replace(config, head_norm=True)
    return Applied(
      params._replace(layers=layers),
      config,
      _product(variant.temperature, self._rescaled(variant.divisor)),
      gain,
    )

  def _gain(self, kind: str, n: int) -> NDArray:
    """Of each layer; that of 'aware' from the rho of the layer."""
    ones = np.ones(self.config.layers)
    if kind == 'naive':
      return ones * math.sqrt(n / self.reference)
    if kind != 'aware':
      return ones
    return np.array([self._aware(layer, n) for layer in range(len(ones))])

  def _aware(self, layer: int, n: int) -> float:
    scheme = self.schemes[self.config.plan[layer]]
    most = scheme.window or n
    w, _ = scheme.spec.frequencies(n)
    still = np.zeros(self.config.head_dim // 2 - len(w))
    return initializers.length_aware_gain(
      min(n, most),
      min(self.reference, most),
      rho=float(self.rho[n][layer]),
      rho_ref=float(self.rho[self.reference][layer]),
      logit_variance=self.config.head_dim * self.config.scale**2,
      dim=self.config.dim,
      inv_freq=np.concatenate([w, still]),
    )

  def _rescaled(self, divisor: str | None) -> Multiplier | None:
    """A divisor in place of the model's own is a constant multiplier of q."""
    if divisor is None:
      return None
    wanted = 1 / temperature.divisor(self.config.head_dim, divisor)
    times = np.float32(wanted / self.config.scale)
    return lambda p: np.full(np.shape(p), times)


def _product(
  one: Multiplier | None, other: Multiplier | None
) -> Multiplier | None:
  if one is None or other is None:
    return one or other
  return lambda p: np.asarray(one(p)) * np.asarray(other(p))


def own_name(config: ModelConfig) -> str:
  """What tables call the model without any change.

  >>> own_name(ModelConfig(vocab=9)), own_name(ModelConfig(9, divisor='linear'))
  ('1/sqrt(d)', '1/d')
  """
  if config.attention_scale is not None:
    return 'own scale'
  return next(n for n, kind in DIVISORS.items() if kind == config.divisor)


def own(config: ModelConfig) -> Variant:
  """The model as it is."""
  return Variant(own_name(config))


def at_start(config: ModelConfig, reference: int) -> tuple[Variant, ...]:
  """The variants of a model that is not trained yet, itself first."""
  found = [own(config)]
  found += [
    Variant(name, divisor=kind)
    for name, kind in DIVISORS.items()
    if name != own_name(config)
  ]
  spread = config.head_dim * config.scale**2  # s^2 of unit queries and keys
  found.append(Variant(NAIVE, gain='naive'))
  if spread < math.log(reference) / 2:  # else there is no derivation
    found.append(Variant(AWARE, gain='aware'))
  if not config.head_norm:
    found.append(Variant(NORM, head_norm=True))
  return (*found, *closed_forms(reference, spread))


def closed_forms(reference: int, spread: float) -> tuple[Variant, ...]:
  """Temperatures by formula, 1 up to the reference.

  Args:
    reference: n0.
    spread: s^2, the variance of the logits.
  """

  def beyond(p: NDArray) -> NDArray:
    return np.maximum((np.asarray(p) + 1.0) / reference, 1.0)

  def flat_entropy(p: NDArray) -> NDArray:
    return np.sqrt(1 + np.log(beyond(p)) / math.log(reference))

  def flat_variance(p: NDArray) -> NDArray:
    return np.sqrt(1 + np.log(beyond(p)) / spread)

  def logn(p: NDArray) -> Array:
    return temperature.logn(p, length=reference)

  forms = flat_variance, logn, flat_entropy
  return tuple(
    Variant(name, temperature=form) for name, form in zip(_TEMPERATURES, forms)
  )


def fitted(name: str, reference: int, slope: float) -> Variant:
  """A temperature `1 + slope ln max(n / n0, 1)`."""
  kind = temperature.Temperature('inkling', floor=reference, alpha=slope)
  return Variant(name, temperature=kind)


def named(variants: Sequence[Variant], names: Sequence[str]) -> list[Variant]:
  """Those of the names."""
  return [variant for variant in variants if variant.name in names]
