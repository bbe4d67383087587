"""A model that lies on a mesh generates what it does on one device."""

from __future__ import annotations

import json
from pathlib import Path

from devices import output, start

PROGRAM = Path(__file__).parent / 'on_devices.py'


def test_meshes_give_the_same_logits_from_as_many_programs() -> None:
  found = json.loads(output(start(PROGRAM, devices=8)))
  assert len(found) == 3
  for name, case in found.items():
    assert case['error'] < 1e-5, name
    # Reads of a quarter, half and whole chunk, and one loop of writing.
    assert case['compiled'] == [3, 1], name
