"""Cross-entropy of chosen targets, in float32, whole or in chunks of tokens.

`chunked_cross_entropy` goes from hidden states to the loss without the
logits of all tokens ever existing: it makes the logits of one chunk, takes
from them the loss and, where a gradient is wanted, the gradient as well, and
forgets them. So nothing is recomputed in the backward pass: it has the three
matrix products of the plain form, in the memory of one chunk.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ntk_jax.errors import ConfigError
from ntk_jax.typing import Array, Float, Float32, Int32, NDArray

# Fewer rows leave a matrix unit idle, more logits fall out of a CPU's cache.
_FEWEST_ROWS = 1024
_MOST_LOGITS = 2**20


def cross_entropy(
  logits: Float32[Array, '*B V'], targets: Int32[Array | NDArray, '*B']
) -> Float32[Array, '*B']:
  """Negative log-likelihood in nats: `logsumexp(z) - z[target]`.

  Args:
    logits: float32 scores of every id.
    targets: ids; a negative one has no loss (0).

  Returns:
    One loss per target.

  >>> print(cross_entropy(jnp.zeros((2, 4)), jnp.array([1, -1])).round(4))
  [1.3863 0.    ]
  """
  known = targets >= 0
  chosen = jnp.take_along_axis(
    logits, jnp.where(known, targets, 0)[..., None], axis=-1
  )[..., 0]
  nll = jax.nn.logsumexp(logits, axis=-1) - chosen
  return jnp.where(known, nll, 0.0)


class LossSums(NamedTuple):
  """Sums over the targets, so that those of parts of a batch can be added.

  Only `loss` carries a gradient; the others are for the record.

  Attributes:
    loss: `sum_t w_t (nll_t + z_loss * lse_t^2)`.
    nll: `sum_t w_t nll_t`.
    z: `sum_t w_t lse_t^2`.
    weight: `sum_t w_t`, over the targets that have a loss.
    token_nll: nll_t of every target in nats, in their shape; weight or not.
  """

  loss: Array
  nll: Array
  z: Array
  weight: Array
  token_nll: Array


def chunked_cross_entropy(
  x: Float[Array, '*B D'],
  unembed: Float[Array, 'D V'],
  targets: Int32[Array | NDArray, '*B'],
  weights: Float32[Array | NDArray, '*B'] | None = None,
  *,
  chunk: int | None = None,
  z_loss: float = 0.0,
  soft_cap: float | None = None,
  axis: str | tuple[str, ...] | None = None,
) -> LossSums:
  """The loss of hidden states, never holding the logits of more than a chunk.

  `z = x W`, capped to `c tanh(z / c)`; `lse = logsumexp(z)`;
  `nll = lse - z[target]`; and the sums of `LossSums`. Matrix products take
  the dtype of their inputs and give float32; everything else is float32.

  The gradient with respect to x, unembed and weights is made on the way
  forward and scaled on the way back. With an `axis`, `unembed` holds this
  device's columns of a larger matrix, in the order of the devices, and x,
  targets and weights are the same on all devices of that axis. Such a
  call lives in a `jax.shard_map(..., check_vma=False)` that is itself
  differentiated (`jax.value_and_grad` outside, never inside). The
  gradient of x is then the part that this device's columns send back.

  Args:
    x: hidden states of every token.
    unembed: output matrix; `embed.T` for a tied one.
    targets: ids; a negative one has no loss. One that is not below V makes the
      loss NaN.
    weights: of each target; all 1 if None. A weight of 0 takes a target out of
      the sums even where its loss is not finite.
    chunk: most tokens whose logits exist at a time; None is 1024, or more
      while they are under a million numbers.
    z_loss: weight of the squared log-partition.
    soft_cap: bound c of the logits; None is none.
    axis: mesh axis, or axes, over which the columns are split.

  Raises:
    ConfigError: a chunk below 1, a negative z_loss, a soft_cap not above 0, or
      matrices that do not fit together.

  Source: z-loss: Chowdhery et al. 2022 (arXiv 2204.02311), section 5; soft
  cap: Gemma Team 2024 (arXiv 2408.00118), section 2; columns split over
  devices: Shoeybi et al. 2019 (arXiv 1909.08053), section 3; gradients on the
  way forward: Hsu et al. 2024 (arXiv 2410.10989), section 3.2.

  >>> x, targets = jnp.zeros((3, 2)), jnp.array([1, -1, 0])
  >>> sums = chunked_cross_entropy(x, jnp.ones((2, 4)), targets, chunk=2)
  >>> print(round(float(sums.loss), 4), sums.weight, sums.token_nll.round(4))
  2.7726 2.0 [1.3863 0.     1.3863]
  """
  _check(x.shape, unembed.shape, chunk, z_loss, soft_cap)
  flat_t = jnp.asarray(targets, jnp.int32).reshape(-1)
  if weights is None:
    flat_w = jnp.ones(flat_t.shape, jnp.float32)
  else:
    flat_w = jnp.asarray(weights, jnp.float32).reshape(-1)
  flat_w = jnp.where(flat_t >= 0, flat_w, 0.0)
  rows = chunk or max(_FEWEST_ROWS, _MOST_LOGITS // unembed.shape[1])
  how = _How(rows, z_loss, soft_cap, axis)
  flat_x = x.reshape(-1, x.shape[-1])
  loss, record = _head(flat_x, unembed, flat_t, flat_w, how)
  nll, lse = jax.lax.stop_gradient(record)
  still = jax.lax.stop_gradient(flat_w)
  return LossSums(
    loss=loss,
    nll=_weighted(still, nll),
    z=_weighted(still, lse * lse),
    weight=still.sum(),
    token_nll=nll.reshape(targets.shape),
  )


class _How(NamedTuple):
  """What is static about a call."""

  chunk: int
  z_loss: float
  soft_cap: float | None
  axis: str | tuple[str, ...] | None


def _check(
  x: tuple[int, ...],
  unembed: tuple[int, ...],
  chunk: int | None,
  z_loss: float,
  soft_cap: float | None,
) -> None:
  wrong = []
  if len(unembed) != 2 or x[-1] != unembed[0]:
    wrong.append(
      f'unembed is {list(unembed)} for hidden states {list(x)}: it is [D, V] '
      '(embed.T for a tied embedding)'
    )
  if chunk is not None and chunk < 1:
    wrong.append(f'chunk is {chunk}: at least 1 token, or None')
  if not (math.isfinite(z_loss) and z_loss >= 0):
    wrong.append(f'z_loss is {z_loss}: at least 0, and finite')
  if soft_cap is not None and not (math.isfinite(soft_cap) and soft_cap > 0):
    wrong.append(f'soft_cap is {soft_cap}: above 0, or None for no cap')
  if wrong:
    raise ConfigError('loss: ' + '; '.join(wrong))


def _weighted(w: Array, values: Array) -> Array:
  """`sum w v`, where a weight of 0 beats a value that is not finite."""
  return jnp.sum(jnp.where(w == 0, 0.0, w * values))


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _head(
  x: Array, unembed: Array, targets: Array, weights: Array, how: _How
) -> tuple[Array, tuple[Array, Array]]:
  """The loss, and (nll, lse) of every token."""
  (nll, lse), _ = _by_chunk(x, unembed, targets, weights, how, False)
  return _weighted(weights, nll + how.z_loss * lse * lse), (nll, lse)


def _head_forward(
  x: Array, unembed: Array, targets: Array, weights: Array, how: _How
) -> tuple[Any, Any]:
  (nll, lse), slopes = _by_chunk(x, unembed, targets, weights, how, True)
  each = nll + how.z_loss * lse * lse
  return (_weighted(weights, each), (nll, lse)), (*slopes, each)


def _head_backward(how: _How, saved: Any, cotangents: Any) -> tuple[Any, ...]:
  """Scales the gradients that the forward pass left.

  Every device of the axis holds a loss that depends on these columns, so
  their cotangents are added up; the weights of a device are in its own loss
  only.
  """
  dx, d_unembed, each = saved
  own = cotangents[0]
  everyone = own if how.axis is None else jax.lax.psum(own, how.axis)
  dx = (everyone * dx).astype(dx.dtype)
  d_unembed = (everyone * d_unembed).astype(d_unembed.dtype)
  return dx, d_unembed, None, own * each


_head.defvjp(_head_forward, _head_backward)


def _by_chunk(
  x: Array,
  unembed: Array,
  targets: Array,
  weights: Array,
  how: _How,
  slopes: bool,
) -> tuple[tuple[Array, Array], Any]:
  """(nll, lse) of every token; with `slopes` also dloss/dx, dloss/dunembed."""
  tokens, D = x.shape
  chunks = max(1, -(-tokens // how.chunk))
  rows = -(-tokens // chunks)
  lack = chunks * rows - tokens
  parts = (
    jnp.pad(x, ((0, lack), (0, 0))).reshape(chunks, rows, D),
    jnp.pad(targets, (0, lack)).reshape(chunks, rows),
    jnp.pad(weights, (0, lack)).reshape(chunks, rows),
  )

  def step(d_unembed: Any, part: tuple[Array, ...]) -> tuple[Any, Any]:
    values, logits = _chunk_nll(part[0], unembed, part[1], how)
    if not slopes:
      return d_unembed, values
    dx, more = _chunk_slopes(part, unembed, values[1], logits, how)
    return d_unembed + more, (*values, dx)

  start: Any = jnp.zeros(unembed.shape, jnp.float32) if slopes else None
  if chunks == 1:  # no loop: a CPU runs the insides of one on fewer cores
    d_unembed, out = step(start, tuple(part[0] for part in parts))
    out = tuple(o[None] for o in out)
  else:
    d_unembed, out = jax.lax.scan(step, start, parts)
  nll, lse, *dx = (o.reshape(-1, *o.shape[2:])[:tokens] for o in out)
  if not slopes:
    return (nll, lse), None
  return (nll, lse), (dx[0], d_unembed.astype(unembed.dtype))


def _chunk_nll(
  x: Array, unembed: Array, targets: Array, how: _How
) -> tuple[tuple[Array, Array], Array]:
  """(nll, lse) of the tokens of a chunk, and its logits on this device."""
  z_CV = jnp.dot(x, unembed, preferred_element_type=jnp.float32)
  if how.soft_cap is not None:
    z_CV = how.soft_cap * jnp.tanh(z_CV / how.soft_cap)
  ids_C = _local_ids(targets, z_CV.shape[1], how)
  here_C = (ids_C >= 0) & (ids_C < z_CV.shape[1])
  chosen_C = jnp.take_along_axis(z_CV, ids_C[:, None], 1, mode='clip')[:, 0]
  chosen_C = jnp.where(here_C, chosen_C, 0.0)
  max_C = z_CV.max(axis=1)
  if how.axis is not None:
    max_C = jax.lax.pmax(max_C, how.axis)
  sums = (jnp.exp(z_CV - max_C[:, None]).sum(axis=1), chosen_C, here_C * 1.0)
  if how.axis is not None:
    sums = jax.lax.psum(sums, how.axis)
  lse_C = max_C + jnp.log(sums[0])
  # An id that no column has would otherwise pass for one with a logit of 0.
  nll_C = jnp.where(sums[2] > 0, lse_C - sums[1], jnp.nan)
  return (jnp.where(targets < 0, 0.0, nll_C), lse_C), z_CV


def _chunk_slopes(
  part: tuple[Array, ...], unembed: Array, lse: Array, z_CV: Array, how: _How
) -> tuple[Array, Array]:
  """Gradients of `sum w (nll + z_loss lse^2)` of a chunk.

  `dz = w ((1 + 2 z_loss lse) softmax(z) - onehot)`, through the cap, then
  `dx = dz W^T` and `dW = x^T dz`.
  """
  x, targets, w = part
  ids = _local_ids(targets, z_CV.shape[1], how)
  hit_CV = jnp.arange(z_CV.shape[1]) == ids[:, None]
  scale_C = w * (1.0 + 2.0 * how.z_loss * lse)
  dz_CV = scale_C[:, None] * jnp.exp(z_CV - lse[:, None])
  dz_CV -= jnp.where(hit_CV, w[:, None], 0.0)
  if how.soft_cap is not None:
    dz_CV *= 1.0 - (z_CV / how.soft_cap) ** 2
  dz_CV = jnp.where(w[:, None] == 0, 0.0, dz_CV).astype(x.dtype)
  product = functools.partial(
    jax.lax.dot_general, preferred_element_type=jnp.float32
  )
  dx = product(dz_CV, unembed.astype(x.dtype), (((1,), (1,)), ((), ())))
  d_unembed = product(x, dz_CV, (((0,), (0,)), ((), ())))
  return dx.astype(x.dtype), d_unembed


def _local_ids(targets: Array, columns: int, how: _How) -> Array:
  """Targets as columns of this device; negative or too large elsewhere."""
  if how.axis is None:
    return targets
  return targets - jax.lax.axis_index(how.axis) * columns
