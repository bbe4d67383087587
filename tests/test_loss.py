"""Cross-entropy against float64, whole, in chunks and over devices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import devices
import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from ntk_jax.errors import ConfigError
from ntk_jax.loss import LossSums, chunked_cross_entropy, cross_entropy

ROOT = Path(__file__).resolve().parents[1]
TOKENS, D, V = 23, 5, 13


def test_equals_float64() -> None:
  rng = np.random.default_rng(0)
  logits = rng.normal(scale=5, size=(3, 7, 11)).astype(np.float32)
  targets = rng.integers(0, 11, (3, 7)).astype(np.int32)
  found = cross_entropy(jnp.asarray(logits), targets)
  p = np.exp(logits.astype(np.float64))
  p /= p.sum(-1, keepdims=True)
  expected = -np.log(np.take_along_axis(p, targets[..., None], -1)[..., 0])
  assert found.shape == (3, 7)
  np.testing.assert_allclose(found, expected, rtol=1e-6, atol=2e-6)


def test_huge_logits_are_finite() -> None:
  found = cross_entropy(jnp.array([[3e4, -3e4]]), jnp.array([1]))
  np.testing.assert_allclose(found, [6e4])


def test_no_target_no_loss_no_gradient() -> None:
  logits = jax.random.normal(jax.random.key(0), (2, 5))
  targets = jnp.array([-1, 3])
  loss, grad = jax.value_and_grad(lambda z: cross_entropy(z, targets).sum())(
    logits
  )
  assert cross_entropy(logits, targets)[0] == 0
  assert (grad[0] == 0).all()
  np.testing.assert_allclose(loss, cross_entropy(logits, targets)[1])
  # softmax minus one-hot
  expected = jax.nn.softmax(logits[1]) - jax.nn.one_hot(3, 5)
  np.testing.assert_allclose(grad[1], expected, atol=1e-6)


class Case:
  """Hidden states with targets, some of them without a loss."""

  def __init__(self) -> None:
    rng = np.random.default_rng(1)
    self.x = rng.normal(size=(TOKENS, D))
    self.unembed = 2 * rng.normal(size=(D, V))
    self.targets = rng.integers(0, V, TOKENS).astype(np.int32)
    self.targets[[2, 11]] = -1
    self.weights = rng.uniform(0.1, 2, TOKENS)
    self.weights[5] = 0

  def arrays(self, dtype: Any = jnp.float32) -> tuple[jax.Array, ...]:
    return (
      jnp.asarray(self.x, dtype),
      jnp.asarray(self.unembed, dtype),
      jnp.asarray(self.weights, jnp.float32),
    )

  def sums(self, **how: Any) -> LossSums:
    x, unembed, weights = self.arrays()
    return chunked_cross_entropy(x, unembed, self.targets, weights, **how)

  def loss64(
    self,
    x: np.ndarray,
    unembed: np.ndarray,
    weights: np.ndarray,
    *,
    z_loss: float = 0.0,
    soft_cap: float | None = None,
  ) -> tuple[float, float, float, np.ndarray]:
    """The equations of the docstring in float64."""
    z = x @ unembed
    if soft_cap is not None:
      z = soft_cap * np.tanh(z / soft_cap)
    lse = np.log(np.exp(z).sum(1))
    nll = lse - z[np.arange(TOKENS), self.targets]
    nll[self.targets < 0] = 0
    w = np.where(self.targets < 0, 0, weights)
    nll_sum, z_sum = float(w @ nll), float(w @ lse**2)
    return nll_sum + z_loss * z_sum, nll_sum, z_sum, nll


CASE = Case()
HOWS = [{}, {'z_loss': 0.1}, {'soft_cap': 3.0}, {'z_loss': 0.1, 'soft_cap': 2}]
# One token, parts that do not divide, one part that does, all at once, auto.
CHUNKS = [1, 5, 7, TOKENS, 1000, None]


@pytest.mark.parametrize('chunk', CHUNKS)
@pytest.mark.parametrize('how', HOWS)
def test_chunked_sums_equal_float64(
  chunk: int | None, how: dict[str, Any]
) -> None:
  found = CASE.sums(chunk=chunk, **how)
  loss, nll, z, each = CASE.loss64(CASE.x, CASE.unembed, CASE.weights, **how)
  np.testing.assert_allclose(found.loss, loss, rtol=1e-6)
  np.testing.assert_allclose(found.nll, nll, rtol=1e-6)
  np.testing.assert_allclose(found.z, z, rtol=1e-6)
  np.testing.assert_allclose(found.token_nll, each, rtol=1e-5, atol=2e-6)
  kept = CASE.weights[CASE.targets >= 0].sum()
  np.testing.assert_allclose(found.weight, kept, rtol=1e-6)


@pytest.mark.parametrize('chunk', CHUNKS)
@pytest.mark.parametrize('how', HOWS)
def test_chunked_gradients_equal_slopes_in_float64(
  chunk: int | None, how: dict[str, Any]
) -> None:
  """Along random directions, by central differences of the float64 loss."""

  def loss(x: jax.Array, unembed: jax.Array, weights: jax.Array) -> jax.Array:
    return (
      0.7
      * chunked_cross_entropy(
        x, unembed, CASE.targets, weights, chunk=chunk, **how
      ).loss
    )

  arrays = CASE.arrays()
  grads = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(*arrays)
  rng = np.random.default_rng(2)
  at: list[Any] = [CASE.x, CASE.unembed, CASE.weights]
  for place in range(3):
    for _ in range(4):
      way = rng.normal(size=at[place].shape)
      ends = []
      for sign in (1, -1):
        moved = list(at)
        moved[place] = at[place] + sign * 1e-5 * way
        ends.append(CASE.loss64(*moved, **how)[0])
      slope = 0.7 * (ends[0] - ends[1]) / 2e-5
      found = float((np.asarray(grads[place], np.float64) * way).sum())
      scale = float(np.abs(np.asarray(grads[place]) * way).sum())
      assert abs(found - slope) < 3e-6 * scale + 1e-8


def test_rows_without_a_loss_have_no_gradient() -> None:
  x, unembed, weights = CASE.arrays()

  def loss(x: jax.Array) -> jax.Array:
    sums = chunked_cross_entropy(x, unembed, CASE.targets, weights, chunk=4)
    return sums.loss

  grad = np.asarray(jax.grad(loss)(x))
  silent = (CASE.targets < 0) | (CASE.weights == 0)
  assert (grad[silent] == 0).all()
  assert (grad[~silent] != 0).all()


def test_what_is_for_the_record_carries_no_gradient() -> None:
  x, unembed, weights = CASE.arrays()

  def record(x: jax.Array) -> jax.Array:
    sums = chunked_cross_entropy(x, unembed, CASE.targets, weights, chunk=4)
    return sums.nll + sums.z + sums.token_nll.sum()

  assert (jax.grad(record)(x) == 0).all()


def test_leading_dims_and_no_weights() -> None:
  x, unembed, _ = CASE.arrays()
  rows = chunked_cross_entropy(
    x[:20].reshape(4, 5, D), unembed, CASE.targets[:20].reshape(4, 5), chunk=3
  )
  flat = cross_entropy(x[:20] @ unembed, CASE.targets[:20])
  np.testing.assert_allclose(rows.token_nll, flat.reshape(4, 5), atol=3e-6)
  np.testing.assert_allclose(rows.loss, flat.sum(), rtol=1e-6)
  assert rows.weight == (CASE.targets[:20] >= 0).sum()


def test_an_id_beyond_the_vocabulary_is_not_clamped() -> None:
  x, unembed, _ = CASE.arrays()
  targets = jnp.asarray(CASE.targets).at[3].set(V)
  sums = chunked_cross_entropy(x, unembed, targets)
  assert np.isnan(sums.loss)
  assert np.flatnonzero(np.isnan(sums.token_nll)).tolist() == [3]


def test_a_weight_of_zero_beats_a_loss_that_is_not_finite() -> None:
  x, unembed, weights = CASE.arrays()
  bad = jnp.asarray(CASE.targets).at[5].set(V)
  assert weights[5] == 0
  sums = chunked_cross_entropy(x, unembed, bad, weights)
  assert sums.loss == CASE.sums().loss


def test_bfloat16_in_float32_inside() -> None:
  x, unembed, weights = CASE.arrays(jnp.bfloat16)

  def loss(x: jax.Array, unembed: jax.Array) -> jax.Array:
    return chunked_cross_entropy(
      x, unembed, CASE.targets, weights, chunk=6
    ).loss

  found, grads = jax.value_and_grad(loss, argnums=(0, 1))(x, unembed)
  wide = [a.astype(jnp.float32) for a in (x, unembed)]
  expected, slopes = jax.value_and_grad(loss, argnums=(0, 1))(*wide)
  # Products of bfloat16 numbers are exact in float32: only sums differ.
  assert found.dtype == jnp.float32
  np.testing.assert_allclose(found, expected, rtol=1e-6)
  for g, s in zip(grads, slopes):
    assert g.dtype == jnp.bfloat16
    size = float(jnp.abs(s).max())
    np.testing.assert_allclose(
      g.astype(jnp.float32), s, rtol=2**-7, atol=size * 2**-8
    )


def arrays_of(jaxpr: Any) -> Iterator[tuple[str, Any]]:
  """(primitive, aval) of all values of a program, inner ones included."""
  for equation in jaxpr.eqns:
    for var in equation.outvars:
      yield equation.primitive.name, var.aval
    for inner in jax.extend.core.jaxprs_in_params(equation.params):
      yield from arrays_of(inner)


def plain(x: jax.Array, unembed: jax.Array, t: jax.Array) -> jax.Array:
  return cross_entropy(x @ unembed, t).sum()


def chunked(x: jax.Array, unembed: jax.Array, t: jax.Array) -> jax.Array:
  return chunked_cross_entropy(x, unembed, t, chunk=64).loss


def program(
  loss: Callable[..., Any], *, gradient: bool = True
) -> tuple[int, int, int]:
  """Its largest array, its matrix products, and its scratch bytes.

  It goes from 1024 hidden states to a loss over 509 ids.
  """
  shapes = (
    jax.ShapeDtypeStruct((1024, 8), jnp.float32),
    jax.ShapeDtypeStruct((8, 509), jnp.float32),
    jax.ShapeDtypeStruct((1024,), jnp.int32),
  )
  f = jax.value_and_grad(loss, argnums=(0, 1)) if gradient else loss
  values = list(arrays_of(jax.make_jaxpr(f)(*shapes).jaxpr))
  memory: Any = jax.jit(f).lower(*shapes).compile().memory_analysis()
  return (
    max(aval.size for _, aval in values),
    sum(name == 'dot_general' for name, _ in values),
    memory.temp_size_in_bytes,
  )


def test_the_logits_of_all_tokens_never_exist() -> None:
  every = 1024 * 509
  largest, products, scratch = program(plain)
  assert (largest, products) == (every, 3)
  assert scratch >= 4 * every
  for gradient in (True, False):
    largest, products, scratch = program(chunked, gradient=gradient)
    assert largest == 64 * 509
    assert scratch < 4 * every / 4
    # The gradient costs the two products of the plain form, no recomputing.
    assert products == (3 if gradient else 1)


PROGRAM = """
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, PartitionSpec as P
from ntk_jax.loss import chunked_cross_entropy

mesh = jax.make_mesh(
  (2, 2, 2), ('data', 'context', 'tensor'), axis_types=(AxisType.Auto,) * 3
)
rng = np.random.default_rng(0)
T, D, V = 48, 5, 24
x = jnp.asarray(rng.normal(size=(T, D)), jnp.float32)
W = jnp.asarray(2 * rng.normal(size=(D, V)), jnp.float32)
targets = jnp.asarray(rng.integers(-2, V, T), jnp.int32)
weights = jnp.asarray(rng.uniform(0, 2, T), jnp.float32)

def mean(how, axis=None, data=()):
  def loss(x, W, weights, targets):
    if how == 'gathered':  # every device of the axis has a part of the rows
      x, weights, targets = (
        jax.lax.all_gather(a, 'tensor', tiled=True)
        for a in (x, weights, targets)
      )
    sums = chunked_cross_entropy(
      x, W, targets, weights, chunk=5, z_loss=0.05, soft_cap=4.0, axis=axis
    )
    total = (sums.loss, sums.weight, sums.nll, sums.z)
    if data:
      total = jax.lax.psum(total, data)
    return total[0] / total[1], (*total, sums.token_nll)
  return loss

def run(loss):
  grad = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)
  return jax.jit(grad)(x, W, weights, targets)

(expected, (*sums, each)), slopes = run(mean('whole'))
cases = {
  # name: how rows lie, how columns lie, axes of the columns
  'replicated': (('data', 'context'), 'tensor', 'tensor'),
  'gathered': (('data', 'context', 'tensor'), 'tensor', 'tensor'),
  'two axes': (('data',), ('context', 'tensor'), ('context', 'tensor')),
}
for name, (rows, columns, axis) in cases.items():
  data = ('data',) if name == 'two axes' else ('data', 'context')
  loss = jax.shard_map(
    mean(name, axis, data),
    mesh=mesh,
    in_specs=(P(rows), P(None, columns), P(rows), P(rows)),
    out_specs=(P(), (P(), P(), P(), P(), P(data))),
    check_vma=False,
  )
  (found, (*parts, tokens)), grads = run(loss)
  np.testing.assert_allclose(found, expected, rtol=1e-6)
  np.testing.assert_allclose(parts, sums, rtol=1e-6)
  np.testing.assert_allclose(tokens, each, rtol=1e-6, atol=1e-6)
  for g, s in zip(grads, slopes, strict=True):
    np.testing.assert_allclose(g, s, rtol=0, atol=1e-6 * np.abs(s).max())
print('equal on', len(jax.devices()))
"""


def test_columns_over_devices_equal_the_whole() -> None:
  process = devices.start('-c', PROGRAM, devices=8)
  assert devices.output(process) == 'equal on 8\n'


@pytest.mark.parametrize(
  ('how', 'says'),
  [
    ({'chunk': 0}, 'chunk is 0: at least 1'),
    ({'z_loss': -1e-4}, 'z_loss is -0.0001: at least 0'),
    ({'z_loss': float('nan')}, 'z_loss is nan'),
    ({'soft_cap': 0.0}, 'soft_cap is 0.0: above 0, or None'),
    ({'soft_cap': float('inf')}, 'soft_cap is inf'),
    ({'chunk': -1, 'z_loss': -1.0}, 'chunk is -1.*; z_loss is -1.0'),
  ],
)
def test_settings_without_a_meaning_raise(
  how: dict[str, Any], says: str
) -> None:
  with pytest.raises(ConfigError, match=says):
    CASE.sums(**how)


def test_an_embedding_that_was_not_transposed_raises() -> None:
  x, unembed, _ = CASE.arrays()
  with pytest.raises(
    ConfigError, match=r'unembed is \[13, 5\] for hidden states \[23, 5\]'
  ):
    chunked_cross_entropy(x, unembed.T, CASE.targets)
