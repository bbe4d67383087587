"""Corpora: what is read, how it is split, and rows that stay in documents."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import sysconfig
from pathlib import Path

import numpy as np
import pytest

from ntk_jax.data import text
from ntk_jax.data.text import Corpus, RandomRows, load_corpus, spread_rows
from ntk_jax.errors import ConfigError


def document(number: int, size: int) -> bytes:
  """Printable text that no other number gives."""
  rng = np.random.default_rng(number)
  return rng.integers(32, 127, size=size, dtype=np.uint8).tobytes()


def write_folder(folder: Path, count: int = 40, size: int = 3000) -> Path:
  for i in range(count):
    path = folder / f'part{i % 3}' / f'{i}.txt'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(document(i, size))
  return folder


@pytest.fixture(scope='module')
def library() -> Corpus:
  return load_corpus()


def test_library_is_that_of_the_running_python(library: Corpus) -> None:
  root = Path(sysconfig.get_path('stdlib'))
  found = {d.tobytes() for d in (*library.train, *library.held_out)}
  assert (root / 'argparse.py').read_bytes() in found
  assert (root / 'json' / 'decoder.py').read_bytes() in found
  assert sum(map(len, library.train)) > 5e6
  assert library.describe()['name'] == 'sources of the standard library'


def test_library_leaves_out_tests_and_packages(
  tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setattr(sysconfig, 'get_path', lambda name: str(tmp_path))
  for i in range(30):
    (tmp_path / f'{i}.py').write_bytes(document(i, 3000))
  (tmp_path / 'json' / 'inner').mkdir(parents=True)
  (tmp_path / 'json' / 'inner' / 'a.py').write_bytes(document(30, 3000))
  kept = load_corpus()
  assert kept.describe()['files'] == 31
  for number, folder in enumerate(
    ('test', 'json/tests', 'idlelib/idle_test', 'site-packages/x', 'docs'),
    start=31,
  ):
    (tmp_path / folder).mkdir(parents=True)
    suffix = 'txt' if folder == 'docs' else 'py'
    path = tmp_path / folder / f'a.{suffix}'
    path.write_bytes(document(number, 3000))
  assert load_corpus().fingerprint == kept.fingerprint
  (tmp_path / 'docs' / 'a.py').write_bytes(document(99, 3000))
  assert load_corpus().describe()['files'] == 32


def test_a_tenth_of_the_documents_is_held_out(library: Corpus) -> None:
  sizes = library.describe()
  assert 0.05 < int(sizes['held_out_files']) / int(sizes['files']) < 0.15
  assert sizes['files'] == len(library.train) + len(library.held_out)
  assert sizes['held_out_bytes'] == sum(map(len, library.held_out))


def test_sources_are_those_of_the_documents(
  tmp_path: Path, library: Corpus
) -> None:
  corpus = load_corpus(str(write_folder(tmp_path)))
  assert len(corpus.sources) == len(corpus.train)
  of = {document(i, 3000): f'part{i % 3}' for i in range(40)}
  for each, source in zip(corpus.train, corpus.sources):
    assert source == of[each.tobytes()]
  assert len(library.sources) == len(library.train)
  assert {'', 'json', 'asyncio'} <= set(library.sources)


def test_the_source_of_a_text_in_two_places(tmp_path: Path) -> None:
  write_folder(tmp_path)
  before = load_corpus(str(tmp_path)).sources
  for folder in ('zzz', 'aaa'):  # copies; the first name counts
    (tmp_path / folder).mkdir()
    for i in range(40):
      (tmp_path / folder / f'{i}.txt').write_bytes(document(i, 3000))
    after = load_corpus(str(tmp_path)).sources
    assert after == (before if folder == 'zzz' else ('aaa',) * len(before))


def test_split_is_by_content_hash(tmp_path: Path) -> None:
  corpus = load_corpus(str(write_folder(tmp_path)))
  for held, documents in ((True, corpus.held_out), (False, corpus.train)):
    for each in documents:
      digest = hashlib.sha256(each.tobytes()).hexdigest()
      assert (int(digest, 16) % 10 == 0) is held
  assert len(corpus.train) + len(corpus.held_out) == 40


def test_names_order_and_copies_change_nothing(tmp_path: Path) -> None:
  first = load_corpus(str(write_folder(tmp_path / 'a')))
  for i in range(40):
    (tmp_path / 'b').mkdir(exist_ok=True)
    (tmp_path / 'b' / f'{97 - i}').write_bytes(document(i, 3000))
  (tmp_path / 'b' / 'copy').write_bytes(document(3, 3000))
  second = load_corpus(str(tmp_path / 'b'))
  assert first.fingerprint == second.fingerprint
  for name in ('train', 'held_out'):
    pairs = zip(getattr(first, name), getattr(second, name), strict=True)
    assert all(np.array_equal(x, y) for x, y in pairs)


def test_other_content_has_another_fingerprint(tmp_path: Path) -> None:
  first = load_corpus(str(write_folder(tmp_path)))
  (tmp_path / 'part0' / '0.txt').write_bytes(document(99, 3000))
  assert load_corpus(str(tmp_path)).fingerprint != first.fingerprint


def test_what_a_folder_leaves_out(tmp_path: Path) -> None:
  plain = load_corpus(str(write_folder(tmp_path)))
  (tmp_path / '.git').mkdir()
  (tmp_path / '.git' / 'hidden').write_bytes(document(100, 3000))
  (tmp_path / '.hidden').write_bytes(document(101, 3000))
  (tmp_path / 'image.png').write_bytes(b'\x89PNG\0' + document(102, 3000))
  (tmp_path / 'short.txt').write_bytes(document(103, 2047))
  (tmp_path / 'empty').touch()
  (tmp_path / 'dead link').symlink_to(tmp_path / 'nowhere')
  os.mkfifo(tmp_path / 'pipe')
  assert load_corpus(str(tmp_path)).fingerprint == plain.fingerprint
  (tmp_path / 'long enough.txt').write_bytes(document(103, 2048))
  assert load_corpus(str(tmp_path)).fingerprint != plain.fingerprint


def test_a_lone_file_is_cut_into_documents(tmp_path: Path) -> None:
  path = tmp_path / 'book.txt'
  path.write_bytes(document(0, 40 * 16384 + 100))
  corpus = load_corpus(str(path))
  documents = [*corpus.train, *corpus.held_out]
  assert [len(d) for d in documents] == [16384] * 40  # the rest is too short
  assert corpus.name == 'book.txt'


def test_the_home_folder_is_expanded(
  tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setenv('HOME', str(tmp_path))
  write_folder(tmp_path / 'texts')
  assert load_corpus('~/texts').name == 'texts'


@pytest.mark.parametrize('path', ['', '/nowhere/at all', '/dev/null'])
def test_no_such_path(path: str) -> None:
  with pytest.raises(ConfigError) as error:
    load_corpus(path)
  assert repr(path) in str(error.value)
  assert 'name a text file or a folder' in str(error.value)


def test_an_empty_corpus(tmp_path: Path) -> None:
  with pytest.raises(ConfigError) as error:
    load_corpus(str(tmp_path))
  assert repr(str(tmp_path)) in str(error.value)
  assert '0 usable documents (at least 2048 bytes' in str(error.value)


def test_nothing_held_out(tmp_path: Path) -> None:
  (tmp_path / 'one').write_bytes(document(0, 5000))
  with pytest.raises(ConfigError, match='1 for training and 0 held out; both'):
    load_corpus(str(tmp_path))


def test_a_binary_file(tmp_path: Path) -> None:
  path = tmp_path / 'model.bin'
  path.write_bytes(b'\0' * 10**6)
  with pytest.raises(ConfigError, match='model.bin.* is a binary file'):
    load_corpus(str(path))


def test_an_unreadable_file_is_named(
  tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  write_folder(tmp_path)
  read = Path.read_bytes

  def refuse_one(path: Path) -> bytes:
    if path.name == '7.txt':
      raise PermissionError(13, 'Permission denied', str(path))
    return read(path)

  monkeypatch.setattr(Path, 'read_bytes', refuse_one)
  with pytest.raises(ConfigError, match=r'7\.txt.*Permission denied.*make it'):
    load_corpus(str(tmp_path))


def test_an_unreadable_folder_is_named(
  tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  write_folder(tmp_path)
  scan = os.scandir

  def refuse_one(path: str) -> object:
    if str(path).endswith('part1'):
      raise PermissionError(13, 'Permission denied', str(path))
    return scan(path)

  monkeypatch.setattr(os, 'scandir', refuse_one)
  with pytest.raises(ConfigError, match=r'part1.*Permission denied.*make it'):
    load_corpus(str(tmp_path))


# Documents whose bytes all say which one they are.
MARKED = tuple(
  np.full(size, number, np.uint8)
  for number, size in enumerate((5, 29, 2, 7, 11))
)


def test_random_rows_stay_in_a_document() -> None:
  rows = RandomRows(MARKED, 5)(np.random.default_rng(0), 2000)
  assert rows.shape == (2000, 5)
  assert rows.dtype == np.int32
  assert (rows == rows[:, :1]).all()


def test_every_place_is_drawn_alike() -> None:
  # Bytes that say where they are: 1 + 25 + 3 + 7 places of rows of 5.
  sizes = [len(d) for d in MARKED]
  starts = np.cumsum([0, *sizes[:-1]])
  documents = tuple(
    np.arange(start, start + size, dtype=np.uint8)
    for start, size in zip(starts, sizes)
  )
  rows = RandomRows(documents, 5)(np.random.default_rng(1), 36000)
  assert (np.diff(rows, axis=1) == 1).all()
  places, counts = np.unique(rows[:, 0], return_counts=True)
  expected = [
    start + i for start, n in zip(starts, sizes) for i in range(n - 4)
  ]
  assert places.tolist() == expected
  # 1000 expected of each, deviation 31: five deviations.
  assert np.abs(counts - 1000).max() < 160


def test_random_rows_are_a_function_of_the_generator() -> None:
  draw = RandomRows(MARKED, 2)
  first, second = (draw(np.random.default_rng(3), 9) for _ in range(2))
  assert np.array_equal(first, second)


def test_documents_shorter_than_a_row() -> None:
  with pytest.raises(ConfigError, match='has the 30 bytes of a row; use a sho'):
    RandomRows(MARKED, 30)


def test_spread_rows_do_not_overlap_or_cross() -> None:
  documents = tuple(
    np.arange(40 * n, 40 * n + size, dtype=np.uint8)
    for n, size in enumerate((37, 4, 11, 24))
  )
  rows = spread_rows(documents, 5, 13)  # 7 + 0 + 2 + 4, all of them
  assert rows.dtype == np.int32
  assert (np.diff(rows, axis=1) == 1).all()
  assert len(np.unique(rows)) == 13 * 5
  assert all(len(np.unique(row // 40)) == 1 for row in rows)


def test_spread_rows_come_from_many_documents() -> None:
  documents = tuple(np.full(50, n, np.uint8) for n in range(6))
  rows = spread_rows(documents, 5, 12)
  assert rows[:, 0].tolist() == [*range(6), *range(6)]


def test_more_rows_extend_fewer(library: Corpus) -> None:
  many = spread_rows(library.held_out, 257, 90)
  assert np.array_equal(spread_rows(library.held_out, 257, 7), many[:7])
  assert len(np.unique(many, axis=0)) == 90


def test_more_rows_than_the_held_out_text_has() -> None:
  with pytest.raises(ConfigError, match='has 7 rows of 5 bytes, 8 are asked'):
    spread_rows(MARKED[1:3] + MARKED[4:], 5, 8)


def test_a_corpus_is_a_value(library: Corpus) -> None:
  with pytest.raises(dataclasses.FrozenInstanceError):
    library.name = 'x'  # type: ignore[misc]
  assert text.BYTES == 256
