"""Which method should take this model to a longer context, and how sure is it?

With no flags, on a bare CPU, this trains a small byte-level model at 128
tokens on the sources of Python's standard library, reads held-out text and
asks it to recall hidden values at 1x to 16x that length under every method,
fine-tunes the best of two families and a control at 8x, and leaves report.md,
report.json, results.csv and plots in the workdir (2 to 5 minutes on 2 cores).

  python -m experiments.extend
  python -m experiments.extend --methods=none,ntk,yarn+logn --target_factor=4
  python -m experiments.extend --methods=all --seeds=3
  python -m experiments.extend --corpus=my_texts/ --workdir=runs/mine

With --checkpoint it does the same for a Hugging Face model: no base is trained,
methods are compared on the model as it is, the best are fine-tuned at the
target, and --export writes the winner for transformers, vLLM and llama.cpp.
What fine-tuning needs of memory is printed before anything is loaded.

  python -m experiments.extend --checkpoint=path/to/model --corpus=my_texts/ \\
    --target_length=32768 --trainable=lora:16 --moments=bfloat16 \\
    --export=model-32k

On several devices the model is loaded into shards and never whole: rows are
split over data and fsdp, matrices over fsdp and tensor, and the three multiply
to the number of devices. A run may go on with other ones.

  python -m experiments.extend --checkpoint=path/to/model --corpus=my_texts/ \\
    --target_length=32768 --config.tokens_per_step=131072 --export=model-32k \\
    --mesh_fsdp=4 --mesh_tensor=2

How training goes is --config.NAME=value, with the names of ExtendConfig:
train_steps, tune_steps, tokens_per_step, train_length, learning_rate and
tune_learning_rate.

A method is a name (none, linear, ntk, dynamic, yarn, by_parts, yarn_scaled,
llama3, ...; a wrong one prints the list) with additions: +logn (a temperature
that grows with position), +window (see only the last 128 tokens), +resonance,
+cope:4, +cope_hard:4 (fade or stop the last 4 pairs).

Running again reuses what is finished: more methods, seeds or rows are added,
a killed run goes on from its last checkpoint. Another model, corpus or
training needs another --workdir.
"""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_dict, config_flags

from experiments import launch
from ntk_jax.extend import ExtendConfig, run
from ntk_jax.extend.outcome import NO_FLAG
from ntk_jax.extend.settings import fast
from ntk_jax.report import table
from ntk_jax.sharding import MeshConfig

_DEFAULT = ExtendConfig()
_METHODS = flags.DEFINE_list(
  'methods',
  None,
  "methods to compare, or 'all' for every one that is defined here (default: "
  f'{",".join(_DEFAULT.methods)})',
)
_TARGET_FACTOR = flags.DEFINE_integer(
  'target_factor',
  None,
  'target length / trained length: where methods are ranked and tuned '
  f'(default: {_DEFAULT.target_factor})',
)
_SEEDS = flags.DEFINE_integer(
  'seeds',
  None,
  'models to train; with more than one, intervals speak of training again '
  f'(default: {_DEFAULT.seeds})',
)
_ROWS = flags.DEFINE_integer(
  'rows',
  None,
  'held-out text rows per length, with 8 questions each beside them (default: '
  f'{_DEFAULT.rows})',
)
_CORPUS = flags.DEFINE_string(
  'corpus',
  None,
  'a text file or folder to train on and test with (default: the sources of '
  "the running Python's standard library)",
)
_WORKDIR = flags.DEFINE_string(
  'workdir',
  None,
  'where stages and the report go (default: runs/extend, or runs/extend-fast '
  'with --fast)',
)
_CHECKPOINT = flags.DEFINE_string(
  'checkpoint',
  None,
  'a folder with config.json, safetensors and tokenizer.json, or a name on the '
  'hub: the model to extend (default: one is trained)',
)
_TARGET_LENGTH = flags.DEFINE_integer(
  'target_length',
  None,
  'tokens to extend to (default: target_factor times the trained length)',
)
_TRAINABLE = flags.DEFINE_string(
  'trainable',
  None,
  'what fine-tuning trains: all, attention, norms_embeddings, lora[:rank] '
  '(adapters, merged at the end) or longlora[:rank] (adapters, norms and '
  f'embeddings) (default: {_DEFAULT.trainable})',
)
_MOMENTS = flags.DEFINE_string(
  'moments',
  None,
  'dtype of the optimizer in fine-tuning, float32 or bfloat16 (default: '
  f'{_DEFAULT.moments})',
)
_EXPORT = flags.DEFINE_string(
  'export', None, 'a new folder for the fine-tuned winner of a checkpoint'
)
_MESH_DATA = flags.DEFINE_integer('mesh_data', 1, 'copies of the model')
_MESH_FSDP = flags.DEFINE_integer(
  'mesh_fsdp', 1, 'shards of every matrix, gathered for use'
)
_MESH_TENSOR = flags.DEFINE_integer(
  'mesh_tensor', 1, 'shards of heads, MLP and vocabulary'
)
_FAST = flags.DEFINE_boolean(
  'fast', False, 'a tiny model and few steps, to see the way in seconds'
)
_SETTINGS = (
  _METHODS,
  _TARGET_FACTOR,
  _SEEDS,
  _ROWS,
  _CORPUS,
  _CHECKPOINT,
  _TARGET_LENGTH,
  _TRAINABLE,
  _MOMENTS,
  _EXPORT,
)


def define_config() -> None:
  """The settings without a flag of their own, None where not given."""
  hints = typing.get_type_hints(ExtendConfig)
  fields = {}
  for name in NO_FLAG:
    kind, *_ = typing.get_args(hints[name]) or (hints[name],)
    fields[name] = config_dict.placeholder(kind)
  config_flags.DEFINE_config_dict(
    'config',
    ConfigDict(fields),
    f'how training goes: --config.NAME=value for {", ".join(NO_FLAG)}',
  )


def main() -> None:
  """Runs the job that the flags describe and prints its table."""
  given: dict[str, Any] = {
    flag.name: flag.value for flag in _SETTINGS if flag.value is not None
  }
  told = flags.FLAGS.config
  given |= {name: told[name] for name in told if told[name] is not None}
  given['mesh'] = MeshConfig(
    data=_MESH_DATA.value, fsdp=_MESH_FSDP.value, tensor=_MESH_TENSOR.value
  )
  if 'methods' in given:
    given['methods'] = tuple(name.strip() for name in given['methods'])
  config = fast(_DEFAULT) if _FAST.value else _DEFAULT
  default = 'runs/extend-fast' if _FAST.value else 'runs/extend'
  result = run(dataclasses.replace(config, **given), _WORKDIR.value or default)
  print(table(result))


if __name__ == '__main__':
  launch.run(main, define_config)
