"""Each row generates, exports or says why not, and loads what it wrote."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from ntk_jax import interop
from ntk_jax.errors import ConfigError
from ntk_jax.generate import generate
from ntk_jax.model import Transformer
from ntk_jax.model.presets import PRESETS
from ntk_jax.rope import layer_specs

# Row -> the family that it is written as.
WRITTEN = {
  **dict.fromkeys(
    (name for name in PRESETS if name.startswith(('llama2', 'yi'))), 'llama'
  ),
  'longchat': 'llama',
  'longchat-v1': 'llama',
  'mistral-v0.1': 'mistral',
  'mistral-v0.2': 'llama',
  'mistral-v0.3': 'llama',
  'mistral-window-yarn': 'mistral',
}
# Row -> why no file holds it, and why not even one frozen at a length.
REFUSED = {
  'longchat-ntk-logn-window': ("Temperature('logn'", None),
  'best_known': ("Temperature('llama4'", 'rope'),
  'best_known-nope': ("Temperature('llama4'", 'rope'),
}
LENGTH = 96


def small(name: str) -> Transformer:
  """The row at a size that compiles in a second, trained at 64 tokens."""
  row = PRESETS[name].tiny(vocab=64, length=64)
  config = dataclasses.replace(row.model, dim=32, mlp_dim=48)
  return Transformer(config, rngs=nnx.Rngs(0), schemes=row.schemes)


def logits(model: Transformer, tokens: np.ndarray) -> np.ndarray:
  return np.asarray(model(tokens, length=tokens.shape[1]))


TOKENS = np.random.default_rng(0).integers(0, 64, (1, LENGTH))


def test_every_row_is_looked_at() -> None:
  assert sorted([*WRITTEN, *REFUSED]) == sorted(PRESETS)


@pytest.mark.parametrize('name', WRITTEN)
def test_what_is_written_is_what_was_there(name: str, tmp_path: Path) -> None:
  model = small(name)
  interop.save(model, tmp_path)
  config = json.loads((tmp_path / 'config.json').read_text())
  assert config['model_type'] == WRITTEN[name]
  specs = [model.schemes[number].spec for number in model.config.plan]
  for found, wanted in zip(layer_specs(config), specs):
    assert found is not None
    for length in (64, LENGTH):
      for a, b in zip(found.frequencies(length), wanted.frequencies(length)):
        np.testing.assert_allclose(a, b, rtol=1e-12)
  again = interop.load(tmp_path)
  for a, b in zip(jax.tree.leaves(again.params), jax.tree.leaves(model.params)):
    np.testing.assert_array_equal(a, b)
  found, wanted = logits(again, TOKENS), logits(model, TOKENS)
  np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize('name', REFUSED)
def test_what_no_file_holds_is_named(name: str, tmp_path: Path) -> None:
  model, (why, frozen) = small(name), REFUSED[name]
  with pytest.raises(ConfigError) as caught:
    interop.save(model, tmp_path)
  assert why in str(caught.value)
  assert 'freeze_length' in str(caught.value)
  assert list(tmp_path.iterdir()) == []
  if frozen is not None:
    with pytest.raises(ConfigError, match=frozen):
      interop.save(model, tmp_path, freeze_length=LENGTH)
    return
  interop.save(model, tmp_path, freeze_length=LENGTH)
  last = logits(interop.load(tmp_path), TOKENS)[:, -1]
  # The last position alone has the temperature of the frozen length in all
  # layers but the first, where earlier ones had less.
  assert np.isfinite(last).all()


@pytest.mark.parametrize('name', PRESETS)
def test_a_row_goes_on_from_a_prompt(name: str) -> None:
  """Past its trained length, each token that of a full forward."""
  model, prompt, new = small(name), TOKENS[:, :60], 12
  tokens, steps = generate(
    model, prompt, max_new_tokens=new, return_logits=True, chunk=32
  )
  text = np.concatenate([prompt, tokens], axis=1)
  for i in (0, 4, 5, new - 1):  # before, at and beyond 64 tokens
    length = prompt.shape[1] + i
    wanted = np.asarray(model(text, length=length))[:, length - 1]
    np.testing.assert_allclose(steps[:, i], wanted, rtol=0, atol=1e-4)
    assert tokens[0, i] == steps[0, i].argmax()
