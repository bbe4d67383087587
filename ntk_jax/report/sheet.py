"""The spreadsheet of a result: methods by lengths, and what produced them."""

from __future__ import annotations

import csv
import io

from ntk_jax.report.part import Part
from ntk_jax.report.phrases import Plain
from ntk_jax.report.tables import settings


def results_csv(result: Plain) -> str:
  """Loss and retrieval at every length, one method a row.

  Columns named by a length hold the loss there, in bits per byte; those named
  `retrieval_` and a length, the share of hidden values found. The last
  columns name what produced the row.
  """
  lengths = result['lengths']['all']
  source = {
    'protocol': result['protocol'],
    'config': result['config_fingerprint'],
    'corpus': result['corpus']['fingerprint'],
    'seeds': ' '.join(map(str, result['seeds'])),
    'versions': ' '.join(f'{k}={v}' for k, v in result['versions'].items()),
  }
  rows = []
  for part in (Part.compared(result), Part.fine_tuned(result)):
    seconds = result['times']['tune' if part.tuned else 'compare']
    for row in part.rows:
      losses = zip(lengths, row['loss'])
      found = zip(lengths, row['retrieval'])
      rows.append(
        {
          'method': row['name'],
          'tuned_steps': result['config']['tune_steps'] if part.tuned else 0,
          **{str(length): loss['mean'] for length, loss in losses},
          **{f'retrieval_{length}': hits['mean'] for length, hits in found},
          'rank': row['place'],
          'status': row['status'],
          'rope': f'{row["rope"]["method"]}: {settings(row)}',
          'attention_factor': row['rope']['attention_factor'],
          **source,
          'train_seconds': round(result['times']['train'], 1),
          'seconds': round(seconds[row['name']], 1),
        }
      )
  text = io.StringIO()
  writer = csv.DictWriter(text, list(rows[0]), lineterminator='\n')
  writer.writeheader()
  writer.writerows(rows)
  return text.getvalue()
