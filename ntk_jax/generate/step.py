"""The two programs of generation: read a chunk, write some tokens.

Each is compiled once per shape of batch, slots and chunk; methods, lengths,
windows, temperatures and settings of sampling are arrays. The cache is
donated: its buffers are written in place.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from ntk_jax.generate.sample import Choice, choose
from ntk_jax.model.cache import Cache
from ntk_jax.model.config import ModelConfig
from ntk_jax.model.params import Params
from ntk_jax.model.transformer import hidden_states, output_logits
from ntk_jax.scheme import SchemeArrays
from ntk_jax.sharding import BATCH
from ntk_jax.typing import Array, ArrayLike

Schemes = tuple[SchemeArrays, ...]


class Layout(NamedTuple):
  """Where a cache lies on a mesh: keys and values, and what is by row."""

  kv: NamedSharding
  rows: NamedSharding


class Written(NamedTuple):
  """What some steps gave.

  Attributes:
    tokens: int32 [B, stride], of which `steps` are filled.
    logits: float32 [B, stride, V] that chose them, or [B, 0, V].
    done: bool [B], rows that have stopped.
    steps: int32, how many there were: all, or until every row had stopped.
  """

  tokens: Array
  logits: Array
  done: Array
  steps: Array


@functools.partial(
  jax.jit, static_argnames=('config', 'layout'), donate_argnames='cache'
)
def read(
  params: Params,
  cache: Cache,
  tokens: ArrayLike,
  positions: ArrayLike,
  segments: ArrayLike,
  schemes: Schemes,
  *,
  config: ModelConfig,
  layout: Layout | None = None,
) -> tuple[Array, Cache]:
  """Logits [B, V] after the last of these tokens [B, C], and the cache."""
  return _last_logits(
    params, cache, tokens, positions, segments, schemes, config, layout
  )


@functools.partial(
  jax.jit,
  static_argnames=('config', 'mode', 'keep_logits', 'layout'),
  donate_argnames='cache',
)
def write(
  params: Params,
  cache: Cache,
  tokens: ArrayLike,
  done: ArrayLike,
  positions: ArrayLike,
  schemes: Schemes,
  given: ArrayLike,
  choice: Choice,
  first: ArrayLike,
  count: ArrayLike,
  *,
  config: ModelConfig,
  mode: str,
  keep_logits: bool,
  layout: Layout | None = None,
) -> tuple[Written, Cache]:
  """Some tokens more, each fed to find the next one.

  Args:
    params: of the model; layers one by one or stacked.
    cache: of all tokens but the last ones.
    tokens: int32 [B], the last ones.
    done: bool [B], rows that are to repeat their last token.
    positions: int32 [B], theirs.
    schemes: their arrays, with a temperature [B, stride] for each step.
    given: int32 [B, stride], what the mode 'forced' takes.
    choice: how to choose.
    first: the number of the first new token, from 0.
    count: how many steps to take, at most stride.
    config: the model's shape.
    mode: of `sample.mode_of`.
    keep_logits: whether to return them; then no early end.
    layout: of the cache on a mesh.
  """
  B, stride = jnp.shape(given)
  given = jnp.asarray(given)

  def more(carry: Any) -> Array:
    written = carry[0]
    ended = jnp.all(written.done) & (not keep_logits)
    return (written.steps < count) & ~ended

  def one(carry: Any) -> Any:
    written, tokens, cache = carry
    s = written.steps
    now = tuple(
      a._replace(q_scale=jax.lax.dynamic_slice_in_dim(a.q_scale, s, 1, 1))
      for a in schemes
    )
    here = (positions + s)[:, None]
    ones = jnp.ones((B, 1), jnp.int32)
    logits, cache = _last_logits(
      params, cache, tokens[:, None], here, ones, now, config, layout
    )
    tokens, done = next_tokens(
      logits, tokens, written.done, given[:, s], first + s, choice, mode
    )
    kept = written.logits
    if keep_logits:
      kept = kept.at[:, s].set(logits)
    written = Written(written.tokens.at[:, s].set(tokens), kept, done, s + 1)
    return written, tokens, cache

  start = Written(
    jnp.zeros((B, stride), jnp.int32),
    jnp.zeros((B, stride * keep_logits, config.vocab), jnp.float32),
    jnp.asarray(done),
    jnp.int32(0),
  )
  carry = start, jnp.asarray(tokens), cache
  written, _, cache = jax.lax.while_loop(more, one, carry)
  return written, cache


def next_tokens(
  logits: Array,
  tokens: ArrayLike,
  done: ArrayLike,
  given: ArrayLike,
  step: ArrayLike,
  choice: Choice,
  mode: str,
) -> tuple[Array, Array]:
  """The next tokens [B], and which rows have now stopped."""
  chosen = choose(logits, jnp.asarray(given), step, choice, mode)
  if mode == 'forced':
    return chosen, jnp.asarray(done)
  chosen = jnp.where(done, tokens, chosen)
  stopped = (chosen[:, None] == jnp.asarray(choice.stop)).any(-1)
  return chosen, jnp.asarray(done) | stopped


first_tokens = jax.jit(next_tokens, static_argnames='mode')


def _last_logits(
  params: Params,
  cache: Cache,
  tokens: ArrayLike,
  positions: ArrayLike,
  segments: ArrayLike,
  schemes: Schemes,
  config: ModelConfig,
  layout: Layout | None,
) -> tuple[Array, Cache]:
  B = jnp.shape(tokens)[0]
  x, after = hidden_states(
    params,
    config,
    jnp.asarray(tokens),
    positions,
    segments,
    schemes,
    cache=cache,
  )
  assert after is not None
  if layout is not None:
    after = placed(after, layout, jax.lax.with_sharding_constraint)
  last = x.reshape(B, -1, x.shape[-1])[:, -1]
  return output_logits(params, config, last), after


def layout_of(params: Params, config: ModelConfig, rows: int) -> Layout | None:
  """Of the cache of a model that lies on a mesh; None on one device.

  Rows are split over data and fsdp, kv heads over tensor, where the mesh has
  these axes and their sizes divide.
  """
  for leaf in jax.tree.leaves(params):
    sharding = getattr(leaf, 'sharding', None)
    if isinstance(sharding, NamedSharding) and sharding.mesh.size > 1:
      break
  else:
    return None
  mesh = sharding.mesh
  batch = tuple(axis for axis in BATCH if axis in mesh.axis_names)
  by_row = rows % int(np.prod([mesh.shape[axis] for axis in batch])) == 0
  tensor = mesh.shape.get('tensor', 0)
  heads = 'tensor' if tensor and config.kv_heads % tensor == 0 else None
  split = batch if by_row and batch else None
  return Layout(
    NamedSharding(mesh, PartitionSpec(split, heads)),
    NamedSharding(mesh, PartitionSpec(split)),
  )


def placed(cache: Cache, layout: Layout, put: Any) -> Cache:
  """The cache where the layout says, by device_put or a constraint."""

  def one(a: Array) -> Array:
    if a.ndim == 0:
      whole = NamedSharding(layout.rows.mesh, PartitionSpec())
      return put(a, whole)
    return put(a, layout.kv if a.ndim == 4 else layout.rows)

  return jax.tree.map(one, cache)


def layers_apart(params: Params) -> Params:
  """On a CPU, the parameters with a dict of matrices for each layer.

  They share the memory of the stacked ones. A slice of a stack inside a
  program would be copied at every token; elsewhere that is left to XLA.
  """
  leaves = jax.tree.leaves(params)
  homes = {d for leaf in leaves for d in leaf.devices()}
  if len(homes) > 1 or next(iter(homes)).platform != 'cpu':
    return params
  stacks = {name: np.asarray(leaf) for name, leaf in params.layers.items()}
  count = len(next(iter(stacks.values())))
  home = next(iter(homes))
  layers = tuple(
    {
      name: jax.device_put(stack[i], home, may_alias=True)
      for name, stack in stacks.items()
    }
    for i in range(count)
  )
  return params._replace(layers=layers)  # pyrefly: ignore[bad-argument-type]
