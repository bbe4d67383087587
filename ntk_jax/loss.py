"""Cross-entropy of chosen targets, in float32."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ntk_jax.typing import Array, Float32, Int32, NDArray


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
