"""The call: what it takes, what it refuses, which backend it picks."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntk_jax import Mask, attention
from ntk_jax.errors import ConfigError

B, T, S, N, K, H, Hv = 2, 5, 7, 6, 3, 4, 2


def zeros(*shape: int, dtype: Any = jnp.float32) -> jax.Array:
  return jnp.zeros(shape, dtype)


Q, KEYS, V = zeros(B, T, N, H), zeros(B, T, K, H), zeros(B, T, K, Hv)
LONG = {'k': zeros(B, S, K, H), 'v': zeros(B, S, K, Hv)}
P, R = jnp.arange(T), jnp.arange(S)


def arguments(changes: dict[str, Any]) -> dict[str, Any]:
  return {'q': Q, 'k': KEYS, 'v': V} | changes


def call(**changes: Any) -> Any:
  return attention.attention(**arguments(changes))


def test_the_function_is_importable_from_the_module() -> None:
  from ntk_jax.attention import attention as function

  assert attention.attention is function
  assert attention.__name__ == 'ntk_jax.attention'  # the module stays one


def test_implementations_agree() -> None:
  q, k, v = (
    jax.random.normal(jax.random.key(i), x.shape)
    for i, x in enumerate((Q, LONG['k'], LONG['v']))
  )
  options: dict[str, Any] = {
    'mask': Mask(window=4),
    'q_positions': P + 2,
    'kv_positions': R,
    'q_scale': jnp.linspace(1, 2, N),
    'soft_cap': 5.0,
    'sink_logits': jnp.linspace(-1, 1, N),
  }
  results = [
    jax.jit(
      functools.partial(attention.attention, **options, implementation=name)
    )(q, k, v)
    for name in ('auto', 'blockwise', 'reference')
  ]
  for found in results:
    assert found.shape == (B, T, N, Hv)
    np.testing.assert_allclose(found, results[2], atol=1e-6)
  call = functools.partial(attention.attention, **options, return_lse=True)
  out, lse = jax.jit(call)(q, k, v)
  np.testing.assert_array_equal(out, results[0])
  assert lse.shape == (B, T, N)
  assert lse.dtype == jnp.float32


def test_one_row_of_positions_serves_the_batch() -> None:
  row = call(q_positions=P, kv_positions=P)
  full = jnp.broadcast_to(P, (B, T))
  np.testing.assert_array_equal(row, call(q_positions=full, kv_positions=full))


ERRORS = [
  ({'q': Q[0]}, r'takes q \[B, T, N, H\]'),
  ({'q': Q.astype(int)}, 'q is int32: operands are floating'),
  ({'v': zeros(B, T, 1, Hv)}, 'k and v disagree'),
  ({'k': zeros(B, T, K, 3)}, 'q and k disagree in batch or head dim'),
  ({'q': zeros(1, T, N, H)}, 'q and k disagree in batch'),
  ({'q': zeros(B, T, 4, H)}, 'q has 4 heads and k 3'),
  ({'k': KEYS[:, :0], 'v': V[:, :0]}, 'k is empty'),
  ({'mask': None}, 'mask is None: it is an ntk_jax.Mask'),
  (LONG, '5 queries and 7 keys without positions'),
  (LONG | {'mask': Mask(causal=False)}, 'without positions'),
  ({'q_positions': P}, 'go together'),
  ({'kv_positions': P}, 'go together'),
  ({'q_positions': R, 'kv_positions': P}, r'q_positions has shape \(7,\)'),
  ({'q_positions': P + 0.5, 'kv_positions': P}, 'q_positions is float32'),
  ({'q_positions': 3, 'kv_positions': P}, 'q_positions is 3: it is an array'),
  ({'kv_segments': P}, 'kv_segments without q_segments'),
  ({'mask': Mask(document=True)}, 'document is True without segments'),
  (
    LONG | {'q_positions': P, 'kv_positions': R, 'q_segments': P},
    'cannot serve 7 keys',
  ),
  ({'kv_keep': P}, 'kv_keep is int32: it is an array of bool'),
  ({'kv_keep': R > 3}, r'kv_keep has shape \(7,\)'),
  ({'scale': jnp.float32(1)}, 'scale is .*part of the program'),
  ({'scale': float('nan')}, 'scale is nan: it is finite'),
  ({'soft_cap': 0.0}, 'soft_cap is 0.0'),
  ({'q_scale': zeros(B, T)}, r'q_scale has shape \(2, 5\)'),
  ({'q_scale': zeros(3, B, T, N)}, 'q_scale has shape'),
  ({'sink_logits': zeros(K)}, r'sink_logits has shape \(3,\)'),
  ({'implementation': 'blockwize'}, "did you mean 'blockwise'"),
]


@pytest.mark.unchecked
@pytest.mark.parametrize(('changes', 'says'), ERRORS)
def test_a_call_that_cannot_be_meant_raises(
  changes: dict[str, Any], says: str
) -> None:
  with pytest.raises(ConfigError, match=says):
    call(**changes)
  with pytest.raises(ConfigError, match=says):
    attention.explain(**arguments(changes))


@pytest.mark.parametrize(
  ('changes', 'says'),
  [
    ({}, 'blockwise, tiles of queries against known keys'),
    ({'implementation': 'blockwise'}, 'blockwise (asked for), tiles'),
    ({'implementation': 'reference'}, 'reference: asked for'),
    ({'mask': Mask(window=np.array(3))}, 'blockwise, tiles'),
    ({'q_segments': P + 1}, 'found at run time: q_segments given'),
    ({'kv_keep': P > 2}, 'found at run time: kv_keep given'),
    (
      {'q_positions': P, 'kv_positions': P},
      'found at run time: q_positions, kv_positions given',
    ),
  ],
)
def test_explain_says_which_and_why(changes: dict[str, Any], says: str) -> None:
  said = attention.explain(**arguments(changes))
  assert says in said


def test_explain_says_what_runs(monkeypatch: pytest.MonkeyPatch) -> None:
  ran = []
  for name, module in (
    ('tiles', attention.blockwise.prefix),
    ('blocks', attention.blockwise.blocks),
  ):
    forward = module.forward

    def noted(*args: Any, forward: Any = forward, name: str = name) -> Any:
      ran.append(name)
      return forward(*args)

    monkeypatch.setattr(module, 'forward', noted)
  q = zeros(1, 2304, 1, 2)
  calls: tuple[dict[str, Any], ...] = (
    {},
    {'kv_keep': P > 2},
    {'q': q, 'k': q, 'v': q},
  )
  for changes in calls:
    ran.clear()
    args = arguments(changes)
    attention.attention(**args)
    assert ran[0] in attention.explain(**args)


def test_explain_needs_no_arrays() -> None:
  q = jax.ShapeDtypeStruct((1, 2**20, 8, 64), jnp.bfloat16)
  assert 'T is 1048576' in attention.explain(q, q, q)


def test_explain_refuses_other_words() -> None:
  with pytest.raises(TypeError, match="unexpected keyword 'positions'"):
    attention.explain(Q, KEYS, V, positions=P)
