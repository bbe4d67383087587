"""A pre-norm decoder as one pure function of (parameters, tokens, schemes)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp

from ntk_jax.errors import ConfigError
from ntk_jax.model.block import Plan, Rows
from ntk_jax.model.cache import Cache
from ntk_jax.model.config import ModelConfig
from ntk_jax.model.layers import rms_norm
from ntk_jax.model.params import Params
from ntk_jax.model.stack import Stack, skipping
from ntk_jax.rope.phase import cos_sin
from ntk_jax.scheme import SchemeArrays
from ntk_jax.sharding import Axes
from ntk_jax.typing import Array, ArrayLike, Float, Float32, Int32, NDArray

Tokens = Int32[Array | NDArray, 'B T']
Schemes = SchemeArrays | Sequence[SchemeArrays]


class Controls(NamedTuple):
  """What a forward pass may be told at run time, without another compile.

  Attributes:
    window: int32 [L], a window per layer; the narrower of it and the scheme's
      holds.
    kv_keep: bool [B, T]; a key that is not kept is seen by its own query only.
    kept: int32 [B, kept], rising places of the tokens that the layers between
      the first and the last see; the others skip them (random-LTD).
    plan: int32 [B, T], for each token the number of its rope among the
      alternatives that every scheme then holds along its first dim: phases
      [A, P, 2], attention_factor [A], q_scale [A, *B, T].
    near: int32 scalar; the loss of targets at positions below it is recorded
      by itself. The forward pass has no use for it.
    emphasis: float32 [B, T], factors of the losses of text targets, 0 or more;
      the objective scales them to mean 1.
    long_ce: bool scalar, whether an objective that has LongCE weighs by it;
      None is yes. Where it is False the second pass does not run.
  """

  window: ArrayLike | None = None
  kv_keep: ArrayLike | None = None
  kept: ArrayLike | None = None
  plan: ArrayLike | None = None
  near: ArrayLike | None = None
  emphasis: ArrayLike | None = None
  long_ce: ArrayLike | None = None


def forward(
  params: Params,
  config: ModelConfig,
  tokens: Tokens,
  positions: ArrayLike | None,
  segments: ArrayLike | None,
  schemes: Schemes,
  axes: Axes = Axes(),  # noqa: B008 (frozen)
  cache: Cache | None = None,
  controls: Controls | None = None,
) -> Any:
  """Logits of the next token at every position.

  Args:
    params: as `init_params` makes them; local shards under a mesh.
    config: the model's shape (static).
    tokens: ids; the caller keeps them in [0, V).
    positions: int32 [T] or [B, T], within each document where rows hold
      several; None is 0, 1, 2, ... (after what a cache holds).
    segments: int32 [B, T], the document of each token, 0 is padding; None is
      one document a row.
    schemes: arrays of `Scheme.arrays`, one for each number in the layer plan;
      one alone stands for a plan of zeros.
    axes: mesh axes that the caller is manual over.
    cache: what earlier calls have seen, or None.
    controls: choices of run time, or None.

  Returns:
    Float32 logits [B, T, V]; with a cache, (logits, the cache after).

  Raises:
    ConfigError: positions or segments of another shape, a missing scheme,
      no tokens, a cache too short for them; kept tokens with a cache, or with
      less than two layers.

  >>> import jax
  >>> import numpy as np
  >>> from ntk_jax.model.params import init_params
  >>> from ntk_jax.rope.spec import RopeSpec
  >>> from ntk_jax.scheme import Scheme
  >>> config = ModelConfig(vocab=5, dim=8, layers=2, heads=2, kv_heads=1)
  >>> params = init_params(jax.random.key(0), config)
  >>> scheme = Scheme(RopeSpec('default', 32)).arrays(3, np.arange(3))
  >>> forward(params, config, np.zeros((1, 3), int), None, None, scheme).shape
  (1, 3, 5)
  """
  x, after = hidden_states(
    params, config, tokens, positions, segments, schemes, axes, cache, controls
  )
  logits_BTV = output_logits(params, config, x, axes).reshape(
    *tokens.shape, config.vocab
  )
  return logits_BTV if cache is None else (logits_BTV, after)


def hidden_states(
  params: Params,
  config: ModelConfig,
  tokens: Tokens,
  positions: ArrayLike | None,
  segments: ArrayLike | None,
  schemes: Schemes,
  axes: Axes = Axes(),  # noqa: B008 (frozen)
  cache: Cache | None = None,
  controls: Controls | None = None,
) -> tuple[Float[Array, 'tokens D'], Cache | None]:
  """What the output matrix multiplies: `forward` without its last step.

  Returns:
    Normed hidden states of all local tokens, flat, in the compute dtype, and
    the cache after.
  """
  told, shape = controls or Controls(), (tokens.shape[0], tokens.shape[1])
  if isinstance(schemes, SchemeArrays):
    schemes = (schemes,)
  _check(config, shape, positions, segments, schemes, cache)
  x = embedded(params, config, jnp.asarray(tokens), axes)
  if cache is not None:
    cache, positions, segments = cache.extended(shape, positions, segments)
  rows = Rows(positions, segments, told.kv_keep)
  plans = plans_of(schemes, tokens.shape[1], positions, told.plan)
  layers = Stack(params.layers, config, axes, told.window)
  if told.kept is not None and (config.layers < 2 or cache is not None):
    raise ConfigError(
      f'kept tokens with {config.layers} layers'
      f'{" and a cache" if cache is not None else ""}: it takes a first and a '
      'last layer that see all tokens, and no cache'
    )
  if cache is not None:
    x, cache = layers.run_cached(x, plans, rows, cache)
  elif told.kept is None:
    x = layers.run(x, (0, config.layers), plans, rows)
  else:
    x = skipping(layers, x, plans, rows, jnp.asarray(told.kept), shape)
  x = rms_norm(x, params.final_norm, config.norm_eps, config.norm_offset)
  return axes.gather(x, 'tensor', 0), cache


def _check(
  config: ModelConfig,
  shape: tuple[int, int],
  positions: ArrayLike | None,
  segments: ArrayLike | None,
  schemes: Sequence[SchemeArrays],
  cache: Cache | None,
) -> None:
  """Raises ConfigError for arguments that do not belong together."""
  B, T = shape
  for name, x in (('positions', positions), ('segments', segments)):
    if x is not None and jnp.shape(x) not in ((T,), (1, T), (B, T)):
      raise ConfigError(
        f'{name} have shape {jnp.shape(x)} for tokens {shape}: give [T] or '
        '[B, T]'
      )
  if 0 in shape:
    raise ConfigError(f'tokens have shape {shape}: there is nothing to read')
  if max(config.plan) >= len(schemes):
    raise ConfigError(
      f'the layer plan names scheme {max(config.plan)}, {len(schemes)} are '
      'given: one for each number from 0'
    )
  if cache is not None:
    cache.check(T, [scheme.window for scheme in schemes])


def output_logits(
  params: Params,
  config: ModelConfig,
  x: Float[Array, 'tokens D'],
  axes: Axes = Axes(),  # noqa: B008 (frozen)
) -> Float32[Array, 'tokens V']:
  """Float32 logits of normed hidden states, soft-capped if so configured."""
  matrix = axes.gather(unembedding(params, config), 'fsdp', 0)
  logits = jnp.dot(x, matrix, preferred_element_type=jnp.float32)
  if config.logit_soft_cap is not None:
    logits = config.logit_soft_cap * jnp.tanh(logits / config.logit_soft_cap)
  return axes.gather(logits, 'tensor', 1)


def unembedding(params: Params, config: ModelConfig) -> Float[Array, 'D V']:
  """The output matrix in the compute dtype, as it is sharded."""
  matrix = params.embed.T if params.unembed is None else params.unembed
  return matrix.astype(config.precision.compute)


def embedded(
  params: Params,
  config: ModelConfig,
  tokens: Array,
  axes: Axes = Axes(),  # noqa: B008 (frozen)
) -> Array:
  """Embeddings of this device's part of the tokens, flat [B*T / tensor, D]."""
  embed = axes.gather(params.embed.astype(config.precision.compute), 'fsdp', 1)
  ids = tokens.reshape(-1)
  if axes.size('tensor') > 1:  # each device holds some rows of the matrix
    ids = ids - axes.index('tensor') * embed.shape[0]
    known = (ids >= 0) & (ids < embed.shape[0])
    x = jnp.where(known[:, None], embed[jnp.where(known, ids, 0)], 0)
    x = axes.scatter(x, 'tensor', 0)
  else:
    x = embed[ids]
  return x * config.dim**0.5 if config.scale_embed else x


def plans_of(
  schemes: Sequence[SchemeArrays],
  length: int,
  positions: ArrayLike | None,
  choice: ArrayLike | None = None,
) -> list[Plan]:
  """The rotation and temperature of each scheme, once for all its layers.

  Args:
    schemes: arrays of the layer plan's schemes.
    length: tokens of a row.
    positions: int32 [T] or [B, T]; None is 0, 1, 2, ...
    choice: as `Controls.plan`, or None.
  """
  places = jnp.arange(length) if positions is None else positions
  plans = []
  for scheme in schemes:
    phases, factor = scheme.phases, scheme.attention_factor
    q_scale = jnp.asarray(scheme.q_scale)
    if choice is not None:  # one set of frequencies per token
      phases, factor = (jnp.asarray(a)[choice] for a in (phases, factor))
      q_scale = _chosen(q_scale, jnp.asarray(choice))
    elif phases.ndim == 3:  # one per row, for all its tokens
      phases, factor = phases[:, None], factor[:, None]
    cos, sin = cos_sin(places, phases, attention_factor=factor)
    plans.append(Plan(cos, sin, q_scale, jnp.asarray(scheme.window)))
  return plans


def _chosen(scales_ABT: Array, choice_BT: Array) -> Array:
  """For each token the temperature of its alternative."""
  if scales_ABT.ndim == 2:
    scales_ABT = scales_ABT[:, None]
  scales_ABT = jnp.broadcast_to(
    scales_ABT, (scales_ABT.shape[0], *choice_BT.shape)
  )
  return jnp.take_along_axis(scales_ABT, choice_BT[None], axis=0)[0]
