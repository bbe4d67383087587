"""Mistral 7B v0.1: a sliding window; and what followed.

Variants: v0.1 (the first), v0.2 and v0.3 (base 1,000,000, no window),
window-yarn (YaRN by 16 with a window that is widened by as much).
The words behind the colon, real among them: experiments/configs/rows.py.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from experiments.configs.rows import row_recipe


def get_config(words: str | None = None) -> ConfigDict:
  """The recipe of a row; `words` stands behind a colon in --config."""
  return row_recipe('mistral', words)
