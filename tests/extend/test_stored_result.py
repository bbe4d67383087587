"""A real result, as the command left it: what it must show, and still says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ntk_jax.report import markdown, results_csv

FOLDER = (
  Path(__file__).resolve().parent.parent.parent
  / 'benchmarks'
  / 'results'
  / 'extend_default'
)


@pytest.fixture(scope='module')
def result() -> dict[str, Any]:
  """report.json of a default run."""
  return json.loads((FOLDER / 'report.json').read_text())


def rows(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
  """Untrained methods by name."""
  return {row['name']: row for row in result['compared']['rows']}


def test_it_is_the_default_job(result: dict[str, Any]) -> None:
  assert result['command'] == 'python -m experiments.extend'
  assert result['lengths']['all'] == [128, 256, 512, 1024, 2048]
  assert result['base']['parameters'] == pytest.approx(0.8e6, rel=0.06)
  assert result['rules']['rows'] >= 32
  assert result['rules']['questions'] >= 256
  assert sum(map(total, result['times'].values())) < 300


def total(times: float | dict[str, float]) -> float:
  """Seconds of a stage."""
  return sum(times.values()) if isinstance(times, dict) else times


def test_the_window_has_the_best_loss_and_is_excluded(
  result: dict[str, Any],
) -> None:
  target = result['lengths']['all'].index(result['lengths']['target'])
  losses = {n: row['loss'][target]['mean'] for n, row in rows(result).items()}
  assert min(losses, key=lambda name: losses[name]) == 'window'
  assert rows(result)['window']['status'] == 'excluded'
  assert rows(result)['window']['relative']['high'] < 0.9
  assert rows(result)['none']['status'] == 'excluded'
  assert any(row['status'] == 'pass' for row in rows(result).values())


def test_base_retrieval_was_learned_and_has_its_interval_in_the_page(
  result: dict[str, Any],
) -> None:
  found = result['base']['retrieval']
  assert found['mean'] >= 0.5
  low, high = 100 * found['low'], 100 * found['high']
  printed = f'{100 * found["mean"]:.1f}% [{low:.1f}, {high:.1f}]'
  assert f'The unextended model finds {printed}' in markdown(result)


def test_the_problem_is_there_and_a_method_helps(
  result: dict[str, Any],
) -> None:
  facts = result['problem']
  assert facts['lengths'] == result['lengths']['all']
  target = facts['lengths'].index(result['lengths']['target'])
  untreated, treated, tuned = (
    facts[role] for role in ('untreated', 'treated', 'tuned')
  )
  taken = result['compared']['answer']['take']
  assert untreated['name'] == 'none'
  assert treated['name'] == tuned['name'] == taken
  for name in ('entropy', 'far_loss', 'grad_norm'):
    values = untreated[name]
    assert values == sorted(values)  # what length does
    assert tuned[name][target] < treated[name][target] < values[target]
  assert 0 < total(result['times']['problem']) < 30


def test_the_page_and_the_sheet_are_made_of_it(result: dict[str, Any]) -> None:
  assert markdown(result) == (FOLDER / 'report.md').read_text()
  assert results_csv(result) == (FOLDER / 'results.csv').read_text()
