"""What a report says of a checkpoint that was extended."""

from __future__ import annotations

from ntk_jax.report.phrases import Plain, listed

_TRAINS = {
  'all': 'all parameters were trained',
  'attention': 'the attention was trained, all else was frozen',
  'norms_embeddings': 'norms and embeddings were trained, all else was frozen',
  'lora': 'adapters of q, k, v and out were trained, all else was frozen',
  'longlora': 'adapters of q, k, v and out, norms and embeddings were trained, '
  'all else was frozen',
}


def in_units(text: str, result: Plain) -> str:
  """Losses of a checkpoint are per token; the text is written for bytes.

  >>> in_units('2.5 bits per byte', {'unit': 'token'})
  '2.5 bits per token'
  """
  unit = result.get('unit', 'byte')
  return text.replace('its per byte', f'its per {unit}')


def imported(result: Plain) -> list[str]:
  """What was loaded, and how retrieval is asked; nothing without one."""
  about = result.get('checkpoint')
  if not about:
    return []
  corpus = result['corpus']
  shown = ', '.join(f'"{word.strip()}"' for word in about['symbols'][:3])
  scaled = ''
  if about['original_length'] != about['trained_length']:
    scaled = f' (scaled from {about["original_length"]:,})'
  return [
    f'**Loaded**: {about["name"]} ({about["family"]}, fingerprint '
    f'`{about["fingerprint"]}`), {result["base"]["parameters"] / 1e6:,.2f} '
    f'million parameters, its own length {about["trained_length"]:,} tokens'
    f'{scaled}, stored in {about["stored"]}, computed in {about["compute"]}. '
    f'Text: {corpus["name"]}, {corpus["files"]:,} documents, '
    f'{corpus["held_out_files"]:,} of them held out.',
    '**Retrieval** is asked in its own words: key and value are two plain '
    f'tokens ({shown}, ...) in the text, the key comes again near the end, and '
    'its value has to be the likeliest of 16. No step of training teaches it.',
  ]


def how_tuned(result: Plain) -> str:
  """What fine-tuning trained, as the end of a sentence."""
  about = result.get('checkpoint')
  if not about:
    return ''
  kind, _, rank = about['trainable'].partition(':')
  return (
    f'; {_TRAINS[kind]}{f" (rank {rank})" if rank else ""}, moments in '
    f'{about["moments"]}, learning rate {about["learning_rate"]:g}; it '
    f'{about["memory"]}'
  )


def exported(result: Plain) -> list[str]:
  """Where the winner was written, and what servers make of it."""
  facts = result.get('export')
  if not facts:
    return []
  lines = ['## The exported checkpoint']
  for refused in facts['refused']:
    lines.append(f'`{refused["name"]}` cannot be written: {refused["reason"]}.')
  if facts['method'] is None:
    return [*lines, '**Nothing was written.**']
  why = {
    'ranking': 'it is what the ranking after fine-tuning takes',
    'loss': 'no ranking decided, and it has the lowest loss of the methods',
  }
  because = why[facts['chosen_by']]
  if facts['refused']:
    because = 'it is the next best that can be'
  exact = [n for n, kind in facts['verdicts'].items() if kind == 'exact']
  served = f'{listed(exact)} read it exactly' if exact else 'No server reads it'
  return [
    *lines,
    f'`{facts["method"]}`, fine-tuned, is in `{facts["folder"]}`: {because}. '
    f'{served} (`python -m experiments.doctor {facts["folder"]}` says more):',
    facts['doctor'],
  ]
