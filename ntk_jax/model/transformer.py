"""A pre-norm decoder as one pure function of (parameters, tokens, schemes)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ntk_jax.model.block import Layer, Plan, Rows, Slots, block
from ntk_jax.model.cache import Cache
from ntk_jax.model.config import ModelConfig
from ntk_jax.model.layers import rms_norm
from ntk_jax.model.params import Params
from ntk_jax.model.plan import segments as plan_segments
from ntk_jax.model.remat import rematerialised
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
  """

  window: ArrayLike | None = None
  kv_keep: ArrayLike | None = None
  kept: ArrayLike | None = None
  plan: ArrayLike | None = None


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
  x = embedded(params, config, jnp.asarray(tokens), axes)
  if cache is not None:
    cache, positions, segments = cache.extended(shape, positions, segments)
  rows = Rows(positions, segments, told.kv_keep)
  plans = plans_of(schemes, tokens.shape[1], positions, told.plan)
  layers = _Stack(params.layers, config, axes, told.window)
  if told.kept is None:
    x, cache = layers.run(x, (0, config.layers), plans, rows, cache)
  else:
    x = _skipping(layers, x, plans, rows, jnp.asarray(told.kept), shape)
  x = rms_norm(x, params.final_norm, config.norm_eps, config.norm_offset)
  return axes.gather(x, 'tensor', 0), cache


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


class _Stack:
  """The layers, run by segments of their plan: one scan for each."""

  def __init__(
    self,
    layers: Layer,
    config: ModelConfig,
    axes: Axes,
    windows: ArrayLike | None,
  ) -> None:
    self.layers, self.config, self.axes = layers, config, axes
    self.windows = None if windows is None else jnp.asarray(windows)

  def run(
    self,
    x: Array,
    span: tuple[int, int],
    plans: Sequence[Plan],
    rows: Rows,
    cache: Cache | None = None,
  ) -> tuple[Array, Cache | None]:
    """Layers from span[0] to before span[1]."""
    first, last = span
    keys, values = [], []
    for part in plan_segments(self.config.plan[first:last]):
      at = slice(first + part.start, first + part.stop)
      shape = part.repeats, len(part.pattern)
      inputs = self.layers, self.windows, None if cache is None else cache.kv
      inputs = jax.tree.map(
        lambda a, at=at, shape=shape: a[at].reshape(*shape, *a.shape[1:]),
        inputs,
      )

      def step(x: Array, inputs: Any, pattern: Any = part.pattern) -> Any:
        return self._pattern(x, inputs, pattern, plans, rows, cache)

      x, kv = jax.lax.scan(step, x, inputs)
      if cache is not None:
        k, v = (a.reshape(-1, *a.shape[2:]) for a in kv)
        keys.append(k)
        values.append(v)
    if cache is not None:
      cache = cache.holding(jnp.concatenate(keys), jnp.concatenate(values))
    return x, cache

  def _pattern(
    self,
    x: Array,
    inputs: Any,
    pattern: Sequence[int],
    plans: Sequence[Plan],
    rows: Rows,
    cache: Cache | None,
  ) -> Any:
    """The layers of one pattern, in turn."""
    config, axes = self.config, self.axes
    gathers = axes.size('fsdp') > 1
    new = []
    for i, number in enumerate(pattern):
      layer, window, kv = jax.tree.map(lambda a, i=i: a[i], inputs)
      plan = plans[number]
      if window is not None:
        plan = plan._replace(window=jnp.minimum(plan.window, window))
      slots = None if cache is None else cache.slots(kv, plan.cos.shape[-2])

      def one(x: Array, layer: Layer, plan: Plan, slots: Slots | None) -> Any:
        return block(x, layer, plan, rows, slots, config, axes)

      run = rematerialised(one, config.remat, gathers)
      x, slots = run(x, layer, plan, slots)
      if slots is not None:
        new.append((slots.k_BSKH, slots.v_BSKH))
    return x, tuple(jnp.stack(a) for a in zip(*new)) if new else None


def _skipping(
  layers: _Stack,
  x: Array,
  plans: Sequence[Plan],
  rows: Rows,
  kept: Array,
  shape: tuple[int, int],
) -> Array:
  """All tokens through the first and last layer, the kept ones between.

  Kept tokens keep their positions, segments and temperatures.
  """
  axes, (B, T), count = layers.axes, shape, layers.config.layers
  x, _ = layers.run(x, (0, 1), plans, rows)

  def few(a: Any) -> Any:
    if a is None:
      return None
    a = jnp.broadcast_to(a, (B, T)) if jnp.ndim(a) < 2 else jnp.asarray(a)
    return jnp.take_along_axis(a, kept, axis=1)

  def few_angles(a: Array) -> Array:
    a = jnp.broadcast_to(a, (B, *a.shape[-2:]))
    return jnp.take_along_axis(a, kept[..., None], axis=1)

  positions = jnp.arange(T) if rows.positions is None else rows.positions
  some = Rows(few(positions), few(rows.segments), few(rows.kv_keep))
  thinned = [
    Plan(few_angles(p.cos), few_angles(p.sin), few(p.q_scale), p.window)
    for p in plans
  ]
  place = (jnp.arange(B)[:, None] * T + kept).reshape(-1)
  whole = axes.gather(x, 'tensor', 0)
  middle = _own_part(whole[place], axes)
  middle, _ = layers.run(middle, (1, count - 1), thinned, some)
  whole = whole.at[place].set(axes.gather(middle, 'tensor', 0))
  x, _ = layers.run(_own_part(whole, axes), (count - 1, count), plans, rows)
  return x


def _own_part(x: Array, axes: Axes) -> Array:
  """Of tokens that every device of the tensor axis has, this one's."""
  size = x.shape[0] // axes.size('tensor')
  return jax.lax.dynamic_slice_in_dim(x, axes.index('tensor') * size, size)
