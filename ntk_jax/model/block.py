"""One block of the decoder: attention, then gated MLPs, on flat tokens.

The residual stream of a device is a part of its rows' tokens: the tensor axis
splits tokens between the matrices and heads or hidden channels inside them.
Before a pair of matrices the stream is gathered, after it scattered.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ntk_jax.attention.api import attention
from ntk_jax.mask import Mask
from ntk_jax.model.cache import write
from ntk_jax.model.config import ModelConfig
from ntk_jax.model.experts import experts, route
from ntk_jax.model.layers import dense, gated, rms_norm
from ntk_jax.model.remat import name
from ntk_jax.model.tiles import by_tiles
from ntk_jax.rope.rotate import apply_rope
from ntk_jax.sharding import Axes, splits_kv
from ntk_jax.typing import Array, ArrayLike

Layer = dict[str, Array]
ADAPTED = ('q', 'k', 'v', 'out')  # matrices that may have an adapter


def adapter_names(key: str) -> tuple[str, str]:
  """The names of the two factors that a layer adds to a matrix."""
  return f'{key}_lora_a', f'{key}_lora_b'


class Plan(NamedTuple):
  """What one scheme does to the tokens of this forward pass.

  Attributes:
    cos: float32 [*B, T, P], attention factor included.
    sin: the same.
    q_scale: float32 multipliers of q, [T] or [B, T].
    window: int32 scalar, keys that a query sees.
  """

  cos: Array
  sin: Array
  q_scale: Array
  window: Array


class Rows(NamedTuple):
  """Positions and segments that masks compare; None where they are plain."""

  positions: ArrayLike | None = None
  segments: ArrayLike | None = None
  kv_keep: ArrayLike | None = None


class Slots(NamedTuple):
  """A layer's cache: keys and values so far, and the first new column."""

  k_BKSH: Array
  v_BKSH: Array
  positions: Array
  segments: Array
  column: Array


class Weights:
  """The matrices of a layer as a device multiplies by them."""

  def __init__(self, layer: Layer, config: ModelConfig, axes: Axes) -> None:
    """Holds what `matrix` needs."""
    self.layer, self.config, self.axes = layer, config, axes

  def matrix(self, key: str, dtype: str | None = None) -> Array:
    """A matrix, or one per expert, its residual dim gathered.

    Args:
      key: its name.
      dtype: None is the compute dtype.
    """
    dim = -1 if key in ('out', 'down') else -2
    local = self._own_head(key, self.layer[key])
    local = local.astype(dtype or self.config.precision.compute)
    if self.axes.size('fsdp') == 1:  # named, it would be kept as a copy
      return local
    return name(self.axes.gather(local, 'fsdp', dim), 'weights')

  def project(self, x: Array, key: str) -> Array:
    """`x W + b` of a matrix whose columns are split over tensor."""
    bias = self.layer.get(f'{key}_bias')
    if bias is not None:
      bias = self._own_head(key, bias)
    return self._times(x, key, bias)

  def add(self, x: Array, key: str) -> Array:
    """`x W + b` of a matrix whose rows are split: summed, tokens split."""
    return self.summed(self._times(x, key), key)

  def summed(self, y: Array, key: str) -> Array:
    """The sum over tensor of what each device adds, tokens split, + b."""
    y = self.axes.scatter(y, 'tensor', 0)
    bias = self.layer.get(f'{key}_bias')
    return y if bias is None else y + bias.astype(y.dtype)

  def norm(self, x: Array, key: str) -> Array:
    """The RMS norm of that name."""
    config = self.config
    return rms_norm(x, self.layer[key], config.norm_eps, config.norm_offset)

  def _times(self, x: Array, key: str, bias: Array | None = None) -> Array:
    """`x W + b`, and `x A B` where the matrix has an adapter."""
    y = dense(x, self.matrix(key), bias)
    a, b = adapter_names(key)
    if a not in self.layer:
      return y
    down, up = self.layer[a], self._own_head(key, self.layer[b])
    if key == 'out':
      up = self.axes.gather(up, 'fsdp', 1)
    else:
      down = self.axes.gather(down, 'fsdp', 0)
    return y + dense(dense(x, down), up)

  def _own_head(self, key: str, x: Array) -> Array:
    """Of k or v held by all devices, the head that this one's queries share."""
    heads, tensor = self.config.kv_heads, self.axes.size('tensor')
    if key not in ('k', 'v') or splits_kv(heads, tensor):
      return x
    size = x.shape[-1] // heads
    mine = self.axes.index('tensor') * heads // tensor
    return jax.lax.dynamic_slice_in_dim(x, mine * size, size, x.ndim - 1)


def block(
  x: Array,
  layer: Layer,
  plan: Plan,
  rows: Rows,
  slots: Slots | None,
  config: ModelConfig,
  axes: Axes,
) -> tuple[Array, Slots | None]:
  """`x + attention(norm(x))`, then `x + mlp(norm(x))`.

  Args:
    x: the residual stream [B*T / tensor, D].
    layer: this layer's parameters, local shards.
    plan: rope, temperature and window.
    rows: what the mask compares.
    slots: the layer's cache, or None.
    config: the model's shape.
    axes: the mesh axes that are manual.

  Returns:
    The stream after the block, and the cache with its new keys.
  """
  weights = Weights(layer, config, axes)
  x = name(x, 'layer_input')
  h = axes.gather(weights.norm(x, 'attention_norm'), 'tensor', 0)
  out, slots = _attend(h, weights, plan, rows, slots)
  x = x + _normed(weights.add(out, 'out'), weights, 'attention_post_norm')
  h = axes.gather(weights.norm(x, 'mlp_norm'), 'tensor', 0)
  mlp = _experts if config.experts else _mlp
  x = x + _normed(mlp(h, weights), weights, 'mlp_post_norm')
  return x, slots


def _mlp(h: Array, weights: Weights) -> Array:
  """The gated MLP of all tokens; no matrix of it has an adapter."""
  keys = ('gate', 'up', 'down')
  operands = {key: weights.matrix(key) for key in keys}
  for key in ('gate_bias', 'up_bias'):
    if key in weights.layer:
      operands[key] = weights.layer[key]
  one = functools.partial(_gated_mlp, weights.config.activation)
  return weights.summed(_tiled(one, h, operands, weights.config), 'down')


def _gated_mlp(activation: str, h: Array, operands: Layer) -> Array:
  gate, up = (
    dense(h, operands[key], operands.get(f'{key}_bias'))
    for key in ('gate', 'up')
  )
  return dense(gated(gate, up, activation), operands['down'])


def _experts(h: Array, weights: Weights) -> Array:
  """The MLP of experts: every device routes alike, and has a part of each."""
  keys = ('gate', 'up', 'down')
  operands = {key: weights.matrix(key) for key in keys}
  operands['router'] = weights.matrix('router', 'float32')
  one = functools.partial(_routed, weights.config)
  return weights.summed(_tiled(one, h, operands, weights.config), 'down')


def _routed(config: ModelConfig, h: Array, operands: Layer) -> Array:
  routes = route(h, operands['router'], config.experts_per_token)
  gate, up, down = (operands[key] for key in ('gate', 'up', 'down'))
  return experts(h, routes, gate, up, down, config.activation)


def _tiled(
  function: Callable[[Array, Layer], Array],
  h: Array,
  operands: Layer,
  config: ModelConfig,
) -> Array:
  """All tokens at once or by tiles; the matrices are gathered before."""
  if config.mlp_chunk is None:
    return function(h, operands)
  y = by_tiles(function, config.mlp_chunk, h, operands)
  return name(y, 'dot')


def _normed(x: Array, weights: Weights, key: str) -> Array:
  """With post-norms, what a branch adds to the stream is normed."""
  return weights.norm(x, key) if key in weights.layer else x


def _attend(
  h: Array, weights: Weights, plan: Plan, rows: Rows, slots: Slots | None
) -> tuple[Array, Slots | None]:
  """Attention of flat tokens, heads of this device, before W_o."""
  config = weights.config
  q, k, v = queries_keys_values(h, weights, plan)
  if slots is not None:
    slots = _written(slots, k, v)
    k, v = (a.swapaxes(1, 2).astype(q.dtype) for a in slots[:2])
    rows_of_keys = slots.positions, slots.segments
  else:
    rows_of_keys = rows.positions, rows.segments
  out = attention(
    q,
    k,
    v,
    mask=Mask(window=plan.window, document=rows.segments is not None),
    q_positions=rows.positions,
    kv_positions=rows_of_keys[0],
    q_segments=rows.segments,
    kv_segments=rows_of_keys[1],
    kv_keep=rows.kv_keep,
    scale=config.scale,
    q_scale=plan.q_scale[..., None],
    soft_cap=config.attention_soft_cap,
  )
  if config.head_norm:
    by_head = weights.layer['head_norm'].reshape(-1, config.head_dim)
    out = rms_norm(out, jnp.ones(config.head_dim), config.norm_eps)
    out = (out * by_head.astype(jnp.float32)).astype(h.dtype)
  return out.reshape(h.shape[0], -1), slots


def queries_keys_values(
  h: Array, weights: Weights, plan: Plan
) -> tuple[Array, Array, Array]:
  """What attention takes, by head: rotated queries and keys, and values.

  Args:
    h: the normed stream [B*T, D], all tokens of this device's rows.
    weights: of the layer.
    plan: the rotation.

  Returns:
    q [B, T, N, H], k and v [B, T, K, H], heads of this device; the plan's
    temperature is not in them.
  """
  config, T = weights.config, plan.cos.shape[-2]
  q, k, v = (
    weights.project(h, key).reshape(-1, T, heads, config.head_dim)
    for key, heads in zip('qkv', _local_heads(weights))
  )
  if config.qk_norm:
    q, k = weights.norm(q, 'q_norm'), weights.norm(k, 'k_norm')
  q, k = (apply_rope(x, plan.cos, plan.sin) for x in (q, k))
  return q, k, v


def _local_heads(weights: Weights) -> tuple[int, int, int]:
  config, tensor = weights.config, weights.axes.size('tensor')
  kv = max(1, config.kv_heads // tensor)
  return config.heads // tensor, kv, kv


def _written(slots: Slots, k_BTKH: Array, v_BTKH: Array) -> Slots:
  """The cache with these keys and values in the slots of their columns."""
  k, v = (
    write(old, new.swapaxes(1, 2), slots.column)
    for old, new in zip(slots, (k_BTKH, v_BTKH))
  )
  return slots._replace(k_BKSH=k, v_BKSH=v)
