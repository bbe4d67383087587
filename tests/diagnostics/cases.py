"""Small decoders, and what a float64 one sees layer by layer."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest
from model import oracle

from ntk_jax.model import ModelConfig, Params, init_params
from ntk_jax.rope.spec import RopeSpec
from ntk_jax.scheme import Scheme
from ntk_jax.temperature import Temperature

CONFIG = ModelConfig(
  vocab=20, dim=12, layers=2, heads=4, kv_heads=2, head_dim=4, mlp_dim=8
)
NORMED = dataclasses.replace(
  CONFIG,
  layer_plan=(1, 0),
  attention_soft_cap=2.0,
  qk_norm=True,
  qkv_bias=True,
  norm_offset=True,
  head_norm=True,
  post_norms=True,
  tied=False,
)
SCHEMES = (
  Scheme(RopeSpec('default', 4), Temperature('logn', length=8)),
  Scheme(RopeSpec('linear', 4, factor=2.0), window=9),
)


def params_of(config: ModelConfig) -> Params:
  """Sharper than at the start, with norms and biases of their own."""
  params = init_params(jax.random.key(0), config)
  layers = {**params.layers, 'q': 3 * params.layers['q']}
  for i, name in enumerate(n for n in layers if n.endswith(('bias', 'norm'))):
    noise = jax.random.normal(jax.random.key(i), layers[name].shape)
    layers[name] = layers[name] + 0.3 * noise
  return params._replace(layers=layers)


def tokens_of(rows: int, length: int) -> np.ndarray:
  """Random ids."""
  rng = np.random.default_rng(rows)
  return rng.integers(0, CONFIG.vocab, size=(rows, length)).astype(np.int32)


def plans_at(length: int) -> list[oracle.OraclePlan]:
  """The schemes as the oracle takes them."""
  plans = []
  for scheme in SCHEMES:
    inv_freq, factor = scheme.spec.frequencies(length)
    q_scale = scheme.arrays(length, np.arange(length)).q_scale
    plans.append(
      oracle.OraclePlan(
        inv_freq, float(factor), np.float64(q_scale), scheme.window or 10**9
      )
    )
  return plans


def layers_seen(
  params: Params,
  config: ModelConfig,
  row: np.ndarray,
  monkeypatch: pytest.MonkeyPatch,
) -> list[tuple[np.ndarray, dict[str, np.ndarray], Any, np.ndarray]]:
  """Of every layer: its normed input, matrices, plan and attention output."""
  seen = []
  attend = oracle.attend

  def recording(h: Any, w: Any, plan: Any, *rest: Any) -> Any:
    seen.append((h, w, plan, attend(h, w, plan, *rest)))
    return seen[-1][-1]

  with monkeypatch.context() as patch:
    patch.setattr(oracle, 'attend', recording)
    oracle.decoder(params, config, row, plans_at(len(row)))
  return seen
