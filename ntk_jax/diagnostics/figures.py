"""The plots of a diagnosis, as panels of lines against length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ntk_jax.diagnostics.findings import Findings
from ntk_jax.diagnostics.tables import layers_shown
from ntk_jax.plot.panels import Panel, save_panels

_KERNEL = (
  ('Trace of $W_q$', 'mean of $K_{aa}$', 'trace', 'wq', True),
  ('Trace of $W_v$', 'mean of $K_{aa}$', 'trace', 'wv', True),
  ('Samples look alike', 'correlation in $W_v$', 'correlation', 'wv', False),
  ('Condition', 'of the attention part', 'condition', 'attention', True),
)
_HEADS = (
  ('Entropy', 'H / ln n', 'entropy'),
  ('Sink', 'weight on the first key', 'sink_first'),
  ('Largest logit', '', 'logit_max'),
  ('Correlation of values', 'rho', 'rho'),
)


def save_figures(
  result: dict[str, Any], found: Findings, folder: Path
) -> list[Path]:
  """Writes the PNG files of every stage; returns their paths."""
  names = ('protocol', 'command', 'subject', 'settings', 'corpus', 'versions')
  about = {name: result[name] for name in names}
  versions = result['versions']
  source = (
    f'ntk_jax {versions["ntk_jax"]}, {result["protocol"]}, '
    f'{result["subject"]["name"]}, corpus {result["corpus"]["fingerprint"]}, '
    f'jax {versions["jax"]}, python {versions["python"]}'
  )
  paths = []
  for stage in found.stages():
    figures = {
      'variance': _variance(found, stage),
      'kernel': _kernel(found, stage),
      'heads': _heads(found, stage),
    }
    for name, (panels, note) in figures.items():
      order = [] if name == 'heads' else found.variants(stage, 'ratio')
      path = folder / f'{name}_{stage.replace(" ", "_")}.png'
      save_panels(path, panels, [f'{stage}: {note}', source], about, order)
      paths.append(path)
  return paths


def _variance(found: Findings, stage: str) -> tuple[list[Panel], str]:
  own = found.variants(stage, 'ratio')[0]
  layers = layers_shown(found, stage, own)
  wanted = [('text', layer) for layer in layers]
  if found.variants(stage, 'ratio', 'independent'):
    wanted = [('independent', layers[0]), *wanted]
  panels = [
    Panel(
      f'{inputs.capitalize()} inputs, {layer}',
      'Var(out) / Var(v)',
      found.lengths(stage, own, 'ratio'),
      {
        variant: found.mean(stage, variant, 'ratio', layer, inputs).tolist()
        for variant in found.variants(stage, 'ratio', inputs)
      },
      log=True,
    )
    for inputs, layer in wanted
  ]
  return panels, 'what attention leaves of the variance of its values'


def _kernel(found: Findings, stage: str) -> tuple[list[Panel], str]:
  variants = found.variants(stage, 'trace')
  lengths = found.lengths(stage, variants[0], 'trace')
  panels = [
    Panel(
      title,
      unit,
      lengths,
      {v: found.mean(stage, v, name, group).tolist() for v in variants},
      log,
    )
    for title, unit, name, group, log in _KERNEL
  ]
  return panels, (
    'empirical neural tangent kernel, last position, one output direction'
  )


def _heads(found: Findings, stage: str) -> tuple[list[Panel], str]:
  own = found.variants(stage, 'ratio')[0]
  layers = found.parts(stage, own, 'ratio')
  panels = [
    Panel(
      title,
      unit,
      found.lengths(stage, own, 'ratio'),
      {
        layer: found.mean(stage, own, quantity, layer).tolist()
        for layer in layers
      },
    )
    for title, unit, quantity in _HEADS
  ]
  return panels, 'the model as it is, means over heads (logits: the largest)'
