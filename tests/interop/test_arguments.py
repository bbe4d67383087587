"""What `load` and its neighbours are called with, checked before any work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import make_checkpoint
import pytest

from ntk_jax import interop
from ntk_jax.errors import ConfigError
from ntk_jax.interop import doctor


@pytest.fixture
def single(tmp_path: Path) -> Path:
  make_checkpoint.make(tmp_path / 'model')
  return tmp_path / 'model'


@pytest.mark.parametrize(
  ('name', 'says'),
  [
    ('nowhere', 'neither a folder'),
    ('../up/there', 'neither a folder'),
    ('model/config.json', 'is a file'),
    ('a' * 300, 'too long'),
    ('~nobody_of_this_name/model', 'no usable path'),
    (7, 'no usable path'),
  ],
)
def test_a_name_that_is_no_folder(
  name: str, says: str, single: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.chdir(single.parent)
  with pytest.raises(ConfigError, match=says):
    interop.load(name)


@pytest.mark.parametrize(
  'name', ['../config.json', '/etc/hosts', 'a/b.json', 7]
)
def test_a_config_outside_of_the_folder(name: str, single: Path) -> None:
  with pytest.raises(ConfigError, match='must name a file of the folder'):
    interop.load(single, config=name)


def test_a_dtype_that_is_none(single: Path) -> None:
  with pytest.raises(ConfigError, match="unknown dtype 'int8'"):
    interop.load(single, dtype='int8')


@pytest.mark.parametrize('name', ['a' * 300, '~nobody_of_this_name', 7, None])
def test_a_path_that_cannot_be(name: Any, single: Path) -> None:
  model = interop.load(single)
  with pytest.raises(ConfigError, match='no usable path'):
    interop.save(model, name)
  with pytest.raises(ConfigError, match='no usable path'):
    doctor.examine(name)


def test_a_dtype_of_another_type(single: Path) -> None:
  dtype: Any = ['float32']
  with pytest.raises(ConfigError, match=r"unknown dtype \['float32'\]"):
    interop.load(single, dtype=dtype)
