"""The layers, run by segments of their plan, all tokens or some of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ntk_jax.model.block import Layer, Plan, Rows, Slots, block
from ntk_jax.model.cache import Cache
from ntk_jax.model.config import ModelConfig
from ntk_jax.model.plan import segments
from ntk_jax.model.remat import rematerialised
from ntk_jax.sharding import Axes
from ntk_jax.typing import Array, ArrayLike


class Stack:
  """The layers of a model: one scan for each segment of their plan."""

  def __init__(
    self,
    layers: Layer,
    config: ModelConfig,
    axes: Axes,
    windows: ArrayLike | None = None,
  ) -> None:
    """Names the layers; `windows` [L] narrow those of the schemes."""
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
    for part in segments(self.config.plan[first:last]):
      at = slice(first + part.start, first + part.stop)
      # A dim for patterns of one layer would cost a copy of all matrices.
      many = len(part.pattern) > 1
      shape = (part.repeats, len(part.pattern)) if many else (part.repeats,)
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
      own = i if len(pattern) > 1 else ...
      layer, window, kv = jax.tree.map(lambda a, own=own: a[own], inputs)
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


def skipping(
  layers: Stack,
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
