"""How does a trained run read beyond the length of its rows?

  python -m experiments.evaluate --workdir=runs/train
  python -m experiments.evaluate --workdir=runs/train --methods=own,yarn+logn \
    --target_factor=16 --rows=64

Scores the newest checkpoint of a run of experiments.train on text that it was
never trained on: bits per token over the second half of positions at 1x, 2x,
4x, ... its row length, and, where the model knows the symbols of key-value
recall, the share of hidden values that it recalls; with 95% intervals over
rows. Prints the table and leaves evaluation.json in the workdir. A method is
named as in experiments.extend; own is what the run was trained with.
"""

from __future__ import annotations

from absl import flags

from experiments import launch
from ntk_jax.extend.rescore import RescoreConfig, rescore, table

_DEFAULT = RescoreConfig()
_WORKDIR = flags.DEFINE_string('workdir', 'runs/train', 'a run to score')
_METHODS = flags.DEFINE_list(
  'methods', list(_DEFAULT.methods), 'methods to score it under'
)
_FACTOR = flags.DEFINE_integer(
  'target_factor',
  _DEFAULT.target_factor,
  'longest length / length of the rows in training',
)
_ROWS = flags.DEFINE_integer('rows', _DEFAULT.rows, 'held-out rows per length')
_STEP = flags.DEFINE_integer(
  'step', None, 'of the checkpoint (default: newest)'
)


def main() -> None:
  """Scores the run that the flags name and prints its table."""
  config = RescoreConfig(
    methods=tuple(name.strip() for name in _METHODS.value),
    target_factor=_FACTOR.value,
    rows=_ROWS.value,
    step=_STEP.value,
  )
  print(table(rescore(_WORKDIR.value, config)))


if __name__ == '__main__':
  launch.run(main)
