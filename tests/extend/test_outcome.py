"""What report.json holds: all that a report needs, plain and in order."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import made_up
import numpy as np
import pytest

from ntk_jax.config import fingerprint
from ntk_jax.extend.methods import candidate
from ntk_jax.extend.outcome import PROTOCOL, _end, command, to_json
from ntk_jax.extend.problem import problem_facts
from ntk_jax.extend.resolved import resolved_scheme
from ntk_jax.extend.settings import ExtendConfig, fast

LENGTHS = [128, 256, 512, 1024, 2048]


@pytest.fixture(scope='module')
def result() -> dict[str, Any]:
  return made_up.clear_winner()


def rows_of(result: dict[str, Any], part: str) -> dict[str, dict[str, Any]]:
  return {row['name']: row for row in result[part]['rows']}


def test_it_is_plain_json(result: dict[str, Any]) -> None:
  assert json.loads(to_json(result)) == result


def test_it_names_what_produced_it(result: dict[str, Any]) -> None:
  assert result['protocol'] == PROTOCOL
  assert result['corpus']['fingerprint'] == '0123456789abcdef'
  assert result['seeds'] == [0]
  assert result['config']['train_steps'] == 240
  assert result['lengths'] == {'train': 128, 'target': 1024, 'all': LENGTHS}
  for name in ('ntk_jax', 'python', 'jax', 'jaxlib', 'numpy', 'processor'):
    assert result['versions'][name]
  config = ExtendConfig(methods=tuple(result['config']['methods']))
  assert result['config_fingerprint'] == fingerprint(config)


def test_the_base_model_is_described(result: dict[str, Any]) -> None:
  base = result['base']
  assert base['parameters'] == 408 * 128 + 4 * 194_000 + 128
  assert base['tokens'] == 240 * 4096
  assert base['final_text_loss'] == [2.75]  # of the last 24 steps
  assert base['learned']
  retrieval = base['retrieval']
  assert retrieval['low'] < retrieval['mean'] < retrieval['high']
  assert base['retrieval_by_seed'] == [retrieval['mean']]


def test_rows_stand_in_the_order_of_their_rank(result: dict[str, Any]) -> None:
  order = [row['place'] for row in result['compared']['rows']]
  assert order == ['1', '2', '3', '4', *[None] * 5]
  assert result['compared']['answer'] == {
    'kind': 'winner',
    'take': 'yarn',
    'why': 'alone',
    'group': ['yarn'],
  }


def test_each_row_is_measured_at_every_length(result: dict[str, Any]) -> None:
  for part in ('compared', 'tuned'):
    for row in result[part]['rows']:
      for measure in ('loss', 'retrieval'):
        assert len(row[measure]) == len(LENGTHS)
        for at in row[measure]:
          assert at['low'] <= at['mean'] <= at['high']
      assert np.shape(row['retrieval_by_depth']) == (len(LENGTHS), 8)
      means = np.mean(row['retrieval_by_depth'], axis=1)
      found = [at['mean'] for at in row['retrieval']]
      np.testing.assert_allclose(means, found, atol=1e-5)


def test_the_mean_loss_is_the_mean_of_rows(result: dict[str, Any]) -> None:
  row = rows_of(result, 'compared')['yarn']
  assert row['loss'][3]['mean'] == pytest.approx(2.8, abs=1e-5)
  assert row['change']['mean'] == pytest.approx(0.49, abs=1e-5)


def test_position_bins_cover_the_longest_text(result: dict[str, Any]) -> None:
  edges = np.array(result['position_edges'])
  widths = np.diff(edges)
  assert edges[0] == 0
  assert edges[-1] == 2048
  assert widths.min() >= 16
  assert 15 < len(widths) < 30
  # Three a doubling; the last may be twice as wide.
  assert (widths[5:-1] <= 0.27 * edges[5:-2]).all()
  row = rows_of(result, 'compared')['none']
  assert len(row['loss_by_position']) == len(widths)
  whole = np.average(row['loss_by_position'], weights=widths)
  positions = np.arange(2048)
  curve = np.interp(positions, LENGTHS, 2.2 + 1.1 * np.arange(5) / 3)
  assert whole == pytest.approx((curve + 4 / (1 + positions)).mean(), abs=1e-4)


def test_methods_are_resolved_at_the_target(result: dict[str, Any]) -> None:
  rows = rows_of(result, 'compared')
  yarn, scaled = rows['yarn']['rope'], rows['yarn_scaled']['rope']
  assert yarn['attention_factor'] == pytest.approx(0.1 * math.log(8) + 1)
  assert rows['by_parts']['rope']['attention_factor'] == 1.0
  assert (yarn['options']['beta_fast'], yarn['options']['beta_slow']) == (32, 1)
  assert scaled['options']['beta_fast'] == pytest.approx(128 / (8 * math.pi))
  assert scaled['options']['truncate'] is False
  assert (yarn['factor'], yarn['original_length']) == (8, 128)
  assert rows['linear']['multipliers'] == [0.125] * 16
  assert rows['none']['multipliers'] == [1.0] * 16
  np.testing.assert_allclose(
    rows['none']['inverse_frequencies'],
    [1e4 ** (-i / 16) for i in range(16)],
    rtol=1e-8,
  )
  assert rows['window']['window'] == 128
  assert rows['ntk+logn']['temperature']['kind'] == 'logn'
  assert rows['ntk+logn']['temperature']['length'] == 128
  assert rows['none']['temperature'] is rows['none']['window'] is None
  dynamic = rows['dynamic']
  assert dynamic['per_length']
  # alpha = (s L / L0 - (s - 1)) with s = 1: that of NTK-aware at the target.
  np.testing.assert_allclose(
    dynamic['multipliers'], rows['ntk']['multipliers'], rtol=1e-6
  )


def test_a_scheme_is_resolved_at_the_length_asked_for() -> None:
  scheme = candidate('dynamic', ExtendConfig().setting).scheme
  assert resolved_scheme(scheme, 128)['multipliers'] == [1.0] * 16
  assert resolved_scheme(scheme, 256)['multipliers'][-1] == pytest.approx(0.5)


def test_tuned_rows_are_compared_with_before_and_the_control(
  result: dict[str, Any],
) -> None:
  rows = rows_of(result, 'tuned')
  assert list(rows) == ['yarn', 'linear', 'none']
  yarn = rows['yarn']
  assert yarn['over_before']['loss']['mean'] == pytest.approx(2.32 - 2.8)
  assert yarn['over_control']['loss']['mean'] == pytest.approx(2.32 - 2.45)
  assert yarn['over_control']['retrieval']['low'] > 0.25
  assert rows['none']['over_control'] is None
  # Change is to the unextended model, not to the tuned control.
  assert yarn['change']['mean'] == pytest.approx(0.18, abs=1e-5)
  assert rows['none']['status'] == 'excluded'


def test_the_problem_is_the_mean_of_heads_and_seeds() -> None:
  course = made_up.Course((0.3, 0.6), (2.0, 3.5), (1.0, 4.0))
  config = dataclasses.replace(ExtendConfig(), seeds=2)
  line = made_up.made_line('treated', 'yarn', course, config, 7.0)
  more = [m._replace(grad_norm=m.grad_norm + 2) for m in line.measured[0]]
  line.measured[1] = more
  facts = problem_facts(config, [line])
  assert (facts['texts'], facts['text_tokens'], facts['queries']) == (
    3,
    2048,
    96,
  )
  assert facts['lengths'] == LENGTHS
  assert facts['untreated'] is facts['tuned'] is None
  assert facts['treated']['name'] == 'yarn'
  expected = (
    ('entropy', [0.3, 0.4, 0.5, 0.6, 0.7]),
    (
      'grad_norm',
      [2.0, 3.0, 4.0, 5.0, 6.0],
    ),
  )
  for name, values in expected:
    np.testing.assert_allclose(facts['treated'][name], values, atol=1e-6)
  few = dataclasses.replace(config, rows=2)
  assert problem_facts(few, [line])['texts'] == 2


def test_only_times_depend_on_the_clock(result: dict[str, Any]) -> None:
  slow = made_up.clear_winner(slowness=3.0)
  assert slow['times'] != result['times']
  assert result['times']['train'] == 101.0
  assert result['times']['compare']['yarn'] == 9.0
  assert slow['times']['problem']['treated'] == 12.0
  for one in (slow, result := dict(result)):
    del one['times']
  assert to_json(slow) == to_json(result)


def test_notes_warn_of_few_questions_and_of_failed_seeds() -> None:
  assert made_up.all_tied()['notes'] == []
  (few,) = made_up.all_tied(rows=8)['notes']
  assert '8 rows and 64 questions' in few
  (failed,) = made_up.all_tied(seeds=3, failed_seed=1)['notes']
  assert 'The model of seed 1 did not learn retrieval' in failed


def test_the_command_does_the_job_again() -> None:
  methods = '--methods=none,yarn,by_parts,yarn_scaled'
  start = 'python -m experiments.extend'
  assert made_up.all_tied()['command'] == f'{start} {methods}'
  changed = made_up.all_tied(seeds=2, rows=64)['command']
  assert changed == f'{start} {methods} --seeds=2 --rows=64'
  config = dataclasses.replace(ExtendConfig(), corpus='my texts')
  assert command(config) == f"{start} '--corpus=my texts'"
  assert command(fast(dataclasses.replace(config, corpus=None))) == (
    f'{start} --fast'
  )


def test_a_skipped_step_does_not_spoil_the_end_of_training() -> None:
  assert _end([9.0, 1.0, float('nan'), 2.0], 3) == 1.5
  assert _end([1.0, float('nan')], 1) is None
