"""The next token of its logits: greedy, sampled or given."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ntk_jax.typing import Array, ArrayLike

FORCED, GREEDY, SAMPLED, FILTERED = 'forced', 'greedy', 'sampled', 'filtered'


class Choice(NamedTuple):
  """How tokens are chosen, as arrays: one executable serves all values.

  Attributes:
    temperature: float32, what logits are divided by.
    top_k: int32, the most likely ids that are kept; 0 keeps all.
    top_p: float32, least probability of those that are kept.
    key: of jax.random; a token's own key is of its row and step.
    stop: int32 [stops], ids that end a row.
  """

  temperature: ArrayLike
  top_k: ArrayLike
  top_p: ArrayLike
  key: Array
  stop: ArrayLike


def mode_of(temperature: float, top_k: int, top_p: float, forced: bool) -> str:
  """Which of the four ways to choose the settings ask for; a static argument.

  >>> mode_of(0.0, 5, 0.9, forced=False), mode_of(1.0, 0, 1.0, forced=False)
  ('greedy', 'sampled')
  """
  if forced:
    return FORCED
  if temperature == 0:
    return GREEDY
  return FILTERED if top_k > 0 or top_p < 1 else SAMPLED


def choose(
  logits: Array, given: Array, step: ArrayLike, choice: Choice, mode: str
) -> Array:
  """Ids of the next tokens, int32 [B].

  Top-k keeps the k most likely ids, then top-p the fewest of these whose
  probabilities among them sum to at least p.

  Args:
    logits: float32 [B, V].
    given: int32 [B], what the mode 'forced' takes.
    step: of these tokens, from 0.
    choice: the settings.
    mode: of `mode_of` (static).

  >>> logits = jnp.log(jnp.array([[0.1, 0.6, 0.3]]))
  >>> choice = Choice(1.0, 1, 1.0, jax.random.key(0), jnp.array([-1]))
  >>> choose(logits, jnp.array([2]), 0, choice, 'filtered').tolist()
  [1]
  """
  if mode == FORCED:
    return given
  if mode == GREEDY:
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)
  logits = logits / choice.temperature
  key = jax.random.fold_in(choice.key, step)
  keys = jax.vmap(jax.random.fold_in, (None, 0))(
    key, jnp.arange(logits.shape[0])
  )
  if mode == SAMPLED:
    return jax.vmap(jax.random.categorical)(keys, logits).astype(jnp.int32)
  ids = jnp.argsort(logits, axis=-1, descending=True, stable=True)
  ranked = jnp.take_along_axis(logits, ids, axis=-1)
  ranked = jnp.where(_kept(ranked, choice), ranked, -jnp.inf)
  place = jax.vmap(jax.random.categorical)(keys, ranked)
  return jnp.take_along_axis(ids, place[:, None], -1)[:, 0].astype(jnp.int32)


def _kept(ranked: Array, choice: Choice) -> Array:
  """Of logits from high to low those that top-k and top-p leave."""
  V = ranked.shape[-1]
  top_k, top_p = jnp.asarray(choice.top_k), jnp.asarray(choice.top_p)
  top_k = jnp.where(top_k > 0, top_k, V)
  near = jnp.arange(V) < top_k
  p = jax.nn.softmax(jnp.where(near, ranked, -jnp.inf), axis=-1)
  before = jnp.cumsum(p, axis=-1) - p
  # The most likely one always stays; at 1 rounding must cut off nothing.
  enough = (before >= top_p) & (top_p < 1)
  return near & (~enough | (jnp.arange(V) == 0))
