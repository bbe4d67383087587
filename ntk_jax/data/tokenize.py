"""Text to token ids and back: bytes, or a `tokenizers` JSON file.

The only file that imports tokenizers.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol, overload

import numpy as np

from ntk_jax.errors import ConfigError, unknown
from ntk_jax.typing import Int, NDArray

_TOGETHER = 256  # texts that are encoded at a time


class Tokenizer(Protocol):
  """What the data needs of a tokenizer.

  Attributes:
    vocab: ids are below it.
    name: what it is, for reports.
    fingerprint: equal means the same ids for the same text.
  """

  vocab: int
  name: str
  fingerprint: str

  def encode(self, text: str | bytes) -> Int[NDArray, 'n']:
    """Ids of a text; bytes are UTF-8."""
    ...

  def encode_all(self, texts: Sequence[bytes]) -> list[Int[NDArray, 'n']]:
    """Ids of each text."""
    ...

  def decode(self, ids: Iterable[int]) -> str:
    """The text of ids."""
    ...

  def token_id(self, token: str) -> int:
    """The id of a token by its name."""
    ...


class ByteTokenizer:
  """Every byte is its own id, whatever it stands for.

  >>> print(ByteTokenizer().encode('né'))
  [110 195 169]
  >>> ByteTokenizer().decode([110, 195, 169])
  'né'
  """

  vocab = 256
  name = 'bytes'
  fingerprint = 'bytes'

  def encode(self, text: str | bytes) -> Int[NDArray, 'n']:
    """Bytes as ids, uint8."""
    text = text.encode() if isinstance(text, str) else text
    return np.frombuffer(text, np.uint8)

  def encode_all(self, texts: Sequence[bytes]) -> list[Int[NDArray, 'n']]:
    """Bytes of each text."""
    return [self.encode(text) for text in texts]

  def decode(self, ids: Iterable[int]) -> str:
    """The text of ids; bytes that are not UTF-8 become U+FFFD.

    Raises:
      ConfigError: an id that is no byte.
    """
    try:
      return bytes(ids).decode(errors='replace')
    except ValueError as error:
      raise ConfigError('an id to decode is no byte, in [0, 256)') from error

  def token_id(self, token: str) -> int:
    """Refuses: bytes have no names.

    Raises:
      ConfigError: always.
    """
    raise ConfigError(
      f'end_of_text is {token!r}: bytes have no such token; leave it out, or '
      'name a tokenizer'
    )


class JsonTokenizer:
  """A tokenizer of the `tokenizers` library, from its JSON file.

  Texts are encoded whole: no truncation, no padding and no special tokens
  around them, whatever the file asks for.

  Attributes:
    special: ids of tokens that were added to the vocabulary.
  """

  def __init__(self, path: str | os.PathLike[str]) -> None:
    """Reads the file.

    Raises:
      ConfigError: no such file, or one that the library cannot read.
    """
    import tokenizers

    file = Path(path).expanduser()
    try:
      content = file.read_bytes()
    except OSError as error:
      raise ConfigError(
        f'tokenizer {str(path)!r}: cannot be read ({error.strerror}); name a '
        'tokenizer.json file'
      ) from error
    try:
      self._tokenizer = tokenizers.Tokenizer.from_buffer(content)
    except Exception as error:  # the library raises no narrower class
      raise ConfigError(
        f'tokenizer {str(path)!r}: not a JSON file of the tokenizers library '
        f'({error})'
      ) from error
    self._tokenizer.no_truncation()
    self._tokenizer.no_padding()
    ids = self._tokenizer.get_vocab(with_added_tokens=True)
    self.vocab = max(ids.values(), default=-1) + 1
    self.special = frozenset(self._tokenizer.get_added_tokens_decoder())
    self.name = file.name
    self.fingerprint = hashlib.sha256(content).hexdigest()[:16]

  def encode(self, text: str | bytes) -> Int[NDArray, 'n']:
    """Ids of a text, int32.

    Raises:
      ConfigError: bytes that are not UTF-8.
    """
    text = text if isinstance(text, str) else _utf8(text)
    encoded = self._tokenizer.encode(text, add_special_tokens=False)
    return np.array(encoded.ids, np.int32)

  def encode_all(self, texts: Sequence[bytes]) -> list[Int[NDArray, 'n']]:
    """Ids of each text, on all cores.

    Raises:
      ConfigError: bytes that are not UTF-8.
    """
    encoded = self._tokenizer.encode_batch_fast(
      [_utf8(text) for text in texts], add_special_tokens=False
    )
    return [np.array(each.ids, np.int32) for each in encoded]

  def decode(self, ids: Iterable[int]) -> str:
    """The text of ids, special tokens by their names."""
    ids = [int(i) for i in ids]
    return self._tokenizer.decode(ids, skip_special_tokens=False)

  def token_id(self, token: str) -> int:
    """The id of a token by its name.

    Raises:
      ConfigError: no such token.
    """
    found = self._tokenizer.token_to_id(token)
    if found is None:
      special = self._tokenizer.get_added_tokens_decoder().values()
      raise unknown('end_of_text', token, [each.content for each in special])
    return found


def _utf8(text: bytes) -> str:
  try:
    return text.decode()
  except UnicodeDecodeError as error:
    raise ConfigError(
      f'a document that starts with {text[:40]!r} is not UTF-8 ({error}); '
      'convert it, leave it out, or train on bytes without a tokenizer'
    ) from error


def load_tokenizer(path: str | None = None) -> Tokenizer:
  """The tokenizer of a JSON file, or that of bytes."""
  return ByteTokenizer() if path is None else JsonTokenizer(path)


@dataclasses.dataclass(frozen=True, eq=False)
class Documents(Sequence[NDArray]):
  """Token ids of documents, one after another in memory.

  Attributes:
    tokens: all ids, in the smallest type that holds them.
    starts: where each document starts, and the number of ids.
  """

  tokens: Int[NDArray, 'tokens']
  starts: Int[NDArray, 'documents+1']

  @property
  def lengths(self) -> Int[NDArray, 'documents']:
    """Tokens of each document."""
    return np.diff(self.starts)

  def __len__(self) -> int:
    return len(self.starts) - 1

  @overload
  def __getitem__(self, number: int) -> NDArray: ...
  @overload
  def __getitem__(self, number: slice) -> Sequence[NDArray]: ...
  def __getitem__(self, number: int | slice) -> NDArray | Sequence[NDArray]:
    """The ids of one document, or of some."""
    if isinstance(number, slice):
      return [self[i] for i in range(len(self))[number]]
    number = range(len(self))[number]
    return self.tokens[self.starts[number] : self.starts[number + 1]]


def tokenize(
  texts: Sequence[NDArray], tokenizer: Tokenizer, end: int | None = None
) -> Documents:
  """Encodes documents.

  Args:
    texts: documents as bytes (uint8).
    tokenizer: what encodes them.
    end: an id to add after each document; None adds none.

  Raises:
    ConfigError: what the tokenizer refuses.

  >>> texts = [np.frombuffer(text, np.uint8) for text in (b'ab', b'c')]
  >>> documents = tokenize(texts, ByteTokenizer())
  >>> print(documents.tokens, documents.starts, documents[1])
  [97 98 99] [0 2 3] [99]
  """
  kind = np.min_scalar_type(max(tokenizer.vocab - 1, end or 0))
  last = np.array([] if end is None else [end], kind)
  pieces: list[NDArray] = []
  lengths = [0]
  for start in range(0, len(texts), _TOGETHER):
    group = [text.tobytes() for text in texts[start : start + _TOGETHER]]
    for ids in tokenizer.encode_all(group):
      pieces += [ids.astype(kind), last]
      lengths.append(len(ids) + len(last))
  tokens = np.concatenate(pieces) if pieces else np.zeros(0, kind)
  return Documents(tokens, np.cumsum(lengths))
