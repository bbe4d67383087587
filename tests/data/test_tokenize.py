"""Bytes and JSON tokenizers: there and back, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from ntk_jax.data.tokenize import (
  ByteTokenizer,
  JsonTokenizer,
  Tokenizer,
  load_tokenizer,
  tokenize,
)
from ntk_jax.errors import ConfigError

LINES = ['the cat sat on the mat', 'the hat of the cat', 'né 中 😀'] * 5


def train_tokenizer(folder: Path, vocab: int = 300) -> Path:
  """A byte-level BPE tokenizer, with two special tokens."""
  tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
    add_prefix_space=False
  )
  tokenizer.decoder = tokenizers.decoders.ByteLevel()
  trainer = tokenizers.trainers.BpeTrainer(
    vocab_size=vocab,
    special_tokens=['<start>', '<end>'],
    initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,
  )
  tokenizer.train_from_iterator(LINES, trainer)
  tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
    single='<start> $A', special_tokens=[('<start>', 0)]
  )
  tokenizer.enable_truncation(8)
  tokenizer.enable_padding(length=8)
  path = folder / 'tokenizer.json'
  tokenizer.save(str(path))
  return path


@pytest.fixture(scope='module')
def trained(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
  folder = tmp_path_factory.mktemp('tokenizer')
  return load_tokenizer(str(train_tokenizer(folder)))


exact = settings(
  max_examples=100, deadline=None, derandomize=True, database=None
)


@exact
@given(text=st.text())
def test_there_and_back(trained: Tokenizer, text: str) -> None:
  for tokenizer in (trained, ByteTokenizer()):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert np.array_equal(tokenizer.encode(text.encode()), ids)
    assert ids.max(initial=0) < tokenizer.vocab


def test_a_text_is_encoded_whole_and_bare(trained: Tokenizer) -> None:
  """Neither truncated nor padded nor begun, as the file asks for."""
  text = 'the cat ' * 50
  ids = trained.encode(text)
  assert len(ids) > 50
  assert ids.min() > 1
  (together,) = trained.encode_all([text.encode()])
  assert np.array_equal(ids, together)
  assert together.dtype == np.int32


def test_vocab_counts_every_token(tmp_path: Path) -> None:
  path = train_tokenizer(tmp_path)
  tokenizer = tokenizers.Tokenizer.from_file(str(path))
  tokenizer.add_tokens(['<extra>'])
  tokenizer.save(str(tmp_path / 'more.json'))
  plain, more = load_tokenizer(str(path)), JsonTokenizer(tmp_path / 'more.json')
  assert more.vocab == plain.vocab + 1
  assert more.token_id('<extra>') == plain.vocab
  assert more.name == 'more.json'
  assert more.fingerprint != plain.fingerprint
  assert plain.token_id('<end>') == 1


def test_tokenize(trained: Tokenizer) -> None:
  texts = [np.frombuffer(line.encode(), np.uint8) for line in LINES[:3]]
  documents = tokenize(texts, trained, end=1)
  assert len(documents) == 3
  assert documents.tokens.dtype == np.uint16
  for line, ids in zip(LINES, documents):
    assert trained.decode(ids) == line + '<end>'
  assert documents.lengths.tolist() == [len(ids) for ids in documents]
  assert [len(x) for x in documents[1:]] == documents.lengths[1:].tolist()
  assert np.array_equal(documents[-1], documents[2])
  with pytest.raises(IndexError):
    documents[3]


def test_many_texts_and_none() -> None:
  texts = [np.full(i % 7, i % 251, np.uint8) for i in range(1000)]
  documents = tokenize(texts, ByteTokenizer())
  assert documents.tokens.dtype == np.uint8
  assert all(np.array_equal(a, b) for a, b in zip(texts, documents))
  assert len(tokenize([], ByteTokenizer())) == 0


def test_a_file_that_is_no_tokenizer(tmp_path: Path) -> None:
  path = tmp_path / 'config.json'
  path.write_text(json.dumps({'model_type': 'llama'}))
  with pytest.raises(ConfigError, match=r'config\.json.* not a JSON file of'):
    load_tokenizer(str(path))


@pytest.mark.parametrize('path', ['nowhere.json', '.', ''])
def test_no_such_file(path: str) -> None:
  with pytest.raises(ConfigError, match='cannot be read'):
    load_tokenizer(path)


def test_bytes_that_are_not_utf8(trained: Tokenizer) -> None:
  text = np.frombuffer(b'caf\xe9 au lait', np.uint8)
  assert len(tokenize([text], ByteTokenizer())[0]) == 12
  with pytest.raises(ConfigError) as error:
    tokenize([text], trained)
  assert r"starts with b'caf\xe9 au lait' is not UTF-8" in str(error.value)
  with pytest.raises(ConfigError, match='is not UTF-8'):
    trained.encode(text.tobytes())


def test_an_unknown_end_of_text(trained: Tokenizer) -> None:
  with pytest.raises(ConfigError) as error:
    trained.token_id('<and>')
  assert "unknown end_of_text '<and>': did you mean '<end>'?" in str(
    error.value
  )
  with pytest.raises(ConfigError, match='bytes have no such token'):
    ByteTokenizer().token_id('<end>')


@pytest.mark.parametrize('ids', [[256], [-1]])
def test_ids_that_are_no_bytes(ids: list[int]) -> None:
  with pytest.raises(ConfigError, match='is no byte'):
    ByteTokenizer().decode(ids)
