"""Rows are scored over a mesh as on one device."""

from __future__ import annotations

import json
from pathlib import Path

from devices import output, start

PROGRAM = Path(__file__).parent / 'on_devices.py'


def test_meshes_give_the_scores_of_one_device() -> None:
  found = json.loads(output(start(PROGRAM, devices=4)))
  assert 4 <= found['hits'] <= 64  # of 256: chance is 16
  assert len(found['meshes']) == 3
  for name, case in found['meshes'].items():
    assert case['bits'] < 1e-5, name
    assert case['hits'] == 0, name
