"""Two ropes in one batch: short documents see what the base model saw."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import chex
import devices
import jax
import numpy as np
import pytest
from model.oracle import OraclePlan, decoder

from ntk_jax import step
from ntk_jax.curriculum.skips import pose_rows
from ntk_jax.data.batch import Batch
from ntk_jax.errors import ConfigError
from ntk_jax.model import Controls, Params, forward
from ntk_jax.model.shell import with_params
from ntk_jax.rope.spec import RopeSpec
from ntk_jax.scheme import NO_WINDOW, Scheme
from ntk_jax.temperature import Temperature
from ntk_jax.train.alternatives import (
  MixedRope,
  long_documents,
  original_of,
  positions_of,
  unscaled_below,
  usable,
)
from ntk_jax.train.two_sides import two_sided
from train import mixed_on_devices as small

MODEL, L0, LENGTH, T = small.MODEL, small.L0, small.LENGTH, small.T
PROGRAM = Path(__file__).parent / 'mixed_on_devices.py'
FORWARD = jax.jit(forward, static_argnums=1)
LOGN = Temperature('logn', length=L0)
LISTS = {'short_factor': [1.0, 1.0, 1.1, 1.2], 'long_factor': [1.0, 2, 5, 8]}


def spec(method: str, **fields: Any) -> RopeSpec:
  given: dict[str, Any] = {'original_length': L0, 'factor': 8.0}
  return RopeSpec(method, 8, **(given | fields))


LONGROPE = Scheme(spec('longrope', options=LISTS))
DYNAMIC_YARN = Scheme(spec('dynamic_yarn'), LOGN)
# Rescaled and original schemes of both numbers in the layer plan.
PAIRS: dict[str, tuple[Any, Any]] = {
  'yarn, dynamic': ((small.YARN, small.DYNAMIC), (small.PLAIN, small.LOCAL)),
  'per length': ((LONGROPE, DYNAMIC_YARN), (LONGROPE, DYNAMIC_YARN)),
  'other base': (
    (Scheme(RopeSpec('default', 8, theta=5e5)),) * 2,
    (Scheme(RopeSpec('default', 8), Temperature('grok', length=4)),) * 2,
  ),
}


@pytest.fixture(scope='module')
def params() -> Params:
  return small.drawn()


def mixed_logits(params: Params, batch: Batch, pair: tuple[Any, Any]) -> Any:
  arrays, plan = MixedRope(*pair, L0, LENGTH)(batch)
  return np.asarray(
    FORWARD(
      params,
      MODEL,
      batch.tokens,
      batch.positions,
      batch.segments,
      arrays,
      controls=Controls(plan=plan),
    )
  )


def test_arrays_are_those_of_both_sides() -> None:
  batch = small.rows_of(small.MIXED)
  pair = PAIRS['yarn, dynamic']
  arrays, plan = MixedRope(*pair, L0, LENGTH)(batch)
  for found, scheme, original in zip(arrays, *pair):
    short = original.arrays(None, batch.positions)
    long = scheme.arrays(LENGTH, batch.positions)
    for name in ('phases', 'attention_factor', 'q_scale'):
      both = getattr(found, name)
      assert both.shape[0] == 2
      np.testing.assert_array_equal(both[0], getattr(short, name))
      np.testing.assert_array_equal(both[1], getattr(long, name))
    assert (found.phases[0] != found.phases[1]).any()
  assert [int(a.window) for a in arrays] == [NO_WINDOW, 4]
  assert plan.dtype == np.int32
  wanted = [
    [int(size > L0) for size in row for _ in range(size)] for row in small.MIXED
  ]
  for row, bits in zip(plan, wanted):
    assert row.tolist() == bits + [0] * (T - len(bits))
  assert 0 < plan.mean() < 1


def test_a_plan_never_changes_within_a_document() -> None:
  """Whatever positions the documents have, and wherever they lie."""
  rng = np.random.default_rng(0)
  for draw in range(30):
    sizes = [rng.integers(1, 9, 2).tolist() for _ in range(4)]
    batch = small.rows_of(sizes)
    moved = pose_rows((draw,), batch.positions, batch.segments, 20)
    long = long_documents(moved, batch.segments, L0)
    for b, row in enumerate(sizes):
      for number in range(1, len(row) + 1):
        mine = batch.segments[b] == number
        assert set(long[b][mine]) == {bool(moved[b][mine].max() + 1 > L0)}
      assert not long[b][batch.segments[b] == 0].any()


def test_rows_without_segments_are_one_document() -> None:
  batch = small.rows_of([[T]] * 2)._replace(positions=None, segments=None)
  assert positions_of(batch).tolist() == [list(range(T))] * 2
  pair = PAIRS['yarn, dynamic']
  assert (MixedRope(*pair, L0, LENGTH)(batch)[1] == 1).all()
  nothing = np.zeros((2, 5), np.int32)
  assert not long_documents(nothing, nothing, 1).any()


@pytest.mark.parametrize('name', PAIRS)
@pytest.mark.parametrize(
  'sizes', [[[6], [2, 4, 6], [5, 5, 1]], [[7], [16], [9, 7]]], ids=str
)
def test_rows_of_one_kind_are_the_plain_path_to_the_bit(
  params: Params, name: str, sizes: list[list[int]]
) -> None:
  batch, pair = small.rows_of(sizes), PAIRS[name]
  found = mixed_logits(params, batch, pair)
  rows = batch.tokens, batch.positions, batch.segments
  short, long = (
    tuple(s.arrays(length, batch.positions) for s in schemes)
    for schemes, length in ((pair[1], None), (pair[0], LENGTH))
  )
  plain = [np.asarray(FORWARD(params, MODEL, *rows, a)) for a in (short, long)]
  is_long = sizes[0][0] > L0
  np.testing.assert_array_equal(found, plain[is_long])
  assert np.abs(found - plain[not is_long]).max() > 1e-3


def test_each_document_of_a_row_has_its_own_rope(params: Params) -> None:
  """Against the decoder in float64, document by document."""
  batch, pair = small.rows_of([[4, 12], [6, 7, 3]]), PAIRS['yarn, dynamic']
  found = mixed_logits(params, batch, pair)
  for b, row in enumerate([[4, 12], [6, 7, 3]]):
    at = 0
    for size in row:
      schemes, length = (pair[0], LENGTH) if size > L0 else (pair[1], None)
      plans = []
      for scheme in schemes:
        inv_freq, factor = scheme.spec.frequencies(length)
        n = np.arange(size) + 1
        logn = np.maximum(np.log(n) / np.log(L0), 1)
        scale = logn if scheme.temperature else 1.0
        window = scheme.window or 10**9
        plans.append(OraclePlan(inv_freq, float(factor), scale, window))
      tokens = np.asarray(batch.tokens)[b, at : at + size]
      wanted = decoder(params, MODEL, tokens, plans)
      here = found[b, at : at + size]
      np.testing.assert_allclose(here, wanted, rtol=0, atol=2e-4)
      at += size


def test_one_trace_for_every_batch(params: Params) -> None:
  def run(params: Params, batch: Batch, arrays: Any, plan: Any) -> Any:
    rows = batch.tokens, batch.positions, batch.segments
    controls = Controls(plan=plan)
    return forward(params, MODEL, *rows, arrays, controls=controls).sum()

  traced = jax.jit(chex.assert_max_traces(run, n=1))
  seen = set()
  for name in PAIRS:
    mixed = MixedRope(*PAIRS[name], L0, LENGTH)
    for sizes in ([[6, 6, 4]] * 2, [[16]] * 2, [[4, 12], [1, 15]], [[], [9]]):
      batch = small.rows_of(sizes)
      seen.add(float(traced(params, batch, *mixed(batch))))
  assert len(seen) == 12


def test_the_losses_over_a_mesh_are_those_of_one_device() -> None:
  process = devices.start(PROGRAM, devices=4)
  found = json.loads(devices.output(process))
  assert list(found) == list(small.MESHES)
  for name, sums in found.items():
    np.testing.assert_allclose(sums, found['one'], rtol=1e-5, err_msg=name)
  assert found['one'][0] != found['one'][1]


def test_a_microbatch_takes_its_part_of_both_ropes() -> None:
  mixed = MixedRope(*PAIRS['yarn, dynamic'], L0, LENGTH)
  batch = small.rows_of(small.MIXED)
  arrays, plan = mixed(batch)
  parts = step._parts(batch, arrays, Controls(plan=plan), 2)
  for i in range(2):
    rows = jax.tree.map(lambda x, i=i: x[i::2], batch)
    own_arrays, own_plan = mixed(rows)
    own = rows, own_arrays, Controls(plan=own_plan)
    part = jax.tree.map(lambda x, i=i: x[i], parts)
    chex.assert_trees_all_equal(part, own)


def test_skips_make_a_document_long(params: Params) -> None:
  """Its highest position counts, as it does at inference."""
  batch, pair = small.rows_of([[6, 6], [5, 3]]), PAIRS['per length']
  moved = pose_rows((0, 1), batch.positions, batch.segments, LENGTH)
  skipped = batch._replace(positions=moved)
  _, plan = MixedRope(*pair, L0, LENGTH)(skipped)
  assert plan[0, :12].all()
  arrays = tuple(s.arrays(LENGTH, moved) for s in pair[0])
  rows = batch.tokens, moved, batch.segments
  plain = np.asarray(FORWARD(params, MODEL, *rows, arrays))
  np.testing.assert_array_equal(mixed_logits(params, skipped, pair), plain)


# What is refused.

PLAIN, YARN = small.PLAIN, Scheme(spec('yarn'))
WRONG: dict[str, tuple[Any, Any, int, int]] = {
  'original_length is 0, must be at least 1': ([YARN], [PLAIN], 0, 9),
  '2 original schemes for 1: give one for each': ([YARN], [PLAIN] * 2, 6, 9),
  r'schemes\[1\]: dynamic changes at its original_length, 6, and documents are '
  'told apart at 5': ([YARN, small.DYNAMIC], [PLAIN, small.LOCAL], 5, 9),
  r'schemes\[0\]: 8 channels turn and 4 of the original': (
    [YARN],
    [Scheme(RopeSpec('default', 8, partial_rotary_factor=0.5))],
    6,
    9,
  ),
  r'schemes\[0\]: window is None and 4 of the original': (
    [YARN],
    [small.LOCAL],
    6,
    9,
  ),
}


@pytest.mark.parametrize('says', WRONG)
def test_what_cannot_be_mixed_is_refused(says: str) -> None:
  with pytest.raises(ConfigError, match=says) as error:
    MixedRope(*WRONG[says])
  assert str(error.value) == '; '.join(usable(*WRONG[says]))


def test_all_that_is_wrong_is_said_at_once() -> None:
  found = usable([YARN, small.DYNAMIC], [small.LOCAL, PLAIN], 5, 4)
  assert len(found) == 4


def test_no_document_is_long_before_rows_are() -> None:
  """A run grows from L0 on: its first stage has the shapes of the others."""
  pair, batch = PAIRS['per length'], small.rows_of([[6, 6, 4]])
  arrays, plan = MixedRope(*pair, L0, L0)(batch)
  later, _ = MixedRope(*pair, L0, LENGTH)(batch)
  chex.assert_trees_all_equal_shapes_and_dtypes(arrays, later)
  chex.assert_trees_all_equal(arrays[0], later[0])  # longrope: all lengths
  assert not plan.any()
  says = 'length is 6: mixed rope needs one beyond original_length, 6'
  assert usable(*pair, L0, L0) == [says]  # but a whole run should reach some


def test_methods_by_length_can_be_mixed_with_themselves() -> None:
  for pair in PAIRS.values():
    assert usable(*pair, L0, LENGTH) == []


# Originals, and one scheme for inference.


def test_originals() -> None:
  assert unscaled_below(PLAIN, 10**4)
  assert original_of(small.DYNAMIC, L0) is small.DYNAMIC
  assert original_of(small.YARN, L0) == Scheme(RopeSpec('default', 8), LOGN)
  ntk = Scheme(spec('ntk', theta=5e5, partial_rotary_factor=0.5), window=3)
  wanted = RopeSpec('default', 8, theta=2e4, partial_rotary_factor=0.5)
  assert original_of(ntk, L0, 2e4) == Scheme(wanted, window=3)
  nope = RopeSpec('proportional', 8, partial_rotary_factor=0.0)
  assert original_of(Scheme(nope), L0) == Scheme(nope)
  sharp = Scheme(spec('yarn'), Temperature('ssmax', s=0.4))
  for scheme in (sharp, Scheme(spec('yarn'), Temperature('logn', length=5))):
    with pytest.raises(ConfigError, match='not 1 at all positions below'):
      original_of(scheme, L0)


@pytest.mark.parametrize(
  'scheme',
  [
    Scheme(spec('yarn', attention_factor=1.0), LOGN),
    Scheme(spec('ntk'), window=7),
    Scheme(spec('dynamic')),
    LONGROPE,
  ],
  ids=lambda s: s.spec.method,
)
def test_inference_does_what_training_did(
  params: Params, scheme: Scheme
) -> None:
  """Original frequencies up to L0, rescaled ones for any more tokens."""
  original = original_of(scheme, L0)
  both = two_sided(scheme, original, L0, LENGTH)
  assert both.per_length
  assert both.window == scheme.window
  for length in (1, L0, L0 + 1, 20, LENGTH):
    side = (scheme, LENGTH) if length > L0 else (original, None)
    found, factor = both.spec.frequencies(length)
    wanted, wanted_factor = side[0].spec.frequencies(side[1])
    np.testing.assert_allclose(found, wanted, rtol=1e-15)
    assert factor == wanted_factor
  rng = np.random.default_rng(0)
  tokens = rng.integers(0, MODEL.vocab, (2, T)).astype(np.int32)
  model = with_params(MODEL, params, (both, both))
  for size in (L0, T):
    rows = small.rows_of([[size]] * 2)._replace(tokens=tokens)
    trained = mixed_logits(params, rows, ((scheme,) * 2, (original,) * 2))
    served = model(tokens[:, :size], length=size)
    np.testing.assert_allclose(served, trained[:, :size], atol=2e-6)


def test_one_scheme_cannot_hold_all_that_training_can() -> None:
  for scheme, original, says in (
    (YARN, PLAIN, 'by 1 up to 6 tokens and by 1.20794 beyond'),
    (
      Scheme(spec('linear'), Temperature('logn', length=4)),
      PLAIN,
      'temperatures of the two sides differ',
    ),
    (
      Scheme(RopeSpec('proportional', 8, partial_rotary_factor=0.5)),
      PLAIN,
      'pairs of frequency 0 have no divisor',
    ),
    (Scheme(spec('linear')), small.LOCAL, 'window is None and 4'),
  ):
    with pytest.raises(ConfigError, match=says):
      two_sided(scheme, original, L0, LENGTH)
