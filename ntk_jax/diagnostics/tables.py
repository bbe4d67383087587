"""Tables of a diagnosis, as rows of cells, for a page or a terminal."""

from __future__ import annotations

import numpy as np

from ntk_jax.diagnostics.findings import Findings, log_slope
from ntk_jax.typing import Float64, NDArray

Rows = list[list[str]]
GROUPS = ('wq', 'wk', 'wv', 'wo', 'mlp', 'embed')
_KERNEL = (
  ('trace', 'wq'),
  ('trace', 'wv'),
  ('correlation', 'wv'),
  ('correlation', 'all'),
  ('condition', 'attention'),
  ('condition', 'all'),
)
_HEADS = {
  'entropy': 'H / ln n',
  'logit_variance': 'logit variance',
  'logit_max': 'largest logit',
  'sink_first': 'weight on key 0',
  'sink_few': 'on keys 0-3',
  'rho': 'rho of values',
  'branch': 'branch / stream',
}


def as_markdown(rows: Rows) -> str:
  """A table whose first row is its head.

  >>> print(as_markdown([['n', 'rho'], ['128', '0.1']]))
  | n | rho |
  | --- | --- |
  | 128 | 0.1 |
  """
  head, *rest = (f'| {" | ".join(row)} |' for row in rows)
  return '\n'.join([head, '|' + ' --- |' * len(rows[0]), *rest])


def as_text(rows: Rows) -> str:
  """The same in columns of spaces, for a terminal.

  >>> print(as_text([['case', 'rho'], ['text', '0.1']]))
  case  rho
  text  0.1
  """
  widths = [max(map(len, column)) for column in zip(*rows)]
  return '\n'.join(
    '  '.join(
      cell.ljust(width) if i == 0 else cell.rjust(width)
      for i, (cell, width) in enumerate(zip(row, widths))
    ).rstrip()
    for row in rows
  )


def digits(value: float) -> str:
  """Three significant digits, never an exponent.

  >>> digits(0.00197), digits(24.25), digits(1153.2), digits(float('inf'))
  ('0.00197', '24.2', '1,153', 'inf')
  """
  if not np.isfinite(value) or value == 0:
    return f'{value:g}'
  places = 2 - int(np.floor(np.log10(abs(value))))
  return f'{value:,.{max(0, places)}f}'


def arrow(values: Float64[NDArray, ' lengths']) -> str:
  """First and last of some values by length.

  >>> arrow(np.array([0.5, 0.7, 1.0]))
  '0.500 to 1.00'
  """
  return f'{digits(values[0])} to {digits(values[-1])}'


def layers_shown(found: Findings, stage: str, variant: str) -> list[str]:
  """The first and the last layer."""
  layers = found.parts(stage, variant, 'ratio')
  return list(dict.fromkeys([layers[0], layers[-1]]))


def variance_rows(found: Findings, stage: str) -> Rows:
  """Var(out) / Var(v): variants by lengths, and the slope of its logarithm."""
  rows: Rows = []
  for inputs in ('independent', 'text'):
    variants = found.variants(stage, 'ratio', inputs)
    for number in range(2):
      for variant in variants:
        shown = layers_shown(found, stage, variant)
        if number >= len(shown):
          continue
        each = found.each(stage, variant, 'ratio', shown[number], inputs)
        lengths = found.lengths(stage, variant, 'ratio')
        rows.append(
          [
            f'{inputs}, {variant}',
            shown[number].removeprefix('layer '),
            *map(digits, each.mean(axis=0)),
            slope_cell(lengths, each),
          ]
        )
  lengths = found.lengths(stage, variants[0], 'ratio')
  return [['case', 'layer', *map(str, lengths), 'slope'], *rows]


def slope_cell(
  lengths: list[int], each: Float64[NDArray, 'seeds lengths']
) -> str:
  """Slope of ln value over ln n, with its spread over draws.

  >>> slope_cell([10, 100], np.array([[1.0, 0.1], [1.0, 0.1]]))
  '-1.00 (0.00)'
  """
  mean = f'{log_slope(lengths, each.mean(axis=0)):+.2f}'
  if len(each) < 2:
    return mean
  slopes = [log_slope(lengths, values) for values in each]
  return f'{mean} ({np.std(slopes, ddof=1):.2f})'


def gradient_rows(found: Findings, stage: str) -> Rows:
  """Norms of the gradient by group, at the first and the last length."""
  rows = [['case', *GROUPS, 'wq: first / last']]
  for inputs in ('text', 'independent'):
    for variant in found.variants(stage, 'gradient', inputs):
      each = [
        found.mean(stage, variant, 'gradient', group, inputs)
        for group in GROUPS
      ]
      rows.append(
        [
          f'{inputs}, {variant}',
          *map(arrow, each),
          f'{each[0][0] / each[0][-1]:.2f}',
        ]
      )
  return rows


def kernel_rows(found: Findings, stage: str) -> Rows:
  """The kernel of every variant, at its first and its last length."""
  rows = [['variant', *(f'{name} {group}' for name, group in _KERNEL)]]
  for variant in found.variants(stage, 'trace'):
    rows.append(
      [
        variant,
        *(
          arrow(found.mean(stage, variant, name, group))
          for name, group in _KERNEL
        ),
      ]
    )
  return rows


def head_rows(found: Findings, stage: str, variant: str) -> Rows:
  """What heads do, layer by layer, at the first and the last length."""
  rows = [['layer', *_HEADS.values()]]
  for layer in found.parts(stage, variant, 'ratio'):
    rows.append(
      [
        layer.removeprefix('layer '),
        *(arrow(found.mean(stage, variant, name, layer)) for name in _HEADS),
      ]
    )
  return rows


def entropy_rows(found: Findings, stage: str) -> Rows:
  """H / ln n, mean over layers: variants by lengths."""
  variants = found.variants(stage, 'entropy')
  lengths = found.lengths(stage, variants[0], 'entropy')
  rows = [['variant', *map(str, lengths)]]
  for variant in variants:
    layers = found.parts(stage, variant, 'ratio')
    each = [found.mean(stage, variant, 'entropy', layer) for layer in layers]
    rows.append([variant, *(f'{x:.3f}' for x in np.mean(each, axis=0))])
  return rows
