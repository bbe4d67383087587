"""What the numbers of a diagnosis say, in sentences made of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from ntk_jax.diagnostics import variants as kinds
from ntk_jax.diagnostics.findings import Findings, log_slope
from ntk_jax.diagnostics.tables import digits, layers_shown
from ntk_jax.typing import Float64, NDArray

_SAME = 0.03  # of a value: a change below it is none
_FLAT, _STEEP = 0.06, 0.3  # slopes of a logarithm over ln n


def moved(values: Float64[NDArray, ' lengths']) -> str:
  """How a quantity goes from its first to its last value.

  >>> moved(np.array([2.0, 1.5, 1.0])), moved(np.array([0.5, 0.7]))
  ('falls from 2.00 to 1.00', 'rises from 0.500 to 0.700')
  """
  first, last = float(values[0]), float(values[-1])
  if abs(last - first) <= _SAME * abs(first):
    return f'stays at {digits(last)}'
  verb = 'rises' if last > first else 'falls'
  return f'{verb} from {digits(first)} to {digits(last)}'


def bent(slope: float) -> str:
  """What a slope of ln value over ln n means.

  >>> bent(-0.01), bent(0.2), bent(1.44)
  ('is flat', 'grows slowly', 'explodes')
  """
  if abs(slope) < _FLAT:
    return 'is flat'
  if slope > 0:
    return 'explodes' if slope >= _STEEP else 'grows slowly'
  return 'collapses' if slope <= -_STEEP else 'falls slowly'


class Reader:
  """One stage of a diagnosis, put into words."""

  def __init__(self, found: Findings, stage: str) -> None:
    """Names the stage; its first variant is the model as it is."""
    self.found, self.stage = found, stage
    self.own = found.variants(stage, 'ratio')[0]

  def _slope(self, variant: str, layer: str, inputs: str = 'text') -> float:
    values = self.found.mean(self.stage, variant, 'ratio', layer, inputs)
    lengths = self.found.lengths(self.stage, variant, 'ratio')
    return log_slope(lengths, values) if values.size else float('nan')

  def _slopes(self, variant: str) -> tuple[float, float]:
    """In the first and in the last layer, on text."""
    layers = layers_shown(self.found, self.stage, variant)
    first, last = (self._slope(variant, layers[i]) for i in (0, -1))
    return first, last

  def variance(self) -> list[str]:
    """Of attention outputs, on independent inputs and on text."""
    found, stage = self.found, self.stage
    said = [self._independent(v) for v in kinds.DIVISORS]
    rho = found.mean(stage, self.own, 'rho', 'layer 0')
    first, last = self._slopes(self.own)
    said.append(
      'On text a head averages values that are alike: their mean correlation '
      f'rho {moved(rho)} in layer 0, and what is alike does not average out. '
      f'Var(out) / Var(v) goes like n^{first:+.2f} there and n^{last:+.2f} in '
      'the last layer.'
    )
    for variant in (kinds.NAIVE, kinds.AWARE, kinds.NORM):
      if variant in found.variants(stage, 'ratio'):
        said.append(self._flattened(variant))
    return [text for text in said if text]

  def _independent(self, variant: str) -> str:
    slope = self._slope(variant, 'layer 0', 'independent')
    if not np.isfinite(slope):
      return ''
    return (
      f'With `{variant}` and independent inputs the attention output '
      f'{bent(slope)}: Var(out) / Var(v) goes like n^{slope:+.2f}.'
    )

  def _flattened(self, variant: str) -> str:
    first, last = self._slopes(variant)
    return (
      f'Under `{variant}` the variance on text {bent(first)} in layer 0 '
      f'({first:+.2f}) and {bent(last)} in the last ({last:+.2f}).'
    )

  def gradients(self) -> list[str]:
    """Of the query matrices, which attention scales most."""
    found, stage = self.found, self.stage
    said = []
    for inputs in ('text', 'independent'):
      for variant in found.variants(stage, 'gradient', inputs):
        if variant in (self.own, *kinds.DIVISORS):
          wq = found.mean(stage, variant, 'gradient', 'wq', inputs)
          said.append(
            f'|dL/dW_q| with `{variant}` on {inputs} inputs {moved(wq)} '
            f'({wq[0] / wq[-1]:.1f}-fold).'
          )
    groups = ('wv', 'mlp', 'embed')
    others = [found.mean(stage, self.own, 'gradient', g) for g in groups]
    said.append(
      'The total hardly says so: '
      + ', '.join(f'{g} {moved(v)}' for g, v in zip(groups, others))
      + '. Look at each matrix.'
    )
    return said

  def kernel(self) -> list[str]:
    """What length and each variant do to the kernel."""
    variants = self.found.variants(self.stage, 'trace')
    said = [self._kernel(self.own, 'As it is')]
    said += [
      self._kernel(variant, f'Under `{variant}`')
      for variant in variants
      if variant != self.own
    ]
    best = min(variants, key=lambda v: self._last(v, 'condition', 'attention'))
    own = self._last(self.own, 'condition', 'attention')
    if best != self.own:
      said.append(
        f'At the longest length the attention part is best conditioned under '
        f'`{best}`: {digits(self._last(best, "condition", "attention"))} '
        f'against {digits(own)} as it is.'
      )
    return said

  def _last(self, variant: str, name: str, group: str) -> float:
    return float(self.found.mean(self.stage, variant, name, group)[-1])

  def _kernel(self, variant: str, name: str) -> str:
    def of(quantity: str, group: str) -> str:
      return moved(self.found.mean(self.stage, variant, quantity, group))

    return (
      f'{name}, the trace of wq {of("trace", "wq")} and that of wv '
      f'{of("trace", "wv")}; the correlation between contexts in wv '
      f'{of("correlation", "wv")}; the condition number of the attention part '
      f'{of("condition", "attention")}.'
    )

  def heads(self) -> list[str]:
    """Entropy, sinks and the largest logit of the model as it is."""
    found, stage = self.found, self.stage
    layers = found.parts(stage, self.own, 'ratio')
    entropy = np.mean(
      [found.mean(stage, self.own, 'entropy', layer) for layer in layers],
      axis=0,
    )
    return [
      f'H / ln n, mean over layers and heads, {moved(entropy)} (1 is even '
      'over all keys).',
      self._extreme('sink_first', 'weight on the first key'),
      self._extreme('logit_max', 'logit'),
    ]

  def _extreme(self, quantity: str, name: str) -> str:
    """The head with the most of something at the longest length."""
    found, stage = self.found, self.stage
    heads = found.parts(stage, self.own, quantity)
    each = {
      head: found.mean(stage, self.own, quantity, head)
      for head in heads
      if 'head' in head
    }
    most = max(each, key=lambda head: each[head][-1])
    return f'The largest {name} is that of {most}: it {moved(each[most])}.'


def temperature_words(
  suggested: list[dict[str, Any]], reference: int
) -> list[str]:
  """What the fitted temperatures are and what they are good for."""
  good_for = {
    'entropy': (
      'keeps H / ln n as it is at the reference, so that a model reads as '
      'wide a share of its context as it did: for a trained model that is '
      'read beyond its length'
    ),
    'variance': (
      'keeps sum_j p_j^2, and so the variance of what a head averages, as it '
      'is at the reference: for a start at a longer length than that, or '
      'training at a growing one (the table of the kernel says what it does '
      'there)'
    ),
  }
  said = []
  for found in suggested:
    if found['slope'] is None:
      said.append(
        f'No multiplier that was tried keeps {found["keeps"]} flat: none is '
        'suggested.'
      )
      continue
    layers = ', '.join(
      'none' if b is None else f'{b:.3f}' for b in found['by_layer']
    )
    said.append(
      f'**q * (1 + {found["slope"]:.3g} ln max(n / {reference}, 1))** '
      f'{good_for[found["keeps"]]}. As a setting: '
      f"`Temperature('inkling', floor={reference}, alpha={found['slope']:.3g})`"
      f'. Fitted to each layer alone: {layers}; the fit is within '
      f'{found["off"]:.1%} of the multipliers that do it.'
    )
  return said
