"""Nothing passes between the documents of a row: logits and gradients."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntk_jax.attention import attention
from ntk_jax.data.batch import Batch
from ntk_jax.data.pack import cut, pack_row
from ntk_jax.loss import cross_entropy
from ntk_jax.mask import Mask
from ntk_jax.rope.phase import cos_sin
from ntk_jax.rope.rotate import apply_rope
from ntk_jax.rope.spec import RopeSpec

VOCAB, HEADS, HEAD_DIM, LAYERS = 53, 2, 8, 2
DIM = HEADS * HEAD_DIM
SIZES = (13, 7, 9)  # A, B, C, in one row of 32
Params = dict[str, jax.Array]


def make_params() -> Params:
  shapes = {'embedding': (VOCAB, DIM)}
  for layer in range(LAYERS):
    shapes[f'qkv{layer}'] = (DIM, 3 * DIM)
    shapes[f'out{layer}'] = (DIM, DIM)
    shapes[f'up{layer}'] = (DIM, 3 * DIM)
    shapes[f'down{layer}'] = (3 * DIM, DIM)
  keys = jax.random.split(jax.random.key(0), len(shapes))
  return {
    name: jax.random.normal(key, shape) / shape[0] ** 0.5
    for key, (name, shape) in zip(keys, shapes.items())
  }


def logits_of(params: Params, batch: Batch) -> jax.Array:
  """A small decoder of the package's attention, rope and document mask."""
  frequencies, _ = RopeSpec('default', HEAD_DIM).frequencies()
  cos, sin = cos_sin(batch.positions, frequencies)
  x = 3 * params['embedding'][batch.tokens]
  for layer in range(LAYERS):
    qkv = (x @ params[f'qkv{layer}']).reshape(*x.shape[:2], 3, HEADS, HEAD_DIM)
    q, k = (apply_rope(qkv[:, :, i], cos, sin) for i in (0, 1))
    seen = attention(
      q,
      k,
      qkv[:, :, 2],
      mask=Mask(document=True),
      q_segments=batch.segments,
      q_positions=batch.positions,
      kv_positions=batch.positions,
    )
    x = x + seen.reshape(x.shape) @ params[f'out{layer}']
    x = x + jax.nn.silu(x @ params[f'up{layer}']) @ params[f'down{layer}']
  return x @ params['embedding'].T


@jax.jit
def logits_and_gradients(
  params: Params, batch: Batch, weights: jax.Array
) -> tuple[jax.Array, Params]:
  """Logits, and gradients of the loss of the targets weighed."""

  def loss(params: Params) -> tuple[jax.Array, jax.Array]:
    logits = logits_of(params, batch)
    nll = cross_entropy(logits, batch.targets)
    return jnp.sum(nll * weights), logits

  grads, logits = jax.grad(loss, has_aux=True)(params)
  return logits, grads


@dataclasses.dataclass(frozen=True)
class Rows:
  """Documents in one row, and where each stands."""

  documents: list[np.ndarray]
  batch: Batch

  def places(self, number: int) -> np.ndarray:
    return self.batch.segments == number + 1


def packed(seed: int) -> Rows:
  rng = np.random.default_rng(seed)
  documents = [rng.integers(1, VOCAB, size) for size in SIZES]
  row = pack_row(documents, [(i, 0, n) for i, n in enumerate(SIZES)], 32)
  return Rows(documents, Batch(*(x[None] for x in row)))


def with_others(rows: Rows, kept: int) -> Batch:
  """The same row with every token changed that is not of one document."""
  other = packed(99).batch
  place = rows.places(kept)
  tokens = np.where(place, rows.batch.tokens, other.tokens)
  targets = np.where(place, rows.batch.targets, other.targets)
  assert (tokens != rows.batch.tokens).sum() > 10
  return rows.batch._replace(tokens=tokens, targets=targets)


@pytest.mark.parametrize('document', range(3))
def test_other_documents_change_nothing(document: int) -> None:
  params, rows = make_params(), packed(1)
  place = rows.places(document)
  weights = rows.batch.weights * place
  logits, grads = logits_and_gradients(params, rows.batch, weights)
  changed = with_others(rows, document)
  logits2, grads2 = logits_and_gradients(params, changed, weights)
  assert np.array_equal(logits[place], logits2[place])
  assert not np.array_equal(logits[~place], logits2[~place])
  # The embedding is tied: as an output it has rows of its own only.
  for name in grads:
    assert np.array_equal(grads[name], grads2[name]), name


@pytest.mark.parametrize('document', range(3))
def test_a_document_alone_is_the_same(document: int) -> None:
  params, rows = make_params(), packed(2)
  place, size = rows.places(document), SIZES[document]
  weights = rows.batch.weights * place
  logits, grads = logits_and_gradients(params, rows.batch, weights)
  row = pack_row(rows.documents, [(document, 0, size)], size)
  alone = Batch(*(x[None] for x in row))
  logits2, grads2 = logits_and_gradients(params, alone, alone.weights)
  np.testing.assert_allclose(logits[place], logits2[0], atol=1e-5)
  for name in grads:
    scale = np.abs(grads2[name]).max()
    np.testing.assert_allclose(
      grads[name] / scale, grads2[name] / scale, atol=1e-5, err_msg=name
    )


def test_rows_that_are_cut_are_documents_of_their_own() -> None:
  params, rows = make_params(), packed(3)
  short = cut(rows.batch, 8)  # A at 0..13 is opened anew at 8
  logits, _ = logits_and_gradients(params, short, short.weights)
  row = pack_row(rows.documents, [(0, 8, 13)], 5)
  alone = Batch(*(x[None] for x in row))
  logits2, _ = logits_and_gradients(params, alone, alone.weights)
  np.testing.assert_allclose(logits[1, :5], logits2[0], atol=1e-5)


def test_one_segment_would_leak() -> None:
  """The checks above can fail: without segments all of them would."""
  params, rows = make_params(), packed(1)
  whole = np.ones_like(rows.batch.segments)
  counted = np.arange(32, dtype=np.int32)[None]
  place = rows.places(1)
  weights = rows.batch.weights * place
  found = [
    logits_and_gradients(
      params, batch._replace(segments=whole, positions=counted), weights
    )
    for batch in (rows.batch, with_others(rows, 1))
  ]
  assert np.abs(found[0][0] - found[1][0])[place].max() > 1e-2
  assert np.abs(found[0][1]['qkv0'] - found[1][1]['qkv0']).max() > 1e-2
