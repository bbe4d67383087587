"""What does length do to this model, before, early in and after training?

  python -m experiments.diagnose
  python -m experiments.diagnose --fast
  python -m experiments.diagnose --config=experiments/configs/bytes_small.py \
    --config.model.qk_norm=True --lengths=128,512,2048
  python -m experiments.diagnose --preset=longchat-ntk-logn-window
  python -m experiments.diagnose --workdir=runs/train
  python -m experiments.diagnose --checkpoint=path/to/model --corpus=my_texts/

With no flags, the model of bytes_small as it starts, at 128 to 4096 tokens on
the sources of Python's standard library and on independent inputs, for each
divisor, gain, norm and temperature, and again after a few steps of training
(about 6 minutes on two cores). It answers four questions, in tables, plots and
words:

  how much of the variance of values attention keeps (Var(out) / Var(v), the
    correlation rho of values, the variance of logits);
  how large the gradient of each matrix is;
  what the neural tangent kernel looks like: trace by group of parameters, how
    alike samples are, its condition number;
  what heads do: entropy, weight on the first keys, largest logit - and which
    temperature keeps entropy or variance flat.

A finished run (--workdir) or a Hugging Face checkpoint is measured as it is and
under temperatures, at a quarter to four times the length that it was trained
at. A preset is its tiny row, at its start. --config.a.b=value changes a field
of the config, as in experiments.train.

Leaves diagnose.md, measurements.csv, diagnose.json and PNG files in --out, and
prints the tables that matter most.
"""

from __future__ import annotations

import dataclasses
import shlex
import sys
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from experiments import launch
from experiments.configs.recipe import values_of
from experiments.configs.rows import row_recipe
from ntk_jax.config import from_dict
from ntk_jax.data.retrieval import VOCAB
from ntk_jax.diagnostics.job import diagnose
from ntk_jax.diagnostics.page import diagnosis_text
from ntk_jax.diagnostics.settings import (
  DiagnoseConfig,
  fast_diagnosis,
  lengths_around,
)
from ntk_jax.diagnostics.subject import (
  Subject,
  about_to_train,
  loaded_checkpoint,
  trained_run,
)
from ntk_jax.errors import ConfigError
from ntk_jax.model.presets import preset
from ntk_jax.train import TrainConfig

_DEFAULT = DiagnoseConfig()
_CONFIG = 'experiments/configs/bytes_small.py'
_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'a run of experiments.train to diagnose'
)
_STEP = flags.DEFINE_integer(
  'step', None, 'of the checkpoint in --workdir (default: newest)'
)
_CHECKPOINT = flags.DEFINE_string(
  'checkpoint',
  None,
  'a folder with config.json, safetensors and tokenizer.json, or a name on the '
  'hub, to diagnose',
)
_PRESET = flags.DEFINE_string(
  'preset', None, 'the tiny row of a preset to diagnose at its start'
)
_CORPUS = flags.DEFINE_string(
  'corpus',
  None,
  'a text file or folder to read (default: that of the config; with '
  "--checkpoint the sources of the running Python's standard library)",
)
_OUT = flags.DEFINE_string('out', 'runs/diagnose', 'where results are written')
_LENGTHS = flags.DEFINE_list(
  'lengths',
  None,
  f'tokens, increasing (default: {",".join(map(str, _DEFAULT.lengths))}; of a '
  'trained model a quarter to four times its length)',
)
_REFERENCE = flags.DEFINE_integer(
  'reference',
  None,
  'the length at which gains and temperatures change nothing (default: the '
  'first; of a trained model its length)',
)
_ROWS = flags.DEFINE_integer(
  'rows', None, f'rows whose heads are looked at (default: {_DEFAULT.rows})'
)
_CONTEXTS = flags.DEFINE_integer(
  'contexts', None, f'samples of the kernel (default: {_DEFAULT.contexts})'
)
_SEEDS = flags.DEFINE_integer(
  'seeds',
  None,
  f'draws of parameters at the start (default: {_DEFAULT.seeds})',
)
_STEPS = flags.DEFINE_integer(
  'steps',
  None,
  'steps that each way to start is trained for, to be measured again; 0 '
  f'leaves that out (default: {_DEFAULT.steps})',
)
_FAST = flags.DEFINE_boolean(
  'fast', False, 'short rows and no training, to see the way in seconds'
)
_SETTINGS = _REFERENCE, _ROWS, _CONTEXTS, _SEEDS, _STEPS


def define_config() -> None:
  """The config flag, whose overrides are read when it is defined."""
  config_flags.DEFINE_config_file(
    'config',
    _CONFIG,
    'the model to diagnose at its start: a file with get_config(); '
    '--config.a.b=value changes a field',
  )


def main() -> None:
  """Diagnoses what the flags name and prints its tables."""
  given: dict[str, Any] = {
    flag.name: flag.value for flag in _SETTINGS if flag.value is not None
  }
  if _LENGTHS.value is not None:
    given['lengths'] = tuple(map(_length, _LENGTHS.value))
  _check_one_subject()
  config = fast_diagnosis(_DEFAULT) if _FAST.value else _DEFAULT
  dataclasses.replace(config, **given).validate()  # before anything is loaded
  subject = _subject(given.get('lengths', ()))
  if subject.trained:
    around = lengths_around(subject.trained)
    config = dataclasses.replace(
      config, lengths=around[:-1] if _FAST.value else around
    )
  config = dataclasses.replace(config, **given)
  command = shlex.join(['python', '-m', 'experiments.diagnose', *sys.argv[1:]])
  result, found = diagnose(subject, config, _OUT.value, command)
  print(diagnosis_text(result, found))


def _length(text: str) -> int:
  try:
    return int(text)
  except ValueError as error:
    raise ConfigError(
      f'lengths has {text!r}: give whole numbers of tokens, such as 128,256,512'
    ) from error


def _check_one_subject() -> None:
  """Raises ConfigError unless the flags name one model."""
  named = [
    f'--{flag.name}'
    for flag in (_WORKDIR, _CHECKPOINT, _PRESET)
    if flag.value is not None
  ]
  changed = [n for n in flags.FLAGS if n.startswith('config.')]
  if flags.FLAGS['config'].present or any(
    flags.FLAGS[n].present for n in changed
  ):
    named.append('--config')
  if len(named) > 1:
    raise ConfigError(f'{" and ".join(named)} name a model each: give one')
  if _STEP.value is not None and _WORKDIR.value is None:
    raise ConfigError(
      f'step is {_STEP.value} without --workdir: it names a run'
    )
  if _CORPUS.value is not None and _WORKDIR.value is not None:
    raise ConfigError(
      f'corpus is {_CORPUS.value!r} with --workdir: a run is diagnosed with '
      'the text that it was trained on; leave it out'
    )


def _subject(lengths: tuple[int, ...]) -> Subject:
  if _WORKDIR.value is not None:
    return trained_run(_WORKDIR.value, _STEP.value)
  if _CHECKPOINT.value is not None:
    return loaded_checkpoint(
      _CHECKPOINT.value, _CORPUS.value, max(lengths, default=0)
    )
  if _PRESET.value is not None:
    row = preset(_PRESET.value)
    _, _, variant = row.name.partition('-')
    config = _train_config(row_recipe(row.system, variant))
    return about_to_train(config, row.name, row.tiny(VOCAB).schemes)
  path = config_flags.get_config_filename(flags.FLAGS['config'])
  return about_to_train(_train_config(flags.FLAGS.config), Path(path).stem)


def _train_config(values: Any) -> TrainConfig:
  config = from_dict(TrainConfig, values_of(values))
  if _CORPUS.value is None:
    return config
  data = dataclasses.replace(config.data, corpus=_CORPUS.value)
  return dataclasses.replace(config, data=data)


if __name__ == '__main__':
  launch.run(main, define_config)
