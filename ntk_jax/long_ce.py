"""LongCE: text targets weigh by how much long context tells of them.

A target's loss with all of its document before it is compared with its loss
from a short context. The short one comes from a second pass, without gradient,
over overlapping windows of the same tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ntk_jax.data.batch import NO_TARGET, Batch
from ntk_jax.errors import ConfigError
from ntk_jax.loss import chunked_cross_entropy
from ntk_jax.model.config import ModelConfig
from ntk_jax.model.params import Params
from ntk_jax.model.transformer import (
  Controls,
  Schemes,
  hidden_states,
  unembedding,
)
from ntk_jax.scheme import SchemeArrays
from ntk_jax.sharding import BATCH, Axes
from ntk_jax.typing import Array, ArrayLike, Bool, Float, Float32, NDArray

_LEAST = -80.0  # of a log weight: exp of it is a normal float32


@dataclasses.dataclass(frozen=True)
class LongCE:
  """How the weights of LongCE are made; static.

  With K = `short` and d = `stride`, the targets of tokens s + K to s + K + d
  are scored by one window over the tokens s to s + K + d: each has more than K
  and at most K + d tokens of context, up to 2 K where d = K, as by default. A
  row of T tokens has `ceil((T - K) / d)` windows.

  The cost: a forward pass over `(T - K) (K + d) / d` tokens with attention no
  longer than K + d, and twice the output matrix forward for T - K targets. A
  step is three forward passes of T tokens, so with d = K it takes at most 2/3
  more (less where attention over T is what takes time), with d = 4 K 0.42
  more. The published d = K / 4 is five passes, 1.67 more. Measured on a CPU
  (4 layers of 128 channels, K 128, rows of 1024, whole attention; CPU time of
  loss and gradient): d = K 1.22 times the plain one, 4 K 1.18, K / 4 1.80.

  Attributes:
    short: tokens of context that a target has in the short pass, or more.
    stride: targets that a window scores; None is `short`.
    gamma: largest weight, before the mean is made 1.

  Raises:
    ConfigError: a short or a stride below 1, a gamma not above 0.

  Source: Fang et al. 2024, arXiv:2410.23771, section 4.
  """

  short: int
  stride: int | None = None
  gamma: float = 5.0

  def __post_init__(self) -> None:
    lengths = self.short, self.short if self.stride is None else self.stride
    if min(lengths) < 1 or not 0 < self.gamma < float('inf'):
      raise ConfigError(
        f'short is {self.short}, stride {self.stride}, gamma {self.gamma}: '
        'lengths are at least 1 token, gamma is finite and above 0'
      )

  def targets(self, length: int) -> int:
    """Targets that a window of a row scores: the stride, or all there are."""
    stride = self.short if self.stride is None else self.stride
    return min(stride, max(1, length - self.short))

  def windows(self, length: int) -> int:
    """Windows of a row; none where it is no longer than the short context.

    >>> [LongCE(short=4).windows(length) for length in (4, 5, 8, 9, 16)]
    [0, 1, 1, 2, 3]
    """
    return max(0, -(-(length - self.short) // self.targets(length)))


def key_weights(
  long_nll: Float32[Array, '*B'],
  short_nll: Float32[Array, '*B'],
  gamma: float,
) -> Float32[Array, '*B']:
  """`min(exp(log P(x | long) - log P(x | short)), gamma)`, without gradient.

  In (0, gamma]: below 1 where long context misleads, 1 where it says nothing.
  A loss that long context makes 80 nats worse or more counts as 80.

  Source: Fang et al. 2024, arXiv:2410.23771, section 4.

  >>> print(key_weights(jnp.array([1.0, 1.0, 1.0]),
  ...   jnp.array([1.0, 1.6931472, 9.0]), gamma=5.0))
  [1. 2. 5.]
  """
  gain = jax.lax.stop_gradient(short_nll - long_nll)
  return jnp.minimum(jnp.exp(jnp.maximum(gain, _LEAST)), gamma)


def mean_one(
  factors: Float32[Array, 'B T'],
  weights: Float32[Array, 'B T'],
  axes: Axes = Axes(),  # noqa: B008 (frozen)
) -> Float32[Array, 'B T']:
  """`w f sum(w) / sum(w f)`, with sums over the rows of all devices.

  The rows are those of one forward pass: a microbatch has a mean of its own.
  So the factors have mean 1 by weight: the sum of all weights, and with it
  the size of a step and the share of what is not weighted so, stays as it was.
  (Published weights keep the mean they happen to have, which scales the
  learning rate.) Factors that are 0 wherever there is a weight do nothing.

  Args:
    factors: 0 or more; they carry no gradient.
    weights: of the targets; 0 is none.
    axes: mesh axes that the caller is manual over.

  >>> print(mean_one(jnp.array([[1.0, 3.0, 9.0]]), jnp.array([[1.0, 1.0, 0]])))
  [[0.5 1.5 0. ]]
  """
  factors = jax.lax.stop_gradient(factors)
  scaled = jnp.where(weights == 0, 0.0, weights * factors)
  before, after = axes.sum((weights.sum(), scaled.sum()), *BATCH)
  none = after == 0  # a NaN goes on to the loss, where the guard meets it
  return jnp.where(none, weights, scaled * (before / jnp.where(none, 1, after)))


class Pass(NamedTuple):
  """What a forward pass reads besides parameters."""

  batch: Batch
  schemes: Schemes
  controls: Controls | None


def long_weights(
  params: Params,
  config: ModelConfig,
  told: Pass,
  x: Float[Array, 'tokens D'],
  how: LongCE,
  *,
  chunk: int | None = None,
  axes: Axes = Axes(),  # noqa: B008 (frozen)
) -> Float32[Array, 'B T']:
  """The weight of every target, before the mean is made 1; no gradient.

  The short pass has the tokens, positions, temperatures, windows and hidden
  keys of the long one: what differs is the context alone. A target with no
  more than K tokens of its document to be predicted from weighs 1; a row no
  longer than that has no windows and costs nothing. (The published code takes
  a batch for one row, and the first K tokens of it for those of a document.)

  Args:
    params: the model's; local shards under a mesh.
    config: the model's shape.
    told: what the long pass read, rows of this device; not with kept tokens,
      which it has no windows of.
    x: normed hidden states that the long pass gave, [B T, D].
    how: short context, stride and largest weight.
    chunk: tokens whose logits exist at a time; None chooses.
    axes: mesh axes that the caller is manual over.
  """
  batch = told.batch
  (B, T), K = batch.tokens.shape, how.short
  if how.windows(T) == 0:
    return jnp.ones((B, T), jnp.float32)
  params, x = jax.lax.stop_gradient((params, x))
  matrix = axes.gather(unembedding(params, config), 'fsdp', 0)

  def losses_of(x: Array, targets: Array | NDArray) -> Array:
    sums = chunked_cross_entropy(
      x,
      matrix,
      targets,
      chunk=chunk,
      soft_cap=config.logit_soft_cap,
      axis='tensor' if axes.size('tensor') > 1 else None,
    )
    return sums.token_nll

  long = losses_of(x.reshape(B, T, -1)[:, K:], batch.targets[:, K:])
  cut = windowed(told, how, axes.size('tensor'))
  x, _ = hidden_states(
    params,
    config,
    cut.batch.tokens,
    cut.batch.positions,
    cut.batch.segments,
    cut.schemes,
    axes,
    controls=cut.controls,
  )
  own = slice(K, K + how.targets(T))
  x = x.reshape(*cut.batch.tokens.shape, -1)[:, own]
  short = losses_of(x, cut.batch.targets[:, own]).reshape(B, -1)
  factors = key_weights(long, short[:, : T - K], how.gamma)
  factors = jnp.where(_reaches_further(batch, K), factors, 1.0)
  return jnp.pad(factors, ((0, 0), (K, 0)), constant_values=1.0)


def _reaches_further(batch: Batch, short: int) -> Bool[Array, '*B T-K']:
  """Which tokens from K on are predicted from more than K of their document."""
  if batch.segments is None:
    return jnp.ones(batch.tokens.shape, bool)[:, short:]
  segments = jnp.asarray(batch.segments)
  return segments[..., short:] == segments[..., :-short]


def windowed(told: Pass, how: LongCE, multiple: int = 1) -> Pass:
  """The windows of all rows as rows, each of K + d tokens.

  Those of a row follow one another. What reaches beyond its row, or fills a
  window up, is padding.

  Args:
    told: of whole rows; kept tokens are left out.
    how: short context K and stride d.
    multiple: the tokens of a window are one of it, for a tensor axis.
  """
  batch, schemes, controls = told
  (B, T), count = batch.tokens.shape, how.windows(batch.tokens.shape[1])
  size = how.short + how.targets(T)
  width = -(-size // multiple) * multiple
  begin = how.targets(T) * jnp.arange(count)[:, None]
  place = begin + jnp.arange(width)
  outside = jnp.tile(place >= jnp.minimum(begin + size, T), (B, 1))
  at = jnp.minimum(place, T - 1)

  def cut(x: ArrayLike) -> Array:
    """[T] or [*, B, T] as [*, B windows, width]."""
    x = jnp.asarray(x)
    x = jnp.broadcast_to(x, (*x.shape[:-2], B, T))[..., at]
    return x.reshape(*x.shape[:-3], B * count, width)

  def cut_or_none(x: ArrayLike | None) -> Array | None:
    return None if x is None else cut(x)

  segments, padded = (
    batch.segments,
    width > size or count * how.targets(T) > (T - how.short),
  )
  if padded:
    segments = jnp.ones(T, jnp.int32) if segments is None else segments
    segments = jnp.where(outside, 0, cut(segments))
  else:
    segments = cut_or_none(segments)
  rows = Batch(
    cut(batch.tokens),
    jnp.where(outside, NO_TARGET, cut(batch.targets)),
    cut(batch.weights),
    cut(batch.answers),
    cut(jnp.arange(T) if batch.positions is None else batch.positions),
    segments,
  )
  controls = controls or Controls()
  few = Controls(
    window=controls.window,
    kv_keep=cut_or_none(controls.kv_keep),
    plan=cut_or_none(controls.plan),
  )
  if isinstance(schemes, SchemeArrays):
    schemes = (schemes,)
  several = controls.plan is not None
  return Pass(rows, _of_windows(schemes, cut, count, several), few)


def _of_windows(
  schemes: Sequence[SchemeArrays],
  cut: Callable[[ArrayLike], Array],
  windows: int,
  several: bool,
) -> tuple[SchemeArrays, ...]:
  """Arrays of schemes for rows that are windows.

  Args:
    schemes: of whole rows.
    cut: from an array of rows to one of windows.
    windows: of a row.
    several: whether the first dim counts alternatives, see `Controls.plan`.
  """

  def one(scheme: SchemeArrays) -> SchemeArrays:
    phases: Any = scheme.phases
    factor: Any = scheme.attention_factor
    if jnp.ndim(phases) == 3 and not several:  # of each row
      phases = jnp.repeat(phases, windows, axis=0)
      factor = jnp.repeat(factor, windows, axis=0)
    q_scale = jnp.asarray(scheme.q_scale)
    if several and q_scale.ndim == 2:
      q_scale = q_scale[:, None]
    return scheme._replace(
      phases=phases, attention_factor=factor, q_scale=cut(q_scale)
    )

  return tuple(one(scheme) for scheme in schemes)
