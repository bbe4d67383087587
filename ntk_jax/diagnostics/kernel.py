"""The empirical neural tangent kernel of a model, by group of parameters.

For a scalar output f and contexts x_a,

    K_ab = sum_theta df(x_a)/dtheta df(x_b)/dtheta,

split into the groups that theta falls into. One reverse pass per context and
dot products of gradients: no Jacobian of all outputs, no dense kernel of all
positions.

Source: Jacot et al. 2018, arXiv:1806.07572; contraction by vector-Jacobian
products: Novak et al. 2022, arXiv:2206.08720, section 3.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ntk_jax.diagnostics.gradients import by_group
from ntk_jax.errors import ConfigError
from ntk_jax.model.config import ModelConfig
from ntk_jax.model.params import Params
from ntk_jax.model.transformer import hidden_states, output_logits
from ntk_jax.scheme import SchemeArrays
from ntk_jax.typing import Array, Float, Float32, Float64, Int32, NDArray

HELD_BYTES = 2**31  # of gradients at a time
ALL = 'all'


class KernelFacts(NamedTuple):
  """What a Gram matrix says of training.

  Attributes:
    trace: its mean diagonal: how far one gradient step moves an output.
    correlation: mean of K_ab / sqrt(K_aa K_bb) over a != b: 1 is one
      direction for all samples, 0 each its own.
    condition: largest over smallest eigenvalue: how much slower the slowest
      combination of samples is learnt than the fastest.
  """

  trace: float
  correlation: float
  condition: float


def kernel_facts(gram: Float[NDArray, 'C C']) -> KernelFacts:
  """Trace, correlation and condition of a Gram matrix of at least 2 samples.

  The trace is the mean of the diagonal, so that it does not grow with the
  number of samples. A matrix that is not positive definite has condition
  infinity.

  Raises:
    ConfigError: fewer than two samples.

  >>> kernel_facts(np.array([[4.0, 2.0], [2.0, 4.0]]))
  KernelFacts(trace=4.0, correlation=0.5, condition=3.0)
  """
  count = len(gram)
  if count < 2:
    raise ConfigError(f'contexts is {count}: a correlation takes at least 2')
  gram = np.asarray(gram, np.float64)
  with np.errstate(divide='ignore', invalid='ignore'):
    scale = np.sqrt(np.diag(gram))
    alike = gram / np.outer(scale, scale)
  others = ~np.eye(count, dtype=bool)
  values = np.linalg.eigvalsh(gram)
  lowest, highest = float(values[0]), float(values[-1])
  return KernelFacts(
    float(np.diag(gram).mean()),
    float(alike[others].mean()),
    highest / lowest if lowest > 0 else float('inf'),
  )


def empirical_kernel(
  gradient: Callable[[Any], Any],
  contexts: Sequence[Any] | Array | NDArray,
  *,
  group: Callable[[Any], dict[str, list[Any]]] = by_group,
  held: int = HELD_BYTES,
) -> dict[str, Float64[NDArray, 'C C']]:
  """Gram matrices of gradients, by group and of `all`.

  Gradients of a block of contexts are held at a time, and made again for each
  pair of blocks: time grows where memory does not suffice, memory never.

  Args:
    gradient: from a context to the gradient of its output, a tree.
    contexts: C of them.
    group: from a gradient to its leaves by group.
    held: bytes of gradients that may be held; two of them always are.

  >>> rows = np.array([[1.0, 2.0], [3.0, 0.0]])  # f(x) = w . x: K = X X^T
  >>> one = lambda gradient: {'w': [gradient]}
  >>> empirical_kernel(jnp.asarray, rows, group=one)['w'].tolist()
  [[5.0, 3.0], [3.0, 9.0]]
  """
  count = len(contexts)
  shapes = jax.eval_shape(gradient, contexts[0])
  size = sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(shapes))
  block = max(1, held // max(1, size) - 1)  # and one of another block
  blocks = [range(i, min(i + block, count)) for i in range(0, count, block)]
  grams: dict[str, Any] = {
    name: np.zeros((count, count)) for name in group(shapes)
  }

  own, other = [], None
  for number, rows in enumerate(blocks):
    del own, other  # or two blocks would be held while the next is made
    own = [group(gradient(contexts[row])) for row in rows]
    for columns in blocks[number:]:
      for j, column in enumerate(columns):
        other = own[j] if columns is rows else group(gradient(contexts[column]))
        for i, row in enumerate(rows):
          for name, value in jax.device_get(_dots(own[i], other)).items():
            grams[name][row, column] = grams[name][column, row] = value
  return grams | {ALL: sum(grams.values())}


@jax.jit
def _dots(
  one: dict[str, list[Any]], other: dict[str, list[Any]]
) -> dict[str, Array]:
  """Dot products of two gradients by group, in float32."""

  def dot(a: Array, b: Array) -> Array:
    return jnp.sum(a.astype(jnp.float32) * b.astype(jnp.float32))

  return {
    name: jnp.stack([*map(dot, leaves, other[name])]).sum()
    for name, leaves in one.items()
  }


def model_kernel(
  params: Params,
  config: ModelConfig,
  schemes: Sequence[SchemeArrays],
  contexts: Int32[Array | NDArray, 'C T'],
  direction: Float32[NDArray, ' V'],
  *,
  held: int = HELD_BYTES,
) -> dict[str, Float64[NDArray, 'C C']]:
  """The kernel of `f(x) = u . logits(x)` at the last position of contexts.

  Args:
    params: the model's; what it is differentiated with respect to.
    config: its shape.
    schemes: arrays at positions 0 .. T-1, one for each number of its plan.
    contexts: ids, one context a row.
    direction: u; of norm 1 it gives f variance 1 at the start of a decoder
      with tied embeddings.
    held: as in `empirical_kernel`.
  """
  schemes = tuple(schemes)

  def gradient(context: Array) -> Params:
    return _gradient(params, schemes, context, direction, config=config)

  return empirical_kernel(gradient, contexts, held=held)


@functools.partial(jax.jit, static_argnames='config')
def _gradient(
  params: Params,
  schemes: tuple[SchemeArrays, ...],
  context: Array,
  direction: Array,
  *,
  config: ModelConfig,
) -> Params:
  def output(params: Params) -> Array:
    x, _ = hidden_states(params, config, context[None], None, None, schemes)
    return jnp.vdot(output_logits(params, config, x[-1:])[0], direction)

  return jax.grad(output)(params)
