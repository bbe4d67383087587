"""Random calls of attention, and a runner for outputs and all gradients."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from ntk_jax.mask import Mask
from ntk_jax.typing import NDArray

# float32 sums of another order differ by this share of the largest value.
TOLERANCE = 2e-5
NO_WINDOW = 2**31 - 1

Attention = Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class Case:
  """A call: arrays that are differentiated, arrays that are not, the rest."""

  floats: dict[str, NDArray]
  rows: dict[str, NDArray]
  mask: Mask
  options: dict[str, float]
  cotangents: tuple[NDArray, NDArray]


def run(attend: Attention, case: Case, dtype: Any = jnp.float32) -> dict:
  """Output, log-sum-exp and the gradients of all that has one, jitted."""

  @jax.jit
  def value_and_gradients(
    floats: dict, rows: dict, mask: Mask, d_out: jax.Array, d_lse: jax.Array
  ) -> dict:
    def call(floats: dict) -> tuple[jax.Array, jax.Array]:
      out, lse = attend(**floats, **rows, **case.options, mask=mask)
      return out, lse

    (out, lse), pull = jax.vjp(call, floats)
    # The log-sum-exp of an empty row is -inf whatever the inputs.
    (grads,) = pull((d_out.astype(out.dtype), d_lse))
    return {'out': out, 'lse': lse} | {f'd_{n}': g for n, g in grads.items()}

  wide = ('q_scale', 'sink_logits')
  floats = {
    name: jnp.asarray(x, jnp.float32 if name in wide else dtype)
    for name, x in case.floats.items()
  }
  found = value_and_gradients(floats, case.rows, case.mask, *case.cotangents)
  return {name: np.asarray(x) for name, x in found.items()}


def assert_close(found: dict, expected: dict, tolerance: float) -> None:
  """Within a share of the largest value of each array."""
  assert found.keys() == expected.keys()
  for name, y in expected.items():
    x, y = (np.asarray(a, np.float32) for a in (found[name], y))
    empty = np.isneginf(y)
    np.testing.assert_array_equal(np.isneginf(x), empty, err_msg=name)
    x, y = np.where(empty, 0, x), np.where(empty, 0, y)
    # A gradient that is zero in theory (one visible key) has no scale of its
    # own; inputs are of order one.
    atol = tolerance * max(1.0, np.abs(y).max())
    np.testing.assert_allclose(x, y, rtol=0, atol=atol, err_msg=name)


def operands(
  rng: np.random.Generator,
  sizes: tuple[int, int, int, int, int, int, int],
) -> tuple[dict[str, NDArray], tuple[NDArray, NDArray]]:
  """q, k, v and cotangents; logits large enough to make peaked weights."""
  B, T, S, K, G, H, Hv = sizes
  shapes = ((B, T, K * G, H), (B, S, K, H), (B, S, K, Hv))
  qkv = [2 * rng.normal(size=s).astype(np.float32) for s in shapes]
  d_out = rng.normal(size=(B, T, K * G, Hv)).astype(np.float32)
  d_lse = rng.normal(size=(B, T, K * G)).astype(np.float32)
  return dict(zip('qkv', qkv)), (d_out, d_lse)


def _positions(rng: np.random.Generator, B: int, n: int, wild: bool) -> NDArray:
  """Rising with gaps, from a negative offset; or in any order."""
  steps = np.cumsum(rng.choice([0, 1, 1, 1, 2, 9], (B, n)), axis=1)
  positions = (steps + rng.integers(-40, 20, (B, 1))).astype(np.int32)
  return rng.permutation(positions, axis=1) if wild else positions


def _segments(rng: np.random.Generator, B: int, n: int) -> NDArray:
  """Packed documents, then padding."""
  segments = np.sort(rng.integers(1, 5, (B, n)), axis=1).astype(np.int32)
  pad = rng.integers(0, n + 1, (B, 1)) * rng.integers(0, 2, (B, 1))
  return np.where(np.arange(n) >= n - pad, 0, segments).astype(np.int32)


@st.composite
def cases(draw: Callable, lengths: tuple[int, ...], plain: bool) -> Case:
  """Any call; plain ones have no positions, segments or dropped keys."""
  flip, seed = st.booleans(), draw(st.integers(0, 2**32 - 1))
  rng = np.random.default_rng(seed)
  B, K, G = (draw(st.integers(1, 3)) for _ in range(3))
  H, Hv = draw(st.sampled_from((1, 5, 8))), draw(st.sampled_from((1, 3, 8)))
  T = draw(st.sampled_from(lengths))
  S, rows, document = T, {}, False
  if not plain:
    positions, segments = draw(
      st.sampled_from(((1, 0), (0, 1), (1, 1), (0, 0)))
    )
    if positions:
      S = draw(st.sampled_from(lengths))
      wild = draw(flip)
      rows['q_positions'] = _positions(rng, B, T, wild)
      rows['kv_positions'] = _positions(rng, B, S, wild)
    if segments:
      document = draw(flip)
      rows['q_segments'] = _segments(rng, B, T)
      shared = S == T and draw(flip)
      if not shared:
        rows['kv_segments'] = _segments(rng, B, S)
    if draw(flip) or not rows:
      rows['kv_keep'] = rng.random((B, S)) < 0.6
  floats, cotangents = operands(rng, (B, T, S, K, G, H, Hv))
  if draw(flip):
    shape = draw(st.sampled_from(((T, 1), (B, T, 1), (K * G,), (B, T, K * G))))
    floats['q_scale'] = 1 + 0.3 * rng.normal(size=shape).astype(np.float32)
  if draw(flip):
    floats['sink_logits'] = 2 * rng.normal(size=K * G).astype(np.float32)
  options = {'soft_cap': 3.0} if draw(flip) else {}
  if draw(flip):
    options['scale'] = 0.21
  mask = draw(masks(T, document))
  return Case(floats, rows, mask, options, cotangents)


@st.composite
def masks(draw: Callable, length: int, document: bool) -> Mask:
  """Causal or not, with a static window, a runtime one, or none."""
  if not draw(st.integers(0, 3)):
    return Mask(causal=False, document=document)
  window = draw(st.none() | st.integers(1, length + 1))
  if window is None:
    return Mask(document=document)
  sinks = draw(st.sampled_from((0, 0, 3)))
  if draw(st.booleans()):
    window = np.array(window, np.int32)
  return Mask(window=window, document=document, sink_tokens=sinks)
