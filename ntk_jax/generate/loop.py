"""The loop over new tokens, on the host: what to read again, what to write."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from ntk_jax.errors import ConfigError
from ntk_jax.generate.regime import Regime
from ntk_jax.generate.request import OnTokens, Request, request, whole
from ntk_jax.generate.step import (
  first_tokens,
  layers_apart,
  layout_of,
  placed,
  read,
  write,
)
from ntk_jax.model.cache import Cache, empty_cache
from ntk_jax.typing import Array, ArrayLike

if TYPE_CHECKING:
  from ntk_jax.model.shell import Transformer

CHUNK = 512
STRIDE = 32


def generate(
  model: Transformer,
  tokens: ArrayLike,
  *,
  prompt_mask: ArrayLike | None = None,
  max_new_tokens: int,
  temperature: float = 0.0,
  top_k: int = 0,
  top_p: float = 1.0,
  key: Array | None = None,
  stop: int | Iterable[int] = (),
  force_tokens: ArrayLike | None = None,
  return_logits: bool = False,
  regime_length: int | None = None,
  on_tokens: OnTokens | None = None,
  chunk: int = CHUNK,
  stride: int | None = None,
) -> Any:
  """Goes on from prompts, with a cache, equal to a full forward at every step.

  A row's length at a step is its own highest position + 1; padding does not
  count. Methods whose frequencies do not depend on it keep rotated keys. With
  one whose frequencies do, the prefix is read again whenever those of a row
  change: once for `longrope`, at every token past the original length for
  `dynamic`, which then costs as much as a prompt of that length.
  `regime_length` takes the frequencies of one length throughout instead, as
  vLLM does: fast, and exact only where all lengths have these frequencies.

  Programs compile once per shape of batch, slots and chunk; lengths are
  rounded up for that. A prompt is read in chunks, so that memory beside the
  cache does not grow with it. Layers with a window keep the last window +
  chunk - 1 tokens.

  Args:
    model: with its schemes; parameters on one device or on a mesh.
    tokens: ids [B, T] of the prompts.
    prompt_mask: [B, T], 0 where a row is padded, on the left only.
    max_new_tokens: tokens to write, at least 1.
    temperature: what logits are divided by before sampling; 0 is greedy.
    top_k: sample from the k most likely ids; 0 is all.
    top_p: then from the fewest whose probabilities sum to at least this.
    key: of jax.random, for a temperature above 0; split by row and step.
    stop: ids that end a row, which is then filled with the one that ended it.
    force_tokens: ids [B, max_new_tokens] to feed and return in place of
      chosen ones; stop ids do not count.
    return_logits: return the logits that chose each token too.
    regime_length: of a per-length method's frequencies, for speed; see above.
    on_tokens: is called with new tokens, int32 [B, n], as they come.
    chunk: tokens of a prompt that are read at once.
    stride: tokens that are written per call of the compiled loop, by default
      32, and 1 with `on_tokens`.

  Returns:
    Tokens, int32 numpy [B, max_new_tokens]; with `return_logits`
    (tokens, logits float32 [B, max_new_tokens, V]), row i chose token i.

  Raises:
    ConfigError: an empty prompt, ids outside the vocabulary, a mask of another
      shape or not zeros, then ones; settings outside their ranges; a
      temperature without a key; force_tokens of another shape.

  Source: top-p: Holtzman et al. 2020, arXiv:1904.09751.
  """
  if stride is None:
    stride = STRIDE if on_tokens is None else 1
  ask = request(
    model.config.vocab,
    tokens,
    prompt_mask,
    max_new_tokens,
    (temperature, top_k, top_p, key, stop),
    force_tokens,
    return_logits,
    chunk,
    stride,
  )
  if regime_length is not None:
    regime_length = whole('regime_length', regime_length, 1)
  return _Generation(model, ask, regime_length).run(on_tokens)


def chunks(columns: int, chunk: int) -> list[int]:
  """Sizes of the reads that hold so many columns, the rest first.

  >>> chunks(1100, 512), chunks(512, 512), chunks(300, 512)
  ([128, 512, 512], [512], [512])
  """
  whole_ones, rest = divmod(columns, chunk)
  sizes = (-(-chunk // 4), -(-chunk // 2), chunk)
  first = [next(size for size in sizes if size >= rest)] if rest else []
  return first + [chunk] * whole_ones


class _Generation:
  """One call: what has been written, and the cache of it."""

  def __init__(self, model: Transformer, ask: Request, length: int | None):
    self.ask, self.config = ask, model.config
    (rows, columns), chunk = ask.prompt.shape, ask.chunk
    self.layout = layout_of(model.params, self.config, rows)
    self.params = layers_apart(model.params)
    self.schemes = model.schemes[: max(self.config.plan) + 1]
    self.regime = Regime(self.schemes, rows, length)
    self.lengths = ask.mask.sum(axis=1).astype(np.int32)
    # Reading again pads anew, by less than half a chunk.
    slots = columns + ask.new - 1 + chunk // 2
    self.slots = -(-slots // chunk) * chunk
    self.tokens = np.zeros((rows, ask.new), np.int32)
    shape = rows, ask.new * ask.keep_logits, self.config.vocab
    self.logits = np.zeros(shape, np.float32)
    self.done = np.zeros(rows, bool)
    self.cache: Cache | None = None

  def run(self, on_tokens: OnTokens | None) -> Any:
    """Until there is nothing left to write."""
    ask, i = self.ask, 0
    if on_tokens is not None and not callable(on_tokens):
      raise ConfigError(f'on_tokens is {on_tokens!r}: give a function')
    while i < ask.new and (ask.keep_logits or not self.done.all()):
      steps = min(ask.stride, ask.new - i)
      if i:
        alive = ~self.done | ask.keep_logits
        steps = self.regime.steady(self.lengths + i, steps, alive)
      count = self._write(i, steps) if i and steps else self._read(i)
      if on_tokens is not None:
        on_tokens(self.tokens[:, i : i + count].copy())
      i += count
    self.tokens[:, i:] = self.tokens[:, i - 1 : i]
    if i < ask.new and on_tokens is not None:
      on_tokens(self.tokens[:, i:].copy())
    if ask.keep_logits:
      return self.tokens, self.logits
    return self.tokens

  def _read(self, i: int) -> int:
    """The prompt and i new tokens, into an empty cache; one token more."""
    ask = self.ask
    self.regime.enter(self.lengths + i)
    text = np.concatenate([ask.prompt, self.tokens[:, :i]], axis=1)
    mask = np.pad(ask.mask, ((0, 0), (0, i)), constant_values=True)
    sizes = chunks(text.shape[1], ask.chunk)
    left = (0, 0), (sum(sizes) - text.shape[1], 0)
    text, mask = np.pad(text, left), np.pad(mask, left)
    segments = mask.astype(np.int32)
    positions = np.clip(segments.cumsum(axis=1) - 1, 0, None).astype(np.int32)
    self.cache = None  # two at once need twice the memory
    cache, start, logits = self._empty(), 0, None
    for size in sizes:
      at = slice(start, start + size)
      logits, cache = read(
        self.params,
        cache,
        text[:, at],
        positions[:, at],
        segments[:, at],
        self.regime.arrays(positions[:, at]),
        config=self.config,
        layout=self.layout,
      )
      start += size
    self.cache = cache
    chosen, done = first_tokens(
      logits,
      self.tokens[:, max(i - 1, 0)],
      self.done,
      ask.given[:, i],
      np.int32(i),
      ask.choice,
      mode=ask.mode,
    )
    self.tokens[:, i], self.done = np.asarray(chosen), np.asarray(done)
    if ask.keep_logits:
      self.logits[:, i] = np.asarray(logits)
    return 1

  def _write(self, i: int, steps: int) -> int:
    """Up to so many tokens from the i-th on; returns how many."""
    ask = self.ask
    positions = self.lengths + np.int32(i - 1)
    places = positions[:, None] + np.arange(ask.stride, dtype=np.int32)
    given = np.zeros((len(self.tokens), ask.stride), np.int32)
    given[:, :steps] = ask.given[:, i : i + steps]
    assert self.cache is not None
    written, self.cache = write(
      self.params,
      self.cache,
      self.tokens[:, i - 1],
      self.done,
      positions,
      self.regime.arrays(places),
      given,
      ask.choice,
      np.int32(i),
      np.int32(steps),
      config=self.config,
      mode=ask.mode,
      keep_logits=ask.keep_logits,
      layout=self.layout,
    )
    tokens, logits, done, count = jax.device_get(written)
    count = int(count)
    self.tokens[:, i : i + count] = tokens[:, :count]
    if ask.keep_logits:
      self.logits[:, i : i + count] = logits[:, :count]
    self.done = done
    return count

  def _empty(self) -> Cache:
    windows = [scheme.window for scheme in self.schemes]
    cache = empty_cache(
      self.config, len(self.tokens), self.slots, windows, self.ask.chunk
    )
    return (
      cache
      if self.layout is None
      else placed(cache, self.layout, jax.device_put)
    )
