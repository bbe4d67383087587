"""More of the long documents of every source, and no source more of."""

from __future__ import annotations

import numpy as np

from ntk_jax.errors import ConfigError
from ntk_jax.typing import Int, NDArray


def upsample_long(
  lengths: Int[NDArray, 'documents'],
  sources: Int[NDArray, 'documents'],
  *,
  longer_than: int,
  share: float,
  seed: int,
) -> Int[NDArray, 'documents']:
  """How often each document is read, for long ones to have a share of tokens.

  Of the n tokens of a source, share * n go to its documents of more than
  `longer_than` tokens, and (1 - share) * n to the others: whole documents are
  repeated or left out, each either floor(r) or ceil(r) times, where r is the
  same for all long ones of a source, and for all short ones. Which are read
  once more is drawn by lot. So the tokens of a source stay the same, to within
  one of its documents, and so does what share of the corpus it is.

  A source whose long documents have that share already stays as it is, and so
  does one without long documents, or without others.

  Args:
    lengths: tokens of each document.
    sources: number of the source of each document.
    longer_than: tokens of the longest document that is not long.
    share: of the tokens of a source that are in long documents, in (0, 1].
    seed: of the lots.

  Returns:
    Times that each document is read in an epoch.

  Raises:
    ConfigError: a share outside (0, 1].

  Source: Fu et al. 2024, arXiv:2402.10171 (per-source length upsampling).

  >>> lengths, sources = np.array([50, 10, 10, 10, 10, 10]), np.zeros(6, int)
  >>> print(upsample_long(lengths, sources, longer_than=10, share=0.8, seed=0))
  [2 0 0 1 0 1]
  >>> print(upsample_long(lengths, sources, longer_than=10, share=0.4, seed=0))
  [1 1 1 1 1 1]
  """
  if not 0 < share <= 1:
    raise ConfigError(f'share is {share}: of the tokens, above 0, at most 1')
  counts = np.ones(len(lengths), np.int64)
  long = lengths > longer_than
  for source in np.unique(sources).tolist():
    here = sources == source
    total, held = lengths[here].sum(), lengths[here & long].sum()
    if not 0 < held < min(share * total, total):
      continue
    rng = np.random.default_rng([seed, source])
    for part, tokens in (
      (here & long, share * total),
      (here & ~long, (1 - share) * total),
    ):
      counts[part] = _repeats(rng, lengths[part], tokens)
  return counts


def _repeats(
  rng: np.random.Generator, lengths: Int[NDArray, 'n'], tokens: float
) -> Int[NDArray, 'n']:
  """Times that documents are taken so as to have about so many tokens.

  One more of those that come first in an order drawn at random, as many of
  them as come nearest to what is left.
  """
  times = int(tokens // lengths.sum())
  order = rng.permutation(len(lengths))
  ends = np.concatenate([[0], np.cumsum(lengths[order])])
  more = np.argmin(np.abs(ends - (tokens - times * ends[-1])))
  counts = np.full(len(lengths), times, np.int64)
  counts[order[:more]] += 1
  return counts
