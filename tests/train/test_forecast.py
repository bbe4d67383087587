"""The forecast is of the step that runs, and needs nothing of its size."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import tempfile
from pathlib import Path
from typing import Any

import devices
import jax
import numpy as np
import pytest

from ntk_jax.curriculum.regularize import RegularizeConfig
from ntk_jax.data.settings import DataConfig
from ntk_jax.errors import ConfigError
from ntk_jax.memory import step_need
from ntk_jax.model import ModelConfig, parameter_count
from ntk_jax.optimizer import OptimizerConfig
from ntk_jax.sharding import MeshConfig
from ntk_jax.step import train_step
from ntk_jax.train import SchemeConfig, TrainConfig, forecast_words, job
from ntk_jax.train import forecast as module
from ntk_jax.train import topology as tpu
from ntk_jax.train.ahead import Ahead
from ntk_jax.train.forecast import Compiled, Forecast, forecast, row_shapes
from ntk_jax.train.forecast_words import forecast_lines
from ntk_jax.train.job import initial_state

ROWS, LENGTH = 4, 32
CORPUS = str(Path(__file__).parents[2] / 'ntk_jax')
CONFIG = TrainConfig(
  model=ModelConfig(
    vocab=256, dim=32, layers=2, heads=2, kv_heads=2, head_dim=16, mlp_dim=48
  ),
  data=DataConfig(corpus=CORPUS, max_length=LENGTH, batch_rows=ROWS),
  optimizer=OptimizerConfig(peak=1e-3, steps=10, warmup=1),
)
TPU = 'v5e:2x2'
no_libtpu = pytest.mark.skipif(
  importlib.util.find_spec('libtpu') is None, reason='libtpu is not installed'
)


class Asked(Exception):
  """The step would have been compiled."""


def changed(config: TrainConfig = CONFIG, **model: Any) -> TrainConfig:
  """A run of another model."""
  return dataclasses.replace(
    config, model=dataclasses.replace(config.model, **model)
  )


def compiled(config: TrainConfig, target: str | None = None) -> Compiled:
  """The only row shape's."""
  [found] = forecast(config, target=target)
  assert found.compiled is not None
  return found.compiled


def asked(config: TrainConfig) -> tuple[Any, ...]:
  """What a run calls its first step with, shapes in place of its state."""
  seen: list[Any] = []

  def first(self: Ahead, state: Any, inputs: Any, frozen: Any) -> None:
    assert frozen is None
    seen[:] = state, *inputs
    raise Asked

  def start(step: Any, seed: int, mesh: Any) -> Any:
    return jax.eval_shape(lambda: initial_state(step, seed, mesh))

  with (
    pytest.MonkeyPatch.context() as patch,
    tempfile.TemporaryDirectory() as folder,
    pytest.raises(Asked),
  ):
    patch.setattr(Ahead, 'run', first)
    patch.setattr(job, 'initial_state', start)
    job.run(config, folder)
  return tuple(seen)


LOGN = SchemeConfig(temperature='logn', temperature_options={'length': 8})
RUNS: dict[str, dict[str, Any]] = {
  'plain': {},
  'temperature': {'schemes': (LOGN,)},
  'two ropes': {'mixed_rope': 16},
  'regularised': {
    'regularize': RegularizeConfig(
      forget=0.1,
      weight='distance',
      weight_context=8,
      long_ce=True,
      long_short=8,
    )
  },
}


def compiled_for(
  config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> tuple[Any, Any]:
  """What a forecast lowers its step with: arguments, and static ones."""
  seen: list[Any] = []

  class Step:
    def lower(self, *arguments: Any, **static: Any) -> None:
      seen[:] = [arguments, static]
      raise Asked

  monkeypatch.setattr(module, 'train_step', Step())
  with pytest.raises(Asked):
    forecast(config)
  return seen[0], seen[1]


@pytest.mark.parametrize('name', RUNS)
def test_shapes_are_those_that_a_run_calls_its_step_with(
  name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
  config = dataclasses.replace(CONFIG, **RUNS[name])
  found, static = compiled_for(config, monkeypatch)
  wanted = asked(config)
  assert jax.tree.structure(found) == jax.tree.structure(wanted)
  for x, y in zip(*map(jax.tree.leaves, (found, wanted))):
    assert (x.shape, x.dtype) == (np.shape(y), y.dtype)
  assert static == {'config': config.step, 'mesh': None}


def test_of_a_run_that_drops_tokens_the_step_that_drops_none_counts(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  dropping = RegularizeConfig(keep_start=0.5, keep_multiple=1, keep_until=0.6)
  config = dataclasses.replace(changed(layers=3), regularize=dropping)
  assert asked(config)[-1].kept.shape == (ROWS, LENGTH // 2)
  assert compiled_for(config, monkeypatch)[0][-1].kept is None


def test_the_forecast_is_of_the_step_that_runs() -> None:
  state, *inputs = asked(CONFIG)
  program = train_step.lower(state, *inputs, config=CONFIG.step).compile()
  said: Any = program.memory_analysis()
  found = compiled(CONFIG)
  assert found.arguments == said.argument_size_in_bytes
  assert found.temporaries == said.temp_size_in_bytes
  assert found.outputs == said.output_size_in_bytes - said.alias_size_in_bytes
  # The state is donated: only metrics come out beside it.
  assert 0 < found.outputs < 1000
  assert found.host == 0


def test_what_no_machine_holds_is_forecast() -> None:
  before = len(jax.live_arrays())
  huge = changed(dim=2**14, mlp_dim=2**18, layers=80)
  assert compiled(huge).arguments > 80 * 3 * 2**32 * 4 * 3  # matrices, moments
  assert len(jax.live_arrays()) == before


def test_a_device_of_a_mesh_holds_its_part() -> None:
  program = (
    'from train.test_forecast import *; '
    'c = dataclasses.replace(CONFIG, mesh=MeshConfig(fsdp=2, tensor=2)); '
    'print(compiled(c).arguments)'
  )
  found = int(devices.output(devices.start('-c', program, devices=4)))
  state = 3 * 4 * parameter_count(CONFIG.model)
  batch = ROWS * LENGTH * (5 * 4 + 1)
  # Norms are on all devices, and rows on two of four.
  assert 1 < (found - batch / 2) / (state / 4) < 1.1


def test_row_shapes_keep_the_tokens_of_a_batch_or_its_rows() -> None:
  assert row_shapes(CONFIG, (8, 32)) == [(16, 8), (4, 32)]
  assert row_shapes(CONFIG, (8, 32), batch='rows') == [(4, 8), (4, 32)]
  with pytest.raises(ConfigError, match=r'lengths \[0, 24\]: .* 4 x 32 tokens'):
    row_shapes(CONFIG, (0, 8, 24))


def test_wrong_settings_are_refused_before_anything_is_compiled(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  monkeypatch.setattr(module, 'train_step', None)
  with pytest.raises(ConfigError, match='mlp_chunk is 0'):
    forecast(changed(mlp_chunk=0))
  mesh = MeshConfig(fsdp=4, tensor=4)
  with pytest.raises(ConfigError, match='takes 16 devices, there are'):
    forecast(dataclasses.replace(CONFIG, mesh=mesh))
  with pytest.raises(ConfigError, match='batch_rows is 5'):
    parts = dataclasses.replace(CONFIG, microbatches=2)
    forecast(parts, [(4, 32), (5, 32)])


def test_without_libtpu_one_message_says_so(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  monkeypatch.setattr(tpu.importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(ConfigError, match=r'libtpu, which is not .*jax\[tpu\]'):
    forecast(CONFIG, target=TPU)


def test_the_text_has_a_line_for_every_shape(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  need = step_need(CONFIG.model, ROWS, LENGTH)
  found = [
    Forecast(16, 8, need, Compiled(2**31, 99, 2**30, 0, None, 1.25)),
    Forecast(4, 32, need, None, 'Used 31G of 15G hbm'),
  ]
  monkeypatch.setattr(forecast_words, 'forecast', lambda *_: found)
  *_, head, first, second, last = forecast_lines(CONFIG, target=TPU)
  assert head.split()[:3] == ['rows', 'length', 'arguments']
  assert ' '.join(first.split()).startswith('16 8 2.0 GiB 0 1.0 GiB 3.0 GiB 0')
  assert first.endswith('1.2 s')
  assert 'too much' in second
  assert last == '4 x 32 does not fit: Used 31G of 15G hbm'


@no_libtpu
def test_a_tpu_that_is_not_there_offloads_to_its_host() -> None:
  # Widths that a TPU need not pad.
  config = changed(
    remat='offload', mlp_chunk=64, dim=128, heads=1, kv_heads=1, head_dim=128
  )
  found = compiled(config, target=TPU)
  width = 128 + 128  # the layer's input, and what attention gives
  assert found.host == 2 * ROWS * LENGTH * width * 4
  assert found.arguments > 0


@no_libtpu
def test_a_tpu_with_too_little_memory_says_how_much_it_takes() -> None:
  [found] = forecast(changed(dim=2**12, mlp_dim=2**16, layers=32), target=TPU)
  assert found.compiled is None
  assert re.search(r'[\d.]+G.* HBM .*15.75G', found.refused)
  assert found.need.total > 16 * 2**30


@no_libtpu
def test_an_unknown_tpu_is_named() -> None:
  with pytest.raises(ConfigError, match="target 'v5e-16' is no TPU .*v5e:4x4"):
    forecast(CONFIG, target='v5e-16')
