"""Yi: base 5,000,000 at 4,096 tokens, and its extensions.

Variants: 200k and 200k-1e7 (trained on at 200,000, base 5,000,000 or
10,000,000), ntk-linear (NTK combined with linear interpolation; not of Yi).
The words behind the colon, real among them: experiments/configs/rows.py.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from experiments.configs.rows import row_recipe


def get_config(words: str | None = None) -> ConfigDict:
  """The recipe of a row; `words` stands behind a colon in --config."""
  return row_recipe('yi', words)
