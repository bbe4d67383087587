"""What a model makes of long rows: loss by length, retrieval by depth.

Row i is the same however many rows are asked for, so results of more rows
extend those of fewer.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from ntk_jax.data import retrieval
from ntk_jax.data.text import BYTES, Corpus, spread_rows
from ntk_jax.loss import chunked_cross_entropy
from ntk_jax.model.config import ModelConfig
from ntk_jax.model.params import Params
from ntk_jax.model.transformer import hidden_states, unembedding
from ntk_jax.scheme import Scheme, SchemeArrays
from ntk_jax.sharding import BATCH, Axes, axes_of, param_specs
from ntk_jax.typing import Array, Float32, Int32, NDArray

_TOKENS_AT_ONCE = 4096
Schemes = Scheme | Sequence[Scheme]
Symbols = int | retrieval.Pairs | None


class Scores(NamedTuple):
  """What one method makes of the test rows, row by row.

  Attributes:
    loss: bits per token at each length L, mean over positions [L/2, L); a
      token is a byte in the models of this project's own job.
    hits: 1 where the value of a needle is found, by length and depth bin;
      NaN for a model without the symbols to ask it.
    position_loss: bits per token at every position of the longest forward.
  """

  loss: Float32[NDArray, 'rows lengths']
  hits: Float32[NDArray, 'rows lengths depths']
  position_loss: Float32[NDArray, 'rows positions']


@dataclasses.dataclass(frozen=True)
class TestRows:
  """Held-out rows and the lengths at which they are read.

  Attributes:
    text: rows of ids, one token longer than the longest length.
    first: number of the first row, which seeds its needles.
    lengths: token counts, increasing; the last is the longest forward.
    symbols: the first id of retrieval's symbols, or tokens that stand for
      keys and values; None asks nothing.
  """

  __test__ = False  # not a test of pytest

  text: Int32[NDArray, 'rows longest+1']
  first: int
  lengths: tuple[int, ...]
  symbols: Symbols = BYTES

  @classmethod
  def from_corpus(
    cls,
    corpus: Corpus,
    lengths: tuple[int, ...],
    rows: int,
    symbols: Symbols = BYTES,
  ) -> TestRows:
    """Rows spread over the held-out documents."""
    text = spread_rows(corpus.held_out, lengths[-1] + 1, rows)
    return cls(text, 0, lengths, symbols)

  def part(self, start: int, stop: int) -> TestRows:
    """Some of the rows, the same whichever part they are asked in."""
    part = self.text[start:stop]
    return dataclasses.replace(self, text=part, first=self.first + start)

  def questions(self, length: int) -> tuple[NDArray, NDArray, NDArray]:
    """Retrieval rows of a length: tokens, targets, places of questions."""

    def asked_of(rng: np.random.Generator, row: NDArray) -> Any:
      if isinstance(self.symbols, retrieval.Pairs):
        return retrieval.pairs_by_depth(rng, row, self.symbols)
      return retrieval.questions_by_depth(rng, row, self.symbols or 0)

    rows = [
      asked_of(np.random.default_rng([self.first + i, length]), row[None])
      for i, row in enumerate(self.text[:, : length + 1])
    ]
    tokens, targets, asked = (np.concatenate(each) for each in zip(*rows))
    return tokens, targets, asked

  def work(self, scheme: Schemes) -> int:
    """Tokens of forward passes that `evaluate` makes for a scheme."""
    every = sum(self.lengths)
    asked = 0 if self.symbols is None else every
    return len(self.text) * (
      asked + (every if _per_length(scheme) else self.lengths[-1])
    )

  def empty_scores(self) -> Scores:
    """Scores of the right shapes, for reading stored ones."""
    rows, lengths = len(self.text), len(self.lengths)
    shapes = (
      (rows, lengths),
      (rows, lengths, retrieval.KEYS),
      (rows, self.lengths[-1]),
    )
    return Scores(*(np.zeros(shape, np.float32) for shape in shapes))


def _per_length(schemes: Schemes) -> bool:
  return any(scheme.per_length for scheme in _each(schemes))


def _each(schemes: Schemes) -> tuple[Scheme, ...]:
  return (schemes,) if isinstance(schemes, Scheme) else tuple(schemes)


@functools.partial(jax.jit, static_argnames=('config', 'symbols', 'mesh'))
def score_rows(
  params: Params,
  tokens: Int32[Array, 'B T'],
  targets: Int32[Array, 'B T'],
  scheme: tuple[SchemeArrays, ...],
  *,
  config: ModelConfig,
  symbols: Symbols = BYTES,
  mesh: Mesh | None = None,
) -> tuple[Float32[Array, 'B T'], Float32[Array, 'B T']]:
  """Loss in bits, and whether the best of the 16 values is the target.

  Over a mesh rows are split over data and fsdp, which must divide them.
  """
  one = functools.partial(
    _local, config=config, symbols=symbols, axes=axes_of(mesh)
  )
  if mesh is None:
    return one(params, tokens, targets, scheme)
  rows, none = PartitionSpec(BATCH), PartitionSpec()
  specs = param_specs(params, mesh, config.kv_heads), rows, rows, none
  return jax.shard_map(
    one, mesh=mesh, in_specs=specs, out_specs=rows, check_vma=False
  )(params, tokens, targets, scheme)


def _local(
  params: Params,
  tokens: Int32[Array, 'B T'],
  targets: Int32[Array, 'B T'],
  scheme: tuple[SchemeArrays, ...],
  *,
  config: ModelConfig,
  symbols: Symbols,
  axes: Axes,
) -> tuple[Float32[Array, 'B T'], Float32[Array, 'B T']]:
  """Scores of this device's rows, from its shards."""
  x, _ = hidden_states(params, config, tokens, None, None, scheme, axes)
  matrix = axes.gather(unembedding(params, config), 'fsdp', 0)
  sums = chunked_cross_entropy(
    x,
    matrix,
    targets.reshape(-1),
    soft_cap=config.logit_soft_cap,
    axis='tensor' if axes.size('tensor') > 1 else None,
  )
  bits = sums.token_nll.reshape(targets.shape) / jnp.log(2.0)
  if symbols is None:
    return bits, jnp.full(targets.shape, jnp.nan)
  answers = jnp.asarray(_answers(symbols))
  columns = _columns(matrix, answers, axes)
  values = jnp.dot(x, columns, preferred_element_type=jnp.float32)
  best = answers[jnp.argmax(values, axis=-1)].reshape(targets.shape)
  return bits, (best == targets).astype(jnp.float32)


def _columns(matrix: Array, ids: Array, axes: Axes) -> Array:
  """Columns of the output matrix, whichever shards of tensor hold them."""
  if axes.size('tensor') == 1:
    return matrix[:, ids]
  own = ids - axes.index('tensor') * matrix.shape[1]
  held = (own >= 0) & (own < matrix.shape[1])
  found = matrix[:, jnp.clip(own, 0, matrix.shape[1] - 1)]
  return axes.sum(jnp.where(held, found, 0), 'tensor')


def _answers(symbols: int | retrieval.Pairs) -> tuple[int, ...]:
  """Ids of the values that an answer is chosen from."""
  if isinstance(symbols, retrieval.Pairs):
    return symbols.values
  return tuple(range(symbols + retrieval.ANSWERS, symbols + retrieval.SYMBOLS))


def evaluate(
  params: Params,
  config: ModelConfig,
  scheme: Schemes,
  rows: TestRows,
  advance: Callable[[int], None] = lambda tokens: None,
  mesh: Mesh | None = None,
) -> Scores:
  """Scores a model under a scheme at every length.

  A fixed method reads all lengths off one long forward, because attention is
  causal; a per-length method sees each real length in a forward of its own.

  Args:
    params: the model.
    config: its shape.
    scheme: rope method, temperature and window; or one for each number of
      the layer plan.
    rows: what to read.
    advance: called with the number of tokens after every forward pass.
    mesh: devices that the model lies on, or None for one.

  Returns:
    Scores of every row.
  """
  read = functools.partial(
    read_rows, params, config, symbols=rows.symbols, mesh=mesh, advance=advance
  )
  lengths = rows.lengths
  text_lengths = lengths if _per_length(scheme) else lengths[-1:]
  bits = {}
  for length in text_lengths:
    tokens, targets = retrieval.next_byte_targets(rows.text[:, : length + 1])
    bits[length] = read(scheme, tokens, targets)[0]
  loss = [
    bits.get(n, bits[lengths[-1]])[:, n // 2 : n].mean(axis=1) for n in lengths
  ]
  hits = []
  if rows.symbols is None:
    hits = [np.full((len(rows.text), retrieval.KEYS), np.nan)] * len(lengths)
  for length in lengths if rows.symbols is not None else ():
    tokens, targets, asked = rows.questions(length)
    hit = read(scheme, tokens, targets)[1]
    hits.append(np.take_along_axis(hit, asked, axis=1))
  return Scores(np.stack(loss, 1), np.stack(hits, 1), bits[lengths[-1]])


def read_rows(
  params: Params,
  config: ModelConfig,
  schemes: Schemes,
  tokens: Int32[NDArray, 'B T'],
  targets: Int32[NDArray, 'B T'],
  *,
  symbols: Symbols = BYTES,
  mesh: Mesh | None = None,
  advance: Callable[[int], None] = lambda tokens: None,
) -> tuple[Float32[NDArray, 'B T'], Float32[NDArray, 'B T']]:
  """`score_rows` over a few rows at a time, one shape per length, on the host.

  Every part of a mesh takes as many rows: the first stands in for those that
  are missing. Every process of a pod gives the same rows and has all scores.

  Args:
    params: the model.
    config: its shape.
    schemes: rope method, temperature and window; or one for each number of
      the layer plan.
    tokens: rows of ids.
    targets: what follows each of them.
    symbols: how retrieval is asked, as in `TestRows`.
    mesh: devices that the model lies on, or None for one.
    advance: called with the number of tokens after every forward pass.

  Returns:
    Loss in bits, and 1 where the best of the 16 values is the target.
  """
  rows, length = tokens.shape
  sizes = axes_of(mesh)
  parts = sizes.size('data') * sizes.size('fsdp')
  missing, each = -rows % parts, -(-rows // parts)
  if missing:
    tokens, targets = (
      np.concatenate([x, np.repeat(x[:1], missing, axis=0)])
      for x in (tokens, targets)
    )
  places = np.arange(length)
  arrays = tuple(s.arrays(length, places) for s in _each(schemes))
  fitting = max(1, min(each, _TOKENS_AT_ONCE // length))
  at_once = parts * next(n for n in range(fitting, 0, -1) if each % n == 0)
  outs = []
  for i in range(0, rows, at_once):
    few = slice(i, i + at_once)
    out = score_rows(
      params,
      tokens[few],
      targets[few],
      arrays,
      config=config,
      symbols=symbols,
      mesh=mesh,
    )
    outs.append(_fetched(out))
    advance(min(at_once, rows - i) * length)
  bits, hits = zip(*outs)
  return np.concatenate(bits)[:rows], np.concatenate(hits)[:rows]


def _fetched(arrays: tuple[Array, Array]) -> tuple[NDArray, NDArray]:
  """On the host, whole: parts may lie with other processes."""
  if all(array.is_fully_addressable for array in arrays):
    return jax.device_get(arrays)
  from jax.experimental import multihost_utils

  return multihost_utils.process_allgather(arrays, tiled=True)
