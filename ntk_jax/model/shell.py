"""The decoder as a Flax NNX module: parameters to hold, one call to make."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ntk_jax.errors import ConfigError
from ntk_jax.model.cache import Cache
from ntk_jax.model.config import ModelConfig
from ntk_jax.model.params import Params, init_params
from ntk_jax.model.transformer import forward
from ntk_jax.rope.spec import RopeSpec
from ntk_jax.scheme import Scheme, SchemeArrays
from ntk_jax.typing import Array, ArrayLike, Int, NDArray


class Transformer(nnx.Module):
  """A decoder and its parameters; the maths is `ntk_jax.model.forward`.

  Attributes:
    config: the model's shape.
    schemes: rope, temperature and window by their number in the layer plan.
    origin: the config.json that it was read from, as text; else empty.
    embed: as in `Params`, and so are the next three.
    layers: by name.
    final_norm: [D].
    unembed: [D, V], or None.

  >>> config = ModelConfig(vocab=5, dim=8, layers=2, heads=2, kv_heads=1)
  >>> model = Transformer(config, rngs=nnx.Rngs(0))
  >>> model(np.array([[1, 2, 3]])).shape
  (1, 3, 5)
  """

  def __init__(
    self,
    config: ModelConfig,
    *,
    rngs: nnx.Rngs,
    schemes: Sequence[Scheme] = (),
  ) -> None:
    """Draws parameters.

    Args:
      config: the model's shape, checked.
      rngs: whose `params` stream the parameters come from.
      schemes: one for each number in the layer plan; by default plain RoPE of
        `config.rope_theta` for all.

    Raises:
      ConfigError: for a wrong config, or a plan that names a missing scheme.
    """
    config.validate()
    self.config = config
    self.schemes = tuple(schemes) or default_schemes(config)
    self.origin = ''
    missing = max(config.plan) + 1 - len(self.schemes)
    if missing > 0:
      raise ConfigError(
        f'layer_plan names scheme {max(config.plan)}, there are '
        f'{len(self.schemes)}: give one for each number from 0'
      )
    self.hold(init_params(rngs.params(), config))

  @property
  def params(self) -> Params:
    """The parameters as the tree that pure functions take."""
    layers = {name: leaf[...] for name, leaf in self.layers.items()}
    last = None if self.unembed is None else self.unembed[...]
    return Params(self.embed[...], layers, self.final_norm[...], last)

  def hold(self, params: Params) -> None:
    """Takes parameters of the config's shapes in place of its own."""
    self.embed = nnx.Param(params.embed)
    self.layers = nnx.Dict(
      {name: nnx.Param(leaf) for name, leaf in params.layers.items()}
    )
    self.final_norm = nnx.Param(params.final_norm)
    last = params.unembed
    self.unembed = nnx.data(None if last is None else nnx.Param(last))

  def __call__(
    self,
    tokens: Int[Array | NDArray, 'B T'],
    *,
    positions: ArrayLike | None = None,
    segments: ArrayLike | None = None,
    length: int | NDArray | None = None,
    schemes: Scheme | Sequence[Scheme] | None = None,
    cache: Cache | None = None,
  ) -> Any:
    """Logits of the next token at every position.

    Args:
      tokens: ids in [0, V); checked where they are known.
      positions: int32 [T] or [B, T]; None is 0, 1, 2, ... after the cache.
      segments: int32 [B, T], the document of each token, 0 is padding.
      length: highest position + 1 that a sequence sees, an int or one per
        row; frequencies that depend on length need it.
      schemes: in place of the model's own.
      cache: of `empty_cache`, or as the last call gave it.

    Returns:
      Float32 logits [B, T, V]; with a cache, (logits, the cache after).

    Raises:
      ConfigError: for ids outside the vocabulary, or a missing length.
    """
    check_tokens(tokens, self.config.vocab)
    if isinstance(schemes, Scheme):
      schemes = (schemes,)
    chosen = self.schemes if schemes is None else tuple(schemes)
    if positions is None and cache is not None:
      positions = cache.used + jnp.arange(tokens.shape[1])
    arrays = scheme_arrays(chosen, length, tokens.shape[1], positions)
    return _forward(
      self.params,
      self.config,
      jnp.asarray(tokens, jnp.int32),
      positions,
      segments,
      arrays,
      cache=cache,
    )


# Compiled once for a config and a shape, whatever the schemes.
_forward = jax.jit(forward, static_argnums=1)


def default_schemes(config: ModelConfig) -> tuple[Scheme, ...]:
  """Plain RoPE for every number of the layer plan."""
  spec = RopeSpec('default', config.head_dim, theta=config.rope_theta)
  return (Scheme(spec),) * (max(config.plan) + 1)


def scheme_arrays(
  schemes: Sequence[Scheme],
  length: int | NDArray | None,
  tokens: int,
  positions: ArrayLike | None = None,
) -> tuple[SchemeArrays, ...]:
  """What `forward` takes, of the schemes of a model.

  Raises:
    ConfigError: if frequencies depend on a length that is not given.
  """
  places: Any = np.arange(tokens) if positions is None else positions
  for scheme in schemes:
    if length is None and scheme.per_length:
      raise ConfigError(
        f'length is None, and the frequencies of {scheme.spec.method!r} depend '
        'on it: give the highest position + 1 that a sequence sees'
      )
  return tuple(scheme.arrays(length, places) for scheme in schemes)


def check_tokens(tokens: Any, vocab: int) -> None:
  """Raises ConfigError for tokens that are not ids of the vocabulary."""
  dtype = getattr(tokens, 'dtype', None)
  if dtype is None or not jnp.issubdtype(dtype, jnp.integer):
    raise ConfigError(f'tokens are {dtype or type(tokens)}: give int ids')
  if len(tokens.shape) != 2:
    raise ConfigError(f'tokens have shape {tokens.shape}: give [B, T]')
  if isinstance(tokens, jax.core.Tracer) or 0 in tokens.shape:
    return
  low, high = int(tokens.min()), int(tokens.max())
  if low < 0 or high >= vocab:
    wrong = low if low < 0 else high
    raise ConfigError(
      f'token id {wrong} is outside the vocabulary: ids are 0 to {vocab - 1}; '
      'does the tokenizer belong to this model?'
    )


def with_params(
  config: ModelConfig, params: Params, schemes: Sequence[Scheme] = ()
) -> Transformer:
  """A module around parameters that exist already."""
  model = nnx.eval_shape(
    lambda: Transformer(config, rngs=nnx.Rngs(0), schemes=schemes)
  )
  model.hold(params)
  return model
