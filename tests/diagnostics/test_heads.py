"""What heads do, against a float64 decoder and an independent benchmark."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model import oracle

from benchmarks import initialisation as bench
from ntk_jax.diagnostics import look
from ntk_jax.diagnostics.gradients import scaled_arrays
from ntk_jax.errors import ConfigError
from ntk_jax.initializers import attention_variance
from ntk_jax.model import ModelConfig, Params, init_params
from ntk_jax.rope.spec import RopeSpec
from ntk_jax.scheme import Scheme

from .cases import (
  CONFIG,
  NORMED,
  SCHEMES,
  layers_seen,
  params_of,
  tokens_of,
)

LENGTH, LAST = 21, 3
TRIED = (0.5, 1.0, 1.7)


def weights_of(
  h: np.ndarray, w: Any, plan: Any, c: ModelConfig, times: float = 1.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Logits and weights [Q, N, T] (0 unseen) and keys seen of last queries."""
  T, G = len(h), c.heads // c.kv_heads
  q, k = (
    (h @ w[name] + w.get(f'{name}_bias', 0)).reshape(T, -1, c.head_dim)
    for name in 'qk'
  )
  if c.qk_norm:
    q = oracle.norm(q, w['q_norm'], c.norm_eps, c.norm_offset)
    k = oracle.norm(k, w['k_norm'], c.norm_eps, c.norm_offset)
  angle = np.arange(T)[:, None, None] * plan.inv_freq
  q, k = (oracle.rotate(x, angle, plan.factor) for x in (q, k))
  q = times * q * np.broadcast_to(plan.q_scale, T)[:, None, None]
  logits = np.full((LAST, c.heads, T), np.nan)
  for i, n in np.ndindex(LAST, c.heads):
    at = T - LAST + i
    seen = slice(max(0, at - plan.window + 1), at + 1)
    z = k[seen, n // G] @ q[at, n] / np.sqrt(c.head_dim)
    logits[i, n, seen] = oracle.capped(z, c.attention_soft_cap)
  odds = np.nan_to_num(np.exp(logits))
  return logits, odds / odds.sum(-1, keepdims=True), ~np.isnan(logits)


def entropy_of(p: np.ndarray, seen: np.ndarray) -> np.ndarray:
  """Normalised, [Q, N]."""
  with np.errstate(divide='ignore', invalid='ignore'):
    return -np.nansum(p * np.log(p), -1) / np.log(seen.sum(-1))


def expected_of(
  h: np.ndarray, w: Any, plan: Any, out: np.ndarray, c: ModelConfig
) -> dict[str, Any]:
  """`Heads` of one layer and row by their definitions."""
  z, p, seen = weights_of(h, w, plan, c)
  v = (h @ w['v'] + w.get('v_bias', 0)).reshape(len(h), c.kv_heads, -1)
  alike = [
    [
      np.mean(
        [
          v[i, k] @ v[j, k]
          for i in range(len(h))
          for j in range(len(h))
          if i != j
        ]
      )
      / np.mean([v[i, k] @ v[i, k] for i in range(len(h))])
    ]
    for k in range(c.kv_heads)
  ]
  tried = [weights_of(h, w, plan, c, times)[1:] for times in TRIED]
  return {
    'entropy': entropy_of(p, seen).mean(0),
    'sum_squares': (p**2).sum(-1).mean(0),
    'logit_variance': np.nanvar(z, axis=-1).mean(0),
    'logit_max': np.nanmax(z, axis=(0, 2)),
    'sink_first': p[..., 0].mean(0),
    'sink_few': p[..., :4].sum(-1).mean(0),
    'output_power': (
      (out[-LAST:] ** 2).reshape(LAST, c.heads, -1).mean(axis=(0, 2))
    ),
    'value_power': (v**2).mean(axis=(0, 2)),
    'rho': np.ravel(alike),
    'entropy_under': [entropy_of(*each).mean() for each in tried],
    'sum_squares_under': [(each[0] ** 2).sum(-1).mean() for each in tried],
  }


@pytest.mark.parametrize(
  'config', [pytest.param(CONFIG, marks=pytest.mark.slow), NORMED]
)
def test_heads_are_those_of_the_float64_decoder(
  config: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
  params, rows = params_of(config), tokens_of(2, LENGTH)
  found = look(
    params,
    config,
    scaled_arrays(SCHEMES, LENGTH, np.arange(LENGTH)),
    rows,
    last=LAST,
    multipliers=TRIED,
  )
  each = [
    [
      expected_of(*seen, config)
      for seen in layers_seen(params, config, row, monkeypatch)
    ]
    for row in rows
  ]
  for name in each[0][0]:
    values = np.array([[layer[name] for layer in row] for row in each])
    whole = values.max(0) if name == 'logit_max' else values.mean(0)
    np.testing.assert_allclose(
      getattr(found, name), whole, rtol=2e-5, atol=2e-6, err_msg=name
    )
  # Layers, and heads, differ: none stands for another.
  assert np.ptp(found.entropy) > 0.01
  assert len({f'{x:.4f}' for x in np.ravel(found.logit_max)}) == 8


def test_what_attention_adds_is_compared_with_the_stream() -> None:
  """Layer 0 of a plain decoder, whose stream is the embedding."""
  params, rows = params_of(CONFIG), tokens_of(1, LENGTH)
  arrays = scaled_arrays(SCHEMES, LENGTH, np.arange(LENGTH))
  found = look(params, CONFIG, arrays, rows, last=LAST)
  larger = params._replace(
    layers={**params.layers, 'out': 3 * params.layers['out']}
  )
  more = look(larger, CONFIG, arrays, rows, last=LAST)
  np.testing.assert_allclose(more.branch[0], 9 * found.branch[0], rtol=1e-5)
  held: Any = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
  x = held.embed[rows[0]] * np.sqrt(CONFIG.dim)
  w = {name: leaf[0] for name, leaf in held.layers.items()}
  h = oracle.norm(x, w['attention_norm'])
  inv_freq, _ = SCHEMES[0].spec.frequencies()
  plan = oracle.OraclePlan(inv_freq, 1.0, np.float64(arrays[0].q_scale))
  ones = np.ones(LENGTH)
  out = oracle.attend(h, w, plan, CONFIG, np.arange(LENGTH), ones)
  ratio = ((out @ w['out'])[-LAST:] ** 2).mean() / (x[-LAST:] ** 2).mean()
  np.testing.assert_allclose(found.branch[0], ratio, rtol=2e-5)


def decoder_of(weights: Any) -> Params:
  """The benchmark's decoder as parameters of the package's."""
  layers = {name: w for name, w in weights.items() if name != 'embed'}
  for name in ('attention_norm', 'mlp_norm'):
    layers[name] = jnp.ones((bench.LAYERS, bench.D))
  return Params(weights['embed'], layers, jnp.ones(bench.D))


@pytest.mark.parametrize(
  'text', [True, pytest.param(False, marks=pytest.mark.slow)]
)
def test_ratio_and_rho_are_the_benchmarks(text: bool) -> None:
  """It has a decoder of its own; embeddings of norm sqrt(D) are not scaled."""
  n, config = 64, ModelConfig(vocab=256, scale_embed=False)
  weights = bench.init_weights(jax.random.key(3))
  rows = np.random.default_rng(0).integers(97, 123, size=(2, n))
  case = bench.Case('', text=text, temperature=lambda n: 1.5)
  x = bench.inputs(case, weights, rows, 0)
  arrays = scaled_arrays(
    [Scheme(RopeSpec('default', 32))],
    n,
    np.arange(n),
    lambda p: np.full(p.shape, 1.5),
  )
  inputs = rows.astype(np.int32) if text else x
  found = look(decoder_of(weights), config, arrays, inputs, last=bench.LAST)
  depth = bench.LAYERS - 1  # where all layers below count
  ratio, rho = bench.ratio_and_rho(x, weights, case.knobs(n), depth)
  np.testing.assert_allclose(found.ratio[depth], ratio, rtol=1e-4)
  np.testing.assert_allclose(found.rho[depth].mean(), rho, rtol=1e-4)


@pytest.mark.slow
def test_independent_inputs_leave_what_is_derived() -> None:
  n, config = 256, ModelConfig(vocab=9, layers=1)
  scheme = Scheme(RopeSpec('default', 32))
  ratios = []
  for seed in range(4):
    params = init_params(jax.random.key(seed), config)
    x = jax.random.normal(jax.random.key(9 + seed), (4, n, config.dim))
    arrays = scaled_arrays([scheme], n, np.arange(n))
    ratios.append(look(params, config, arrays, x).ratio[0])
  derived = attention_variance(
    n, dim=config.dim, inv_freq=scheme.spec.frequencies()[0]
  )
  np.testing.assert_allclose(np.mean(ratios), derived, rtol=0.1)


def test_rows_without_as_many_queries_are_refused() -> None:
  arrays = scaled_arrays(SCHEMES, 4, np.arange(4))
  with pytest.raises(ConfigError, match='last is 5: of rows of 4 tokens'):
    look(params_of(CONFIG), CONFIG, arrays, tokens_of(1, 4), last=5)
