"""Train a model from a config: resumable, on a laptop or over a mesh.

  python -m experiments.train --workdir=runs/bytes
  python -m experiments.train --steps=200 --length=256 --corpus=my_texts/
  python -m experiments.train --config=experiments/configs/bytes_small.py \
    --config.model.qk_norm=True --config.optimizer.schedule=wsd
  python -m experiments.train --config=experiments/configs/mistral.py:v0.1
  python -m experiments.train --config.schemes.at0.window=128
  python -m experiments.train --config.schemes.at0.temperature=logn \
    --config.schemes.at0.temperature_options="{'length': 512}"
  python -m experiments.train --mesh_data=2 --mesh_fsdp=2 --mesh_tensor=2
  python -m experiments.train --config=experiments/configs/grow_512_to_32k.py
  python -m experiments.train --config.growth.kind=linear \
    --config.growth.start=32
  python -m experiments.train --forecast=v5p:4x4x2 --mesh_fsdp=32 \
    --config=experiments/configs/grow_512_to_32k.py:real

A config file returns a ConfigDict; --config.a.b=value changes a field of it,
and the flags below are short names of some. What a field means is said by the
dataclass of its section: ModelConfig, DataConfig, OptimizerConfig,
SchemeConfig, MeshConfig, GuardConfig, GrowthConfig, SamplingConfig,
RegularizeConfig, ProbeConfig and TrainConfig. Files of systems (llama2,
longchat, yi, mistral, best_known) take a variant behind a colon, tiny unless it
says real: experiments/configs/rows.py lists the words. Layers with schemes of
their own (model.layer_plan) take a config file that lists the schemes. All
wrong settings are reported at once, before any work.

Rows may be short at first and grow to data.max_length (growth.kind), long and
short side by side (sampling), and their tokens dropped, masked, moved or
weighed (regularize); the rope method may change with the length (stages, in a
file).

The workdir keeps config.json, metrics.jsonl (one line per step), events for
TensorBoard, and checkpoints. The same command goes on from the newest one: a
killed run ends with the same numbers as one that was left alone, if its flags
are the same. SIGTERM and
Ctrl-C save first and print how to go on.

On a pod start the same command on every host; --distributed joins them. The
mesh axes multiply to the number of devices: rows are split over data and fsdp,
matrices over fsdp and tensor.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
from absl import flags
from ml_collections import config_flags

from experiments import launch
from experiments.configs.recipe import values_of
from ntk_jax.config import from_dict
from ntk_jax.errors import ConfigError
from ntk_jax.train import TrainConfig, Trained, run
from ntk_jax.train.forecast import row_shapes
from ntk_jax.train.forecast_words import forecast_lines

_WORKDIR = flags.DEFINE_string('workdir', 'runs/train', 'where the run is kept')
_DISTRIBUTED = flags.DEFINE_boolean(
  'distributed',
  False,
  'join the processes of a pod, a SLURM job or Kubernetes before anything else',
)
_FORECAST = flags.DEFINE_string(
  'forecast',
  None,
  'train nothing: compile the step of every row shape from shapes alone, and '
  "print what memory it takes; 'here' for this machine, or a TPU such as "
  'v5e:4x4 (needs libtpu)',
)
# Short names: flag, field of the config, what it is.
_SHORT = {
  'steps': ('optimizer.steps', 'steps of the run'),
  'warmup': ('optimizer.warmup', 'steps of the warm-up, less than steps'),
  'learning_rate': ('optimizer.peak', 'peak of the learning rate'),
  'length': ('data.max_length', 'tokens of a row'),
  'batch_rows': ('data.batch_rows', 'rows of a batch, on all hosts together'),
  'corpus': ('data.corpus', 'a file, folder, .jsonl file or glob pattern'),
  'tokenizer': ('data.tokenizer', 'a tokenizer JSON; bytes without it'),
  'seed': (
    'seed',
    'of the initial parameters; that of the data is --config.data.seed',
  ),
  'mesh_data': ('mesh.data', 'copies of the model'),
  'mesh_fsdp': ('mesh.fsdp', 'shards of every matrix, gathered for use'),
  'mesh_tensor': ('mesh.tensor', 'shards of heads, MLP and vocabulary'),
}
for _name, (_field, _help) in _SHORT.items():
  _define = {
    'learning_rate': flags.DEFINE_float,
    'corpus': flags.DEFINE_string,
    'tokenizer': flags.DEFINE_string,
  }.get(_name, flags.DEFINE_integer)
  _define(_name, None, f'{_help} (--config.{_field})')


def define_config() -> None:
  """The config flag, whose overrides are read when it is defined."""
  config_flags.DEFINE_config_file(
    'config',
    'experiments/configs/bytes_small.py',
    'a file with get_config(); --config.a.b=value changes a field',
  )


def main() -> None:
  """Runs what the config and flags describe and says where it ended."""
  if _DISTRIBUTED.value:
    _join()
  values = _values()
  for name, (field, _) in _SHORT.items():
    if flags.FLAGS[name].value is not None:
      _set(values, field.split('.'), flags.FLAGS[name].value)
  config = from_dict(TrainConfig, values)
  if _FORECAST.value is not None:
    _forecast(config, _FORECAST.value)
    return
  launch.cache_compiled(Path(_WORKDIR.value) / 'compiled')
  trained = run(config, _WORKDIR.value)
  if jax.process_index() == 0:
    print(_summary(trained))


def _forecast(config: TrainConfig, where: str) -> None:
  """Prints what the step of every row shape takes of a device."""
  growth, run = config.growth, config.run_of(1)
  shapes = row_shapes(config, growth.row_shapes(run), growth.batch)
  target = None if where == 'here' else where
  print('\n'.join(forecast_lines(config, shapes, target)))


def _join() -> None:
  try:
    jax.distributed.initialize()
  except (ValueError, RuntimeError) as error:
    raise ConfigError(
      f'distributed: no pod, SLURM job or Kubernetes job is found ({error}); '
      'leave the flag out on one machine'
    ) from error


def _values() -> dict[str, Any]:
  try:
    return values_of(flags.FLAGS.config)
  except OSError as error:
    raise ConfigError(
      'config cannot be read; name a Python file with a get_config() that '
      f'returns a ConfigDict ({" ".join(str(error).split())})'
    ) from error


def _set(values: dict[str, Any], path: list[str], value: Any) -> None:
  for key in path[:-1]:
    values = values.setdefault(key, {})
  values[path[-1]] = value


def _summary(trained: Trained) -> str:
  steps, last = len(trained.text_loss), max(1, len(trained.text_loss) // 10)

  def mean(values: list[float]) -> str:
    end = [x for x in values[-last:] if x == x]
    return f'{sum(end) / len(end):.3f}' if end else 'none'

  return (
    f'{steps} steps in {trained.seconds:.0f} s; of the last {last}: text '
    f'{mean(trained.text_loss)} bits per token, answers '
    f'{mean(trained.retrieval_loss)} bits'
  )


if __name__ == '__main__':
  launch.run(main, define_config)
