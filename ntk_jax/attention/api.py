"""One attention call: checked arguments, then the backend that fits them."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ntk_jax.attention.blockwise import blockwise_attention, whole_rows
from ntk_jax.attention.reference import reference_attention
from ntk_jax.errors import ConfigError, unknown
from ntk_jax.mask import Mask
from ntk_jax.typing import Array, ArrayLike, Float

Shaped = Array | jax.ShapeDtypeStruct

IMPLEMENTATIONS = {
  'blockwise': blockwise_attention,
  'reference': reference_attention,
}
_CAUSAL = Mask()


def attention(
  q: Float[Array, 'B T N H'],
  k: Float[Array, 'B S K H'],
  v: Float[Array, 'B S K Hv'],
  *,
  mask: Mask = _CAUSAL,
  q_positions: ArrayLike | None = None,
  kv_positions: ArrayLike | None = None,
  q_segments: ArrayLike | None = None,
  kv_segments: ArrayLike | None = None,
  kv_keep: ArrayLike | None = None,
  scale: float | None = None,
  q_scale: ArrayLike | None = None,
  soft_cap: float | None = None,
  sink_logits: ArrayLike | None = None,
  return_lse: bool = False,
  implementation: str = 'auto',
) -> Any:
  """Softmax attention for long contexts, in O(T + S) memory.

      s_ij = cap(scale * a_i * q_i . k_j),  cap(x) = c tanh(x / c)
      lse_i = log(exp(sink) + sum_j exp(s_ij))  over the keys j that i sees
      out_i = sum_j exp(s_ij - lse_i) v_j

  Differentiable in q, k, v, q_scale and sink_logits, through out and lse. A
  row that sees no key gives zero, lse -inf (sink logits or not) and zero
  gradient. Operands are multiplied as given; sums and softmax are float32.

  Args:
    q: queries; N query heads.
    k: keys; K heads, each serving N / K query heads, never repeated.
    v: values; their head dim may differ.
    mask: which key a query sees, by position and segment.
    q_positions: int32 `[T]` or `[B, T]`, any order, gaps and signs. None on
      both sides is 0, 1, 2, ... and needs T == S.
    kv_positions: int32 `[S]` or `[B, S]`.
    q_segments: int32 `[T]` or `[B, T]`, each query's document; 0 is padding,
      which sees nothing and is not seen, whatever the mask.
    kv_segments: int32 `[S]` or `[B, S]`, those of the queries if None.
    kv_keep: bool `[S]` or `[B, S]`; a dropped key is seen by its own query
      only: equal positions, and equal segments where they are given.
    scale: multiplier of the logits, H**-0.5 if None.
    q_scale: multiplier a of each query, broadcast to `[B, T, N]`.
    soft_cap: bound c of the logits, above 0; None for none.
    sink_logits: `[N]`, a logit more in each head's denominator.
    return_lse: whether to return the log-sum-exp too.
    implementation: 'auto', 'blockwise' or 'reference' (float32, O(T S)
      memory, for comparison). `explain` says what 'auto' takes.

  Returns:
    out `[B, T, N, Hv]` in q's dtype, or (out, lse float32 `[B, T, N]`).

  Raises:
    ConfigError: what `check` refuses, or an unknown implementation.

  Source: Vaswani et al. 2017, arXiv:1706.03762, equation 1; soft cap: Gemma 2,
  arXiv:2408.00118; sink logits: gpt-oss, arXiv:2508.10925.

  >>> x = jnp.arange(4.0).reshape(1, 4, 1, 1)
  >>> out, lse = attention(0 * x, x, x, q_segments=jnp.array([1, 2, 2, 0]),
  ...   mask=Mask(document=True), return_lse=True)
  >>> print(out.ravel(), jnp.exp(lse).ravel().round())
  [0.  1.  1.5 0. ] [1. 1. 2. 0.]
  """
  rows = {
    'q_positions': q_positions,
    'kv_positions': kv_positions,
    'q_segments': q_segments,
    'kv_segments': kv_segments,
    'kv_keep': kv_keep,
  }
  check(q, k, v, mask, scale, q_scale, soft_cap, sink_logits, **rows)
  options = {'scale': scale, 'q_scale': q_scale, 'soft_cap': soft_cap}
  attend = IMPLEMENTATIONS[_chosen(implementation)]
  out, lse = attend(
    q, k, v, mask=mask, sink_logits=sink_logits, **options, **rows
  )
  return (out, lse) if return_lse else out


def explain(
  q: Shaped,
  k: Shaped,
  v: Shaped,
  *,
  mask: Mask = _CAUSAL,
  scale: float | None = None,
  q_scale: ArrayLike | None = None,
  soft_cap: float | None = None,
  sink_logits: ArrayLike | None = None,
  return_lse: bool = False,
  implementation: str = 'auto',
  **rows: ArrayLike | None,
) -> str:
  """What `attention` would run for these arguments, and why.

  Nothing is computed: shapes (`jax.ShapeDtypeStruct`) do as well as arrays.

  Raises:
    ConfigError: what `attention` would refuse.

  >>> q = jnp.ones((1, 512, 1, 64))
  >>> print(explain(q, q, q))
  blockwise, tiles of queries against known keys: positions are 0, 1, 2, ...
  >>> print(explain(q, q, q, mask=Mask(document=True),
  ...   q_segments=jnp.ones(512, int)))
  blockwise, blocks of keys found at run time: q_segments given
  """
  del return_lse
  unexpected = [name for name in rows if name not in _SIDES]
  if unexpected:
    raise TypeError(f'explain() got an unexpected keyword {unexpected[0]!r}')
  check(q, k, v, mask, scale, q_scale, soft_cap, sink_logits, **rows)
  if _chosen(implementation) == 'reference':
    return 'reference: asked for; float32, all pairs, O(T S) memory'
  asked = '' if implementation == 'auto' else ' (asked for)'
  given = [name for name in _SIDES if rows.get(name) is not None]
  if whole_rows(q.shape[1], bool(given)):
    return (
      f'blockwise{asked}, tiles of queries against known keys: positions are '
      '0, 1, 2, ...'
    )
  why = f'{", ".join(given)} given' if given else f'T is {q.shape[1]}'
  return f'blockwise{asked}, blocks of keys found at run time: {why}'


# What comes with a side's length, and what kind of number it is.
_SIDES = {
  'q_positions': ('T', jnp.integer),
  'kv_positions': ('S', jnp.integer),
  'q_segments': ('T', jnp.integer),
  'kv_segments': ('S', jnp.integer),
  'kv_keep': ('S', jnp.bool_),
}


def _chosen(implementation: str) -> str:
  if implementation == 'auto':
    return 'blockwise'
  if implementation not in IMPLEMENTATIONS:
    allowed = ('auto', *IMPLEMENTATIONS)
    raise unknown('implementation', implementation, allowed)
  return implementation


def check(
  q: Shaped,
  k: Shaped,
  v: Shaped,
  mask: Mask,
  scale: float | None,
  q_scale: ArrayLike | None,
  soft_cap: float | None,
  sink_logits: ArrayLike | None,
  **rows: ArrayLike | None,
) -> None:
  """Refuses arguments of `attention` that cannot be meant.

  Raises:
    ConfigError: operands whose shapes disagree or that are not floating; heads
      of k that do not divide those of q; T != S without positions; one side's
      positions alone; `mask.document` without segments; rows, q_scale or
      sink_logits of another shape or kind; a scale or soft cap of no use.

  >>> q = jnp.ones((1, 4, 3, 8))
  >>> check(q, q[:, :, :2], q[:, :, :2], Mask(), None, None, None, None)
  Traceback (most recent call last):
  ntk_jax.errors.ConfigError: q has 3 heads and k 2: the heads of k must ...
  """
  _check_operands(q, k, v)
  if not isinstance(mask, Mask):
    raise ConfigError(f'mask is {mask!r}: it is an ntk_jax.Mask')
  B, T, N, _ = q.shape
  sizes = {'B': B, 'T': T, 'S': k.shape[1]}
  for name, x in rows.items():
    if x is not None:
      _check_side(name, x, sizes)
  _check_pairs(sizes, mask, rows)
  for name, number in (('scale', scale), ('soft_cap', soft_cap)):
    if number is None:
      continue
    if not isinstance(number, int | float | np.number):
      raise ConfigError(
        f'{name} is {number!r}: it is a number, part of the program; what '
        'changes at run time goes into q_scale'
      )
    if not math.isfinite(number) or (name == 'soft_cap' and number <= 0):
      raise ConfigError(f'{name} is {number}: it is finite, a soft cap above 0')
  if q_scale is not None:
    _check_q_scale(q_scale, (B, T, N))
  if sink_logits is not None and jnp.shape(sink_logits) != (N,):
    raise ConfigError(
      f'sink_logits has shape {jnp.shape(sink_logits)}: one per query head, '
      f'({N},)'
    )


def _check_operands(q: Shaped, k: Shaped, v: Shaped) -> None:
  shapes = f'q {q.shape}, k {k.shape}, v {v.shape}'
  if not q.ndim == k.ndim == v.ndim == 4:
    raise ConfigError(
      'attention takes q [B, T, N, H], k [B, S, K, H] and v [B, S, K, Hv]: '
      + shapes
    )
  for name, x in (('q', q), ('k', k), ('v', v)):
    if not jnp.issubdtype(x.dtype, jnp.floating):
      raise ConfigError(f'{name} is {x.dtype}: operands are floating point')
    if 0 in x.shape:
      raise ConfigError(f'{name} is empty: {shapes}')
  if k.shape[:3] != v.shape[:3]:
    raise ConfigError(f'k and v disagree in batch, length or heads: {shapes}')
  if q.shape[0] != k.shape[0] or q.shape[3] != k.shape[3]:
    raise ConfigError(f'q and k disagree in batch or head dim: {shapes}')
  if q.shape[2] % k.shape[2]:
    raise ConfigError(
      f'q has {q.shape[2]} heads and k {k.shape[2]}: the heads of k must '
      f'divide those of q ({shapes})'
    )


def _check_side(name: str, x: ArrayLike, sizes: dict[str, int]) -> None:
  letter, kind = _SIDES[name]
  allowed = ((sizes[letter],), (1, sizes[letter]), (sizes['B'], sizes[letter]))
  dtype = getattr(x, 'dtype', None)
  if dtype is None or not jnp.issubdtype(dtype, kind):
    what = 'bool' if kind is jnp.bool_ else 'integers'
    raise ConfigError(
      f'{name} is {x if dtype is None else dtype}: it is an array of {what}'
    )
  if jnp.shape(x) not in allowed:
    raise ConfigError(
      f'{name} has shape {jnp.shape(x)}: it is [{letter}] or [B, {letter}], '
      f'{allowed[0]} or {allowed[2]}'
    )


def _check_pairs(
  sizes: dict[str, int], mask: Mask, rows: dict[str, Any]
) -> None:
  """What one side's positions and segments ask of the other's."""
  T, S = sizes['T'], sizes['S']
  if (rows.get('q_positions') is None) != (rows.get('kv_positions') is None):
    raise ConfigError(
      'q_positions and kv_positions go together: one side alone would be '
      'compared with 0, 1, 2, ... of the other'
    )
  if T != S and rows.get('q_positions') is None:
    raise ConfigError(
      f'{T} queries and {S} keys without positions: which key is whose past '
      'is unknown; give q_positions and kv_positions'
    )
  if rows.get('q_segments') is None:
    if rows.get('kv_segments') is not None:
      raise ConfigError('kv_segments without q_segments: give both')
    if mask.document:
      raise ConfigError(
        'mask.document is True without segments: give q_segments'
      )
  elif rows.get('kv_segments') is None and T != S:
    raise ConfigError(
      f'q_segments of {T} queries cannot serve {S} keys: give kv_segments'
    )


def _check_q_scale(q_scale: ArrayLike, full: tuple[int, int, int]) -> None:
  shape = jnp.shape(q_scale)
  try:
    fits = np.broadcast_shapes(shape, full) == full
  except ValueError:
    fits = False
  if not fits:
    raise ConfigError(
      f'q_scale has shape {shape}: it broadcasts to [B, T, N], {full}; per '
      'query [T, 1] or [B, T, 1], per head [N]'
    )
