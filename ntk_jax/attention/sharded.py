"""The attention call on a mesh: batch and heads apart, nothing communicated."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from ntk_jax.attention.api import attention
from ntk_jax.errors import ConfigError, unknown
from ntk_jax.mask import Mask
from ntk_jax.typing import Array

Axes = str | tuple[str, ...] | None
_CAUSAL = Mask()


def sharded(
  mesh: Mesh,
  batch: Axes = ('data', 'fsdp'),
  heads: Axes = 'tensor',
) -> Callable[..., Any]:
  """`attention` for users of jit and NamedSharding: the same call, by shards.

  Each device attends for its part of the batch and of the heads; queries and
  keys of a row stay together. Gradients are those of the unsharded call when
  `jax.grad` is outside, as it is here.

  Args:
    mesh: the devices.
    batch: mesh axes that B is split over; () or None for none.
    heads: mesh axes that N and K are split over.

  Returns:
    A function with the arguments of `attention`. It raises ConfigError if B,
    N or K is not a multiple of its axes' size.

  Raises:
    ConfigError: an axis that the mesh does not have.

  >>> import numpy as np
  >>> mesh = Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ('data', 'tensor'))
  >>> x = jnp.arange(4.0).reshape(1, 4, 1, 1)
  >>> print(sharded(mesh, batch='data')(0 * x, x, x).ravel())
  [0.  0.5 1.  1.5]
  """
  batch, heads = _names(mesh, batch), _names(mesh, heads)

  def attend(
    q: Array,
    k: Array,
    v: Array,
    *,
    mask: Mask = _CAUSAL,
    return_lse: bool = False,
    **options: Any,
  ) -> Any:
    _check_divisible(mesh, batch, heads, q, k)
    B, T, N, _ = q.shape
    static: dict[str, Any] = {}
    arrays: dict[str, Any] = {}
    specs: dict[str, PartitionSpec] = {}
    for name, x in options.items():
      if x is None or name in ('scale', 'soft_cap', 'implementation'):
        static[name] = x
      elif name == 'sink_logits':
        arrays[name], specs[name] = x, PartitionSpec(heads)
      elif name == 'q_scale':
        arrays[name] = jnp.broadcast_to(x, (B, T, N))
        specs[name] = PartitionSpec(batch, None, heads)
      else:
        arrays[name] = jnp.broadcast_to(x, (B, jnp.shape(x)[-1]))
        specs[name] = PartitionSpec(batch, None)

    def local(
      q: Array, k: Array, v: Array, mask: Mask, arrays: dict[str, Any]
    ) -> Any:
      return attention(
        q, k, v, mask=mask, return_lse=return_lse, **static, **arrays
      )

    by_head = PartitionSpec(batch, None, heads)
    return jax.shard_map(
      local,
      mesh=mesh,
      in_specs=(by_head, by_head, by_head, PartitionSpec(), specs),
      out_specs=(by_head, by_head) if return_lse else by_head,
      check_vma=False,
    )(q, k, v, mask, arrays)

  return attend


def _names(mesh: Mesh, axes: Axes) -> tuple[str, ...]:
  names = (axes,) if isinstance(axes, str) else tuple(axes or ())
  for name in names:
    if name not in mesh.axis_names:
      raise unknown('mesh axis', name, mesh.axis_names)
  return names


def _check_divisible(
  mesh: Mesh,
  batch: tuple[str, ...],
  heads: tuple[str, ...],
  q: Array,
  k: Array,
) -> None:
  for what, count, axes in (
    ('rows', q.shape[0], batch),
    ('query heads', q.shape[2], heads),
    ('kv heads', k.shape[2], heads),
  ):
    size = math.prod(mesh.shape[axis] for axis in axes)
    if count % size:
      raise ConfigError(
        f'{count} {what} over mesh axes {", ".join(axes)} of {size} devices '
        f'in all: the number must be a multiple of {size}'
      )
