"""What a report says of made-up results, sentence by sentence."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from typing import Any

import made_up
import pytest
from made_up import Course, Made

from ntk_jax.extend.outcome import to_json
from ntk_jax.extend.settings import ExtendConfig
from ntk_jax.report import markdown, results_csv, table
from ntk_jax.report.tables import settings

RESULTS = {
  name: getattr(made_up, name)
  for name in (
    'clear_winner',
    'all_tied',
    'none_passes',
    'undecided',
    'not_learned',
  )
}


def paragraphs(result: dict[str, Any]) -> list[str]:
  """Paragraphs of a report after its title."""
  return markdown(result).split('\n\n')[1:]


def section(result: dict[str, Any], title: str) -> str:
  """The text of the section whose title begins so."""
  sections = re.split(r'^## ', markdown(result), flags=re.MULTILINE)
  (found,) = [s for s in sections if s.startswith(title)]
  return found


def test_a_clear_winner_is_named_first() -> None:
  answer, tuned, sure, *_ = paragraphs(RESULTS['clear_winner']())
  assert answer == (
    '**Use `yarn`: YaRN (betas 32, 1).** At 1,024 tokens, 8 times the 128 of '
    'training, it has the lowest loss of the 4 that keep retrieval: 2.80 bits '
    'per byte. The next, `by_parts`, is 0.150 bits [0.142, 0.159] behind. It '
    'finds 98.4% [95.2, 101.6] of what the unextended model finds at 128 '
    'tokens, and raises the loss at 128 tokens by 0.490 bits [0.479, 0.501].'
  )
  assert tuned == (
    'With 20 steps of fine-tuning at 1,024 tokens, `yarn` is best: 2.32 bits '
    'per byte (see below).'
  )
  assert sure == (
    '**How sure is that?** The 95% intervals in brackets cover the choice of '
    '32 held-out rows and 256 questions per length. One model was trained, so '
    'they do not say what training again would change.'
  )


def test_of_a_tie_the_least_change_is_taken() -> None:
  answer, tuned, *_ = paragraphs(RESULTS['all_tied']())
  assert answer.startswith(
    '**Use `yarn_scaled`: YaRN, betas scaled to L0. It ties with `yarn` and '
    '`by_parts`.** At 1,024 tokens, 8 times the 128 of training, their '
    'losses, 2.85 to 2.87 bits per byte, cannot be told apart: the interval '
    'of the paired difference contains 0, or the difference is below 0.03 '
    'bits. Take this one because it changes the loss at 128 tokens the least. '
  )
  assert 'plain continuation is one of the best: 2.33 bits' in tuned


def test_if_none_passes_none_is_recommended() -> None:
  answer, tuned, *_ = paragraphs(RESULTS['none_passes']())
  assert answer == (
    '**Use none of these 4 methods as it is.** At 1,024 tokens, 8 times the '
    '128 of training, every one loses retrieval: the whole 95% interval of '
    'what it finds, relative to the unextended model at 128 tokens, is below '
    '90%. The most is kept by `ntk`: 72.4% [65.6, 78.7]. More training at the '
    'target or a smaller target may do.'
  )
  assert 'every one still loses retrieval' in tuned
  lost = {'none': made_up.NONE, 'yarn': Made(2.8, 0.5, 0.5)}
  tuned = {'none': made_up.NONE, 'yarn': Made(2.3, 0.2, 0.97)}
  answer, *_ = paragraphs(made_up.made_result(lost, tuned))
  assert answer.startswith('**Use none of these 2 methods as it is.**')
  assert answer.endswith('Fine-tuning brings it back.')


def test_an_undecided_first_is_not_recommended() -> None:
  answer, tuned, *_ = paragraphs(RESULTS['undecided']())
  assert answer.startswith(
    '**Use `linear`: linear interpolation, until more is known.** At 1,024 '
    'tokens, 8 times the 128 of training, `yarn` has the lowest loss, 2.80 '
    'bits per byte, but is not sure to keep retrieval; `linear`, 0.870 bits '
    '[0.858, 0.882] behind, is.'
  )
  assert answer.endswith(
    'Undecided, because the interval spans the 90% asked for: `yarn` keeps '
    '87.2% [82.7, 92.0]. More rows (`--rows=128`) narrow the intervals.'
  )
  assert 'none is sure to keep retrieval' in tuned
  after = section(RESULTS['undecided'](), 'After 20 steps')
  assert '**No firm answer: no method is sure to keep retrieval.**' in after
  assert 'of the 2 that keep retrieval or may keep it' in after


def test_nothing_is_ranked_if_retrieval_was_not_learned() -> None:
  result = RESULTS['not_learned']()
  answer, tuned, *_ = paragraphs(result)
  assert answer.startswith(
    '**No answer: the model has not learned retrieval.** At its own length of '
    '128 tokens it finds 18.4% [13.7, 23.0] of the hidden values (chance is '
    '6.2%). Below 50% nothing is ranked: loss alone misleads'
  )
  assert 'nothing can be ranked either' in tuned
  assert '\n| 1' not in markdown(result)
  assert markdown(result).count('| not ranked |') == 12


def test_the_unextended_model_can_be_enough() -> None:
  kept = {'none': Made(2.1, 0.0, 0.97), 'yarn': Made(2.3, 0.4, 0.97)}
  answer, *_ = paragraphs(made_up.made_result(kept, kept))
  assert answer.startswith('**Use no method: the unextended model is good')
  assert 'does not change the loss at 128 tokens measurably.' in answer


def test_the_only_one_that_passes_is_said_to_be_alone() -> None:
  two = {'none': made_up.NONE, 'yarn': Made(2.3, 0.4, 0.97)}
  answer, *_ = paragraphs(made_up.made_result(two, two))
  assert 'it alone of 2 methods keeps retrieval; its loss is 2.30' in answer


def test_a_method_of_changing_frequencies_comes_with_a_warning() -> None:
  two = {'none': made_up.NONE, 'dynamic': Made(2.3, 0.0, 0.97)}
  answer, *_ = paragraphs(made_up.made_result(two, two))
  assert 'Use `dynamic`: dynamic NTK.' in answer
  assert answer.endswith('cached keys must be recomputed as the text grows.')


def test_a_low_loss_without_retrieval_is_explained() -> None:
  ranking = section(RESULTS['clear_winner'](), 'The ranking')
  assert (
    '- `window` keeps 17.6% [13.8, 21.4] of retrieval. It has the lowest loss '
    'of all, 0.400 bits [0.391, 0.408] below `yarn`: perplexity alone would '
    'have chosen it. A query sees the last 128 tokens only; what stands '
    'before them is out of reach.'
  ) in ranking
  assert '- `none` keeps 34.4% [29.0, 39.4] of retrieval.\n' in ranking
  assert '- `yarn` keeps' not in ranking


def test_the_problem_is_told_from_its_numbers() -> None:
  said = section(made_up.clear_winner(), 'The problem').split('\n\n')[1]
  assert said == (
    'The same 3 held-out texts of 2,048 tokens, cut into pieces of each '
    'length, so that only the context differs; from 128 tokens, the length of '
    'training, to 1,024: **Attention entropy** (1 is even over all keys that a '
    'query sees) rises from 0.340 to 0.450 without a method; it rises from '
    '0.280 to 0.310 with `yarn`; it stays at 0.230 after fine-tuning with '
    '`yarn`. The **loss far in the text** (in the last half, bits per byte) '
    'rises from 2.40 to 3.40 without a method; it rises from 2.70 to 2.90 with '
    '`yarn`; it stays near 2.58 after fine-tuning with `yarn`. The **gradient '
    'norm** (of the mean loss) rises from 0.64 to 2.4 without a method; it '
    'rises from 1.1 to 1.9 with `yarn`; it stays near 0.83 after fine-tuning '
    'with `yarn`. So length costs 1.00 bits per byte at the target without a '
    'method; of that, 50% remains with `yarn` and 19% remains after '
    'fine-tuning with `yarn`.'
  )


UNTREATED = ('untreated', 'none')


@pytest.mark.parametrize(
  ('lines', 'says'),
  [
    (
      {UNTREATED: Course((0.4, 0.3), (2.4, 2.0), (2.0, 1.0))},
      (
        'falls from 0.400 to 0.300 without a method.',
        'falls from 2.40 to 2.00 without',
        'falls from 2 to 1 without',
        'So here length alone costs no loss that would need a method.',
      ),
    ),
    (
      {UNTREATED: Course((0.4, 0.409), (2.4, 2.429), (2.0, 2.19))},
      (
        'stays near 0.400 without',
        'stays near 2.40 without',
        'stays near 2 without',
        'So here length alone costs no loss',
      ),
    ),
    (
      {UNTREATED: Course((0.4, 0.411), (2.4, 2.431), (2.0, 2.21))},
      (
        'rises from 0.400 to 0.411',
        'rises from 2.40 to 2.43',
        'rises from 2 to 2.21',
        'So length costs 0.03 bits per byte at the target without a method.',
      ),
    ),
    (
      {
        UNTREATED: Course((0.4, 0.5), (2.4, 2.9), (1.0, 2.0)),
        ('treated', 'linear'): Course((0.4, 0.5), (3.0, 3.1), (1.0, 2.0)),
        ('tuned', 'linear'): Course((0.4, 0.5), (2.3, 2.35), (1.0, 2.0)),
      },
      (
        'of that, 140% remains with `linear` and nothing remains after '
        'fine-tuning with `linear`.',
      ),
    ),
    (
      {
        UNTREATED: Course((0.4, 0.5), (2.4, 2.9), (1.0, 2.0)),
        ('tuned', 'none'): Course((0.4, 0.5), (2.4, 2.6), (1.0, 2.0)),
      },
      ('of that, 40% remains after plain continuation.',),
    ),
  ],
)
def test_the_words_on_the_problem_follow_the_numbers(
  lines: dict[tuple[str, str], Course], says: tuple[str, ...]
) -> None:
  said = section(made_up.clear_winner(problem=lines), 'The problem')
  for text in says:
    assert text in said


CONTROL = Made(2.45, 0.1, 0.97)


@pytest.mark.parametrize(
  ('method', 'control', 'says'),
  [
    (
      Made(2.32, 0.2, 0.97),
      Made(2.45, 0.1, 0.6),
      'The method matters: without it retrieval is lost, `yarn` keeps it.',
    ),
    (
      Made(2.32, 0.2, 0.88),
      Made(2.45, 0.1, 0.6),
      'The method matters: without it retrieval is lost, `yarn` may keep it.',
    ),
    (
      Made(2.32, 0.2, 0.5),
      Made(2.45, 0.1, 0.4),
      'Both `yarn` and plain continuation lose retrieval.',
    ),
    (
      Made(2.32, 0.2, 0.5),
      CONTROL,
      'Plain continuation is better: `yarn` loses retrieval.',
    ),
    (
      Made(2.32, 0.2, 0.97),
      CONTROL,
      'The method matters: plain continuation has a higher loss.',
    ),
    (
      Made(2.6, 0.2, 0.97),
      CONTROL,
      'The method is not needed: plain continuation has a lower loss.',
    ),
    (
      Made(2.44, 0.2, 0.97),
      CONTROL,
      'The method brings nothing that can be measured: the losses tie.',
    ),
    (
      Made(2.44, 0.2, 0.99),
      Made(2.45, 0.1, 0.93),
      'The method matters a little: the losses tie, but it finds more.',
    ),
  ],
)
def test_fine_tuning_is_judged_against_plain_continuation(
  method: Made, control: Made, says: str
) -> None:
  before = {'none': made_up.NONE, 'yarn': Made(2.8, 0.5, 0.97)}
  result = made_up.made_result(before, {'yarn': method, 'none': control})
  after = section(result, 'After 20 steps')
  assert f'**{says}** Plain continuation is as many steps' in after
  assert '**Fine-tuning pays**: it lowers the loss of `yarn`' in after


def test_fine_tuning_that_brings_nothing_is_said_to() -> None:
  same = {'none': made_up.NONE, 'yarn': Made(2.8, 0.5, 0.97)}
  after = section(made_up.made_result(same, same), 'After 20 steps')
  assert '**Fine-tuning does not pay measurably**' in after


def test_one_seed_says_nothing_of_training_again() -> None:
  sure = section(RESULTS['all_tied'](), 'How sure')
  assert 'One model was trained (seed 0)' in sure
  assert 'do not say what training again would change' in sure
  assert 'finds 97.7% [95.7, 99.2] of the hidden values at 128' in sure


def test_an_interval_of_no_width_is_not_taken_for_certainty() -> None:
  sure = made_up.all_tied(found_at_start=1.0)
  assert (
    'the interval has no width; by the rule of three the share may still be '
    '1.2 points off'
  ) in section(sure, 'How sure')
  assert 'rule of three' not in markdown(RESULTS['all_tied']())


def test_several_seeds_speak_of_training_again() -> None:
  result = made_up.all_tied(seeds=3, failed_seed=2)
  assert 'cover training again (3 models)' in markdown(result)
  assert 'what training again would change' not in markdown(result)
  sure = section(result, 'How sure')
  assert '3 models were trained (seeds 0, 1 and 2)' in sure
  assert 'find 97.7%, 97.7% and 18.4% at 128 tokens' in sure
  assert '3 models are few to resample' in sure
  assert 'The model of seed 2 did not learn retrieval' in sure
  many = section(made_up.all_tied(seeds=5, rows=8), 'How sure')
  assert 'few to resample' not in many
  assert 'this shows the way, not the answer' in many


@pytest.mark.parametrize('name', RESULTS)
def test_a_report_is_whole(name: str) -> None:
  result = RESULTS[name]()
  text = markdown(result)
  for row in result['compared']['rows']:
    assert text.count(f'| `{row["name"]}`') >= 4  # rank, loss, found, what
  for plot in (
    'problem',
    'loss_by_length',
    'loss_by_position',
    'retrieval',
    'frequencies',
  ):
    assert f']({plot}.png)' in text
  for fact in (
    result['config_fingerprint'],
    result['corpus']['fingerprint'],
    result['command'],
    result['protocol'],
    f'jax {result["versions"]["jax"]}',
    'seeds 0',
    'training 101 s',
    'the problem 12 s',
    'beta_fast 32, beta_slow 1' if 'yarn' in text else 'factor 8',
    'needs factor lists',
  ):
    assert fact in text
  for wrong in ('None', 'nan', '-0.000', '{', '..'):
    assert wrong not in text


@pytest.mark.parametrize('make', [markdown, results_csv, table])
@pytest.mark.parametrize('name', RESULTS)
def test_a_stored_result_makes_the_same_text(
  name: str, make: Callable[[dict[str, Any]], str]
) -> None:
  stored = json.loads(to_json(RESULTS[name]()))
  assert make(stored) == make(RESULTS[name]())


def test_settings_stand_in_the_order_of_the_spec() -> None:
  rows = {r['name']: r for r in RESULTS['clear_winner']()['compared']['rows']}
  assert settings(rows['yarn']) == (
    'theta 10000, factor 8, L0 128, beta_fast 32, beta_slow 1, truncate True'
  )
  assert settings(rows['window']) == 'theta 10000, window 128'
  assert settings(rows['ntk+logn']).endswith('temperature (logn, length 128)')


def test_the_terminal_table_fits_100_columns() -> None:
  names = [*ExtendConfig().methods, 'dynamic_linear', 'yarn+resonance']
  every = {name: Made(3.1, -1.5, 0.95) for name in names}
  result = made_up.made_result(every, every, rows=8)
  for name, make in {**RESULTS, 'every': lambda: result}.items():
    lines = table(make()).splitlines()
    assert max(map(len, lines)) <= 100, name
  lines = table(RESULTS['clear_winner']()).splitlines()
  assert lines[1].split()[:3] == ['rank', 'method', 'loss']
  assert lines[2].startswith('1     yarn         2.800  -')
  assert lines[6].startswith('-     window       2.400  -0.400')
  assert '**' not in table(result)
  assert 'Use yarn: YaRN (betas 32, 1).' in lines[-4]


def test_results_are_a_sheet_of_methods_by_lengths() -> None:
  result = RESULTS['clear_winner']()
  text = results_csv(result)
  rows = list(csv.DictReader(io.StringIO(text)))
  assert len(rows) == 9 + 3
  assert all(None not in row and None not in row.values() for row in rows)
  head = list(rows[0])
  assert head[:7] == [
    'method',
    'tuned_steps',
    '128',
    '256',
    '512',
    '1024',
    '2048',
  ]
  assert [row['method'] for row in rows[:2]] == ['yarn', 'by_parts']
  assert [row['tuned_steps'] for row in rows] == ['0'] * 9 + ['20'] * 3
  first = rows[0]
  assert float(first['1024']) == pytest.approx(2.8, abs=1e-5)
  assert float(first['retrieval_1024']) == pytest.approx(0.9609, abs=1e-3)
  assert (first['rank'], first['status']) == ('1', 'pass')
  assert (rows[4]['rank'], rows[4]['status']) == ('', 'excluded')
  for row in rows:
    assert row['corpus'] == '0123456789abcdef'
    assert row['config'] == result['config_fingerprint']
    assert row['seeds'] == '0'
    assert 'jax=' in row['versions']
    assert 'theta 10000' in row['rope']
  assert (first['train_seconds'], first['seconds']) == ('101.0', '9.0')
  assert rows[-1]['seconds'] == '22.0'
