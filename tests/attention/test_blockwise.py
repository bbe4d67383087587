"""Tiled attention equals the oracle, and the oracle equals the equation."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jax.extend.core import Jaxpr, jaxprs_in_params

from ntk_jax.attention import blockwise, blockwise_attention
from ntk_jax.attention.reference import reference_attention
from ntk_jax.errors import ConfigError

# float32 sums of another order differ by this share of the largest value.
TOLERANCE = 2e-5
NO_WINDOW = 2**31 - 1

Attention = Callable[..., jax.Array]


def draw(
  shape: tuple[int, int, int, int], kv_heads: int, seed: int = 0
) -> list[jax.Array]:
  """q, k, v and a cotangent; logits large enough to make peaked weights."""
  B, T, N, H = shape
  keys = jax.random.split(jax.random.key(seed), 4)
  heads = (N, kv_heads, kv_heads, N)
  return [
    2 * jax.random.normal(key, (B, T, n, H)) for key, n in zip(keys, heads)
  ]


def both(attend: Attention, **options: object) -> Callable[..., list]:
  """(window, cotangent, q, k, v) to the output and gradients in q, k and v."""

  @jax.jit
  def run(
    window: jax.Array, g: jax.Array, *qkv: jax.Array
  ) -> tuple[jax.Array, ...]:
    out, pull = jax.vjp(lambda *x: attend(*x, window=window, **options), *qkv)
    return out, *pull(g)

  return lambda *args: [np.asarray(x) for x in run(*args)]


def assert_close(
  found: list[np.ndarray], expected: list[np.ndarray], tolerance: float
) -> None:
  for i, (x, y) in enumerate(zip(found, expected, strict=True)):
    # A gradient that is zero in theory (one visible key) has no scale of its
    # own; inputs are of order one.
    scale = max(1.0, np.abs(y).max())
    np.testing.assert_allclose(
      x, y, rtol=0, atol=tolerance * scale, err_msg=f'array {i}'
    )


def test_the_oracle_is_the_equation() -> None:
  q, k, v, _ = draw((2, 7, 6, 5), kv_heads=2)
  out = reference_attention(q, k, v, window=3, scale=0.3)
  q64, k64, v64 = (np.asarray(x, np.float64) for x in (q, k, v))
  expected = np.zeros(q.shape)
  for b, i, n in np.ndindex(2, 7, 6):
    kept = range(max(0, i - 2), i + 1)
    weight = np.array([0.3 * q64[b, i, n] @ k64[b, j, n // 3] for j in kept])
    weight = np.exp(weight - weight.max())
    weight /= weight.sum()
    expected[b, i, n] = sum(w * v64[b, j, n // 3] for w, j in zip(weight, kept))
  np.testing.assert_allclose(out, expected, rtol=0, atol=5e-6)


# One tile and one loop; tiles with a remainder; a group; a prime number of
# heads of which a few would fit.
SHAPES = (
  (1, 1, 1, 2, 1),
  (3, 61, 2, 3, 5),
  (1, 257, 3, 2, 7),
  (5, 389, 3, 1, 2),
  (2, 601, 2, 3, 5),
  (17, 353, 1, 1, 3),
)


@pytest.mark.parametrize(
  ('batch', 'length', 'kv_heads', 'group', 'head_dim'), SHAPES
)
def test_output_and_gradients_equal_the_oracle(
  batch: int, length: int, kv_heads: int, group: int, head_dim: int
) -> None:
  shape = (batch, length, kv_heads * group, head_dim)
  ours, oracle = both(blockwise_attention), both(reference_attention)

  @settings(max_examples=8, deadline=None, derandomize=True, database=None)
  @example(window=NO_WINDOW, seed=0)
  @example(window=1, seed=0)
  @given(window=st.integers(1, length + 1), seed=st.integers(0, 99))
  def check(window: int, seed: int) -> None:
    *qkv, g = draw(shape, kv_heads, seed)
    found = ours(np.int32(window), g, *qkv)
    assert_close(found, oracle(np.int32(window), g, *qkv), TOLERANCE)

  check()


def test_the_shapes_loop_over_heads() -> None:
  assert blockwise._heads_at_once(5 * 3, 1, 389) < 15
  assert blockwise._heads_at_once(2 * 2, 3, 601) < 4
  assert blockwise._heads_at_once(17, 1, 353) == 1  # 7 would fit, 17 is prime


@pytest.mark.parametrize(
  ('heads', 'group', 'length', 'at_once'),
  [
    (128, 1, 128, 128),  # the default's training: small, no loop
    (16, 1, 1024, 2),  # tile 128 x prefix 1024 x 2 heads fill the cache
    (8, 1, 2048, 1),
    (8, 4, 1024, 1),  # one kv head with its group is the least
    (15, 1, 512, 3),  # 4 would fit and does not divide 15
  ],
)
def test_heads_at_once(
  heads: int, group: int, length: int, at_once: int
) -> None:
  assert blockwise._heads_at_once(heads, group, length) == at_once


def test_scale_is_used_in_both_directions() -> None:
  *qkv, g = draw((1, 150, 2, 4), kv_heads=1)
  args = np.int32(NO_WINDOW), g, *qkv
  found = both(blockwise_attention, scale=0.21)(*args)
  assert_close(found, both(reference_attention, scale=0.21)(*args), TOLERANCE)
  default = both(reference_attention)(*args)
  assert np.abs(found[0] - default[0]).max() > 0.1


def test_a_static_window_is_the_traced_one() -> None:
  q, k, v, _ = draw((1, 150, 2, 4), kv_heads=1)
  traced = jax.jit(lambda n: blockwise_attention(q, k, v, window=n))(3)
  static = blockwise_attention(q, k, v, window=3)
  np.testing.assert_allclose(traced, static, rtol=0, atol=TOLERANCE)
  full = blockwise_attention(q, k, v)
  assert np.abs(full - static).max() > 0.1


def test_bfloat16_sums_in_float32() -> None:
  *qkv, g = (x.astype(jnp.bfloat16) for x in draw((1, 260, 4, 8), kv_heads=2))
  window = np.int32(NO_WINDOW)
  found = both(blockwise_attention)(window, g, *qkv)
  assert {x.dtype.name for x in found} == {'bfloat16'}
  wide = [x.astype(jnp.float32) for x in (g, *qkv)]
  expected = both(reference_attention)(window, *wide)
  # Eight bits of mantissa in weights and in each result.
  assert_close([x.astype(np.float32) for x in found], expected, 1e-2)


def sizes(jaxpr: Jaxpr) -> Iterator[int]:
  """Elements of every array that a program makes, loops included."""
  for equation in jaxpr.eqns:
    yield from (
      np.prod(getattr(var.aval, 'shape', ())) for var in equation.outvars
    )
    for inner in jaxprs_in_params(equation.params):
      yield from sizes(inner)


@pytest.mark.parametrize('length', [1024, 2100])
def test_no_array_is_quadratic_in_length(length: int) -> None:
  def largest(attend: Attention) -> int:
    grads = jax.grad(lambda *qkv: attend(*qkv).sum(), argnums=(0, 1, 2))
    q = jax.ShapeDtypeStruct((1, length, 2, 4), jnp.float32)
    return max(sizes(jax.make_jaxpr(grads)(q, q, q).jaxpr))

  assert largest(reference_attention) == 2 * length**2  # the counter counts
  assert largest(blockwise_attention) <= 2**18 + 256 * length


@pytest.mark.unchecked
@pytest.mark.parametrize(
  ('k_shape', 'v_shape'),
  [
    ((1, 4, 3, 2), (1, 4, 3, 2)),  # 3 does not divide 4
    ((1, 4, 2, 2), (1, 4, 1, 2)),
    ((1, 5, 2, 2), (1, 5, 2, 2)),
    ((2, 4, 2, 2), (2, 4, 2, 2)),
    ((1, 4, 2, 3), (1, 4, 2, 3)),
  ],
)
def test_shapes_that_disagree_raise(
  k_shape: tuple[int, ...], v_shape: tuple[int, ...]
) -> None:
  q, k, v = jnp.ones((1, 4, 4, 2)), jnp.ones(k_shape), jnp.ones(v_shape)
  with pytest.raises(ConfigError) as error:
    blockwise_attention(q, k, v)
  assert f'k {k_shape}' in str(error.value)
  assert f'v {v_shape}' in str(error.value)


def test_a_window_below_one_raises() -> None:
  q = jnp.ones((1, 4, 1, 2))
  with pytest.raises(ConfigError, match='window is 0: .* at least 1'):
    blockwise_attention(q, q, q, window=0)
