"""The oracle equals the equation, written as a loop in float64."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from attention.cases import Case, cases, operands, run
from ntk_jax.attention.reference import reference_attention
from ntk_jax.mask import Mask
from ntk_jax.typing import NDArray


def sees(case: Case, b: int, i: int, j: int) -> bool:
  """The rule of `Mask`, in words of Python."""
  rows, mask = case.rows, case.mask
  p = int(rows['q_positions'][b, i]) if 'q_positions' in rows else i
  r = int(rows['kv_positions'][b, j]) if 'kv_positions' in rows else j
  own = p == r
  if mask.causal and r > p:
    return False
  far = mask.window is not None and p - r >= np.asarray(mask.window)
  if far and not 0 <= r < mask.sink_tokens:
    return False
  if 'q_segments' in rows:
    x = rows['q_segments'][b, i]
    y = rows.get('kv_segments', rows['q_segments'])[b, j]
    if x == 0 or y == 0 or (mask.document and x != y):
      return False
    own = own and x == y
  return own or 'kv_keep' not in rows or bool(rows['kv_keep'][b, j])


def equation(case: Case) -> tuple[NDArray, NDArray]:
  """Output and log-sum-exp, one pair at a time."""
  q, k, v = (case.floats[name].astype(np.float64) for name in 'qkv')
  (B, T, N, H), (_, S, K, Hv) = q.shape, v.shape
  a = np.broadcast_to(case.floats.get('q_scale', 1.0), (B, T, N))
  scale, cap = case.options.get('scale', H**-0.5), case.options.get('soft_cap')
  out, lse = np.zeros((B, T, N, Hv)), np.full((B, T, N), -np.inf)
  for b, i, n in np.ndindex(B, T, N):
    seen = [j for j in range(S) if sees(case, b, i, j)]
    if not seen:
      continue
    kv = n // (N // K)
    s = [scale * a[b, i, n] * (q[b, i, n] @ k[b, j, kv]) for j in seen]
    s = np.array(s) if cap is None else cap * np.tanh(np.array(s) / cap)
    total = np.exp(s).sum()
    if 'sink_logits' in case.floats:
      total += np.exp(np.float64(case.floats['sink_logits'][n]))
    lse[b, i, n] = np.log(total)
    out[b, i, n] = np.exp(s) @ v[b, seen, kv] / total
  return out, lse


def check(case: Case) -> None:
  floats = {name: jnp.asarray(x) for name, x in case.floats.items()}
  call = functools.partial(reference_attention, **case.options)
  found = jax.jit(call)(**floats, **case.rows, mask=case.mask)
  for x, y in zip(found, equation(case), strict=True):
    np.testing.assert_allclose(x, y, rtol=2e-5, atol=2e-5)


@settings(max_examples=30, deadline=None, derandomize=True, database=None)
@given(cases(lengths=(1, 4, 7), plain=False))
def test_the_oracle_is_the_equation(case: Case) -> None:
  check(case)


def test_the_equation_has_teeth() -> None:
  floats, cotangents = operands(np.random.default_rng(0), (1, 7, 7, 1, 2, 5, 3))
  case = Case(floats, {}, Mask(window=3), {}, cotangents)
  check(case)
  for mask in (Mask(), Mask(window=2), Mask(window=3, sink_tokens=1)):
    wrong = reference_attention(**jax.tree.map(jnp.asarray, floats), mask=mask)[
      0
    ]
    with pytest.raises(AssertionError):
      np.testing.assert_allclose(wrong, equation(case)[0], atol=1e-2)


def test_gradients_are_finite_differences() -> None:
  """Of a weighted sum of outputs and log-sum-exps, in a random direction."""
  rng = np.random.default_rng(1)
  floats, cotangents = operands(rng, (1, 5, 5, 1, 2, 3, 2))
  floats['q_scale'] = rng.normal(size=(5, 1)).astype(np.float32)
  floats['sink_logits'] = rng.normal(size=2).astype(np.float32)
  rows = {'q_segments': np.array([[1, 1, 2, 2, 0]], np.int32)}
  case = Case(floats, rows, Mask(document=True), {'soft_cap': 2.0}, cotangents)
  found = run(reference_attention, case)

  def loss(step: float, direction: dict) -> float:
    moved = {
      n: x.astype(np.float64) + step * direction[n] for n, x in floats.items()
    }
    out, lse = equation(Case(moved, rows, case.mask, case.options, cotangents))
    lse = np.where(np.isneginf(lse), 0, lse)
    return (out * cotangents[0]).sum() + (lse * cotangents[1]).sum()

  for _ in range(3):
    direction = {n: rng.normal(size=x.shape) for n, x in floats.items()}
    slope = (loss(1e-5, direction) - loss(-1e-5, direction)) / 2e-5
    ours = sum((found[f'd_{n}'] * d).sum() for n, d in direction.items())
    assert ours == pytest.approx(slope, rel=1e-4, abs=1e-4)
