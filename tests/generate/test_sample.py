"""Tokens are drawn from what the settings leave, and repeat by key."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from generate.cases import MASK, PROMPT, SCHEMES, VOCAB, model_of
from ntk_jax.generate import generate
from ntk_jax.generate.sample import Choice, choose, mode_of
from ntk_jax.generate.words import Words

ROWS = 20_000
P = np.array([0.05, 0.4, 0.25, 0.2, 0.1])


def drawn(
  temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
) -> np.ndarray:
  """Shares of the five ids among many draws."""
  logits = jnp.broadcast_to(jnp.log(jnp.asarray(P, jnp.float32)), (ROWS, 5))
  choice = Choice(temperature, top_k, top_p, jax.random.key(0), jnp.array([-1]))
  mode = mode_of(temperature, top_k, top_p, forced=False)
  ids = choose(logits, jnp.zeros(ROWS, jnp.int32), 3, choice, mode)
  return np.bincount(np.asarray(ids), minlength=5) / ROWS


@pytest.mark.parametrize(
  ('settings', 'weights'),
  [
    ({}, P),
    ({'temperature': 0.5}, P**2),
    ({'temperature': 2.0}, P**0.5),
    ({'top_k': 2}, P * [0, 1, 1, 0, 0]),
    ({'top_k': 9}, P),
    ({'top_p': 0.39}, P * [0, 1, 0, 0, 0]),
    ({'top_p': 0.6}, P * [0, 1, 1, 0, 0]),
    ({'top_p': 0.66}, P * [0, 1, 1, 1, 0]),
    # Of the three that top-k leaves, 0.4 / 0.85 and 0.25 / 0.85 sum to 0.76.
    ({'top_k': 3, 'top_p': 0.7}, P * [0, 1, 1, 0, 0]),
    # Temperature comes first: squares 0.16 of 0.275 are 0.58.
    ({'temperature': 0.5, 'top_p': 0.5}, P * [0, 1, 0, 0, 0]),
  ],
  ids=str,
)
def test_shares_are_probabilities(
  settings: dict[str, Any], weights: np.ndarray
) -> None:
  wanted = weights / weights.sum()
  spread = np.sqrt(wanted * (1 - wanted) / ROWS)
  assert (np.abs(drawn(**settings) - wanted) <= 4 * spread + 1e-9).all()


def sampled(seed: int = 0, **settings: Any) -> np.ndarray:
  asked: dict[str, Any] = {'temperature': 1.0} | settings
  return generate(
    model_of(SCHEMES['default']),
    PROMPT,
    prompt_mask=MASK,
    max_new_tokens=10,
    key=jax.random.key(seed),
    **asked,
  )


def test_the_most_likely_alone_is_greedy() -> None:
  greedy = sampled(temperature=0.0)
  alone: list[dict[str, Any]]
  alone = [{'top_k': 1}, {'top_p': 1e-6}, {'temperature': 1e-5}]
  for settings in alone:
    np.testing.assert_array_equal(sampled(**settings), greedy)


def test_a_key_repeats_and_another_does_not() -> None:
  first = sampled()
  np.testing.assert_array_equal(sampled(), first)
  np.testing.assert_array_equal(sampled(stride=3, chunk=8), first)
  assert (sampled(seed=1) != first).any()
  # Rows and steps have keys of their own.
  assert len({tuple(row) for row in first}) == 3
  assert len(set(first[0])) > 2


def test_ties_go_to_the_first_id() -> None:
  logits = jnp.zeros((1, VOCAB))
  choice = Choice(1.0, 1, 1.0, jax.random.key(0), jnp.array([-1]))
  for mode in ('greedy', 'filtered'):
    assert choose(logits, jnp.array([5]), 0, choice, mode).tolist() == [0]


def test_words_hold_back_parts_of_characters() -> None:
  words = Words(lambda ids: bytes(ids).decode(errors='replace'))
  data = 'naïve 北京 🙂!'.encode()
  pieces = [words.add([byte]) for byte in data]
  assert ''.join(pieces) == data.decode()
  assert not any('\N{REPLACEMENT CHARACTER}' in piece for piece in pieces)
  assert words.add([0xE5, 0x8C]) == ''
  assert words.add([], last=True) == '\N{REPLACEMENT CHARACTER}'


def test_words_show_what_never_becomes_a_character() -> None:
  words = Words(lambda ids: bytes(ids).decode(errors='replace'))
  shown = ''.join(words.add([0xFF]) for _ in range(4))
  assert shown == '\N{REPLACEMENT CHARACTER}' * 4
  assert words.add([65]) == 'A'
