"""Byte corpora: files of any kind, or the running Python's own sources.

A document is trained on or held out as a whole, by a hash of its content, so
the split never depends on names, order or what else is there. Rows never
cross a document.
"""

from __future__ import annotations

import dataclasses
import hashlib
import sysconfig
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ntk_jax.data.files import PIECE, Document, documents, library_documents
from ntk_jax.errors import ConfigError
from ntk_jax.typing import Int32, NDArray

BYTES = 256
_HELD_OUT_OF = 10
SHORTEST = 2048  # bytes; less holds no long row
_LIBRARY = 'sources of the standard library'


@dataclasses.dataclass(frozen=True)
class Corpus:
  """Documents as byte arrays, split by content hash.

  Attributes:
    name: where the text came from, for reports.
    train: documents for training, ordered by hash.
    held_out: documents never trained on, about a tenth, ordered by hash.
    fingerprint: hash over all documents; equal means the same data.
    sources: where each document for training is from; () is all the same.
  """

  name: str
  train: tuple[NDArray, ...]
  held_out: tuple[NDArray, ...]
  fingerprint: str
  sources: tuple[str, ...] = ()

  def describe(self) -> dict[str, str | int]:
    """What a report says of the data."""
    return {
      'name': self.name,
      'fingerprint': self.fingerprint,
      'files': len(self.train) + len(self.held_out),
      'bytes': sum(map(len, self.train)) + sum(map(len, self.held_out)),
      'held_out_files': len(self.held_out),
      'held_out_bytes': sum(map(len, self.held_out)),
    }


def load_corpus(
  path: str | None = None,
  *,
  text_field: str = 'text',
  shortest: int = SHORTEST,
  piece: int = PIECE,
) -> Corpus:
  """Reads a corpus of bytes.

  Args:
    path: a text file, a `.jsonl` file (one document a line), a folder of
      them, a glob pattern, or None for the sources of the running Python's
      standard library (no tests, no site-packages).
    text_field: the field of a JSON line that holds the text.
    shortest: bytes of a document to be of use; shorter ones are left out.
    piece: bytes of the documents that a lone text file is cut into.

  Returns:
    The corpus, a tenth of its documents held out by content hash.

  Raises:
    ConfigError: if there is no such path, no usable text in it, a file that
      cannot be read, or a JSON line without text (file and line are named).
  """
  if path is None:
    root = Path(sysconfig.get_path('stdlib'))
    return _split(_LIBRARY, str(root), library_documents(root), shortest)
  name, texts = documents(path, text_field, piece)
  return _split(name, path, texts, shortest)


def _split(
  name: str, path: str, found: Iterable[Document], shortest: int
) -> Corpus:
  by_hash: dict[str, Document] = {}
  for document in found:
    if len(document.text) >= shortest:
      digest = hashlib.sha256(document.text).hexdigest()
      # Of the same text in many places the first source, in whatever order.
      by_hash[digest] = min(document, by_hash.get(digest, document))
  digests = sorted(by_hash)
  held = [d for d in digests if int(d, 16) % _HELD_OUT_OF == 0]
  kept = [d for d in digests if int(d, 16) % _HELD_OUT_OF != 0]
  if not kept or not held:
    raise ConfigError(
      f'corpus {path!r} holds {len(digests)} usable documents (at least '
      f'{shortest} bytes of text each), {len(kept)} for training and '
      f'{len(held)} held out; both need one, so name a file or folder with '
      'more text'
    )
  fingerprint = hashlib.sha256(''.join(digests).encode()).hexdigest()[:16]
  train, held_out = (
    tuple(np.frombuffer(by_hash[d].text, np.uint8) for d in part)
    for part in (kept, held)
  )
  sources = tuple(by_hash[d].source for d in kept)
  return Corpus(name, train, held_out, fingerprint, sources)


class RandomRows:
  """Rows at random places of documents, a pure function of the generator."""

  def __init__(self, documents: tuple[NDArray, ...], length: int) -> None:
    documents = tuple(d for d in documents if len(d) >= length)
    if not documents:
      raise ConfigError(
        f'no document for training has the {length} bytes of a row; use a '
        f'shorter length or longer documents (a lone file is cut into '
        f'documents of {PIECE} bytes)'
      )
    self._text = np.concatenate(documents)
    self._length = length
    sizes = np.array([len(d) for d in documents])
    self._document_start = np.cumsum(sizes) - sizes
    self._places = np.cumsum(sizes - length + 1)

  def __call__(
    self, rng: np.random.Generator, rows: int
  ) -> Int32[NDArray, 'rows length']:
    """Draws rows, every place of every document equally likely."""
    place = rng.integers(self._places[-1], size=rows)
    document = np.searchsorted(self._places, place, side='right')
    before = np.where(document > 0, self._places[document - 1], 0)
    start = self._document_start[document] + place - before
    return self._text[start[:, None] + np.arange(self._length)].astype(np.int32)


def spread_rows(
  documents: tuple[NDArray, ...], length: int, rows: int
) -> Int32[NDArray, 'rows length']:
  """Non-overlapping rows spread over as many documents as possible.

  Takes one row of each document, then a second of each, and so on, at places
  drawn from a seed of their own: row i is the same however many are asked.

  Args:
    documents: where to cut from, in a fixed order.
    length: bytes per row.
    rows: how many.

  Returns:
    Byte values as int32.

  Raises:
    ConfigError: if the documents hold fewer such rows.
  """
  places: list[tuple[int, int, int]] = []
  for number, document in enumerate(documents):
    slots = np.random.default_rng([number, length]).permutation(
      len(document) // length
    )
    places += [(turn, number, int(s)) for turn, s in enumerate(slots)]
  places.sort()
  if len(places) < rows:
    raise ConfigError(
      f'the held-out text has {len(places)} rows of {length} bytes, {rows} '
      'are asked; ask for fewer rows, a smaller target, or name a corpus with '
      'more or longer documents'
    )
  return np.stack(
    [
      documents[number][slot * length :][:length].astype(np.int32)
      for _, number, slot in places[:rows]
    ]
  )
