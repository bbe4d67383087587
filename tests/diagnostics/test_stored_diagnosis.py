"""The diagnosis that is kept: what it shows, and that its page is its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ntk_jax.diagnostics import variants as kinds
from ntk_jax.diagnostics.findings import Findings, log_slope
from ntk_jax.diagnostics.page import diagnosis_page

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDER = ROOT / 'benchmarks' / 'results' / 'diagnose'
OWN, LINEAR = '1/sqrt(d)', '1/d'


@pytest.fixture(scope='module')
def result() -> dict[str, Any]:
  """diagnose.json of a default run."""
  return json.loads((FOLDER / 'diagnose.json').read_text())


@pytest.fixture(scope='module')
def found() -> Findings:
  """Its measurements."""
  return Findings.from_csv((FOLDER / 'measurements.csv').read_text())


def slope(
  found: Findings, variant: str, layer: int, inputs: str = 'text'
) -> float:
  """Of Var(out) / Var(v) at the start."""
  values = found.mean('start', variant, 'ratio', f'layer {layer}', inputs)
  return log_slope(found.lengths('start', variant, 'ratio'), values)


def ends(
  found: Findings, variant: str, name: str, group: str
) -> tuple[float, float]:
  """A fact of the kernel at the start, at its first and last length."""
  values = found.mean('start', variant, name, group)
  return float(values[0]), float(values[-1])


def test_it_is_the_default_job_and_its_page(
  result: dict[str, Any], found: Findings
) -> None:
  words = result['command'].split()
  assert words[:3] == ['python', '-m', 'experiments.diagnose']
  assert [word.partition('=')[0] for word in words[3:]] == ['--out']
  assert result['settings']['lengths'] == [128, 256, 512, 1024, 2048, 4096]
  assert (FOLDER / 'diagnose.md').read_text() == diagnosis_page(result, found)


@pytest.mark.parametrize(
  ('variant', 'expected'),
  [(OWN, -0.72), (LINEAR, -0.94), (kinds.LOGN, -0.29), (kinds.NAIVE, 0.28)],
)
def test_independent_values_average_out(
  found: Findings, variant: str, expected: float
) -> None:
  """Slopes of layer 0; the gain's is 1 above that without it."""
  assert slope(found, variant, 0, 'independent') == pytest.approx(
    expected, abs=0.06
  )


def test_gains_on_text(found: Findings) -> None:
  """The naive one explodes with depth, measured rho and norms are flat."""
  first, last = (slope(found, kinds.NAIVE, layer) for layer in (0, 3))
  assert last > first + 0.3 > 1
  assert abs(slope(found, OWN, 0)) < 0.25  # hardly averages
  for layer in (0, 3):
    assert abs(slope(found, kinds.AWARE, layer)) < 0.1
    assert abs(slope(found, kinds.NORM, layer)) < 0.03


def test_the_kernel_fades_and_a_temperature_restores_it(
  found: Findings,
) -> None:
  first, last = ends(found, OWN, 'trace', 'wq')
  assert first / last > 1.8
  assert ends(found, LINEAR, 'trace', 'wq')[0] < first / 10
  for name, group in (('correlation', 'wv'), ('condition', 'attention')):
    own, flat = (
      ends(found, v, name, group) for v in (OWN, kinds.FLAT_VARIANCE)
    )
    assert own[1] > 1.1 * own[0]
    assert flat[1] < 0.85 * own[1]
    assert ends(found, LINEAR, name, group)[1] > own[1]
  assert ends(found, kinds.FLAT_VARIANCE, 'trace', 'wq')[1] > first
  assert ends(found, kinds.NAIVE, 'trace', 'wv')[1] > 100
