"""4k -> 16k -> 64k by YaRN: one run, of which the last tenths are long.

Nine tenths of the run at 4k without a method; then 16k under YaRN by 4, and
64k under YaRN by 16. Optimizer moments and the learning rate's course go on,
as public runs of this kind did. Words behind the colon:
experiments/configs/growing.py.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from experiments.configs.growing import Staged

PLAN = Staged(
  (4096, 16_384, 65_536),
  at=(0.9, 0.96),
  schemes=(('yarn', 4.0), ('yarn', 16.0)),
)


def get_config(words: str | None = None) -> ConfigDict:
  """The recipe; `words` stands behind a colon in --config."""
  return PLAN.recipe(words)
