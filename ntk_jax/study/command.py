"""The command line that does a study again."""

from __future__ import annotations

import shlex

from ntk_jax.study.settings import StudyConfig, tiny

FLAGS = ('arms', 'seeds', 'minutes', 'corpus', 'steps', 'lengths')


def study_command(config: StudyConfig) -> str:
  """The words that one types.

  >>> study_command(StudyConfig(seeds=5))
  'python -m experiments.study_curriculum --seeds=5'
  >>> study_command(tiny(StudyConfig(minutes=5.0)))
  'python -m experiments.study_curriculum --fast --minutes=5'
  """
  usual = StudyConfig()
  words = ['python -m experiments.study_curriculum']
  if config.model == tiny(usual).model:
    usual = tiny(usual)
    words.append('--fast')
  for name in FLAGS:
    value = getattr(config, name)
    if value != getattr(usual, name):
      words.append(shlex.quote(f'--{name}={_text(value)}'))
  return ' '.join(words)


def _text(value: object) -> str:
  if isinstance(value, tuple):
    return ','.join(map(str, value))
  return f'{value:g}' if isinstance(value, float) else str(value)
