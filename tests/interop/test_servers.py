"""What servers make of configs, against what was measured on the servers.

The oracles of errors are small formulas in numpy.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from interop.configs import (
  ALL,
  CASES,
  CPP,
  DYNAMIC,
  LINEAR,
  LLAMA,
  LONG,
  LONGROPE,
  MISTRAL,
  PHI3,
  PHI3_KEYS,
  V4,
  V5,
  VLLM,
  YARN,
  default,
  difference,
  dual,
  kinds,
  new,
  old,
)
from ntk_jax.interop import doctor
from ntk_jax.interop.doctor.compare import verdict
from ntk_jax.interop.servers import Layer, Reading
from ntk_jax.rope import RopeSpec

GOLDEN = Path(__file__).resolve().parent.parent / 'golden' / 'interop'


@pytest.mark.parametrize('name', CASES)
def test_verdicts_are_those_measured(name: str) -> None:
  config, exact, unsupported = CASES[name]
  found = kinds(config)
  assert [s for s in ALL if found[s] == 'exact'] == [*exact]
  refused = [s for s in ALL if found[s] == 'unsupported']
  if name in ('proportional', 'longrope, v4 without top length'):
    refused = [s for s in refused if s != V4]  # see their own tests
  assert refused == [*unsupported]


def test_a_new_spelling_alone_is_silently_unscaled_in_transformers_4() -> None:
  judged = doctor.diagnose(new(LLAMA, LINEAR)).verdicts[V4]
  w = default()
  assert judged.kind == 'wrong'
  # linear: max_position_embeddings is the trained length.
  assert judged.error == pytest.approx(difference(w / 8, w, 1024), rel=1e-9)
  assert judged.position == 1
  assert 'theta is 10000 and no scaling' in judged.why


def test_an_unread_attention_factor_is_wrong_from_the_first_token() -> None:
  config = dual(LLAMA, YARN | {'attention_factor': 1.0})
  judged = doctor.diagnose(config).verdicts[CPP]
  expected = 0.1 * math.log(4)  # cos at position 0
  assert judged.error == pytest.approx(expected, abs=1e-12)
  assert judged.position == 0
  assert 'attention_factor' in judged.why


def test_vllm_takes_its_own_attention_factor_of_longrope() -> None:
  params = LONGROPE | {'short_factor': LONG, 'attention_factor': 1.05}
  config = dual(LLAMA, params, original_max_position_embeddings=32)
  judged = doctor.diagnose(config).verdicts[VLLM]
  expected = math.sqrt(1 + math.log(4) / math.log(32)) - 1.05
  assert expected == pytest.approx(0.133, abs=1e-3)
  assert judged.kind == 'wrong'
  assert judged.error == pytest.approx(expected, abs=1e-12)
  assert 'short_mscale' in judged.why


def test_vllm_has_long_divisors_alone() -> None:
  config = dual(LLAMA, LONGROPE, original_max_position_embeddings=32)
  found = doctor.diagnose(config)
  judged = found.verdicts[VLLM]
  w, a = default(), math.sqrt(1 + math.log(4) / math.log(32))
  short = difference(w, w / LONG, 32, a, a)
  assert judged.error == pytest.approx(short, rel=1e-9)
  assert judged.max_length == 32
  assert any('--max-model-len 128' in line for line in found.advice)


def test_cached_keys_of_transformers_stay_under_old_frequencies() -> None:
  config = dual(LLAMA, DYNAMIC, max_position_embeddings=32)
  judged = doctor.diagnose(config).verdicts[V5]
  alpha = 4 * 128 / 32 - 3
  at_target = default(theta=1e4 * alpha ** (16 / 14))
  assert judged.position == 32
  expected = difference(default(), at_target, 32)
  assert judged.error == pytest.approx(expected, rel=1e-9)
  assert 'generate()' in judged.why


def test_phi3_alone_drops_its_cache() -> None:
  assert kinds(PHI3 | {'rope_scaling': PHI3_KEYS})[V5] == 'exact'
  config = dual(LLAMA, LONGROPE, original_max_position_embeddings=32)
  assert doctor.diagnose(config).verdicts[V5].position == 32


def test_dynamic_ends_where_the_table_of_vllm_does() -> None:
  config = dual(LLAMA, DYNAMIC, max_position_embeddings=32)
  verdicts = doctor.diagnose(config).verdicts
  assert verdicts[VLLM].position == verdicts[CPP].position == 32
  assert verdicts[VLLM].max_length == 128
  at_target = default(theta=1e4 * 13 ** (16 / 14))
  expected = difference(default(), at_target, 32)
  assert verdicts[VLLM].error == pytest.approx(expected, rel=1e-9)
  over_all = difference(default(), at_target, 128)
  assert verdicts[CPP].error == pytest.approx(over_all, rel=1e-9)
  assert 'IndexError' in verdicts[VLLM].why


def test_longrope_of_transformers_4_needs_a_top_level_length() -> None:
  judged = doctor.diagnose(old(LLAMA, LONGROPE)).verdicts[V4]
  assert judged.kind == 'wrong'
  assert 'top level' in judged.why
  without = {k: v for k, v in LONGROPE.items() if k != 'factor'}
  judged = doctor.diagnose(old(LLAMA, without)).verdicts[V4]
  assert judged.kind == 'unsupported'
  assert 'TypeError' in judged.why


def test_a_length_inside_is_overwritten_by_phi3() -> None:
  config = {k: v for k, v in PHI3.items() if not k.startswith('original')}
  judged = doctor.diagnose(new(config, LONGROPE)).verdicts[V5]
  assert judged.kind == 'wrong'
  assert '4096' in judged.why


def test_proportional_is_unknown_to_transformers_4() -> None:
  params = {'rope_type': 'proportional', 'partial_rotary_factor': 0.5}
  config = dual(LLAMA, params)
  assert doctor.diagnose(config).verdicts[V4].kind == 'unsupported'
  halved = dual(LLAMA, params | {'factor': 2.0})
  assert 'factor of proportional' in doctor.diagnose(halved).verdicts[VLLM].why


@pytest.mark.parametrize('window', [16, 100])
def test_an_unread_window_is_wrong_from_its_length_on(window: int) -> None:
  found = doctor.diagnose(MISTRAL | {'sliding_window': window})
  judged = found.verdicts[CPP]
  assert (judged.kind, judged.position, judged.error) == (
    'wrong',
    window,
    None,
  )
  assert any(f'up to {window} tokens' in line for line in found.advice)


def test_a_window_as_long_as_the_target_is_no_window() -> None:
  assert kinds(MISTRAL | {'sliding_window': 128})[CPP] == 'exact'


def test_partial_heads_do_not_fit_transformers_llama() -> None:
  found = kinds(LLAMA | {'rope_theta': 1e4, 'partial_rotary_factor': 0.5})
  assert found == {V4: 'unsupported', V5: 'wrong', VLLM: 'exact', CPP: 'wrong'}


def test_channels_that_do_not_turn_have_no_attention_factor() -> None:
  half = RopeSpec('default', 4, partial_rotary_factor=0.5, attention_factor=1.2)
  whole = RopeSpec(
    'proportional', 4, partial_rotary_factor=0.5, attention_factor=1.2
  )
  reading = Reading((Layer(whole, None),))
  found = verdict((Layer(half, None),), reading, 8)
  assert (found.kind, found.position) == ('wrong', 0)
  assert found.error == pytest.approx(0.2)


@pytest.mark.parametrize(
  ('length', 'target', 'served'),
  [(32, 128, 32), (128, 128, 128), (256, 256, 256)],
)
def test_yarn_reaches_what_its_lengths_say(
  length: int, target: int, served: int
) -> None:
  found = doctor.diagnose(dual(LLAMA, YARN, max_position_embeddings=length))
  assert found.target_length == target
  judged = found.verdicts[VLLM]
  assert judged.max_length == served
  # Its table holds factor * original positions.
  assert judged.position == (128 if target > 128 else None)


STALE = ('llama_dynamic', 'llama_longrope')


@pytest.mark.parametrize('name', ['config.v4.json', 'config.dual.json'])
@pytest.mark.parametrize(
  'folder', ['gemma2', 'gemma3', *sorted(p.name for p in GOLDEN.glob('*_*'))]
)
def test_goldens_are_right_in_transformers(folder: str, name: str) -> None:
  config = json.loads((GOLDEN / folder / name).read_text())
  verdicts = doctor.diagnose(config).verdicts
  found = {(verdicts[s].kind, verdicts[s].position) for s in (V4, V5)}
  # Logits of fresh forward passes agree; cached decoding is off from 32 on.
  assert found == {('wrong', 32) if folder in STALE else ('exact', None)}
