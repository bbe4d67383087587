"""JSON lines, glob patterns, and pieces of a lone file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ntk_jax.data.files import documents
from ntk_jax.data.text import load_corpus
from ntk_jax.errors import ConfigError


def read(path: Path | str, **options: object) -> list[bytes]:
  found = documents(str(path), **options)[1]  # type: ignore[arg-type]
  return [document.text for document in found]


def write_lines(path: Path, *lines: object) -> Path:
  path.write_text(''.join(json.dumps(line) + '\n' for line in lines))
  return path


def test_a_json_line_is_a_document(tmp_path: Path) -> None:
  path = write_lines(
    tmp_path / 'a.jsonl',
    {'text': 'one\ntwo', 'id': 3},
    {'id': 4, 'text': 'né 中'},
  )
  path.write_text(path.read_text() + '\n  \n' + json.dumps({'text': 'last'}))
  assert read(path) == [b'one\ntwo', 'né 中'.encode(), b'last']


def test_a_source_is_a_top_folder(tmp_path: Path) -> None:
  files = {
    'books/old/a.txt': 'books',
    'books/b.txt': 'books',
    'books/c.jsonl': 'books',
    'code/d.py': 'code',
    'loose.txt': '',
    'web.jsonl': 'web.jsonl',
  }
  for name in files:
    path = tmp_path / 'texts' / name
    path.parent.mkdir(parents=True, exist_ok=True)
    write_lines(path, {'text': name})
  for path in ('texts', 'texts/**', 'texts/**/*.*', 'tex?s/**/*'):
    found = list(documents(str(tmp_path / path))[1])
    assert len(found) == len(files)
    for source, text in found:
      name = json.loads(text)['text'] if b'"' in text else text.decode()
      folder = 'texts' if '?' in path else files[name]
      assert source == folder, (path, name)
  for name in ('web.jsonl', 'loose.txt'):
    (found,) = documents(str(tmp_path / 'texts' / name))[1]
    assert found.source == ''


def test_a_pattern_within_the_running_folder(
  tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.chdir(tmp_path)
  for name in ('a.txt', 'b/c.txt'):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(name)
  found = sorted(documents('**/*.txt')[1])
  assert found == [('', b'a.txt'), ('b', b'b/c.txt')]


def test_the_text_field_has_a_name(tmp_path: Path) -> None:
  path = write_lines(tmp_path / 'a.jsonl', {'body': 'x', 'text': 'y'})
  assert read(path, text_field='body') == [b'x']


GOOD = b'{"text": "fine"}\n'


@pytest.mark.parametrize(
  ('line', 'says'),
  [
    (b'{"text": "open}', 'not JSON'),
    (b'plain words', 'not JSON'),
    (b'\xff\xfe', 'not JSON'),
    (b'["text"]', 'is no JSON object'),
    (b'"text"', 'is no JSON object'),
    (b'{"txt": "x"}', "unknown text field 'text': did you mean 'txt'?"),
    (b'{}', "unknown text field 'text'"),
    (b'{"text": 3}', "field 'text' is 3, not a string"),
    (b'{"text": null}', "field 'text' is null, not a string"),
    (b'{"text": "\\ud800"}', 'surrogates not allowed'),
  ],
)
def test_errors_name_file_and_line(
  tmp_path: Path, line: bytes, says: str
) -> None:
  path = tmp_path / 'bad.jsonl'
  path.write_bytes(GOOD + b'\n' + GOOD + line + b'\n' + GOOD)
  for where in (path, tmp_path, tmp_path / '*'):
    with pytest.raises(ConfigError) as error:
      read(where)
    assert f"corpus '{path}', line 4: " in str(error.value)
    assert says in str(error.value)


def test_a_pattern_names_files(tmp_path: Path) -> None:
  for name in ('b.txt', 'a.txt', 'c.py', 'deep/er/d.txt', '.hidden.txt'):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(name)
  (tmp_path / 'folder.txt').mkdir()
  write_lines(tmp_path / 'e.jsonl', {'text': 'e1'}, {'text': 'e2'})
  assert read(tmp_path / '*.txt') == [b'a.txt', b'b.txt']
  assert read(tmp_path / '**' / '*.txt') == [
    b'a.txt',
    b'b.txt',
    b'deep/er/d.txt',
  ]
  assert read(tmp_path / '[ce].*') == [b'c.py', b'e1', b'e2']
  assert documents(str(tmp_path / '?.py'))[0] == str(tmp_path / '?.py')


def test_a_file_with_a_pattern_in_its_name_is_that_file(
  tmp_path: Path,
) -> None:
  (tmp_path / 'a[1].txt').write_text('brackets')
  (tmp_path / 'a1.txt').write_text('one')
  assert read(tmp_path / 'a[1].txt') == [b'brackets']


def test_a_pattern_without_a_match(tmp_path: Path) -> None:
  with pytest.raises(ConfigError) as error:
    read(tmp_path / '*.txt')
  assert str(tmp_path / '*.txt') in str(error.value)
  assert 'nor a pattern that matches files' in str(error.value)


def test_a_folder_may_hold_json_lines(tmp_path: Path) -> None:
  write_lines(tmp_path / 'a.jsonl', {'text': 'one'}, {'text': 'two'})
  (tmp_path / 'b.txt').write_text('three')
  assert sorted(read(tmp_path)) == [b'one', b'three', b'two']


@pytest.mark.parametrize('piece', [4, 5, 7, 1000])
def test_pieces_keep_characters_whole(tmp_path: Path, piece: int) -> None:
  text = 'aé中😀' * 40
  path = tmp_path / 'a.txt'
  path.write_text(text)
  found = read(path, piece=piece)
  assert ''.join(each.decode() for each in found) == text
  assert max(map(len, found)) <= piece
  assert min(map(len, found[:-1]), default=piece) > piece - 4


def test_pieces_of_what_is_no_text(tmp_path: Path) -> None:
  path = tmp_path / 'a.txt'
  path.write_bytes(b'\x80' * 100)
  assert read(path, piece=16) == [b'\x80' * 16] * 6 + [b'\x80' * 4]


def test_a_corpus_of_short_json_lines(tmp_path: Path) -> None:
  lines = [{'text': f'document {i}'} for i in range(200)]
  path = write_lines(tmp_path / 'a.jsonl', *lines)
  corpus = load_corpus(str(path), shortest=1)
  found = {d.tobytes().decode() for d in (*corpus.train, *corpus.held_out)}
  assert found == {line['text'] for line in lines}
  assert corpus.name == 'a.jsonl'
  with pytest.raises(ConfigError, match='0 usable documents .at least 2048'):
    load_corpus(str(path))
