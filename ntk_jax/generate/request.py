"""What is asked of a generation, checked before any work."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from ntk_jax.errors import ConfigError
from ntk_jax.generate.sample import Choice, mode_of
from ntk_jax.typing import Array, ArrayLike, NDArray

OnTokens = Callable[[NDArray], object]
_END = 2**31  # of positions
_TEMPERATURES = 1e-30, 1e30  # beyond, logits divided by them are none
_STOPS = 8  # room for stop ids: fewer of them are one executable


@dataclasses.dataclass(frozen=True)
class Request:
  """The arguments of `generate` as arrays of known shapes.

  Attributes:
    prompt: int32 [B, T], 0 where padded.
    mask: bool [B, T], real tokens: the last ones of each row.
    new: how many tokens to write.
    choice: how they are chosen.
    mode: of `sample.mode_of`.
    given: int32 [B, new], tokens to feed in place of chosen ones.
    keep_logits: whether logits are wanted.
    chunk: columns of prompt that are read at once.
    stride: tokens that one call writes.
  """

  prompt: NDArray
  mask: NDArray
  new: int
  choice: Choice
  mode: str
  given: NDArray
  keep_logits: bool
  chunk: int
  stride: int


def whole(name: str, value: Any, least: int, hint: str = '') -> int:
  """An int of at least so much, as positions can be.

  Raises:
    ConfigError: anything else.
  """
  is_int = isinstance(value, int | np.integer) and not isinstance(value, bool)
  if not is_int or not least <= value < _END:
    raise ConfigError(
      f'{name} is {value!r}: a whole number, at least {least}{hint}'
      f'{", below 2**31" if is_int and value >= _END else ""}'
    )
  return int(value)


def as_array(name: str, value: Any) -> NDArray:
  """The value as an array.

  Raises:
    ConfigError: rows of different lengths.
  """
  try:
    return np.asarray(value)
  except ValueError as error:
    raise ConfigError(
      f'{name} are no array ({error}): pad rows to one length'
    ) from None


def _is_real(value: Any) -> bool:
  """Whether it is one number, of Python, numpy or jax."""
  if isinstance(value, np.ndarray | jax.Array):
    return value.shape == () and value.dtype.kind in 'fiu'
  real = isinstance(value, int | float | np.integer | np.floating)
  return real and not isinstance(value, bool)


def prompt_of(
  tokens: ArrayLike, mask: ArrayLike | None, vocab: int
) -> tuple[NDArray, NDArray]:
  """Prompt and mask [B, T] without the columns that all rows pad.

  Raises:
    ConfigError: tokens that are no ids [B, T]; a mask that is none, or in
      which a row's real tokens are not its last ones, or are none.

  >>> pads = [[0, 0, 1], [0, 1, 1]]
  >>> prompt, mask = prompt_of([[9, 9, 4], [9, 5, 6]], pads, 8)
  >>> print(prompt.tolist(), mask.astype(int).tolist())
  [[0, 4], [5, 6]] [[0, 1], [1, 1]]
  """
  prompt = as_array('tokens', tokens)
  if prompt.ndim != 2 or 0 in prompt.shape:
    raise ConfigError(
      f'tokens have shape {prompt.shape}: give a prompt of at least one token '
      'for at least one row, [B, T]'
    )
  if prompt.dtype.kind not in 'iu':
    raise ConfigError(f'tokens are {prompt.dtype}: give int ids')
  kept = np.ones(prompt.shape, bool)
  if mask is not None:
    kept = as_array('prompt_mask', mask)
  if kept.shape != prompt.shape:
    raise ConfigError(
      f'prompt_mask has shape {kept.shape} for tokens {prompt.shape}: one '
      'value per token'
    )
  if kept.dtype.kind not in 'biuf' or not np.isin(kept, (0, 1)).all():
    raise ConfigError('prompt_mask holds other values than 0 and 1')
  kept = kept.astype(bool)
  for row, real in enumerate(kept):
    _check_row(row, real)
  prompt = np.where(kept, prompt, 0)
  if prompt.min() < 0 or prompt.max() >= vocab:
    wrong = prompt.min() if prompt.min() < 0 else prompt.max()
    raise ConfigError(
      f'token id {wrong} is outside the vocabulary: ids are 0 to {vocab - 1}; '
      'does the tokenizer belong to this model?'
    )
  first = int(kept.any(axis=0).argmax())
  return prompt[:, first:].astype(np.int32), kept[:, first:]


def _check_row(row: int, real: NDArray) -> None:
  count = int(real.sum())
  if count == 0:
    raise ConfigError(
      f'row {row} of prompt_mask is all padding: every prompt has a token'
    )
  if not real[-count:].all():
    what = 'has a hole' if real[-1] else 'pads on the right'
    raise ConfigError(
      f'row {row} of prompt_mask {what}: pad on the left, so that a row is '
      'zeros, then ones'
    )


def choice_of(
  vocab: int,
  temperature: float,
  top_k: int,
  top_p: float,
  key: Array | None,
  stop: int | Iterable[int],
) -> Choice:
  """How tokens are chosen.

  Raises:
    ConfigError: a setting outside its range, no key where one is needed.
  """
  least, most = _TEMPERATURES
  if not _is_real(temperature) or not (
    temperature == 0 or least <= temperature <= most
  ):
    raise ConfigError(
      f'temperature is {temperature!r}: finite and at least 0; 0 is greedy, '
      f'others are {least:g} to {most:g}'
    )
  top_k = whole('top_k', top_k, 0, '; 0 keeps all')
  if not (_is_real(top_p) and 0 < top_p <= 1):
    raise ConfigError(f'top_p is {top_p!r}: above 0, at most 1; 1 keeps all')
  if temperature > 0 and key is None:
    raise ConfigError(
      f'temperature is {temperature} without a key: give jax.random.key(seed), '
      'or temperature 0 for the most likely tokens'
    )
  stops = _listed(stop)
  for each in stops:
    if whole('a stop id', each, 0) >= vocab:
      raise ConfigError(
        f'stop id {each} is outside the vocabulary: ids are 0 to {vocab - 1}'
      )
  room = max(_STOPS, len(stops))
  return Choice(
    np.float32(temperature or 1),
    np.int32(top_k),
    np.float32(top_p),
    _key(key),
    np.array(stops + [-1] * (room - len(stops)), np.int32),
  )


def _listed(stop: Any) -> list[Any]:
  try:
    return list(stop)
  except TypeError:  # one id, or none at all
    return [stop]


def _key(key: Array | None) -> Array:
  if key is None:
    return jax.random.key(0)  # nothing draws from it
  dtype, shape = getattr(key, 'dtype', None), getattr(key, 'shape', None)
  if dtype is not None and jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key):
    if shape == ():
      return key
  elif dtype == np.uint32 and shape == (2,):
    return jax.random.wrap_key_data(key, impl='threefry2x32')
  raise ConfigError(f'key is {key!r}: give one key, jax.random.key(seed)')


def given_of(
  force_tokens: ArrayLike | None, rows: int, new: int, vocab: int
) -> NDArray:
  """Tokens to feed, int32 [B, new].

  Raises:
    ConfigError: another shape, or no ids of the vocabulary.
  """
  if force_tokens is None:
    return np.zeros((rows, new), np.int32)
  given = as_array('force_tokens', force_tokens)
  if given.shape != (rows, new) or given.dtype.kind not in 'iu':
    raise ConfigError(
      f'force_tokens are {given.dtype} of shape {given.shape}: give int ids '
      f'for {rows} rows and max_new_tokens {new}, {(rows, new)}'
    )
  if given.min() < 0 or given.max() >= vocab:
    raise ConfigError(
      f'force_tokens hold ids from {given.min()} to {given.max()}: ids are 0 '
      f'to {vocab - 1}'
    )
  return given.astype(np.int32)


def request(
  vocab: int,
  tokens: ArrayLike,
  prompt_mask: ArrayLike | None,
  new: int,
  settings: tuple[float, int, float, Array | None, int | Iterable[int]],
  force_tokens: ArrayLike | None,
  keep_logits: bool,
  chunk: int,
  stride: int,
) -> Request:
  """All arguments checked; see `generate`.

  Raises:
    ConfigError: the first thing that is wrong.
  """
  prompt, mask = prompt_of(tokens, prompt_mask, vocab)
  new = whole('max_new_tokens', new, 1)
  if prompt.shape[1] + new >= _END:
    raise ConfigError(
      f'max_new_tokens is {new} after a prompt of {prompt.shape[1]}: positions '
      'end below 2**31'
    )
  if not isinstance(keep_logits, bool):
    raise ConfigError(f'return_logits is {keep_logits!r}: True or False')
  choice = choice_of(vocab, *settings)
  given = given_of(force_tokens, len(prompt), new, vocab)
  chunk, stride = whole('chunk', chunk, 1), whole('stride', stride, 1)
  # Short texts need no long chunk; powers of two keep shapes few.
  needed = 1 << (prompt.shape[1] + new - 1).bit_length()
  return Request(
    prompt,
    mask,
    new,
    choice,
    mode_of(*settings[:3], force_tokens is not None),
    given,
    keep_logits,
    min(chunk, max(16, needed)),
    min(stride, max(32, needed)),
  )
