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
  source = ('protocol', 'command', 'config', 'config_fingerprint', 'corpus')
  about = {key: result[key] for key in (*source, 'seeds', 'versions', 'times')}
  about['rope'] = {r['name']: r['rope'] for r in result['compared']['rows']}
  return stamped(figure, title, foot, json.dumps(about))


def stamped(figure: Figure, title: str, foot: str, about: str) -> bytes:
  """The figure as PNG with a line at its foot.

  Args:
    figure: to draw.
    title: for the metadata.
    foot: what produced it, in short; the first word or two name the software.
    about: the same in full, for the metadata.
  """
  inch = 1 / figure.get_figheight()
  figure.text(0.01, 0.1 * inch, foot, fontsize=7, color='#777777')
  metadata = {
    'Title': title,
    'Software': foot.partition(',')[0],
    'Description': about,
  }
  out = io.BytesIO()
  figure.savefig(out, format='png', metadata=metadata)
  return out.getvalue()
