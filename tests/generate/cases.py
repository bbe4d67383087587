"""A tiny model, prompts of three lengths, and logits without a cache."""

from __future__ import annotations

from typing import Any

import numpy as np
from flax import nnx

from ntk_jax.generate.step import read, write
from ntk_jax.model import ModelConfig, Transformer
from ntk_jax.rope.spec import RopeSpec
from ntk_jax.scheme import Scheme
from ntk_jax.temperature.table import Temperature

VOCAB, NEW = 29, 14
CONFIG = ModelConfig(
  vocab=VOCAB,
  dim=16,
  layers=3,
  heads=4,
  kv_heads=2,
  head_dim=8,
  mlp_dim=24,
  layer_plan=(0, 1, 0),
)
_RNG = np.random.default_rng(0)
PROMPT = _RNG.integers(0, VOCAB, (3, 20)).astype(np.int32)
LENGTHS = np.array([20, 13, 7])
MASK = np.arange(20) >= 20 - LENGTHS[:, None]
FORCED = _RNG.integers(0, VOCAB, (3, NEW)).astype(np.int32)


def spec(method: str, **fields: Any) -> RopeSpec:
  return RopeSpec(method, 8, **fields)


PLAIN = Scheme(spec('default'))
LOGN = Temperature('logn', length=8)
LONG = {'short_factor': (1.0,) * 4, 'long_factor': (1.0, 2.0, 3.0, 4.0)}
# Of both numbers in the plan. Rows reach 24 tokens at steps 5, 12 and never.
SCHEMES: dict[str, tuple[Scheme, Scheme]] = {
  'default': (PLAIN, PLAIN),
  'linear': (Scheme(spec('linear', factor=4.0)), PLAIN),
  'yarn': (Scheme(spec('yarn', factor=4.0, original_length=16)), PLAIN),
  'logn': (Scheme(spec('default'), LOGN), PLAIN),
  'nope': (
    PLAIN,
    Scheme(spec('proportional', partial_rotary_factor=0.0), LOGN),
  ),
  'dynamic': (
    Scheme(spec('dynamic', factor=2.0, original_length=24)),
    PLAIN,
  ),
  'longrope': (
    Scheme(spec('longrope', factor=2.0, original_length=24, options=LONG)),
    Scheme(spec('dynamic_yarn', original_length=24, factor=2.0), LOGN),
  ),
}
WINDOWS: dict[str, tuple[Scheme, Scheme]] = {
  'windows': (
    Scheme(spec('default'), window=5),
    Scheme(spec('linear', factor=2.0), window=3),
  ),
  'local and global': (
    Scheme(spec('default'), window=5),
    Scheme(spec('dynamic', factor=2.0, original_length=24)),
  ),
}


def model_of(schemes: tuple[Scheme, ...]) -> Transformer:
  return Transformer(CONFIG, rngs=nnx.Rngs(0), schemes=schemes)


def compiled() -> list[int]:
  """How many executables there are of reading and of writing."""
  programs: list[Any] = [read, write]
  return [program._cache_size() for program in programs]


def full_logits(
  model: Transformer, row: np.ndarray, length: int, new: int
) -> np.ndarray:
  """Logits after length, length + 1, ... tokens, each of a forward of its own.

  Args:
    model: without a cache.
    row: prompt and new tokens; later ones are not seen by earlier ones.
    length: of the prompt.
    new: how many.
  """
  lengths = length + np.arange(new)
  logits = model(np.repeat(row[None], new, axis=0), length=lengths)
  return np.asarray(logits)[np.arange(new), lengths - 1]
