"""Llama 2: RoPE of base 10,000 at 4,096 tokens, and its extensions.

Variants: dynamic (dynamic NTK, without training: the row before it is trained),
abf (base 500,000 at 32,768, as Llama 2 Long), abf-code (base 1,000,000 at
16,384, as Code Llama).
The words behind the colon, real among them: experiments/configs/rows.py.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from experiments.configs.rows import row_recipe


def get_config(words: str | None = None) -> ConfigDict:
  """The recipe of a row; `words` stands behind a colon in --config."""
  return row_recipe('llama2', words)
