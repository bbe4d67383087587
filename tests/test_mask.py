"""Masks: what they show, how they combine, what they refuse."""

from __future__ import annotations

from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntk_jax import Mask
from ntk_jax.errors import ConfigError


def sketch(mask: Mask, **rows: Any) -> list[str]:
  """Rows of queries, `x` where a key is seen."""
  seen = np.asarray(mask.visible(np.arange(5), **rows))
  return [''.join('x' if s else '.' for s in row) for row in seen]


def test_what_masks_show() -> None:
  assert sketch(Mask()) == ['x....', 'xx...', 'xxx..', 'xxxx.', 'xxxxx']
  assert sketch(Mask(window=2)) == ['x....', 'xx...', '.xx..', '..xx.', '...xx']
  assert sketch(Mask(window=2, sink_tokens=1))[3:] == ['x.xx.', 'x..xx']
  assert sketch(Mask(causal=False)) == ['xxxxx'] * 5
  segments = np.array([1, 1, 2, 2, 0])
  assert sketch(Mask(document=True), q_segments=segments) == [
    'x....',
    'xx...',
    '..x..',
    '..xx.',
    '.....',
  ]
  # Segments without `document` are padding alone.
  assert sketch(Mask(), q_segments=segments)[2:] == ['xxx..', 'xxxx.', '.....']
  keep = np.array([1, 0, 1, 1, 1], bool)
  assert sketch(Mask(), kv_keep=keep)[1:4] == ['xx...', 'x.x..', 'x.xx.']


def test_a_dropped_key_of_another_document_is_not_ones_own() -> None:
  seen = Mask(causal=False).visible(
    np.array([0, 0]),
    q_segments=np.array([1, 2]),
    kv_keep=np.array([False, False]),
  )
  assert np.asarray(seen).tolist() == [[True, False], [False, True]]


def test_negative_positions_are_no_sinks() -> None:
  p = np.array([-3, -2, 0, 9])
  seen = Mask(window=1, sink_tokens=1).visible(p)
  assert np.asarray(seen)[3].tolist() == [False, False, True, True]
  seen = Mask(window=1).visible(p)
  assert np.asarray(seen)[3].tolist() == [False, False, False, True]


simple = st.builds(
  lambda causal, window, sinks, document: Mask(
    causal or window is not None, window, document, sinks if window else 0
  ),
  st.booleans(),
  st.none() | st.integers(1, 6),
  st.integers(0, 3),
  st.booleans(),
)


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(simple, simple)
def test_and_shows_what_both_show(a: Mask, b: Mask) -> None:
  try:
    both = a & b
  except ConfigError as error:
    assert 'more sinks' in str(error)
    return
  segments = np.array([1, 1, 1, 1, 2, 2, 2, 0])

  def seen(mask: Mask) -> np.ndarray:
    p = np.arange(8)
    return np.asarray(mask.visible(p, q_segments=segments))

  np.testing.assert_array_equal(seen(both), seen(a) & seen(b))
  assert both == b & a


def test_and_with_a_runtime_window() -> None:
  both = Mask(window=np.array(3)) & Mask(window=2, document=True)
  assert both.document and both.runtime
  assert both.window == 2
  with pytest.raises(ConfigError, match='runtime window: `&` needs them equal'):
    _ = Mask(window=np.array(3)) & Mask(window=2, sink_tokens=1)
  with pytest.raises(TypeError):
    _ = Mask() & cast(Any, True)


def test_masks_are_values() -> None:
  assert Mask(window=3) == Mask(window=np.int32(3))
  assert hash(Mask(window=3)) == hash(Mask(window=np.int32(3)))
  assert Mask(window=3) != Mask(window=4)
  assert Mask() != 'Mask'
  window = jnp.int32(3)
  assert Mask(window=window) == Mask(window=window)
  assert Mask(window=window) != Mask(window=3)
  with pytest.raises(TypeError, match='ordinary argument'):
    hash(Mask(window=window))
  with pytest.raises(AttributeError):
    setattr(Mask(), 'causal', False)  # noqa: B010


def test_an_int_is_static_and_an_array_is_not() -> None:
  traces = []

  @jax.jit
  def count(mask: Mask) -> jax.Array:
    traces.append(mask)
    return mask.visible(jnp.arange(5)).sum()

  assert [int(count(Mask(window=jnp.int32(w)))) for w in (1, 2, 9)] == [
    5,
    9,
    15,
  ]
  assert len(traces) == 1
  assert [int(count(Mask(window=w))) for w in (1, 2, 1)] == [5, 9, 5]
  assert len(traces) == 3
  windows = jnp.array([1, 2])
  counts = jax.vmap(lambda w: count(Mask(window=w)))(windows)
  assert counts.tolist() == [5, 9]


@pytest.mark.unchecked
@pytest.mark.parametrize(
  ('fields', 'says'),
  [
    ({'window': 0}, 'window is 0: .* at least 1'),
    ({'window': np.array(-1)}, 'window is -1: .* at least 1'),
    ({'window': 2.0}, 'window is 2.0: it is an int'),
    ({'window': True}, 'window is True: it is an int'),
    ({'window': np.array([3])}, 'window is array.*: it is an int'),
    ({'window': 2**31}, 'below 2\\*\\*31'),
    ({'window': 3, 'causal': False}, 'window is 3 with causal=False'),
    ({'sink_tokens': 4}, 'sink_tokens is 4 without a window'),
    ({'sink_tokens': -1, 'window': 3}, 'sink_tokens is -1: at least 0'),
    ({'sink_tokens': 1.5, 'window': 3}, 'sink_tokens is 1.5: it is an int'),
    ({'causal': 1}, 'causal is 1: it is True or False'),
    ({'document': None}, 'document is None: it is True or False'),
  ],
)
def test_other_forms_are_refused(fields: dict[str, Any], says: str) -> None:
  with pytest.raises(ConfigError, match=says):
    Mask(**fields)


def test_a_mask_has_no_truth_value() -> None:
  with pytest.raises(ConfigError, match='combine masks with &'):
    bool(Mask())


def test_document_needs_segments() -> None:
  with pytest.raises(ConfigError, match='give q_segments'):
    Mask(document=True).visible(np.arange(3))
