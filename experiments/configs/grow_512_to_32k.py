"""512 -> 2k -> 4k -> 8k -> 16k -> 32k from the first step on: the plain recipe.

Tokens of a step stay the same, so rows get fewer as they get longer; the five
stages before the last share the first 64% of the run evenly; the base of RoPE
is that of 32k from the start, so that nothing changes with the stages but the
length. Words behind the colon: experiments/configs/growing.py.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from experiments.configs.growing import Staged

PLAN = Staged(
  (512, 2048, 4096, 8192, 16_384, 32_768),
  at=(0.128, 0.256, 0.384, 0.512, 0.64),
  smaller=16,
)


def get_config(words: str | None = None) -> ConfigDict:
  """The recipe; `words` stands behind a colon in --config."""
  return PLAN.recipe(words)
