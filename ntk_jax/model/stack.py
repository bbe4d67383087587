"""The layers, run by segments of their plan, all tokens or some of them.

With a cache they run one after another, unrolled: a scan would copy the
matrices and the buffers of every layer at every token, 10 times the time of a
step of one token on a CPU.
"""

from __future__ import annotations

import dataclasses
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
    layers: Layer | Sequence[Layer],
    config: ModelConfig,
    axes: Axes,
    windows: ArrayLike | None = None,
  ) -> None:
    """Names the layers; `windows` [L] narrow those of the schemes.

    With a cache the layers may be given one by one too.
    """
    self.layers, self.config, self.axes = layers, config, axes
    self.windows = None if windows is None else jnp.asarray(windows)

  def run(
    self,
    x: Array,
    span: tuple[int, int],
    plans: Sequence[Plan],
    rows: Rows,
  ) -> Array:
    """Layers from span[0] to before span[1]."""
    first, last = span
    for part in segments(self.config.plan[first:last]):
      at = slice(first + part.start, first + part.stop)
      # A dim for patterns of one layer would cost a copy of all matrices.
      many = len(part.pattern) > 1
      shape = (part.repeats, len(part.pattern)) if many else (part.repeats,)
      inputs = jax.tree.map(
        lambda a, at=at, shape=shape: a[at].reshape(*shape, *a.shape[1:]),
        (self.layers, self.windows),
      )

      def step(x: Array, inputs: Any, pattern: Any = part.pattern) -> Any:
        return self._pattern(x, inputs, pattern, plans, rows), None

      x, _ = jax.lax.scan(step, x, inputs)
    return x

  def _pattern(
    self,
    x: Array,
    inputs: Any,
    pattern: Sequence[int],
    plans: Sequence[Plan],
    rows: Rows,
  ) -> Array:
    """The layers of one pattern, in turn."""
    config, axes = self.config, self.axes
    gathers = axes.size('fsdp') > 1
    for i, number in enumerate(pattern):
      own = i if len(pattern) > 1 else ...
      layer, window = jax.tree.map(lambda a, own=own: a[own], inputs)

      def one(x: Array, layer: Layer, plan: Plan) -> Array:
        return block(x, layer, plan, rows, None, config, axes)[0]

      run = rematerialised(one, config.remat, gathers)
      x = run(x, layer, _narrowed(plans[number], window))
    return x

  def run_cached(
    self, x: Array, plans: Sequence[Plan], rows: Rows, cache: Cache
  ) -> tuple[Array, Cache]:
    """All layers, after what a cache that knows of these tokens holds."""
    config, column = self.config, cache.used - plans[0].cos.shape[-2]
    kv = []
    for i, number in enumerate(config.plan):
      plan = _narrowed(
        plans[number], None if self.windows is None else self.windows[i]
      )
      slots = Slots(
        cache.k[i],
        cache.v[i],
        cache.positions[number],
        cache.segments[number],
        column,
      )
      x, slots = block(x, self._layer(i), plan, rows, slots, config, self.axes)
      assert slots is not None
      kv.append((slots.k_BKSH, slots.v_BKSH))
    k, v = zip(*kv)
    return x, dataclasses.replace(cache, k=k, v=v)

  def _layer(self, i: int) -> Layer:
    if isinstance(self.layers, dict):
      return {name: leaf[i] for name, leaf in self.layers.items()}
    return self.layers[i]


def _narrowed(plan: Plan, window: Array | None) -> Plan:
  if window is None:
    return plan
  return plan._replace(window=jnp.minimum(plan.window, window))


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
  x = layers.run(x, (0, 1), plans, rows)

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
  middle = layers.run(middle, (1, count - 1), thinned, some)
  whole = whole.at[place].set(axes.gather(middle, 'tensor', 0))
  last = count - 1, count
  return layers.run(_own_part(whole, axes), last, plans, rows)


def _own_part(x: Array, axes: Axes) -> Array:
  """Of tokens that every device of the tensor axis has, this one's."""
  size = x.shape[0] // axes.size('tensor')
  return jax.lax.dynamic_slice_in_dim(x, axes.index('tensor') * size, size)
