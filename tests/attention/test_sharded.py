"""The sharded call equals the unsharded one, on eight virtual devices."""

from __future__ import annotations

from pathlib import Path

import devices
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from ntk_jax import attention
from ntk_jax.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from ntk_jax import Mask, attention

mesh = Mesh(
  np.array(jax.devices()).reshape(2, 2, 1, 2),
  ('data', 'fsdp', 'context', 'tensor'),
)
rng = np.random.default_rng(0)
normal = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
B, T, N, K, H, Hv = 4, 13, 4, 2, 5, 3
floats = {
  'q': normal(B, T, N, H),
  'k': normal(B, T, K, H),
  'v': normal(B, T, K, Hv),
  'q_scale': normal(T, 1),
  'sink_logits': normal(N),
}
rows = {
  'q_positions': jnp.arange(T) + 3,
  'kv_positions': jnp.arange(T) + 3,
  'q_segments': jnp.asarray(np.sort(rng.integers(0, 3, (B, T)), axis=1)),
  'kv_keep': jnp.asarray(rng.random((B, T)) < 0.7),
}
d_out, d_lse = normal(B, T, N, Hv), normal(B, T, N)
by_head = NamedSharding(mesh, P(('data', 'fsdp'), None, 'tensor'))
placed = floats | {n: jax.device_put(floats[n], by_head) for n in 'qkv'}

def everything(call, floats, window):
  def loss(floats):
    mask = Mask(window=window, document=True)
    out, lse = call(
      **floats, **rows, mask=mask, soft_cap=3.0, return_lse=True
    )
    lse = jnp.where(jnp.isneginf(lse), 0, lse)
    return (out * d_out).sum() + (lse * d_lse).sum(), out
  return jax.value_and_grad(loss, has_aux=True)(floats)

run = jax.jit(everything, static_argnums=0)
window = jnp.int32(6)
(found, out), grads = run(attention.sharded(mesh), placed, window)
expected = run(attention.attention, floats, window)
found = jax.tree.leaves(((found, out), grads))
for x, y in zip(found, jax.tree.leaves(expected), strict=True):
  np.testing.assert_allclose(x, y, rtol=0, atol=1e-5 * np.abs(y).max())
for name in 'qkv':
  assert grads[name].sharding.is_equivalent_to(by_head, 4), grads[name].sharding
text = run.lower(attention.sharded(mesh), placed, window).compile().as_text()
assert 'all-gather' not in text and 'all-to-all' not in text
print('equal on', len(jax.devices()))
"""


def test_outputs_and_gradients_equal_the_unsharded_call() -> None:
  process = devices.start('-c', PROGRAM, devices=8)
  assert devices.output(process) == 'equal on 8\n'


def _mesh(**axes: int) -> Mesh:
  """More devices than there are; nothing runs on it."""
  devices = np.full(tuple(axes.values()), jax.devices()[0])
  return Mesh(devices, tuple(axes))


@pytest.mark.parametrize(
  ('shape', 'kv_heads', 'says'),
  [
    ((3, 4, 4, 2), 4, '3 rows over mesh axes data, fsdp of 4 devices'),
    ((4, 4, 3, 2), 3, '3 query heads over mesh axes tensor of 2 devices'),
    ((4, 4, 4, 2), 1, '1 kv heads over mesh axes tensor of 2 devices'),
  ],
)
def test_numbers_that_do_not_divide_raise(
  shape: tuple[int, ...], kv_heads: int, says: str
) -> None:
  q = jnp.ones(shape)
  k = q[:, :, :kv_heads]
  call = attention.sharded(_mesh(data=2, fsdp=2, tensor=2))
  with pytest.raises(ConfigError, match=says):
    call(q, k, k)


def test_an_axis_that_the_mesh_lacks_raises() -> None:
  with pytest.raises(
    ConfigError, match="unknown mesh axis 'fsdp'.*data, tensor"
  ):
    attention.sharded(_mesh(data=2, tensor=2))
  attention.sharded(_mesh(data=2, tensor=2), batch='data')
  attention.sharded(_mesh(data=2), batch='data', heads=None)
