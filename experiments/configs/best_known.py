"""What is known to work best together; stands for closed systems.

Three layers with RoPE and a window to one global layer with p-RoPE, which alone
is scaled, QK-norm, a log temperature. Variant: nope (global layers without
position embedding). Phases are exact in every row. The length grows from the
original one by doublings, with the same schemes all along; :base trains at the
original length alone.
The words behind the colon, real among them: experiments/configs/rows.py.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from experiments.configs.rows import row_recipe


def get_config(words: str | None = None) -> ConfigDict:
  """The recipe of a row; `words` stands behind a colon in --config."""
  return row_recipe('best_known', words, grow=True)
