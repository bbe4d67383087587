"""The loss over a mesh equals that of one device; its traffic is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import devices
import eight_devices
import jax
import numpy as np
import pytest

from ntk_jax.loss import cross_entropy
from ntk_jax.model import forward, init_params
from ntk_jax.model.transformer import Controls
from ntk_jax.objective import Objective, losses
from ntk_jax.rope.spec import RopeSpec
from ntk_jax.scheme import Scheme

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope='module')
def found() -> dict[str, Any]:
  """What eight virtual devices made of each case."""
  process = devices.start('tests/eight_devices.py', devices=8)
  return json.loads(devices.output(process))


@pytest.mark.parametrize('name', eight_devices.CASES)
def test_loss_and_every_gradient_equal_one_device(
  found: dict[str, Any], name: str
) -> None:
  case = found[name]
  np.testing.assert_allclose(*case['loss'], rtol=1e-5)
  np.testing.assert_allclose(*case['sums'], rtol=1e-5)
  assert max(case['gradients'].values()) < 1e-5, case['gradients']
  assert len(case['gradients']) >= 11


@pytest.mark.parametrize(
  'name', [n for n, case in eight_devices.CASES.items() if not case[2]]
)
def test_bytes_per_axis_equal_the_formula(
  found: dict[str, Any], name: str
) -> None:
  ledger, formula = found[name]['traffic']
  assert ledger == formula
  _, mesh, _ = eight_devices.CASES[name]
  moved = {axis for axes in formula for axis in axes.split('+')}
  for axis in ('data', 'fsdp', 'tensor'):
    assert (axis in moved) == (getattr(mesh, axis) > 1)


def test_losses_are_their_definition() -> None:
  """Weighted means of the plain cross-entropy, by kind of target."""
  model = eight_devices.PLAIN
  params = init_params(jax.random.key(0), model)
  batch = eight_devices.batch_of(packed=False)
  scheme = Scheme(RopeSpec('default', 4)).arrays(
    None, np.arange(eight_devices.T)
  )
  sums = losses(
    params, batch, scheme, objective=Objective(model, z_loss=0.1, chunk=5)
  )
  logits = forward(params, model, batch.tokens, None, None, scheme)
  nll = np.asarray(cross_entropy(logits, batch.targets), np.float64)
  lse = np.asarray(jax.nn.logsumexp(logits, axis=-1), np.float64)
  weights = np.where(batch.targets >= 0, batch.weights, 0)
  wanted = [
    (weights * (nll + 0.1 * lse**2)).sum(),
    weights.sum(),
    (weights * nll)[~batch.answers].sum(),
    weights[~batch.answers].sum(),
    (weights * nll)[batch.answers].sum(),
    weights[batch.answers].sum(),
    (weights * nll)[~batch.answers].sum(),  # near: without a bound, all text
    weights[~batch.answers].sum(),
  ]
  np.testing.assert_allclose(sums, wanted, rtol=1e-5)
  near = ~batch.answers & (np.arange(eight_devices.T) < 5)
  told = Controls(near=np.int32(5))
  sums = losses(
    params, batch, scheme, told, objective=Objective(model, z_loss=0.1)
  )
  found = [(weights * nll)[near].sum(), weights[near].sum()]
  np.testing.assert_allclose(sums[-2:], found, rtol=1e-5)
  np.testing.assert_allclose(sums[:6], wanted[:6], rtol=1e-5)
