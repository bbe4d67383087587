"""A decoder as a config.json that transformers 4 and 5 both read rightly."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ntk_jax.interop.architectures import (
  ACTIVATIONS,
  FULL,
  SLIDING,
  SOFT_CAPS,
  architecture,
)
from ntk_jax.interop.choice import caps, choose, routes, slides
from ntk_jax.interop.config_file import parse
from ntk_jax.interop.families import Family
from ntk_jax.interop.fold import Folds, near_one
from ntk_jax.interop.rope_fields import MAX, rope_fields
from ntk_jax.interop.settled import Settled, settled
from ntk_jax.model.config import ModelConfig
from ntk_jax.scheme import Scheme
from ntk_jax.temperature import divisor

# Keys of an origin that are written anew, or not at all: what they said is in
# the model, or names code that is not there.
_OURS = (
  'partial_rotary_factor',
  'original_max_position_embeddings',
  'sliding_window',
  'sliding_window_pattern',
  'use_sliding_window',
  'max_window_layers',
  'layer_types',
  'layer_rope_theta',
  'no_rope_layers',
  'no_rope_layer_interval',
  'dtype',
  'torch_dtype',
  'auto_map',
  'quantization_config',
)
# What another family than the origin's may keep of it; its class may have
# token ids of its own by default, so null where nothing tells.
_TOKENS = ('bos_token_id', 'eos_token_id', 'pad_token_id')
_ANYWHERE = ('initializer_range', 'attention_dropout', 'use_cache')


class Written(NamedTuple):
  """A decoder as it is written.

  Attributes:
    family: its row.
    config: the config.json.
    model: its shape in the file: what is folded is gone from it.
    folds: what is folded into the weights.
    length: tokens that it is meant for.
  """

  family: Family
  config: dict[str, Any]
  model: ModelConfig
  folds: Folds
  length: int


def written(
  model: ModelConfig,
  schemes: Sequence[Scheme],
  *,
  origin: str = '',
  dtype: str = 'float32',
  freeze_length: int | None = None,
) -> Written:
  """The config.json of a decoder, and what to fold into its weights.

  Args:
    model: its shape.
    schemes: by their number in the layer plan.
    origin: the config.json that it was read from, as text. Its family is
      kept if it expresses the model, and so are its keys that say nothing of
      shape, rope or windows.
    dtype: of the weights.
    freeze_length: see `ntk_jax.interop.settled.settled`.

  Raises:
    ConfigError: naming what no family, or no file of settings, expresses.

  Source: the configuration classes of transformers 5.23 and 4.57.

  >>> from ntk_jax.rope.spec import RopeSpec
  >>> spec = RopeSpec('linear', 32, factor=8.0, original_length=2048)
  >>> found = written(ModelConfig(vocab=9), [Scheme(spec)])
  >>> found.config['rope_scaling'], found.config['max_position_embeddings']
  ({'rope_type': 'linear', 'factor': 8.0}, 2048)
  """
  numbered = [settled(scheme, freeze_length) for scheme in schemes]
  layers = [numbered[number] for number in model.plan]
  before = parse(origin) if origin else {}
  family = choose(model, layers, before.get('model_type'))
  told = _told(before, layers)
  rope, by_channel = rope_fields(family, layers, told)
  scalar, queries = _queries(family, model, layers)
  embed = _embed(family, model)
  length = told or _length(layers, before, family)
  shape = _replaced(model, family, scalar, embed)
  config = {
    **_kept(before, family),
    **_shape(shape, family),
    **_windows(layers, family),
    **({'query_pre_attn_scalar': scalar} if caps(family) else {}),
    MAX: length,
    **{key: value for key, value in rope.items() if value is not None},
    'rope_scaling': rope['rope_scaling'],
    'architectures': [family.architecture],
    'model_type': family.name,
    'dtype': dtype,
    'torch_dtype': dtype,
  }
  folds = Folds(queries[:, None] * by_channel, embed)
  return Written(family, config, shape, folds, length)


def _queries(
  family: Family, model: ModelConfig, layers: Sequence[Settled]
) -> tuple[int, Any]:
  """Gemma's scalar, and each layer's multiplier of q beside the class's own."""
  wanted = model.scale * np.array([layer.temperature for layer in layers])
  scalar = model.head_dim
  if caps(family):
    scalar = max(1, round(wanted[0] ** -2)) if wanted[0] else scalar
    own = scalar**-0.5
  else:
    own = 1 / divisor(model.head_dim)
  return scalar, np.array([near_one(float(x)) for x in wanted / own])


def _embed(family: Family, model: ModelConfig) -> float:
  """What the embedding is multiplied by beside the class's own."""
  here, there = model.scale_embed, family.fixed.get('scale_embed', False)
  return math.sqrt(model.dim) ** (int(here) - int(there))


def _replaced(
  model: ModelConfig, family: Family, scalar: int, embed: float
) -> ModelConfig:
  """The shape as the file says it."""
  return dataclasses.replace(
    model,
    divisor='sqrt',
    attention_scale=scalar**-0.5 if caps(family) else None,
    scale_embed=family.fixed.get('scale_embed', False),
    tied=model.tied and embed == 1,
  )


def _kept(before: dict[str, Any], family: Family) -> dict[str, Any]:
  """Keys of the origin that stay as they are."""
  if before.get('model_type') != family.name:
    kept = {key: before[key] for key in _ANYWHERE if key in before}
    return kept | {key: before.get(key) for key in _TOKENS}
  return {
    key: value
    for key, value in before.items()
    if key not in _OURS and not key.startswith('rope_')
  }


def _shape(model: ModelConfig, family: Family) -> dict[str, Any]:
  named = {name: key for key, name in reversed(ACTIVATIONS.items())}
  found = {
    'vocab_size': model.vocab,
    'hidden_size': model.dim,
    'intermediate_size': model.mlp_dim,
    'num_hidden_layers': model.layers,
    'num_attention_heads': model.heads,
    'num_key_value_heads': model.kv_heads,
    'head_dim': model.head_dim,
    'rms_norm_eps': model.norm_eps,
    'tie_word_embeddings': model.tied,
    family.activation: named[model.activation],
  }
  found |= {k: getattr(model, fields[0]) for k, fields in family.biases.items()}
  found |= {
    key: getattr(model, field)
    for field, key in SOFT_CAPS.items()
    if key in family.defaults
  }
  if routes(family):
    found |= {
      'num_local_experts': model.experts,
      'num_experts_per_tok': model.experts_per_token,
    }
  return found


def _windows(layers: Sequence[Settled], family: Family) -> dict[str, Any]:
  """The window, and which layers have it in every spelling of the class."""
  if not slides(family):
    return {}
  windows = [layer.window for layer in layers]
  window = next((w for w in windows if w is not None), None)
  found: dict[str, Any] = {'sliding_window': window}
  if caps(family) and window is None:  # its classes ask for a number
    found['sliding_window'] = family.defaults['sliding_window']
  if not family.typed:
    return found
  found['layer_types'] = [FULL if w is None else SLIDING for w in windows]
  if 'max_window_layers' in family.defaults:
    first = windows.index(window) if window is not None else len(windows)
    found |= {
      'use_sliding_window': window is not None,
      'max_window_layers': first,
    }
  if 'sliding_window_pattern' in family.defaults:
    found |= _pattern(windows)
  return found


def _pattern(windows: list[int | None]) -> dict[str, int]:
  """Every k-th layer sees all: the spelling before layer types."""
  slide = [w is not None for w in windows]
  every = slide.index(False) + 1 if False in slide else len(slide) + 1
  pattern = [bool((i + 1) % every) for i in range(len(slide))]
  return {'sliding_window_pattern': every} if pattern == slide else {}


def _told(before: dict[str, Any], layers: Sequence[Settled]) -> int | None:
  """The length of an origin whose rope is still the model's."""
  if not before:
    return None
  found = architecture(before)
  specs = [found.schemes[number].spec for number in found.model.plan]
  return found.length if specs == [layer.spec for layer in layers] else None


def _length(
  layers: Sequence[Settled], before: dict[str, Any], family: Family
) -> int:
  """Tokens: as the schemes say, else the origin, else the family's class."""
  known = [layer.length for layer in layers if layer.length is not None]
  if known:
    return max(known)
  given = before.get(MAX)
  return family.defaults[MAX] if given is None else given
