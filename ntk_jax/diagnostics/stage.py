"""Everything that is measured of one model: heads, gradients, kernel."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np

from ntk_jax.diagnostics.findings import Record
from ntk_jax.diagnostics.gradients import gradient_norms, scaled_arrays
from ntk_jax.diagnostics.heads import Heads, look
from ntk_jax.diagnostics.kernel import kernel_facts, model_kernel
from ntk_jax.diagnostics.settings import DiagnoseConfig
from ntk_jax.diagnostics.suggest import TRIED
from ntk_jax.diagnostics.variants import Applied, Model, Variant
from ntk_jax.metrics import Progress
from ntk_jax.typing import Array, Int32, NDArray

INDEPENDENT = 'independent'
_BACKWARD = 3  # work of a gradient, in forward passes
_MEANS = (
  'entropy',
  'sum_squares',
  'logit_variance',
  'sink_first',
  'sink_few',
  'rho',
)
_QUANTITIES = (*_MEANS, 'logit_max', 'ratio', 'branch')
_BY_HEAD = 'entropy', 'logit_max', 'sink_first', 'sink_few'


@dataclasses.dataclass
class Stage:
  """One model at one moment, and what is written down of it.

  Attributes:
    name: of the moment.
    model: what is measured.
    seed: of its parameters.
    config: what to measure.
    rows: text, one id more than the longest length.
    progress: the line that shows work.
    records: what was found so far.
    curves: of the model as it is: entropy and sum of squares
      [lengths, L, M] under the multipliers `TRIED`.
  """

  name: str
  model: Model
  seed: int
  config: DiagnoseConfig
  rows: Int32[NDArray, 'rows T+1']
  progress: Progress
  records: list[Record] = dataclasses.field(default_factory=list)
  curves: dict[str, NDArray] = dataclasses.field(default_factory=dict)

  def see_itself(self, variant: Variant, every_head: bool = True) -> None:
    """The model as it is: all quantities, rho, and multipliers tried."""
    found = self._heads(variant, 'text', _QUANTITIES)
    for n, heads in found.items():
      self.model.rho[n] = np.asarray(heads.rho).mean(axis=-1)
      for name in _BY_HEAD * every_head:
        self._by_head(variant, name, n, getattr(heads, name))
    for name in ('entropy', 'sum_squares'):
      self.curves[name] = np.array(
        [getattr(heads, f'{name}_under') for heads in found.values()]
      )

  def see(self, variants: Iterable[Variant], inputs: str = 'text') -> None:
    """Variance and entropy under variants, layer by layer."""
    for variant in variants:
      self._heads(variant, inputs, ('ratio', 'entropy'))

  def _heads(
    self, variant: Variant, inputs: str, quantities: Sequence[str]
  ) -> dict[int, Heads]:
    found = {}
    for n in self.config.lengths:
      applied = self.model.under(variant, n)
      read = self._inputs(inputs, n)
      heads = look(
        applied.params,
        applied.config,
        self._arrays(applied, n),
        read,
        multipliers=TRIED,  # always: another number of them compiles anew
      )
      by_layer = _by_layer(heads, applied.gain)
      for name in quantities:
        for layer, value in enumerate(by_layer[name]):
          self._add(variant, inputs, name, f'layer {layer}', n, value)
      self.progress.advance(*[len(read) * n] * 2)
      found[n] = heads
    return found

  def differentiate(
    self, variants: Iterable[Variant], inputs: str = 'text'
  ) -> None:
    """Gradient norms under variants, by group of parameters."""
    config = self.config
    texts = self.rows[: config.texts]
    for variant in variants:
      for n in config.lengths:
        applied = self.model.under(variant, n)
        norms = gradient_norms(
          applied.params,
          applied.config,
          self.model.schemes,
          self._inputs(inputs, config.lengths[-1], config.texts),
          texts[:, 1:],
          n,
          applied.multiplier,
        )
        for group, norm in norms.items():
          self._add(variant, inputs, 'gradient', group, n, norm)
        self.progress.advance(_BACKWARD * texts[:, 1:].size, texts[:, 1:].size)

  def contract(self, variants: Iterable[Variant]) -> None:
    """The kernel under variants, by group of parameters."""
    config = self.config
    direction = direction_of(self.seed, self.model.config.vocab)
    for variant in variants:
      for n in config.kernel_lengths:
        applied = self.model.under(variant, n)
        grams = model_kernel(
          applied.params,
          applied.config,
          self._arrays(applied, n),
          self._inputs('text', n, config.contexts),
          direction,
        )
        attention = [grams[group] for group in ('wq', 'wk', 'wv', 'wo')]
        grams['attention'] = np.sum(attention, axis=0)
        for group, gram in grams.items():
          for name, value in kernel_facts(gram)._asdict().items():
            self._add(variant, 'text', name, group, n, value)
        self.progress.advance(*[_BACKWARD * config.contexts * n] * 2)

  def _arrays(self, applied: Applied, n: int) -> Any:
    return scaled_arrays(
      self.model.schemes, n, np.arange(n), applied.multiplier
    )

  def _inputs(
    self, inputs: str, n: int, count: int | None = None
  ) -> Array | NDArray:
    """The ends of the rows, n tokens, or as many independent vectors."""
    if inputs == 'text':
      return self.rows[: count or self.config.rows, -1 - n : -1]
    # Rows of text differ, independent ones hardly: half as many will do.
    rows = self.rows[: count or (self.config.rows + 1) // 2]
    params, config = self.model.params, self.model.config
    power = float(np.std(np.asarray(params.embed, np.float32)))
    power *= config.dim**0.5 if config.scale_embed else 1.0
    shape = len(rows), rows.shape[1] - 1, config.dim
    x = jax.random.normal(jax.random.key(1000 + self.seed), shape)
    return x[:, -n:] * power

  def _by_head(self, variant: Variant, name: str, n: int, values: Any) -> None:
    for (layer, head), value in np.ndenumerate(values):
      part = f'layer {layer} head {head}'
      self._add(variant, 'text', name, part, n, value)

  def _add(
    self,
    variant: Variant,
    inputs: str,
    quantity: str,
    part: str,
    n: int,
    value: Any,
  ) -> None:
    self.records.append(
      Record(
        self.name,
        variant.name,
        inputs,
        quantity,
        part,
        n,
        self.seed,
        float(value),
      )
    )


def _by_layer(heads: Heads, gain: NDArray) -> dict[str, NDArray]:
  """Means over heads, of logits the largest; gains count in the ratio."""
  means = {
    name: np.asarray(getattr(heads, name)).mean(axis=-1) for name in _MEANS
  }
  largest = np.asarray(heads.logit_max).max(axis=-1)
  return means | {
    'logit_max': largest,
    'ratio': heads.ratio * gain**2,
    'branch': np.asarray(heads.branch),
  }


def direction_of(seed: int, vocab: int) -> NDArray:
  """A random output direction of norm 1.

  >>> round(float(np.linalg.norm(direction_of(0, 9))), 6)
  1.0
  """
  u = np.random.default_rng([seed, vocab]).normal(size=vocab)
  return (u / np.linalg.norm(u)).astype(np.float32)


def work_of(
  config: DiagnoseConfig, seen: int, differentiated: int, contracted: int
) -> int:
  """Work of as many variants, in tokens of a forward pass."""
  longest = config.lengths[-1]
  return (
    seen * config.rows * sum(config.lengths)
    + differentiated * _BACKWARD * config.texts * longest * len(config.lengths)
    + contracted * _BACKWARD * config.contexts * sum(config.kernel_lengths)
  )
