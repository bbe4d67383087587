"""What `generate` refuses, each with one message."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from generate.cases import PROMPT, SCHEMES, model_of
from ntk_jax.errors import ConfigError
from ntk_jax.generate import generate

RIGHT = np.ones((3, 20), int)
RIGHT[1, -1] = 0
HOLE = np.ones((3, 20), int)
HOLE[2, 5] = 0
EMPTY = np.ones((3, 20), int)
EMPTY[0] = 0


@pytest.mark.parametrize(
  ('change', 'says'),
  [
    ({'tokens': np.zeros((1, 0), int)}, r'tokens have shape \(1, 0\)'),
    ({'tokens': np.zeros((0, 3), int)}, r'tokens have shape \(0, 3\)'),
    ({'tokens': [1, 2]}, r'tokens have shape \(2,\)'),
    ({'tokens': [[1], [2, 3]]}, 'tokens are no array .*pad rows'),
    ({'prompt_mask': [[1], [1, 1]]}, 'prompt_mask are no array'),
    ({'prompt_mask': np.full((3, 20), 'a')}, 'other values than 0 and 1'),
    ({'force_tokens': [[1], [2, 3]]}, 'force_tokens are no array'),
    ({'max_new_tokens': 2**40}, r'max_new_tokens .* below 2\*\*31'),
    ({'max_new_tokens': 2**31 - 9}, r'after a prompt of 20'),
    ({'temperature': 'hot'}, "temperature is 'hot'"),
    ({'temperature': None}, 'temperature is None'),
    ({'temperature': 10**400}, 'temperature is 1000'),
    ({'temperature': 1e-40}, 'others are 1e-30 to'),
    ({'temperature': [1.0]}, r'temperature is \[1.0\]'),
    ({'top_p': 'a'}, "top_p is 'a'"),
    ({'top_p': None}, 'top_p is None'),
    ({'top_k': 2**31}, 'top_k is 2147483648'),
    ({'stop': None}, 'a stop id is None'),
    ({'stop': 1.5}, 'a stop id is 1.5'),
    ({'stop': np.array(1.5)}, 'a stop id is array'),
    ({'return_logits': 'yes'}, "return_logits is 'yes'"),
    ({'on_tokens': 3}, 'on_tokens is 3'),
    ({'stride': 2**40}, 'stride is 1099511627776'),
    ({'regime_length': 2**40}, 'regime_length is 1099511627776'),
    ({'tokens': [[1.0]]}, 'tokens are float64'),
    ({'tokens': [[1, 29]]}, 'token id 29 is outside the vocabulary'),
    ({'tokens': [[-1, 2]]}, 'token id -1'),
    ({'prompt_mask': np.ones((3, 19))}, r'prompt_mask has shape \(3, 19\)'),
    ({'prompt_mask': np.full((3, 20), 2)}, 'other values than 0 and 1'),
    ({'prompt_mask': RIGHT}, 'row 1 of prompt_mask pads on the right'),
    ({'prompt_mask': HOLE}, 'row 2 of prompt_mask has a hole'),
    ({'prompt_mask': EMPTY}, 'row 0 of prompt_mask is all padding'),
    ({'max_new_tokens': 0}, 'max_new_tokens is 0: a whole number, at least 1'),
    ({'max_new_tokens': 2.5}, 'max_new_tokens is 2.5'),
    ({'top_p': 0.0}, 'top_p is 0.0: above 0, at most 1'),
    ({'top_p': 1.5}, 'top_p is 1.5'),
    ({'top_p': float('nan')}, 'top_p is nan'),
    ({'top_k': -1}, 'top_k is -1'),
    ({'temperature': -0.1}, 'temperature is -0.1: finite and at least 0'),
    ({'temperature': float('inf')}, 'temperature is inf'),
    ({'temperature': 1.0}, 'without a key'),
    ({'temperature': 1.0, 'key': 7}, 'key is 7: give one key'),
    ({'stop': [29]}, 'stop id 29 is outside the vocabulary'),
    ({'stop': -1}, 'a stop id is -1'),
    ({'force_tokens': [[1, 2]]}, r'shape \(1, 2\): give int ids for 3 rows'),
    ({'force_tokens': np.full((3, 2), 29)}, 'ids from 29 to 29'),
    ({'chunk': 0}, 'chunk is 0'),
    ({'stride': 0}, 'stride is 0'),
    ({'regime_length': 0}, 'regime_length is 0'),
  ],
)
def test_refusals(change: dict[str, Any], says: str) -> None:
  asked: dict[str, Any] = {'tokens': PROMPT, 'max_new_tokens': 2} | change
  with pytest.raises(ConfigError, match=says):
    generate(model_of(SCHEMES['default']), asked.pop('tokens'), **asked)


def test_both_kinds_of_keys_are_taken() -> None:
  model = model_of(SCHEMES['default'])
  found = [
    generate(model, PROMPT, max_new_tokens=3, temperature=1.0, key=key)
    for key in (jax.random.key(5), jax.random.PRNGKey(5))
  ]
  np.testing.assert_array_equal(*found)
