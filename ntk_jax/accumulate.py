"""Gradients of a batch that is worked on in parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from ntk_jax.errors import ConfigError
from ntk_jax.typing import Array

Tree = TypeVar('Tree')


class Sums(NamedTuple):
  """What a part of a batch adds to the whole.

  Attributes:
    weight: sum of the weights of its targets.
    values: sums over its targets, any tree: the loss, metrics.
    grads: gradients of its summed loss.
  """

  weight: Any
  values: Any
  grads: Any


def split_rows(batch: Tree, parts: int) -> Tree:
  """Every array [B, ...] as [parts, B // parts, ...]; row b is in part b % n.

  Rows that lie in blocks over devices stay where they are: a device's block
  gives the same number of its rows to every part.

  Raises:
    ConfigError: if the parts would not be equal.

  >>> split_rows(jnp.arange(6), 2).tolist()
  [[0, 2, 4], [1, 3, 5]]
  """

  def split(array: Any) -> Any:
    rows = array.shape[0]
    if parts < 1 or rows % parts:
      raise ConfigError(
        f'{rows} rows in {parts} microbatches: their number must be at least 1 '
        'and divide the rows of a batch'
      )
    return array.reshape(rows // parts, parts, *array.shape[1:]).swapaxes(0, 1)

  return jax.tree.map(split, batch)


def accumulate(
  sums_of: Callable[[Any], Sums], microbatches: Any
) -> tuple[Array, Any, Any]:
  """The mean loss and gradient of a batch, one part in memory at a time.

  `sum_i values_i / W` and `sum_i grads_i / W` with `W = sum_i weight_i`: the
  means over all targets of the batch, as if it were one, however the targets
  are spread over its parts. (A mean of the parts' means would be another
  number.) Sums are float32. Without any target all means are 0.

  Args:
    sums_of: from a microbatch to its sums.
    microbatches: a tree of arrays with one more leading dim than a microbatch,
      as `split_rows` makes it.

  Returns:
    The weight W, the means of the values and of the gradients, float32.

  >>> parts = jnp.array([[1.0, 2.0], [3.0, 0.0]]), jnp.array([[1, 1], [1, 0]])
  >>> def sums_of(part):
  ...   x, weight = part
  ...   return Sums(weight.sum(), (x * weight).sum(), (x * weight).sum())
  >>> [float(number) for number in accumulate(sums_of, parts)]
  [3.0, 2.0, 2.0]
  """
  count = jax.tree.leaves(microbatches)[0].shape[0]
  first = jax.tree.map(lambda array: array[0], microbatches)
  if count == 1:
    total = jax.tree.map(_float32, sums_of(first))
  else:
    shapes = jax.eval_shape(sums_of, first)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, jnp.float32), shapes)

    def add(total: Sums, part: Any) -> tuple[Sums, None]:
      return jax.tree.map(_add, total, sums_of(part)), None

    total, _ = jax.lax.scan(add, zeros, microbatches)
  weight = total.weight
  share = jnp.where(weight > 0, 1.0 / jnp.where(weight > 0, weight, 1.0), 0.0)
  values, grads = jax.tree.map(
    lambda leaf: leaf * share, (total.values, total.grads)
  )
  return weight, values, grads


def _float32(leaf: Any) -> Array:
  return jnp.asarray(leaf, jnp.float32)


def _add(total: Array, part: Any) -> Array:
  return total + _float32(part)
