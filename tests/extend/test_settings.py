"""What a job accepts, at the edges that later stages would refuse."""

from __future__ import annotations

import dataclasses

import pytest

from ntk_jax.data.retrieval import SHORTEST_ROW
from ntk_jax.errors import ConfigError
from ntk_jax.extend.settings import ExtendConfig, fast


def test_the_shortest_row_is_the_shortest_that_training_takes() -> None:
  at_edge = dataclasses.replace(fast(ExtendConfig()), train_length=SHORTEST_ROW)
  at_edge.validate()
  below = dataclasses.replace(at_edge, train_length=SHORTEST_ROW - 1)
  with pytest.raises(ConfigError, match=f'train_length is {SHORTEST_ROW - 1}'):
    below.validate()


def test_lengths_double_up_to_the_target_and_once_beyond() -> None:
  assert ExtendConfig().lengths == (128, 256, 512, 1024, 2048)
  assert ExtendConfig(target_factor=3).lengths == (128, 256, 384, 768)
