"""The page of a result: the answer first, then what it rests on."""

from __future__ import annotations

from ntk_jax.report.answer import answer, answer_after_tuning
from ntk_jax.report.evidence import (
  excluded,
  how_sure,
  sure_in_short,
  what_was_done,
)
from ntk_jax.report.imported import exported, in_units
from ntk_jax.report.part import Part
from ntk_jax.report.phrases import Plain, percent
from ntk_jax.report.problem import problem
from ntk_jax.report.tables import by_length, ranking, schemes
from ntk_jax.report.tuning import tuning


def markdown(result: Plain) -> str:
  """The text of report.md.

  Args:
    result: what report.json holds.

  Returns:
    Markdown that shows the plots which `plot.save_all` puts beside it.
  """
  compared, tuned = Part.compared(result), Part.fine_tuned(result)
  target = f'{result["lengths"]["target"]:,}'
  steps = result['config']['tune_steps']
  times = result['lengths']['target'] / result['lengths']['train']
  sections = [
    '# Which method should I use here, and how sure is that?',
    answer(compared),
    answer_after_tuning(result),
    sure_in_short(result),
    _bullets(what_was_done(result)),
    *_problem(result),
    f'## The ranking at {target} tokens, without training',
    ranking(compared),
    _legend(result),
    _plot('loss_by_length', 'Loss by length, with 95% intervals'),
    *_if_any('Excluded, because retrieval is lost:', excluded(compared)),
    f'## After {steps} steps of fine-tuning',
    *tuning(result),
    ranking(tuned),
    *_if_any('Excluded, because retrieval is lost:', excluded(tuned)),
    *exported(result),
    '## How sure is this?',
    _bullets(how_sure(result)),
    '## Loss by length',
    'Bits per byte over the second half of each length, without training:',
    by_length(compared, 'loss'),
    f'After {steps} steps:',
    by_length(tuned, 'loss'),
    _plot('loss_by_position', 'Loss by position in the longest text'),
    '## Retrieval by length',
    'The share of hidden values that is found, without training:',
    by_length(compared, 'retrieval'),
    f'After {steps} steps:',
    by_length(tuned, 'retrieval'),
    _plot('retrieval', 'Retrieval by length, and by depth at the target'),
    '## What each method does',
    f'At {target} tokens. Pair i of the P = d/2 pairs turns by w_i radians per '
    'position, w_i = theta^(-2i/d) without a method; s is the factor, L0 the '
    'length of training. "Attention" multiplies cos and sin. The last column '
    f'counts the pairs left alone / slowed / slowed by {times:g} or more.',
    schemes(compared),
    _plot('frequencies', 'Frequency multiplier of each pair'),
    *_not_applicable(result),
    '## How to do it again',
    *_reproduce(result),
  ]
  return in_units('\n\n'.join(sections) + '\n', result)


def _problem(result: Plain) -> list[str]:
  if result['problem'] is None:
    return []
  return [
    '## The problem',
    problem(result),
    _plot('problem', 'Entropy, far loss and gradient norm by length'),
  ]


def _legend(result: Plain) -> str:
  return (
    'Losses are bits per byte, lower is better; brackets are 95% intervals. '
    '"Behind the first" is the paired difference to the first of the ranking. '
    '"Retrieval kept" is relative to the unextended model at its own length; '
    f'a method passes if it keeps {percent(result["rules"]["keeps"])}. Methods '
    'of one rank cannot be told apart.'
  )


def _plot(name: str, title: str) -> str:
  return f'![{title}]({name}.png)'


def _bullets(lines: list[str]) -> str:
  return '\n'.join(f'- {line}' for line in lines)


def _if_any(title: str, lines: list[str]) -> list[str]:
  return [title, _bullets(lines)] if lines else []


def _not_applicable(result: Plain) -> list[str]:
  lines = [f'`{m["name"]}`: {m["reason"]}.' for m in result['not_applicable']]
  return _if_any('Not applicable here:', lines)


def _reproduce(result: Plain) -> list[str]:
  corpus, times = result['corpus'], result['times']
  seconds = {
    'loading' if result.get('checkpoint') else 'training': times['train'],
    'comparison': sum(times['compare'].values()),
    'fine-tuning': sum(times['tune'].values()),
    'the problem': sum(times['problem'].values()),
  }
  return [
    f'```bash\n{result["command"]}\n```',
    _bullets(
      [
        f'Protocol {result["protocol"]}, config '
        f'`{result["config_fingerprint"]}` (in full in `report.json`), seeds '
        f'{", ".join(map(str, result["seeds"]))}.',
        f'Corpus: {corpus["name"]}, {corpus["bytes"]:,} bytes in '
        f'{corpus["files"]:,} files, fingerprint `{corpus["fingerprint"]}`. '
        'Another fingerprint gives other numbers.',
        'Versions: '
        + ', '.join(f'{k} {v}' for k, v in result['versions'].items())
        + '.',
        'Wall time: '
        + ', '.join(f'{name} {s:,.0f} s' for name, s in seconds.items())
        + '.',
      ]
    ),
  ]
