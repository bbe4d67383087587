"""A figure as a file that says what produced it."""

from __future__ import annotations

import io
import json

from matplotlib.figure import Figure

from ntk_jax.plot.look import Plain


def png(figure: Figure, result: Plain, title: str) -> bytes:
  """The figure as PNG, with what produced it at its foot and in metadata."""
  versions, corpus = result['versions'], result['corpus']
  seconds = [
    result['times']['train'],
    sum(result['times']['compare'].values()),
    sum(result['times']['tune'].values()),
    sum(result['times']['problem'].values()),
  ]
  foot = (
    f'ntk_jax {versions["ntk_jax"]}, {result["protocol"]}, config '
    f'{result["config_fingerprint"]}, corpus {corpus["fingerprint"]}, seeds '
    f'{" ".join(map(str, result["seeds"]))}, python {versions["python"]}, jax '
    f'{versions["jax"]}; train {seconds[0]:.0f} s, compare {seconds[1]:.0f} s, '
    f'tune {seconds[2]:.0f} s, the problem {seconds[3]:.0f} s'
  )
  inch = 1 / figure.get_figheight()
  figure.text(0.01, 0.1 * inch, foot, fontsize=7, color='#777777')
  source = ('protocol', 'command', 'config', 'config_fingerprint', 'corpus')
  about = {key: result[key] for key in (*source, 'seeds', 'versions', 'times')}
  about['rope'] = {r['name']: r['rope'] for r in result['compared']['rows']}
  metadata = {
    'Title': title,
    'Software': f'ntk_jax {versions["ntk_jax"]}',
    'Description': json.dumps(about),
  }
  out = io.BytesIO()
  figure.savefig(out, format='png', metadata=metadata)
  return out.getvalue()
