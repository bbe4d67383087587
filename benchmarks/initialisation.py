"""What length does to attention at initialisation: Var(out) / Var(v).

A decoder with random weights, never trained, on independent Gaussian inputs
and on text; the ratio is measured at the last positions of rows of n tokens.
Run from the root of a clone:

  python -m benchmarks.initialisation --out=benchmarks/results/initialisation.md
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import page
from ntk_jax import initializers
from ntk_jax.attention import attention
from ntk_jax.data.text import BYTES, load_corpus, spread_rows
from ntk_jax.diagnostics.findings import log_slope
from ntk_jax.errors import ConfigError
from ntk_jax.rope import RopeSpec, apply_rope, cos_sin, phases
from ntk_jax.temperature import divisor
from ntk_jax.typing import Array, NDArray

LENGTHS = (128, 256, 512, 1024, 2048, 4096)
N_REF = 128
LAYERS, D, N, H, F = 4, 128, 4, 32, 344
LAST = 8  # positions at the end of a row that are measured
INV_FREQ = RopeSpec('default', H, theta=1e4).frequencies()[0]

Weights = dict[str, Array]  # stacked over layers, all but `embed`
Scalar = Callable[[int], float]


def one(n: int) -> float:
  """No multiplier."""
  return 1.0


class Knobs(NamedTuple):
  """What a case sets, as arrays: one program per length serves all."""

  q_scale: Array
  gain: Array
  norm: Array
  phases: Array


@dataclasses.dataclass(frozen=True)
class Case:
  """A row of the table.

  Attributes:
    name: what the table calls it.
    text: rows of text rather than independent Gaussian inputs.
    layer: the layer that is measured, from 0.
    divisor: of the logits.
    temperature: multiplier of q at n.
    gain: multiplier of the attention output at n, in every layer.
    norm: whether the output is normed per head instead.
    rope: whether positions turn queries and keys.
  """

  name: str
  text: bool = False
  layer: int = 0
  divisor: str = 'sqrt'
  temperature: Scalar = one
  gain: Scalar = one
  norm: bool = False
  rope: bool = True

  def knobs(self, n: int) -> Knobs:
    """What enters the program."""
    scale = self.temperature(n) * H**0.5 / divisor(H, self.divisor)
    w = INV_FREQ if self.rope else np.zeros(H // 2)
    gain, norm = jnp.asarray(self.gain(n)), jnp.asarray(self.norm)
    return Knobs(jnp.asarray(scale), gain, norm, jnp.asarray(phases(w)))


def naive_gain(n: int) -> float:
  """What independent values would need."""
  return (n / N_REF) ** 0.5


def assumed_gain(n: int) -> float:
  """What values of mean correlation 0.05 would need."""
  return initializers.length_aware_gain(n, N_REF, rho=0.05)


def measured_gain(rho: dict[int, float]) -> Scalar:
  """What values of the mean correlations measured by length need."""
  return lambda n: initializers.length_aware_gain(
    n, N_REF, rho=rho[n], rho_ref=rho[N_REF], dim=D, inv_freq=INV_FREQ
  )


IID = (
  Case('independent, 1/sqrt(d)'),
  Case('independent, 1/d', divisor='linear'),
  Case('independent, 1/sqrt(d), no rope', rope=False),
  Case(
    'independent, q * ln n / ln 128',
    temperature=lambda n: math.log(n) / math.log(N_REF),
  ),
  Case(
    'independent, q * sqrt(ln n / ln 128)',
    temperature=lambda n: initializers.entropy_flat_multiplier(n, N_REF),
  ),
  Case(
    'independent, q * sqrt(1 + ln(n / 128))',
    temperature=lambda n: initializers.variance_flat_multiplier(n, N_REF),
  ),
)


def text_cases(layer: int, rho: dict[int, float]) -> tuple[Case, ...]:
  """The cases on text, given its mean correlation by length."""
  return (
    Case('text, 1/sqrt(d)', True, layer),
    Case('text, 1/sqrt(d), no rope', True, layer, rope=False),
    Case('text, gain sqrt(n / 128)', True, layer, gain=naive_gain),
    Case('text, gain for rho = 0.05', True, layer, gain=assumed_gain),
    Case(
      'text, gain for rho as measured', True, layer, gain=measured_gain(rho)
    ),
    Case('text, RMS norm per head', True, layer, norm=True),
  )


def init_weights(key: Array) -> Weights:
  """Random weights of a decoder, and an embedding of bytes."""
  residual = initializers.residual_gain(LAYERS)
  shapes = {
    'q': (D, N * H, 1.0),
    'k': (D, N * H, 1.0),
    'v': (D, N * H, 1.0),
    'out': (N * H, D, residual),
    'gate': (D, F, 1.0),
    'up': (D, F, 1.0),
    'down': (F, D, residual),
  }
  keys = jax.random.split(key, len(shapes) + 1)
  weights = {
    name: initializers.init_matrix(key, (LAYERS, *shape), shape[0], gain)
    for key, (name, (*shape, gain)) in zip(keys, shapes.items())
  }
  return weights | {'embed': jax.random.normal(keys[-1], (BYTES, D))}


def rms_norm(x: Array) -> Array:
  """A vector of mean square 1."""
  return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6)


def heads(
  x_BTD: Array, layer: Weights, knobs: Knobs, last: int
) -> tuple[Array, Array]:
  """Attention outputs of the last positions, and values, `[B, T, N, H]`."""
  B, T, _ = x_BTD.shape
  p = np.arange(T)
  h = rms_norm(x_BTD)
  q, k, v = (
    (x @ layer[name]).reshape(B, -1, N, H)
    for x, name in ((h[:, -last:], 'q'), (h, 'k'), (h, 'v'))
  )
  cos, sin = cos_sin(p, knobs.phases)
  q = apply_rope(q, cos[-last:], sin[-last:]) * knobs.q_scale
  k = apply_rope(k, cos, sin)
  out = attention(q, k, v, q_positions=p[-last:], kv_positions=p)
  return jnp.where(knobs.norm, rms_norm(out), knobs.gain * out), v


def block(x_BTD: Array, layer: Weights, knobs: Knobs) -> Array:
  """A whole pre-norm layer."""
  out, _ = heads(x_BTD, layer, knobs, x_BTD.shape[1])
  x = x_BTD + out.reshape(x_BTD.shape) @ layer['out']
  h = rms_norm(x)
  return (
    x + (jax.nn.silu(h @ layer['gate']) * (h @ layer['up'])) @ layer['down']
  )


@functools.partial(jax.jit, static_argnames='depth')
def ratio_and_rho(
  x_BTD: Array, weights: Weights, knobs: Knobs, depth: int
) -> tuple[Array, Array]:
  """Var(out) / Var(v) at the end of the rows, and rho, of layer `depth`."""
  layers = {name: w for name, w in weights.items() if name != 'embed'}
  below = {name: w[:depth] for name, w in layers.items()}
  x, _ = jax.lax.scan(
    lambda x, layer: (block(x, layer, knobs), None), x_BTD, below
  )
  out, v = heads(x, {name: w[depth] for name, w in layers.items()}, knobs, LAST)
  rho = initializers.mean_correlation(v.swapaxes(1, 2))
  return jnp.mean(out**2) / jnp.mean(v**2), rho.mean()


def inputs(case: Case, weights: Weights, rows: NDArray, seed: int) -> Array:
  """`[B, T, D]`: embedded text, or as many Gaussian vectors."""
  if case.text:
    return weights['embed'][rows]
  return jax.random.normal(jax.random.key(1000 + seed), (*rows.shape, D))


def measure(
  case: Case, rows_SBT: NDArray, lengths: tuple[int, ...] = LENGTHS
) -> tuple[NDArray, NDArray]:
  """Ratios and mean correlations, `[S, lengths]`.

  Each of the S draws has its own weights and rows. A row of n tokens is the
  end of a longer one, under the same weights.
  """
  found = []
  for seed, rows in enumerate(rows_SBT):
    weights = init_weights(jax.random.key(seed))
    x = inputs(case, weights, rows, seed)
    for n in lengths:
      found.append(ratio_and_rho(x[:, -n:], weights, case.knobs(n), case.layer))
  both = np.array(jax.device_get(found), np.float64)
  ratio, rho = both.reshape(-1, len(lengths), 2).transpose(2, 0, 1)
  return ratio, rho


def slope(ratio: NDArray, lengths: tuple[int, ...] = LENGTHS) -> float:
  """Slope of ln ratio over ln n."""
  return log_slope(lengths, ratio)


def derived(case: Case, n: int, rho: float) -> float | None:
  """Var(out) / Var(v) by `attention_variance`; None where it does not hold."""
  try:
    variance = initializers.attention_variance(
      n,
      rho=rho,
      logit_variance=initializers.logit_variance(H, case.divisor)
      * case.temperature(n) ** 2,
      dim=D,
      inv_freq=INV_FREQ if case.rope else None,
    )
  except ConfigError:
    return None
  return None if case.norm else variance * case.gain(n) ** 2


def text_rows(draws: int, rows: int) -> NDArray:
  """Rows of the standard library's sources, each of another file."""
  found = spread_rows(load_corpus().train, max(LENGTHS), draws * rows)
  return found.reshape(draws, rows, -1)


def mean_rho(rows_SBT: NDArray) -> dict[int, float]:
  """Mean correlation of the values of layer 0 by length."""
  _, rho = measure(Case('text', text=True), rows_SBT)
  return dict(zip(LENGTHS, rho.mean(0).tolist()))


def line(case: Case, rows_SBT: NDArray) -> str:
  """Measures a case: a line of the table."""
  ratio, rho = measure(case, rows_SBT)
  mean, slopes = ratio.mean(0), [slope(r) for r in ratio]
  formula = [derived(case, n, r) for n, r in zip(LENGTHS, rho.mean(0).tolist())]
  against = [
    f'{m / f:.2f}' if f else '-' for m, f in zip(mean[[0, -1]], formula[::5])
  ]
  cells = [f'{r:.3g}' for r in mean]
  text = (
    f'| {case.name} | {case.layer} | {" | ".join(cells)} | '
    f'**{slope(mean):+.2f}** ({np.std(slopes, ddof=1):.2f}) '
    f'| {", ".join(against)} |'
  )
  print(text, flush=True)
  return text


def facts(rho: dict[int, float]) -> list[str]:
  """The lines of rho and t by length."""
  rows = {
    'rho of text, layer 0': [rho[n] for n in LENGTHS],
    't of rope, theta 1e4': [
      initializers.shared_input_term(n, INV_FREQ) for n in LENGTHS
    ],
  }
  return [
    f'| {name} | {" | ".join(f"{x:.3f}" for x in values)} |'
    for name, values in rows.items()
  ]


def report(draws: int, rows: int, deep_rows: int) -> str:
  """Measures everything; the results as Markdown."""
  load = page.load()
  text = text_rows(draws, rows)
  rho = mean_rho(text)
  lines = [line(case, text) for case in IID]
  lines += [line(case, text) for case in text_cases(0, rho)]
  deep = text[:, :deep_rows]
  lines += [line(case, deep) for case in text_cases(LAYERS - 1, rho)]
  corpus = load_corpus()
  lengths = ' | '.join(map(str, LENGTHS))
  return '\n'.join(
    [
      '# Attention at initialisation against length',
      '',
      f'`python -m benchmarks.initialisation --draws={draws} --rows={rows} '
      f'--deep_rows={deep_rows}`, {page.conditions(load)}; {corpus.name}, '
      f'fingerprint {corpus.fingerprint}.',
      '',
      f'Var(out) / Var(v) at the last {LAST} positions of n tokens, before '
      f'training: {LAYERS} pre-norm layers, D {D}, {N} heads of {H}, SwiGLU '
      f'{F}, rope theta 1e4. Mean of {draws} draws of weights and {rows} rows '
      f'({deep_rows} rows in layer {LAYERS - 1}). The slope is that of its '
      'logarithm over ln n, with the standard deviation between draws; the '
      'last column is measured / derived (`attention_variance`, with the rho '
      'measured in that layer) at both ends, - where s^2 >= ln(n) / 2.',
      '',
      f'| case | layer | {lengths} | slope | measured / derived |',
      '|---' * (len(LENGTHS) + 4) + '|',
      *lines,
      '',
      f'| | {lengths} |',
      '|---' * (len(LENGTHS) + 1) + '|',
      *facts(rho),
      '',
    ]
  )


if __name__ == '__main__':
  page.main(report, __doc__, draws=8, rows=16, deep_rows=4)
