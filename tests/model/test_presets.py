"""Rows are what was published: counts, frequencies, windows, temperatures."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from typing import Any

import jax
import numpy as np
import pytest

from ntk_jax.config import from_dict, to_plain
from ntk_jax.data import retrieval
from ntk_jax.data.mixture import Mixture
from ntk_jax.data.text import Corpus
from ntk_jax.errors import ConfigError
from ntk_jax.mask import Mask
from ntk_jax.model import (
  ModelConfig,
  Params,
  forward,
  init_params,
  parameter_count,
)
from ntk_jax.model.preset import Preset
from ntk_jax.model.presets import PRESETS, preset, stepped_length, table
from ntk_jax.model.published import MODELS
from ntk_jax.model.shell import scheme_arrays
from ntk_jax.objective import Objective
from ntk_jax.optimizer import adamw
from ntk_jax.rope.spec import RopeSpec
from ntk_jax.scheme import Scheme
from ntk_jax.step import StepConfig, init_state, train_step
from ntk_jax.train import SchemeConfig

ROWS = pytest.mark.parametrize('name', PRESETS)
FORWARD = jax.jit(forward, static_argnums=1)

# Of model cards and config.json files. The last is Llama 3 8B's, and the norms
# of q and k: 32 layers, 2 x 128 channels.
PUBLISHED = {
  'llama-7b': 6_738_415_616,
  'llama2-7b': 6_738_415_616,
  'llama2-13b': 13_015_864_320,
  'llama2-70b': 68_976_648_192,
  'code-llama-7b': 6_738_546_688,
  'qwen-7b': 7_721_324_544,
  'yi-6b': 6_061_035_520,
  'yi-34b': 34_388_917_248,
  'mistral-7b': 7_241_732_096,
  'mistral-7b-v0.2': 7_241_732_096,
  'mistral-7b-v0.3': 7_248_023_552,
  'hybrid-8b': 8_030_261_248 + 32 * 2 * 128,
}


def frequencies(name: str, length: int | None = None) -> np.ndarray:
  """Of the last of a row's schemes, at real size."""
  return preset(name).schemes[-1].spec.frequencies(length)[0]


def base_of(inv_freq: np.ndarray) -> float:
  """theta of w_1 = theta^(-2/128)."""
  return float(inv_freq[1] ** -64.0)


@functools.cache
def tiny_params(config: ModelConfig) -> Params:
  return init_params(jax.random.key(0), config)


def logits(row: Preset, schemes: tuple[Scheme, ...], length: int) -> np.ndarray:
  tokens = np.random.default_rng(0).integers(0, row.model.vocab, (1, length))
  arrays = scheme_arrays(schemes, length, length)
  found = FORWARD(tiny_params(row.model), row.model, tokens, None, None, arrays)
  return np.asarray(found[0])


def test_every_model_has_the_published_number_of_parameters() -> None:
  assert {k: parameter_count(m) for k, m in MODELS.items()} == PUBLISHED
  for model in MODELS.values():
    model.validate()
  assert {row.model for row in PRESETS.values()} <= set(MODELS.values())


def test_an_unknown_row_is_refused_with_the_list() -> None:
  with pytest.raises(ConfigError, match="'mistral-v0.1'") as error:
    preset('mistral-v0,1')
  assert all(name in str(error.value) for name in PRESETS)


@pytest.mark.parametrize(
  ('name', 'first', 'last'),
  [
    ('llama2', 0.8659643234, 1.154781985e-4),
    ('longchat', 0.1082455404, 1.443477481e-5),
    ('longchat-v1', 0.1082455404, 1.443477481e-5),
    ('yi', 5e6 ** (-1 / 64), 2.545079788e-7),
    ('yi-200k', 5e6 ** (-1 / 64), 2.545079788e-7),
    ('yi-200k-1e7', 1e7 ** (-1 / 64), 1.286396945e-7),
    ('mistral-v0.2', 1e6 ** (-1 / 64), 1.240937761e-6),
    ('mistral-v0.3', 1e6 ** (-1 / 64), 1.240937761e-6),
    ('llama2-abf', 5e5 ** (-1 / 64), 5e5 ** (-63 / 64)),
    ('llama2-abf-code', 1e6 ** (-1 / 64), 1.240937761e-6),
  ],
)
def test_frequencies_of_a_row(name: str, first: float, last: float) -> None:
  w = frequencies(name)
  np.testing.assert_allclose(w[[1, 63]], [first, last], rtol=5e-10)


@pytest.mark.parametrize(
  ('factor', 'bases'),
  [
    (1.0, [20221.2617, 40889.9424, 82684.6226]),
    (2.0, [30527.7367, 72195.8601, 156588.3235]),
  ],
)
def test_dynamic_bases(factor: float, bases: list[float]) -> None:
  spec = preset('llama2-dynamic').schemes[0].spec
  assert spec.factor == 1
  spec = dataclasses.replace(spec, factor=factor)
  plain = frequencies('llama2')
  for _ in range(2):  # the order of calls does not matter
    for length, base in zip((8192, 16384, 32768), bases):
      found = base_of(spec.frequencies(length)[0])
      assert found == pytest.approx(base, rel=1e-8)
      for short in (1, 4095, 4096):
        np.testing.assert_array_equal(spec.frequencies(short)[0], plain)


def test_longchat_is_what_its_config_says() -> None:
  config = {
    'head_dim': 128,
    'max_position_embeddings': 32768,
    'rope_condense_ratio': 8,
    'rope_scaling': None,
  }
  spec = RopeSpec.from_hf(config)
  assert spec is not None
  assert spec.method == preset('longchat').schemes[0].spec.method
  np.testing.assert_array_equal(spec.frequencies()[0], frequencies('longchat'))


def test_mistral_sees_its_window() -> None:
  row = preset('mistral-v0.1')
  for scheme in (*row.schemes, *row.base_schemes):
    window = scheme.arrays(32768, np.arange(1)).window
    i, j = 10_000, np.arange(12_000)
    seen = Mask(window=window).visible(np.array([i]), j)
    distance = i - j
    np.testing.assert_array_equal(
      np.ravel(seen), (distance >= 0) & (distance < 4096)
    )
  for name in ('mistral-v0.2', 'mistral-v0.3'):
    assert preset(name).schemes[0].window is None


def test_window_and_yarn_grow_together() -> None:
  row = preset('mistral-window-yarn')
  (scheme,) = row.schemes
  assert scheme.window == 16 * 4096
  w, factor = scheme.spec.frequencies()
  plain = 1e4 ** (-np.arange(64) / 64)
  # Corrections of arXiv 2309.00071 for 32 and 1 turns in 8192 tokens.
  low, high = (
    round_(128 * math.log(8192 / (n * 2 * math.pi)) / (2 * math.log(1e4)))
    for n, round_ in ((32, math.floor), (1, math.ceil))
  )
  ramp = np.clip((np.arange(64) - low) / (high - low), 0, 1)
  wanted = plain / 16 * ramp + plain * (1 - ramp)
  np.testing.assert_allclose(w, wanted, rtol=1e-13)
  assert factor == pytest.approx(0.1 * math.log(16) + 1)
  assert [s.window for s in row.base_schemes] == [4096]
  assert row.base_schemes[0].spec.method == 'default'


def test_ntk_and_linear_share_the_factor() -> None:
  scheme = preset('yi-ntk-linear').schemes[0]
  w, plain = scheme.spec.frequencies()[0], frequencies('yi')
  assert w[0] == 0.5
  assert w[63] == pytest.approx(plain[63] / 8, rel=1e-12)
  assert scheme.spec.target_length == 32768  # what servers make of its fields


@pytest.mark.parametrize(
  'length', [1, 2047, 2048, 2049, 4096, 5000, 9999, 16384]
)
def test_qwen_steps(length: int) -> None:
  """Formula of the model's own code: alpha and log-n by length."""
  alpha = max(2 ** math.ceil(math.log2(length / 2048) + 1) - 1, 1)
  w = frequencies('longchat-ntk-logn-window', stepped_length(length, 2048))
  wanted = 1e4 * alpha ** (128 / 126)
  assert base_of(w) == pytest.approx(wanted, rel=1e-12)
  temperature = preset('longchat-ntk-logn-window').schemes[0].temperature
  assert temperature is not None
  logn = math.log(length) / math.log(2048) if length > 2048 else 1.0
  assert float(temperature(length - 1)) == pytest.approx(logn, rel=1e-6)


def test_qwen_windows_are_of_the_lower_layers() -> None:
  row = preset('longchat-ntk-logn-window')
  windows = [row.schemes[number].window for number in row.model.plan]
  assert windows == [2048] * 16 + [None] * 16
  assert [s.spec.method for s in row.base_schemes] == ['default', 'default']


def test_best_known_scales_its_global_layers_alone() -> None:
  row = preset('best_known')
  assert row.model.plan == (0, 0, 0, 1) * 8
  assert row.model.qk_norm
  local, far = row.schemes
  assert (local, local.window) == (row.base_schemes[0], 1024)
  np.testing.assert_array_equal(
    local.spec.frequencies()[0], 1e4 ** (-np.arange(64) / 64)
  )
  assert local.temperature is None
  w, base = (s.spec.frequencies()[0] for s in (far, row.base_schemes[1]))
  turning = np.arange(64) < 16
  plain = np.where(turning, 1e6 ** (-np.arange(64) / 64), 0)
  np.testing.assert_allclose(base, plain, rtol=1e-14)
  np.testing.assert_allclose(w, plain / 8, rtol=1e-14)


@pytest.mark.parametrize('name', ['best_known', 'best_known-nope'])
def test_log_temperature_of_global_layers(name: str) -> None:
  local, far = preset(name).schemes
  assert local.temperature is None
  assert far.temperature is not None
  assert far.window is None
  p = np.array([0, 8190, 8191, 16383, 65535])
  wanted = 1 + 0.1 * np.log1p([0, 0, 1, 2, 8])
  np.testing.assert_allclose(far.temperature(p), wanted, rtol=1e-6)


def test_a_global_layer_without_rope_knows_no_order() -> None:
  """One such layer gives the last token the same for any order before it."""
  for name, blind in (('best_known-nope', True), ('best_known', False)):
    row = preset(name).tiny()
    model = dataclasses.replace(row.model, layers=1, layer_plan=(1,))
    params = tiny_params(model)
    tokens = np.random.default_rng(0).integers(0, 256, (1, 40))
    turned = np.concatenate([tokens[:, -2::-1], tokens[:, -1:]], 1)
    arrays = scheme_arrays(row.schemes, 40, 40)
    first, second = (
      np.asarray(FORWARD(params, model, t, None, None, arrays))[0, -1]
      for t in (tokens, turned)
    )
    assert (np.abs(first - second).max() < 1e-5) == blind


@ROWS
def test_tiny_keeps_what_makes_the_row(name: str) -> None:
  row, tiny = preset(name), preset(name).tiny(408, 96)
  tiny.model.validate()
  assert parameter_count(tiny.model) < 1_000_000
  assert (tiny.model.vocab, tiny.original_length) == (408, 96)
  shapes = ('vocab', 'dim', 'layers', 'heads', 'kv_heads', 'head_dim')
  same: dict[str, Any] = {
    'mlp_dim': 1,
    'layer_plan': (),
    **dict.fromkeys(shapes, 1),
  }
  assert dataclasses.replace(tiny.model, **same) == dataclasses.replace(
    row.model, **same
  )
  assert set(tiny.model.plan) == set(row.model.plan)
  assert (tiny.model.kv_heads == 4) == (row.model.kv_heads == row.model.heads)
  for small, real in zip(tiny.schemes, row.schemes, strict=True):
    assert small.spec.method == real.spec.method
    assert (small.temperature is None) == (real.temperature is None)
    assert (small.window is None) == (real.window is None)
    if small.window and real.window and row.target_length < 10**5:
      shares = small.window / 96, real.window / row.original_length
      assert shares[0] == shares[1]


def test_a_tiny_length_has_a_least() -> None:
  with pytest.raises(ConfigError, match='length is 63, must be at least 64'):
    preset('llama2').tiny(length=63)


@ROWS
def test_target_length_gives_finite_logits(name: str) -> None:
  row = preset(name).tiny(retrieval.VOCAB, 64)
  found = logits(row, row.schemes, row.target_length)
  assert found.shape == (row.target_length, retrieval.VOCAB)
  assert np.isfinite(found).all()
  assert found.std() > 0.1
  if row.schemes != row.base_schemes:  # the extension does something
    base = logits(row, row.base_schemes, row.target_length)
    assert np.abs(found - base).max() > 1e-3


@pytest.mark.parametrize(
  'name', [name for name in PRESETS if preset(name).refusal]
)
def test_a_temperature_acts_beyond_the_original_length(name: str) -> None:
  row = preset(name).tiny(retrieval.VOCAB, 64)
  without = tuple(
    dataclasses.replace(scheme, temperature=None) for scheme in row.schemes
  )
  found, wanted = (logits(row, s, 256) for s in (row.schemes, without))
  np.testing.assert_array_equal(found[:63], wanted[:63])
  assert (np.abs(found - wanted)[65:].max(-1) > 1e-6).all()


@pytest.fixture(scope='module')
def corpus() -> Corpus:
  rng = np.random.default_rng(0)
  document = rng.integers(97, 105, size=5000, dtype=np.uint8)
  return Corpus('made up', (document,), (document,), 'none')


@ROWS
def test_a_row_trains_a_step(name: str, corpus: Corpus) -> None:
  row = preset(name).tiny(retrieval.VOCAB, 64)
  assert not any(scheme.per_length for scheme in row.training_schemes)
  batch = Mixture(corpus, 2, row.training_length, seed=0).batch(0)
  step = StepConfig(Objective(row.model), adamw())
  state = init_state(init_params(jax.random.key(0), row.model), step)
  arrays = scheme_arrays(row.training_schemes, None, row.training_length)
  losses = []
  for _ in range(3):
    state, metrics = train_step(
      state, batch, arrays, np.float32(3e-3), config=step
    )
    losses.append(float(metrics.loss))
    assert metrics.good
  assert losses[2] < losses[1] < losses[0]


@ROWS
def test_a_train_config_names_the_same_schemes(name: str) -> None:
  for row in (preset(name), preset(name).tiny()):
    for scheme in (*row.schemes, *row.base_schemes):
      config = SchemeConfig.of(scheme)
      text = json.dumps(to_plain(config))
      back = from_dict(SchemeConfig, json.loads(text))
      assert back.scheme(row.model) == config.scheme(row.model) == scheme


@ROWS
def test_what_a_config_json_can_say(name: str) -> None:
  row = preset(name)
  for scheme in row.schemes:
    fields = scheme.spec.to_hf()  # every method here has a type of its own
    assert fields['rope_parameters']['rope_theta'] == scheme.spec.theta
  kinds = {
    'longchat-ntk-logn-window': 'logn',
    'best_known': 'llama4',
    'best_known-nope': 'llama4',
  }
  wanted = f'temperature {kinds[name]!r}' if name in kinds else ''
  assert row.refusal == wanted


def test_the_table_has_a_line_for_each_row() -> None:
  lines = table().splitlines()
  cells = [line.strip('| ').split(' | ') for line in lines]
  assert {len(line) for line in cells} == {5}
  assert [line[0] for line in cells[2:]] == [f'`{name}`' for name in PRESETS]
  assert cells[2][1:3] == ['6,738,415,616', '4,096']
  assert table().isascii()
