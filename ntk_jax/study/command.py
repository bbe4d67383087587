"""The command line that does a study again."""

from __future__ import annotations

import dataclasses
import shlex

from ntk_jax.study.settings import StudyConfig, tiny

FLAGS = ('arms', 'seeds', 'minutes', 'corpus', 'steps')


def study_command(config: StudyConfig) -> str:
  """The words that one types.

  >>> study_command(StudyConfig(seeds=5))
  'python -m experiments.study_curriculum --seeds=5'
  >>> study_command(dataclasses.replace(tiny(StudyConfig()), arms=('steps', 'mask')))
  'python -m experiments.study_curriculum --fast --arms=steps,mask'
  """
  usual = StudyConfig()
  words = ['python -m experiments.study_curriculum']
  if config.model == tiny(usual).model:
    usual = tiny(usual)
    words.append('--fast')
  for name in FLAGS:
    value = getattr(config, name)
    if value != getattr(usual, name):
      text = ','.join(value) if isinstance(value, tuple) else f'{value}'
      words.append(shlex.quote(f'--{name}={text}'))
  return ' '.join(words)
