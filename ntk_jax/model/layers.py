"""The layers of the decoder, pure functions of arrays.

Tokens are flat, [B*T, D], around every projection: a weight gradient over
two contracted dims (B, T) makes transposed copies on a CPU, worth 15-20% of
a step.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint

from ntk_jax.model.remat import name
from ntk_jax.typing import Array, Float


def rms_norm(
  x: Float[Array, '*B D'],
  weight: Float[Array, ' D'],
  eps: float = 1e-6,
  offset: bool = False,
) -> Float[Array, '*B D']:
  """Root-mean-square norm: `x / sqrt(mean(x^2) + eps) * weight`, in float32.

  Args:
    x: what to norm, over its last dim.
    weight: of each channel.
    eps: added to the mean square.
    offset: multiply by 1 + weight instead (Gemma).

  Source: Zhang and Sennrich 2019 (arXiv 1910.07467), equation 4.

  >>> y = rms_norm(jnp.array([3.0, 4.0]), jnp.ones(2))
  >>> print([round(float(v), 4) for v in y])
  [0.8485, 1.1314]
  """
  x32, weight = x.astype(jnp.float32), weight.astype(jnp.float32)
  scale = jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + eps)
  return (x32 * scale * (1 + weight if offset else weight)).astype(x.dtype)


@jax.custom_vjp
def _product(x: Array, w: Array) -> Array:
  y = jnp.dot(x, w, preferred_element_type=jnp.float32)
  return y.astype(x.dtype)


def _product_forward(x: Array, w: Array) -> tuple[Array, tuple[Array, Array]]:
  return _product(x, w), (x, w)


def _product_backward(
  saved: tuple[Array, Array], g: Array
) -> tuple[Array, Array]:
  x, w = saved
  # Not `g @ w.T`: a CPU would multiply bfloat16 as float32, at half the speed.
  dx = jax.lax.dot_general(
    g, w, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32
  )
  dw = jnp.dot(_transposed(x), g, preferred_element_type=jnp.float32)
  return dx.astype(x.dtype), dw.astype(w.dtype)


def _transposed(x: Array) -> Array:
  """`x.T`, written out for a CPU's bfloat16 products, which need it so."""
  if x.dtype != jnp.bfloat16:
    return x.T
  return jax.lax.platform_dependent(
    x.T,
    cpu=lambda x_T: with_layout_constraint(x_T, Layout((0, 1))),
    default=lambda x_T: x_T,
  )


# Both directions multiply operands of the compute dtype and sum in float32:
# autodiff alone would multiply float32 by bfloat16 backwards.
_product.defvjp(_product_forward, _product_backward)


def dense(
  x: Float[Array, 'tokens D'],
  weight: Float[Array, 'D F'],
  bias: Float[Array, ' F'] | None = None,
) -> Float[Array, 'tokens F']:
  """`x W + b` in x's dtype, summed in float32.

  >>> print(dense(jnp.ones((1, 2)), jnp.eye(2), jnp.array([1.0, 2.0])))
  [[2. 3.]]
  """
  y = name(_product(x, weight.astype(x.dtype)), 'dot')
  return y if bias is None else y + bias.astype(x.dtype)


_GATES: dict[str, Callable[[Array], Array]] = {
  'silu': jax.nn.silu,
  'gelu': jax.nn.gelu,
  'gelu_exact': lambda x: jax.nn.gelu(x, approximate=False),
}


def gated(
  gate: Float[Array, 'tokens F'],
  up: Float[Array, 'tokens F'],
  activation: str = 'silu',
) -> Float[Array, 'tokens F']:
  """The hidden layer of a gated MLP: `act(gate) * up`.

  Args:
    gate: x W_gate.
    up: x W_up.
    activation: silu (SwiGLU), gelu (GeGLU, tanh form) or gelu_exact.

  Source: Shazeer 2020 (arXiv 2002.05202), equation 6.

  >>> one = jnp.ones((1, 1))
  >>> print(round(float(gated(one, one)[0, 0]), 4))
  0.7311
  """
  return _GATES[activation](gate) * up
