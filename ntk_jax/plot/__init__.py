"""The plots of a result: the problem, losses, retrieval, frequencies.

They read what `report.json` holds and nothing else. Ranked methods have a
colour that colour-blind readers can tell apart; excluded ones are grey and
dashed. Every file carries in its metadata what produced it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from ntk_jax.checkpoint import write_atomic
from ntk_jax.plot.frame import spread
from ntk_jax.plot.frequencies import frequencies
from ntk_jax.plot.look import STYLE, Plain
from ntk_jax.plot.loss import loss_by_length, loss_by_position
from ntk_jax.plot.png import png
from ntk_jax.plot.problem import problem
from ntk_jax.plot.retrieval import retrieval

__all__ = [
  'frequencies',
  'loss_by_length',
  'loss_by_position',
  'problem',
  'retrieval',
  'save_all',
  'spread',
]


def save_all(result: Plain, folder: Path) -> list[Path]:
  """Writes the PNG files of a result.

  Args:
    result: what report.json holds.
    folder: where to write; files of the same name are replaced.

  Returns:
    The files written.
  """
  plots: dict[str, Callable[[Plain], Figure]] = {
    'problem': problem,
    'loss_by_length': loss_by_length,
    'loss_by_position': loss_by_position,
    'retrieval': retrieval,
    'frequencies': frequencies,
  }
  if result['problem'] is None:  # it was not measured
    del plots['problem']
  paths = []
  for name, draw in plots.items():
    with matplotlib.rc_context(STYLE):
      content = png(draw(result), result, name.replace('_', ' '))
    paths.append(folder / f'{name}.png')
    write_atomic(paths[-1], content)
  return paths
