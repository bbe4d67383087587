"""LongChat: Llama 2 fine-tuned with linear interpolation by 8.

Variants: v1 (of LLaMA 1, 2,048 to 16,384), ntk-logn-window (what Qwen-7B did
without training: the row before it is trained).
The words behind the colon, real among them: experiments/configs/rows.py.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from experiments.configs.rows import row_recipe


def get_config(words: str | None = None) -> ConfigDict:
  """The recipe of a row; `words` stands behind a colon in --config."""
  return row_recipe('longchat', words)
