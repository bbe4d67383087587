"""Documents from disk: a file, a folder, a glob pattern, JSON lines.

A `.jsonl` file holds one document a line, wherever it is found; any other
file is one document, or pieces of one size if it is named alone.

The source of a document is the topmost folder that its file is in, counted
from what was named: `books` of `texts/books/a/b.txt`. A `.jsonl` file that is
in no folder there is a source of its own, all other such files are one.
"""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn

from ntk_jax.errors import ConfigError, unknown

PIECE = 16384  # bytes; a lone file is split into documents of this size
_NOT_SOURCES = {'test', 'tests', 'idle_test', 'site-packages', 'dist-packages'}
_MAGIC = set('*?[')


class Document(NamedTuple):
  """A document, and where it is from.

  Attributes:
    source: the top folder of its file, or the name of its `.jsonl` file; ''
      is what was named itself.
    text: its bytes.
  """

  source: str
  text: bytes


def library_documents(root: Path) -> Iterator[Document]:
  """The code of a Python library: no tests, no installed packages."""
  files = (
    file
    for file in _files(root)
    if file.suffix == '.py'
    and not _NOT_SOURCES & set(file.relative_to(root).parts)
  )
  return (
    Document(_source(file, root), _bytes(file))
    for file in files
    if file.is_file()
  )


def documents(
  path: str, text_field: str = 'text', piece: int = PIECE
) -> tuple[str, Iterator[Document]]:
  """What a path names, and its documents.

  Args:
    path: a file, a folder (read whole, but for hidden and binary files), or a
      glob pattern (`**` is any depth of folders).
    text_field: the field of a JSON line that holds the text.
    piece: bytes of the documents that a lone text file is cut into, at
      characters.

  Returns:
    A short name, and the documents as they are read.

  Raises:
    ConfigError: a path that is none of these; while reading, a file that
      cannot be read, or a line that is not JSON with text in its field.
  """
  root = Path(path).expanduser()
  if path and os.path.isfile(root):
    return root.name, _lone_file(root, text_field, piece)
  if path and os.path.isdir(root):
    return root.resolve().name, _read(_visible_files(root), root, text_field)
  if _MAGIC & set(path):
    found = sorted(glob.glob(str(root), recursive=True))
    files = [Path(name) for name in found if os.path.isfile(name)]
    if files:
      return path, _read(files, _fixed_part(root), text_field)
  raise ConfigError(
    f'corpus {path!r} is neither a file nor a folder, nor a pattern that '
    'matches files; name a text file or a folder of text files, a .jsonl file, '
    "or a pattern such as 'texts/**/*.txt'"
  )


def _visible_files(root: Path) -> Iterator[Path]:
  for file in _files(root):
    parts = file.relative_to(root).parts
    if not any(part.startswith('.') for part in parts):
      yield file


def _files(root: Path) -> Iterator[Path]:
  """All files of a folder; links to folders are not followed."""
  for folder, _, names in os.walk(root, onerror=_refuse):
    yield from (Path(folder, name) for name in names)


def _fixed_part(pattern: Path) -> Path:
  """The folder that a pattern looks in, all of whose name is said."""
  parts = pattern.parts
  magic = [i for i, part in enumerate(parts) if _MAGIC & set(part)]
  return Path(*parts[: magic[0]])


def _source(file: Path, root: Path) -> str:
  parts = file.relative_to(root).parts
  return parts[0] if len(parts) > 1 or file.suffix == '.jsonl' else ''


def _read(
  files: Iterable[Path], root: Path, text_field: str
) -> Iterator[Document]:
  for file in files:
    if not file.is_file():  # no pipes, no dead links
      continue
    source, text = _source(file, root), _bytes(file)
    if file.suffix == '.jsonl':
      lines = _lines(file, text, text_field)
      yield from (Document(source, line) for line in lines)
    elif not _binary(text):
      yield Document(source, text)


def _lone_file(file: Path, text_field: str, piece: int) -> Iterator[Document]:
  text = _bytes(file)
  if file.suffix == '.jsonl':
    texts = _lines(file, text, text_field)
  elif _binary(text):
    raise ConfigError(
      f'corpus {str(file)!r} is a binary file (it holds a NUL byte); name a '
      'text file or a folder of text files'
    )
  else:
    texts = _pieces(text, piece)
  return (Document('', text) for text in texts)


def _pieces(text: bytes, piece: int) -> Iterator[bytes]:
  """Pieces of at most `piece` bytes, no character of UTF-8 cut in two."""
  start = 0
  while start < len(text):
    stop = min(start + piece, len(text))
    for back in range(min(4, piece)):
      if stop == len(text) or text[stop - back] & 0xC0 != 0x80:
        stop -= back
        break
    yield text[start:stop]
    start = stop


def _lines(file: Path, text: bytes, field: str) -> Iterator[bytes]:
  """Documents of a JSON lines file; blank lines are none."""
  for number, line in enumerate(text.split(b'\n'), start=1):
    if line.strip():
      yield _text_of(line, field, f'corpus {str(file)!r}, line {number}')


def _text_of(line: bytes, field: str, where: str) -> bytes:
  try:
    value = json.loads(line)
  except ValueError as error:  # of JSON, or of UTF-8
    raise ConfigError(
      f'{where}: not JSON ({error}); every line of a .jsonl file is one JSON '
      'object'
    ) from error
  if not isinstance(value, dict):
    raise ConfigError(
      f'{where}: {line[:60]!r} is no JSON object; write one with the text in '
      f'its field {field!r}'
    )
  if field not in value:
    raise ConfigError(f'{where}: {unknown("text field", field, value)}')
  if not isinstance(value[field], str):
    raise ConfigError(
      f'{where}: field {field!r} is {json.dumps(value[field])[:60]}, not a '
      'string; name the field that holds the text'
    )
  try:
    return value[field].encode()
  except UnicodeEncodeError as error:  # half of a surrogate pair
    raise ConfigError(f'{where}: field {field!r}: {error}') from error


def _bytes(file: Path) -> bytes:
  try:
    return file.read_bytes()
  except OSError as error:
    _refuse(error)


def _refuse(error: OSError) -> NoReturn:
  raise ConfigError(
    f'corpus: cannot read {error.filename!r} ({error.strerror}); make it '
    'readable, or name a corpus without it'
  ) from error


def _binary(text: bytes) -> bool:
  return b'\0' in text[:8192]
