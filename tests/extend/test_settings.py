"""What a job accepts, at the edges that later stages would refuse."""

from __future__ import annotations

import dataclasses

import pytest

from ntk_jax.data.retrieval import SHORTEST_ROW
from ntk_jax.errors import ConfigError
from ntk_jax.extend.outcome import command
from ntk_jax.extend.settings import ExtendConfig, fast
from ntk_jax.sharding import MeshConfig


def test_the_shortest_row_is_the_shortest_that_training_takes() -> None:
  at_edge = dataclasses.replace(fast(ExtendConfig()), train_length=SHORTEST_ROW)
  at_edge.validate()
  below = dataclasses.replace(at_edge, train_length=SHORTEST_ROW - 1)
  with pytest.raises(ConfigError, match=f'train_length is {SHORTEST_ROW - 1}'):
    below.validate()


def test_lengths_double_up_to_the_target_and_once_beyond() -> None:
  assert ExtendConfig().lengths == (128, 256, 512, 1024, 2048)
  assert ExtendConfig(target_factor=3).lengths == (128, 256, 384, 768)


def test_rows_that_a_mesh_cannot_split_are_refused_with_what_it_takes() -> None:
  config = ExtendConfig(mesh=MeshConfig(data=4, fsdp=4))
  says = 'the 4 rows of 1024 tokens .* use tokens_per_step=16384'
  with pytest.raises(ConfigError, match=says):
    config.validate()
  dataclasses.replace(config, tokens_per_step=16384).validate(16)
  odd = dataclasses.replace(config, target_factor=2.5, mesh=MeshConfig(fsdp=5))
  with pytest.raises(ConfigError, match='use tokens_per_step=3200'):
    odd.validate()
  odd_model = dataclasses.replace(odd.model, dim=320)
  dataclasses.replace(odd, tokens_per_step=3200, model=odd_model).validate()


@pytest.mark.parametrize(
  ('mesh', 'says'),
  [
    (MeshConfig(fsdp=2), 'takes 2 devices, there are 4'),
    (MeshConfig(tensor=3), 'model.heads is 4: tensor is 3'),
    (MeshConfig(context=2), 'rows are not yet split'),
    (MeshConfig(data=0), 'mesh data is 0: a whole number'),
  ],
)
def test_meshes_that_cannot_be_had(mesh: MeshConfig, says: str) -> None:
  devices = 4 if mesh.fsdp > 1 else None
  with pytest.raises(ConfigError, match=says):
    ExtendConfig(mesh=mesh).validate(devices)


def test_lengths_are_split_over_tensor() -> None:
  config = ExtendConfig(
    train_length=130, target_factor=2.5, mesh=MeshConfig(tensor=2)
  )
  with pytest.raises(ConfigError, match=r'lengths \[325\] are measured'):
    config.validate()


def test_the_command_has_the_mesh_and_how_training_goes() -> None:
  config = ExtendConfig(tune_steps=5, mesh=MeshConfig(fsdp=2, tensor=4))
  assert command(config) == (
    'python -m experiments.extend --config.tune_steps=5 --mesh_fsdp=2 '
    '--mesh_tensor=4'
  )
