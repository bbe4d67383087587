"""Small decoders made in a test, of every shape that a family has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ntk_jax.model import ModelConfig, Transformer
from ntk_jax.rope.spec import RopeSpec
from ntk_jax.scheme import Scheme

ORIGINAL = 32
SHAPE: dict[str, Any] = {
  'vocab': 40,
  'dim': 32,
  'layers': 2,
  'heads': 4,
  'kv_heads': 2,
  'head_dim': 8,
  'mlp_dim': 24,
  'tied': False,
  'scale_embed': False,
}
GEMMA3: dict[str, Any] = {
  'norm_offset': True,
  'post_norms': True,
  'qk_norm': True,
  'scale_embed': True,
  'tied': True,
  'activation': 'gelu',
}
GEMMA2 = GEMMA3 | {
  'qk_norm': False,
  'attention_scale': 24**-0.5,
  'attention_soft_cap': 5.0,
  'logit_soft_cap': 8.0,
}
QWEN3: dict[str, Any] = {'qk_norm': True}


def spec(method: str = 'default', **settings: Any) -> RopeSpec:
  """Of an original length of 32, scaled 4 times where it scales."""
  given: dict[str, Any] = {
    'original_length': ORIGINAL,
    'factor': 4.0,
    **settings,
  }
  if method == 'default':
    given['factor'] = None
  return RopeSpec(method, 8, **given)


def rope(method: str = 'default', window: int | None = None, **settings: Any):
  """A scheme without temperature."""
  return Scheme(spec(method, **settings), window=window)


def shape(**fields: Any) -> ModelConfig:
  """The small shape with other fields."""
  return ModelConfig(**{**SHAPE, **fields})


def made(
  schemes: Sequence[Scheme] = (), dtype: Any = jnp.float32, **fields: Any
) -> Transformer:
  """A decoder whose norms and biases are random too."""
  model = Transformer(shape(**fields), rngs=nnx.Rngs(1), schemes=schemes)

  def shaken(path: Any, x: jax.Array) -> jax.Array:
    noise = jax.random.normal(jax.random.key(len(str(path))), x.shape)
    return (x + 0.1 * noise).astype(dtype)

  model.hold(jax.tree_util.tree_map_with_path(shaken, model.params))
  return model


def tokens(length: int = 24) -> np.ndarray:
  """One row of ids."""
  return np.random.default_rng(0).integers(0, 40, (1, length), np.int32)
