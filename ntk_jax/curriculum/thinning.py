"""Which tokens of a row are kept, forgotten or replaced.

Everything is drawn row by row, from (seed, use, step, number of the row among
those of all hosts) and the row's documents: no host, worker or other row has a
say, and each use draws from a stream of its own, so that turning one on leaves
the others as they were.
"""

from __future__ import annotations

import numpy as np

from ntk_jax.typing import Bool, Int, Int32, NDArray

_USES = ('keep', 'forget', 'mask')


def row_rng(seed: int, use: str, step: int, row: int) -> np.random.Generator:
  """Where the randomness of one row at one step comes from.

  Args:
    seed: of the run.
    use: 'keep', 'forget' or 'mask'.
    step: of the run.
    row: its number among the rows of all hosts.

  >>> [int(row_rng(0, 'keep', 7, row).integers(100)) for row in (0, 1, 0)]
  [99, 36, 99]
  """
  return np.random.default_rng([seed, _USES.index(use), step, row])


def document_starts(segments: Int[NDArray, '*B T']) -> Bool[NDArray, '*B T']:
  """The first token of each document of a row; padding (0) has none.

  Told by segments, not by positions, which skips may have moved.

  >>> print(document_starts(np.array([1, 1, 2, 2, 3, 0])).astype(int))
  [1 0 1 0 1 0]
  """
  starts = np.ones(segments.shape, np.bool_)
  starts[..., 1:] = segments[..., 1:] != segments[..., :-1]
  return starts & (segments != 0)


def tokens_seen(segments: Int[NDArray, '*B T']) -> Int32[NDArray, '*B T']:
  """Tokens of its document that each token sees, itself included.

  Padding sees 0.

  >>> print(tokens_seen(np.array([1, 1, 2, 2, 2, 0])))
  [1 2 1 2 3 0]
  """
  place = np.arange(segments.shape[-1], dtype=np.int32)
  begun = np.where(document_starts(segments), place, np.int32(0))
  begun = np.maximum.accumulate(begun, axis=-1)
  return np.where(segments != 0, place - begun + 1, np.int32(0))


def of_documents_with(
  segments: Int[NDArray, 'T'], marked: Bool[NDArray, 'T']
) -> Bool[NDArray, 'T']:
  """All tokens of the documents that hold a marked one.

  >>> print(of_documents_with(np.array([1, 1, 2, 2, 0]),
  ...   np.array([False, True, False, False, False])).astype(int))
  [1 1 0 0 0]
  """
  return np.isin(segments, segments[marked & (segments != 0)])


def kept_places(
  rng: np.random.Generator, segments: Int[NDArray, 'T'], count: int
) -> Int32[NDArray, 'count']:
  """Rising places of the tokens that the middle layers see (random-LTD).

  Uniform without replacement, after two rules: the first token of each
  document is among them (some of these where there are more than `count`), and
  padding only where a row has fewer tokens than `count`. The model gathers
  positions, segments, temperatures and `kv_keep` at these places, so that a
  kept token keeps its angle and its document. The published decoder path cuts
  the mask to its first `count` rows and columns and gives the kept tokens the
  angles of places 0, 1, 2, ...: right for one causal document without
  rotation, and for nothing else. All middle layers see the same places (the
  paper draws anew for each layer): a token is dropped once, and the row is
  gathered and scattered once a step.

  Args:
    rng: where the randomness comes from.
    segments: of the row, 0 is padding.
    count: places to keep, at most T.

  Source: Yao et al. 2022, arXiv:2211.11586, section 3.1.

  >>> rng = np.random.default_rng(0)
  >>> print(kept_places(rng, np.array([1, 1, 1, 2, 2, 2, 0, 0]), 4))
  [0 1 2 3]
  """
  order = rng.random(len(segments))
  order = order - document_starts(segments) + (segments == 0)
  if count < len(order):
    order = np.argpartition(order, count)[:count]
  else:
    order = np.arange(len(order))
  return np.sort(order).astype(np.int32)


def kept_keys(
  rng: np.random.Generator,
  segments: Int[NDArray, 'T'],
  forget: float,
  spared: Bool[NDArray, 'T'] | None = None,
) -> Bool[NDArray, 'T']:
  """Keys that later queries see (forgetful causal masking).

  Each document draws a share `rho ~ U[0, forget]`, and each of its keys is
  hidden with that probability from all queries but its own, in all layers. Its
  first key never is. A mask by key is a token that is forgotten; a mask drawn
  per query and key is another method, and may leave a query nothing to see.
  Sparing column 0 of a row alone would take the first token from every packed
  document but the first.

  Args:
    rng: where the randomness comes from.
    segments: of the row, 0 is padding, which counts as kept.
    forget: the largest share, in [0, 1).
    spared: keys that are kept whatever is drawn; None is none.

  Source: Liu et al. 2022, arXiv:2210.13432, section 3.

  >>> rng = np.random.default_rng(0)
  >>> print(kept_keys(rng, np.array([1] * 6 + [2] * 3 + [0]), 0.9).astype(int))
  [1 0 1 0 1 0 1 1 1 1]
  """
  starts = document_starts(segments)
  share = forget * rng.random(len(segments))
  document = np.maximum(np.cumsum(starts) - 1, 0)
  kept = rng.random(len(segments)) >= share[document]
  kept |= starts | (segments == 0)
  return kept if spared is None else kept | spared


def masked_inputs(
  rng: np.random.Generator,
  tokens: Int32[NDArray, 'T'],
  segments: Int[NDArray, 'T'],
  share: float,
  *,
  mask_token: int | None = None,
  vocab: int | None = None,
  spared: Bool[NDArray, 'T'] | None = None,
) -> Int32[NDArray, 'T']:
  """A row some of whose tokens are replaced; what it is to predict is not.

  Of the n tokens that may be replaced, `share n` are, rounded up or down by
  chance so that the mean is exact. The first token of a document and padding
  stay. A random token is any id below `vocab`, or, without, an earlier token
  of the same document: as frequent as text is, of no other document, and
  nothing that is still to come.

  Args:
    rng: where the randomness comes from.
    tokens: of the row; not changed.
    segments: of the row, 0 is padding.
    share: of the tokens, in [0, 1).
    mask_token: replaces them; None is a random token.
    vocab: random ids are below it; None is an earlier token.
    spared: tokens that stay; None is none.

  >>> row, rng = np.arange(11, 17, dtype=np.int32), np.random.default_rng(0)
  >>> print(masked_inputs(rng, row, np.ones(6, int), 0.4, mask_token=0))
  [11 12 13  0 15  0]
  """
  free = (segments != 0) & ~document_starts(segments)
  if spared is not None:
    free &= ~spared
  places = np.flatnonzero(free)
  count = int(share * len(places) + rng.random())
  places = np.sort(rng.permutation(places)[:count])
  masked = tokens.copy()
  if mask_token is not None:
    masked[places] = mask_token
  elif vocab is not None:
    masked[places] = rng.integers(vocab, size=count)
  else:
    before = tokens_seen(segments)[places] - 1
    masked[places] = tokens[places - rng.integers(1, before + 1)]
  return masked
