"""A job over a mesh is the job on one device, from loading to export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from devices import output, start

PROGRAM = Path(__file__).parent / 'on_devices.py'


@pytest.fixture(scope='module')
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
  folder = tmp_path_factory.mktemp('meshes')
  return json.loads(output(start(PROGRAM, folder, devices=4)))


def test_the_scores_are_those_of_one_device(found: dict[str, Any]) -> None:
  one, mesh = found['one'], found['mesh']
  for part in ('compared', 'tuned'):
    assert one[part]['answer'] == mesh[part]['answer']
    for a, b in zip(one[part]['rows'], mesh[part]['rows'], strict=True):
      assert a['name'] == b['name']
      for measure, within in (('loss', 1e-4), ('retrieval', 1e-6)):
        first, second = ([x['mean'] for x in row[measure]] for row in (a, b))
        np.testing.assert_allclose(first, second, atol=within)
  before, after = (mesh[part]['rows'] for part in ('compared', 'tuned'))
  assert after[0]['loss'][-1]['mean'] < before[0]['loss'][-1]['mean'] - 0.01


def test_what_is_exported_is_the_same_and_loads(found: dict[str, Any]) -> None:
  assert found['one']['export']['method'] == found['mesh']['export']['method']
  assert found['moved'] > 1e-3  # it was trained
  assert found['difference'] < 1e-5


def test_a_device_holds_a_quarter(found: dict[str, Any]) -> None:
  assert found['held'] == {
    'one': {'scored': 1.0, 'trained': 1.0},
    'mesh': {'scored': 0.25, 'trained': 0.5},  # A and B are halves
    'again': {'trained': 0.5},  # scores are there already
  }


def test_a_run_goes_on_over_another_mesh(found: dict[str, Any]) -> None:
  """The tuned models of one device are restored on four, not tuned again."""
  times = (found[name]['times']['tune'] for name in ('one', 'again'))
  assert next(times) == next(times)
  assert found['difference_again'] < 1e-7  # merging rounds
