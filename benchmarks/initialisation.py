"""What length does to attention at initialisation: Var(out) / Var(v).

A decoder with random weights, never trained, on independent Gaussian inputs
and on text; the ratio is measured at the last positions of rows of n tokens.
Run from the root of a clone:

  python -m benchmarks.initialisation --out=benchmarks/results/initialisation.md
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import functools
import platform
from collections.abc import Callable, Iterable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from ntk_jax import initializers
from ntk_jax.attention import attention
from ntk_jax.data.text import BYTES, load_corpus, spread_rows
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


def _one(n: int) -> float:
  return 1.0


@dataclasses.dataclass(frozen=True)
class Case:
  """A row of the table.

  Attributes:
    name: what the table calls it.
    text: rows of text rather than independent Gaussian inputs.
    layer: the layer that is measured.
    divisor: of the logits.
    temperature: multiplier of q at n.
    gain: multiplier of the attention output at n, in every layer.
    norm: whether heads are normed instead.
  """

  name: str
  text: bool = False
  layer: int = 0
  divisor: str = 'sqrt'
  temperature: Scalar = _one
  gain: Scalar = _one
  norm: bool = False


def naive_gain(n: int) -> float:
  """What independent values would need."""
  return (n / N_REF) ** 0.5


def rho_aware_gain(n: int, rho: float = 0.05) -> float:
  """What values of a correlation in the middle of text's need."""
  return initializers.length_aware_gain(n, N_REF, rho=rho)


CASES = (
  Case('iid values, 1/sqrt(d)'),
  Case('iid values, 1/d', divisor='linear'),
  Case(
    'iid values, q scaled by ln n / ln 128',
    temperature=lambda n: np.log(n) / np.log(N_REF),
  ),
  Case(
    'iid values, q scaled by sqrt(1 + ln(n / 128))',
    temperature=lambda n: initializers.variance_flat_multiplier(n, N_REF),
  ),
  Case('text, 1/sqrt(d)', text=True),
  Case('text, gain sqrt(n / 128)', text=True, gain=naive_gain),
  Case('text, gain for rho = 0.05', text=True, gain=rho_aware_gain),
  Case('text, RMS norm per head', text=True, norm=True),
  Case('text, 1/sqrt(d)', text=True, layer=3),
  Case('text, gain sqrt(n / 128)', text=True, layer=3, gain=naive_gain),
  Case('text, gain for rho = 0.05', text=True, layer=3, gain=rho_aware_gain),
  Case('text, RMS norm per head', text=True, layer=3, norm=True),
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
  x_BTD: Array, layer: Weights, knobs: tuple[Array, Array, Array], last: int
) -> tuple[Array, Array]:
  """Attention outputs of the last positions, and values, `[B, T, N, H]`."""
  q_scale, gain, norm = knobs
  B, T, _ = x_BTD.shape
  p = np.arange(T)
  h = rms_norm(x_BTD)
  q, k, v = (
    (x @ layer[name]).reshape(B, -1, N, H)
    for x, name in ((h[:, -last:], 'q'), (h, 'k'), (h, 'v'))
  )
  cos, sin = cos_sin(p, phases(INV_FREQ))
  q = apply_rope(q, cos[-last:], sin[-last:]) * q_scale
  k = apply_rope(k, cos, sin)
  out = attention(q, k, v, q_positions=p[-last:], kv_positions=p)
  return jnp.where(norm, rms_norm(out), gain * out), v


def block(
  x_BTD: Array, layer: Weights, knobs: tuple[Array, Array, Array]
) -> Array:
  """A whole pre-norm layer."""
  out, _ = heads(x_BTD, layer, knobs, x_BTD.shape[1])
  x = x_BTD + out.reshape(x_BTD.shape) @ layer['out']
  h = rms_norm(x)
  return x + (jax.nn.silu(h @ layer['gate']) * (h @ layer['up'])) @ layer[
    'down'
  ]


@functools.partial(jax.jit, static_argnames='depth')
def ratio_and_rho(
  x_BTD: Array, weights: Weights, knobs: tuple[Array, Array, Array], depth: int
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
  case: Case, seeds: Iterable[int], rows: NDArray, lengths: tuple[int, ...]
) -> tuple[NDArray, NDArray]:
  """Ratios and mean correlations, `[seeds, lengths]`.

  A row of n tokens is the end of a longer one, under the same weights.
  """
  found = []
  for seed in seeds:
    weights = init_weights(jax.random.key(seed))
    x = inputs(case, weights, rows, seed)
    for n in lengths:
      scale = case.temperature(n) * H**0.5 / divisor(H, case.divisor)
      knobs = tuple(map(jnp.asarray, (scale, case.gain(n), case.norm)))
      found.append(ratio_and_rho(x[:, -n:], weights, knobs, case.layer))
  both = np.array(jax.device_get(found), np.float64)
  ratio, rho = both.reshape(-1, len(lengths), 2).transpose(2, 0, 1)
  return ratio, rho


def slopes(ratio: NDArray, lengths: tuple[int, ...]) -> NDArray:
  """Slope of ln ratio over ln n, for each seed."""
  return np.polyfit(np.log(lengths), np.log(ratio).T, 1)[0]


def text_rows(count: int, length: int = max(LENGTHS)) -> NDArray:
  """Rows of the standard library's sources, each from another file."""
  return spread_rows(load_corpus().train, length, count)
