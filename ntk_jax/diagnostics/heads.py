"""What every head of every layer does with a length, at the end of its rows."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ntk_jax.diagnostics.weights import attention_weights, share_of_entropy
from ntk_jax.errors import ConfigError
from ntk_jax.initializers import mean_correlation
from ntk_jax.mask import Mask
from ntk_jax.model.block import (
  Layer,
  Plan,
  Rows,
  Weights,
  block,
  queries_keys_values,
)
from ntk_jax.model.config import ModelConfig
from ntk_jax.model.layers import rms_norm
from ntk_jax.model.params import Params
from ntk_jax.model.plan import segments
from ntk_jax.model.transformer import embedded, plans_of
from ntk_jax.scheme import SchemeArrays
from ntk_jax.sharding import Axes
from ntk_jax.typing import Array, Float32, NDArray

LAST = 8  # queries at the end of each row
SINK = 4  # keys at the start of a document


class Heads(NamedTuple):
  """What the last queries of rows see, means over rows and queries.

  Attributes:
    entropy: `H / ln n` of the weights.
    sum_squares: `sum_j p_j^2`: 1 / n for even weights, 1 for one key alone.
    logit_variance: variance s^2 of a query's logits over its keys.
    logit_max: the largest logit of all.
    sink_first: weight on the document's first key.
    sink_few: weight on its first four keys.
    output_power: mean square of the attention output, after a norm of heads.
    value_power: mean square of the values.
    rho: mean correlation of the values, as `mean_correlation` has it.
    branch: mean square of what attention adds to the residual stream over
      that of the stream.
    entropy_under: entropy [L, M] with the queries times each multiplier that
      was asked for, all else as it is; mean over heads.
    sum_squares_under: sum_squares likewise.
  """

  entropy: Float32[Array | NDArray, 'L N']
  sum_squares: Float32[Array | NDArray, 'L N']
  logit_variance: Float32[Array | NDArray, 'L N']
  logit_max: Float32[Array | NDArray, 'L N']
  sink_first: Float32[Array | NDArray, 'L N']
  sink_few: Float32[Array | NDArray, 'L N']
  output_power: Float32[Array | NDArray, 'L N']
  value_power: Float32[Array | NDArray, 'L K']
  rho: Float32[Array | NDArray, 'L K']
  branch: Float32[Array | NDArray, ' L']
  entropy_under: Float32[Array | NDArray, 'L M']
  sum_squares_under: Float32[Array | NDArray, 'L M']

  @property
  def ratio(self) -> Float32[NDArray, ' L']:
    """Var(out) / Var(v) of each layer, about zero."""
    out, values = np.asarray(self.output_power), np.asarray(self.value_power)
    return out.mean(axis=-1) / values.mean(axis=-1)


def look(
  params: Params,
  config: ModelConfig,
  schemes: Sequence[SchemeArrays],
  inputs: Array | NDArray,
  *,
  last: int = LAST,
  multipliers: Sequence[float] = (),
) -> Heads:
  """Looks at the heads of a model while it reads rows of one length.

  One row is in memory at a time; the logits [Q, N, T] of its last queries
  exist for one layer at a time. A length is compiled once for all schemes and
  parameters of a shape.

  Args:
    params: the model's.
    config: its shape.
    schemes: arrays at positions 0 .. T-1, one for each number of its plan.
    inputs: ids [B, T], or what stands for their embeddings, [B, T, D].
    last: queries Q at the end of each row.
    multipliers: factors of those queries that are tried besides.

  Returns:
    Host arrays.

  Raises:
    ConfigError: rows shorter than `last`.
  """
  if not 1 <= last <= inputs.shape[1]:
    raise ConfigError(
      f'last is {last}: of rows of {inputs.shape[1]} tokens 1 to '
      f'{inputs.shape[1]} queries can be looked at'
    )
  tried = jnp.asarray(multipliers, jnp.float32)
  return jax.device_get(
    _look(params, tuple(schemes), inputs, tried, config=config, last=last)
  )


@functools.partial(jax.jit, static_argnames=('config', 'last'))
def _look(
  params: Params,
  schemes: tuple[SchemeArrays, ...],
  inputs: Array,
  tried: Array,
  *,
  config: ModelConfig,
  last: int,
) -> Heads:
  places = jnp.arange(inputs.shape[1])[-last:]
  plans = plans_of(schemes, inputs.shape[1], None)

  def of_row(row: Array) -> Heads:
    x = row if row.ndim == 2 else embedded(params, config, row[None])
    see = functools.partial(
      _seen, config=config, places=places, multipliers=tried
    )
    return watched_layers(x, params, config, plans, see)[1]

  each = jax.lax.map(of_row, inputs)
  mean = jax.tree.map(lambda a: a.mean(axis=0), each)
  return mean._replace(logit_max=each.logit_max.max(axis=0))


def watched_layers(
  x: Array,
  params: Params,
  config: ModelConfig,
  plans: Sequence[Plan],
  see: Callable[[Array, Layer, Plan], Any],
) -> tuple[Array, Any]:
  """Runs plain rows through all layers and keeps what is seen before each.

  Args:
    x: the residual stream [B*T, D].
    params: the model's.
    config: its shape.
    plans: one for each number of its layer plan.
    see: from the stream before a layer, the layer and its plan to a tree.

  Returns:
    The stream after the last layer, and the trees stacked [L, ...].
  """
  found = []
  for part in segments(config.plan):
    shape = part.repeats, len(part.pattern)
    layers = jax.tree.map(
      lambda a, part=part, shape=shape: a[part.start : part.stop].reshape(
        *shape, *a.shape[1:]
      ),
      params.layers,
    )

    def step(x: Array, layers: Any, pattern: Any = part.pattern) -> Any:
      seen = []
      for i, number in enumerate(pattern):
        layer = {name: leaf[i] for name, leaf in layers.items()}
        seen.append(see(x, layer, plans[number]))
        x, _ = block(x, layer, plans[number], Rows(), None, config, Axes())
      return x, jax.tree.map(lambda *a: jnp.stack(a), *seen)

    x, seen = jax.lax.scan(step, x, layers)
    count = part.stop - part.start
    found.append(
      jax.tree.map(lambda a, c=count: a.reshape(c, *a.shape[2:]), seen)
    )
  return x, jax.tree.map(lambda *a: jnp.concatenate(a), *found)


def _seen(
  x: Array,
  layer: Layer,
  plan: Plan,
  *,
  config: ModelConfig,
  places: Array,
  multipliers: Array,
) -> Heads:
  """`Heads` of one layer and row, without the dim of layers."""
  weights, f32 = Weights(layer, config, Axes()), jnp.float32
  h = weights.norm(x, 'attention_norm')
  q, k, v = queries_keys_values(h, weights, plan)
  visible = Mask(window=plan.window).visible(places, jnp.arange(k.shape[1]))
  n = visible.sum(axis=-1)[None]

  def weigh(times: Array | float) -> tuple[Array, Array]:
    return attention_weights(
      q[:, places],
      k,
      visible,
      scale=config.scale,
      q_scale=times * plan.q_scale[places][:, None],
      soft_cap=config.attention_soft_cap,
    )

  def tried(times: Array) -> tuple[Array, Array]:
    _, p = weigh(times)
    return share_of_entropy(p, n).mean(), jnp.square(p).sum(-1).mean()

  s, p = weigh(1.0)
  out = _outputs(p, v, weights)
  under = jax.lax.map(tried, multipliers)
  added = _added(out, weights)
  return Heads(
    share_of_entropy(p, n).mean(axis=(0, 1)),
    jnp.square(p).sum(axis=-1).mean(axis=(0, 1)),
    jnp.var(s, axis=-1, where=visible[:, None]).mean(axis=(0, 1)),
    s.max(axis=(0, 1, 3)),
    p[..., 0].mean(axis=(0, 1)),
    p[..., :SINK].sum(axis=-1).mean(axis=(0, 1)),
    jnp.square(out).mean(axis=(0, 1, 3)),
    jnp.square(v.astype(f32)).mean(axis=(0, 1, 3)),
    mean_correlation(v.swapaxes(1, 2)).mean(axis=0),
    jnp.square(added).mean() / jnp.square(x[places].astype(f32)).mean(),
    *under,
  )


def _outputs(p: Array, v: Array, weights: Weights) -> Array:
  """Weighted values of the sampled queries, [B, Q, N, H] in float32."""
  config, (B, Q, N, S) = weights.config, p.shape
  K = v.shape[2]
  out = jnp.einsum(
    'bqkgs,bskh->bqkgh',
    p.reshape(B, Q, K, N // K, S),
    v.astype(jnp.float32),
    precision='highest',
  ).reshape(B, Q, N, -1)
  if config.head_norm:
    by_head = weights.layer['head_norm'].reshape(N, -1).astype(jnp.float32)
    out = rms_norm(out, jnp.ones(config.head_dim), config.norm_eps) * by_head
  return out


def _added(out: Array, weights: Weights) -> Array:
  """What the sampled queries' outputs add to the residual stream."""
  flat = out.astype(weights.config.precision.compute)
  y = weights.add(flat.reshape(-1, out.shape[2] * out.shape[3]), 'out')
  key = 'attention_post_norm'
  return (weights.norm(y, key) if key in weights.layer else y).astype(
    jnp.float32
  )
