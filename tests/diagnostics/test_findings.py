"""Records, the tables that are made of them, and the words of those."""

from __future__ import annotations

import numpy as np
import pytest

from ntk_jax.diagnostics.findings import Findings, Record, log_slope
from ntk_jax.diagnostics.settings import DiagnoseConfig, lengths_around
from ntk_jax.diagnostics.tables import (
  as_markdown,
  kernel_rows,
  variance_rows,
)
from ntk_jax.diagnostics.words import Reader, moved, temperature_words
from ntk_jax.errors import ConfigError

LENGTHS = (16, 64, 256)


def made_up() -> Findings:
  """Two draws of two variants: powers of n, so that slopes are known."""
  records = []
  powers = {'1/sqrt(d)': -0.5, 'gain sqrt(n/n0)': 1.0}
  for variant, power in powers.items():
    for seed, times in enumerate((0.9, 1.1)):
      for n in LENGTHS:
        at = variant, 'text', n, seed
        values = {
          ('ratio', 'layer 0'): times * n**power,
          ('ratio', 'layer 1'): times * n ** (2 * power),
          ('rho', 'layer 0'): times * 0.1,
          ('trace', 'wq'): times * n**power,
          ('trace', 'wv'): times,
          ('correlation', 'wv'): 0.5,
          ('correlation', 'all'): 0.5,
          ('condition', 'attention'): times * n,
          ('condition', 'all'): 2.0,
        }
        records += [record(at, *key, value) for key, value in values.items()]
  return Findings(records)


def record(
  at: tuple[str, str, int, int], quantity: str, part: str, value: float
) -> Record:
  """One of the start."""
  variant, inputs, n, seed = at
  return Record('start', variant, inputs, quantity, part, n, seed, value)


def test_a_spreadsheet_holds_everything() -> None:
  found = made_up()
  again = Findings.from_csv(found.to_csv())
  assert len(again.records) == len(found.records) == 2 * 2 * 3 * 9
  for one, other in zip(found.records, again.records):
    assert one[:-1] == other[:-1]
    np.testing.assert_allclose(one.value, other.value, rtol=1e-4)
  assert variance_rows(again, 'start') == variance_rows(found, 'start')


def test_numbers_are_by_draw_and_length() -> None:
  found = made_up()
  each = found.each('start', '1/sqrt(d)', 'ratio', 'layer 0')
  np.testing.assert_allclose(each[:, 0], [0.9 / 4, 1.1 / 4])
  np.testing.assert_allclose(log_slope(LENGTHS, each[0]), -0.5)
  assert found.each('start', '1/d', 'ratio', 'layer 0').size == 0
  assert found.lengths('start', '1/sqrt(d)', 'ratio') == list(LENGTHS)


def test_a_table_has_means_and_slopes_with_their_spread() -> None:
  head, first, *_, last = variance_rows(made_up(), 'start')
  assert head == ['case', 'layer', '16', '64', '256', 'slope']
  assert first == [
    'text, 1/sqrt(d)',
    '0',
    '0.250',
    '0.125',
    '0.0625',
    '-0.50 (0.00)',
  ]
  assert last[:2] == ['text, gain sqrt(n/n0)', '1']
  assert last[-1] == '+2.00 (0.00)'
  assert as_markdown([head, first]).count('\n') == 2


def test_the_table_of_the_kernel_goes_from_first_to_last() -> None:
  head, first, _ = kernel_rows(made_up(), 'start')
  cells = dict(zip(head, first))
  assert cells['trace wq'] == '0.250 to 0.0625'
  assert cells['condition attention'] == '16.0 to 256'


def test_words_follow_the_numbers() -> None:
  reader = Reader(made_up(), 'start')
  text = ' '.join(reader.variance())
  assert 'n^-0.50 there and n^-1.00 in the last layer' in text
  assert 'explodes in layer 0 (+1.00)' in text
  kernel = reader.kernel()
  assert 'the trace of wq falls from 0.250 to 0.0625' in kernel[0]
  assert 'the correlation between contexts in wv stays at 0.500' in kernel[0]
  assert 'the trace of wq rises from 16.0 to 256' in kernel[1]
  assert moved(np.array([1.0, 9.0, 1.02])) == 'stays at 1.02'


def test_a_temperature_that_was_not_found_is_not_suggested() -> None:
  kept = {
    'keeps': 'entropy',
    'slope': 0.2,
    'by_layer': [0.1, None],
    'off': 0.01,
  }
  said = temperature_words([kept, {'keeps': 'variance', 'slope': None}], 128)
  assert "Temperature('inkling', floor=128, alpha=0.2)" in said[0]
  assert 'to each layer alone: 0.100, none' in said[0]
  assert 'keeps variance flat: none is suggested' in said[1]


@pytest.mark.parametrize(
  ('settings', 'says'),
  [
    ({'lengths': (64, 64)}, 'lengths are 64,64: give at least two'),
    ({'lengths': (8, 64)}, 'increasing, from 16 tokens on'),
    ({'lengths': ()}, 'lengths are none'),
    ({'reference': 100}, 'reference is 100, must be one of the lengths'),
    ({'contexts': 1}, 'contexts is 1, must be at least 2'),
    ({'seeds': 0}, 'seeds is 0'),
    ({'steps': -1}, 'steps is -1'),
    ({'kernel_longest': 64}, 'kernel_longest is 64'),
  ],
)
def test_wrong_settings_are_refused(
  settings: dict[str, object], says: str
) -> None:
  with pytest.raises(ConfigError, match=says.replace('(', r'\(')):
    DiagnoseConfig(**settings).validate()  # pyrefly: ignore[bad-argument-type]


def test_all_that_is_wrong_is_said_at_once() -> None:
  with pytest.raises(ConfigError, match='rows is 0.*seeds is 0.*reference'):
    DiagnoseConfig(rows=0, seeds=0, reference=5).validate()
  assert lengths_around(32) == (16, 32, 64, 128)
