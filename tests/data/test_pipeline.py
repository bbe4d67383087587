"""The stream: the same on any hosts and workers, from any row on."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers

from ntk_jax.data.batch import Batch
from ntk_jax.data.pack import cut, pack_row
from ntk_jax.data.pipeline import Pipeline
from ntk_jax.data.reader import epoch_order
from ntk_jax.data.settings import DataConfig
from ntk_jax.data.text import Corpus
from ntk_jax.errors import ConfigError
from tests.data.test_tokenize import train_tokenizer

CONFIG = DataConfig(
  max_length=256, batch_rows=4, seed=5, key_value=0.3, passkey=0.2
)
STEPS = 9


def make_corpus(documents: int, seed: int = 0) -> Corpus:
  """Documents of lower case letters, some longer than a row."""
  rng = np.random.default_rng(seed)
  texts = tuple(
    rng.integers(97, 123, size=n, dtype=np.uint8)
    for n in rng.integers(1, 700, size=documents)
  )
  return Corpus('made up', texts, texts[:1], f'seed {seed}')


CORPUS = make_corpus(17)


def take(
  pipeline: Pipeline, steps: int, row: int = 0, length: int | None = None
) -> list[Batch]:
  with pipeline.batches(row, length) as batches:
    return list(itertools.islice(batches, steps))


def of_hosts(config: DataConfig, hosts: int) -> list[Batch]:
  """Global batches, put together of what each host makes."""
  shares = [
    take(Pipeline.of(config, CORPUS, host=host, hosts=hosts), STEPS)
    for host in range(hosts)
  ]
  return [
    Batch(*(np.concatenate(arrays) for arrays in zip(*parts)))
    for parts in zip(*shares)
  ]


def assert_same(found: list[Batch], expected: list[Batch]) -> None:
  assert len(found) == len(expected)
  for x, y in zip(found, expected):
    for name in Batch._fields:
      a, b = getattr(x, name), getattr(y, name)
      assert a.dtype == b.dtype and a.shape == b.shape
      assert a.tobytes() == b.tobytes(), name


@pytest.fixture(scope='module')
def plain() -> list[Batch]:
  """Batches of one host, nothing read ahead."""
  config = dataclasses.replace(CONFIG, threads=0)
  batches = of_hosts(config, 1)
  assert Pipeline.of(CONFIG, CORPUS).epochs(STEPS * 4) > 1
  assert any(batch.answers.any() for batch in batches)
  return batches


@pytest.mark.parametrize(
  ('hosts', 'workers', 'threads'),
  [
    *itertools.product((1, 2, 4), (0,), (0, 1, 3)),
    *itertools.product((1, 2, 4), (2,), (1,)),
  ],
)
def test_hosts_and_workers_change_nothing(
  plain: list[Batch], hosts: int, workers: int, threads: int
) -> None:
  config = dataclasses.replace(CONFIG, workers=workers, threads=threads)
  assert_same(of_hosts(config, hosts), plain)


def test_an_epoch_is_every_row_once() -> None:
  config = dataclasses.replace(CONFIG, batch_rows=3, key_value=0.0, passkey=0.0)
  pipeline = Pipeline.of(config, CORPUS)
  rows = pipeline.plan.rows
  found = take(pipeline, rows)  # three epochs
  stream = np.concatenate([batch.tokens for batch in found])
  packed = np.stack(
    [
      pack_row(pipeline.documents, pipeline.plan.row(i), 256).tokens
      for i in range(rows)
    ]
  )
  orders = []
  for epoch in range(3):
    part = stream[epoch * rows : (epoch + 1) * rows]
    order = epoch_order(config.seed, epoch, rows)
    assert np.array_equal(part, packed[order])
    assert sorted(map(bytes, part)) == sorted(map(bytes, packed))
    orders.append(tuple(order))
  assert len(set(orders)) == 3
  assert len(np.unique(packed, axis=0)) == rows


@pytest.mark.parametrize('workers', [0, 2])
def test_resuming_goes_on_as_if_never_stopped(
  plain: list[Batch], workers: int
) -> None:
  config = dataclasses.replace(CONFIG, workers=workers)
  with Pipeline.of(config, CORPUS).batches() as batches:
    first = list(itertools.islice(batches, 4))
    state = json.loads(json.dumps(batches.state()))
  assert state['row'] == 16
  other = dataclasses.replace(CONFIG, workers=2 - workers)
  with Pipeline.of(other, CORPUS).restore(state) as batches:
    second = list(itertools.islice(batches, STEPS - 4))
  assert_same([*first, *second], plain)


def test_other_batches_are_the_same_rows(plain: list[Batch]) -> None:
  """What follows a row does not depend on how many are taken at once."""
  config = dataclasses.replace(CONFIG, batch_rows=3)
  pipeline = Pipeline.of(config, CORPUS)
  assert pipeline.fingerprint == Pipeline.of(CONFIG, CORPUS).fingerprint
  state = {'row': 5, 'fingerprint': pipeline.fingerprint}
  with pipeline.restore(state) as batches:
    found = list(itertools.islice(batches, 4))
  for name in Batch._fields:
    rows = np.concatenate([getattr(batch, name) for batch in plain])
    ours = np.concatenate([getattr(batch, name) for batch in found])
    assert np.array_equal(ours, rows[5:17])


def test_the_length_changes_between_batches() -> None:
  config = dataclasses.replace(CONFIG, key_value=0.0, passkey=0.0)
  pipeline = Pipeline.of(config, CORPUS)
  whole = take(pipeline, 4)
  with pipeline.batches(length=32) as batches:
    for step, length in enumerate((32, 64, 64, 256)):
      batches.length = length
      found = next(batches)
      assert found.tokens.shape == (4 * 256 // length, length)
      assert_same([found], [cut(whole[step], length)])
      assert found.weights.sum() == whole[step].weights.sum()


def test_short_rows_are_the_same_on_any_hosts() -> None:
  config = dataclasses.replace(CONFIG, passkey=0.0, key_value=0.5)
  (one,) = take(Pipeline.of(config, CORPUS), 1, row=4, length=64)
  two = [
    take(Pipeline.of(config, CORPUS, host=h, hosts=2), 1, row=4, length=64)[0]
    for h in range(2)
  ]
  both = Batch(*(np.concatenate(arrays) for arrays in zip(*two)))
  assert_same([both], [one])
  assert 6 <= one.answers.any(axis=1).sum() <= 8  # of 16, some are padding


OTHERS: list[dict[str, Any]] = [
  {'seed': 6},
  {'max_length': 128},
  {'key_value': 0.31},
  {'passkey': 0.0},
]


@pytest.mark.parametrize('change', OTHERS)
def test_other_data_is_refused(change: dict[str, Any]) -> None:
  state = {'row': 8, 'fingerprint': Pipeline.of(CONFIG, CORPUS).fingerprint}
  other = Pipeline.of(dataclasses.replace(CONFIG, **change), CORPUS)
  with pytest.raises(ConfigError) as error:
    other.restore(state)
  assert other.fingerprint in str(error.value)
  assert str(state['fingerprint']) in str(error.value)
  assert 'its row 8 counts in another stream' in str(error.value)


def test_what_is_not_seen_in_the_lengths_counts_too(tmp_path: Path) -> None:
  """Other data of the same lengths, packed into the same single row."""
  path = train_tokenizer(tmp_path)
  more = tokenizers.Tokenizer.from_file(str(path))
  more.add_tokens(['<extra>'])
  more.save(str(tmp_path / 'more.json'))

  def name(text: str = 'one', **change: Any) -> str:
    texts = (np.frombuffer(b'the cat sat on the mat', np.uint8),)
    config = dataclasses.replace(CONFIG, tokenizer=str(path), **change)
    pipeline = Pipeline.of(config, Corpus('one', texts, (), text))
    assert pipeline.plan.rows == 1
    return pipeline.fingerprint

  others = [
    name(text='another'),
    name(seed=6),
    name(key_value=0.31),
    name(passkey=0.0),
    name(end_of_text='<end>'),
    name(end_of_text='<start>'),
    name(max_length=512),
    name(answer_weight=0.5),
  ]
  path = tmp_path / 'more.json'
  others.append(name())
  path = tmp_path / 'tokenizer.json'
  assert len({name(), *others}) == 1 + len(others)
  assert name() == name(workers=3, threads=2, prefetch=5, batch_rows=8)


def test_seeds_order_rows_anew() -> None:
  orders = {
    tuple(epoch_order(seed, epoch, 50))
    for seed, epoch in itertools.product(range(3), range(3))
  }
  assert len(orders) == 9


def test_from_a_folder_with_a_tokenizer(tmp_path: Path) -> None:
  texts = [f'the cat number {i} sat on the mat. ' * 9 for i in range(60)]
  lines = [json.dumps({'body': text}) for text in texts]
  (tmp_path / 'texts').mkdir()
  (tmp_path / 'texts' / 'a.jsonl').write_text('\n'.join(lines))
  config = DataConfig(
    corpus=str(tmp_path / 'texts'),
    text_field='body',
    tokenizer=str(train_tokenizer(tmp_path)),
    end_of_text='<end>',
    max_length=470,
    batch_rows=2,
  )
  pipeline = Pipeline.of(config)
  assert pipeline.corpus['files'] == 60
  read = [pipeline.tokenizer.decode(ids) for ids in pipeline.documents]
  assert {text.removesuffix('<end>') for text in read} < set(texts)
  (batch,) = take(pipeline, 1)
  first = batch.tokens[0][batch.segments[0] == 1]
  assert pipeline.tokenizer.decode(first) in read
  assert pipeline.plan.utilisation > 0.9


def test_tiny_epochs() -> None:
  """A batch may hold several epochs."""
  corpus = Corpus('one', (np.arange(97, 107, dtype=np.uint8),), (), 'one')
  config = DataConfig(max_length=4, batch_rows=8)
  pipeline = Pipeline.of(config, corpus)
  assert pipeline.plan.rows == 3
  (batch,) = take(pipeline, 1)
  orders = [epoch_order(0, epoch, 3) for epoch in range(3)]
  firsts = np.array([97, 101, 105])[np.concatenate(orders)[:8]]
  assert np.array_equal(batch.tokens[:, 0], firsts)


@pytest.mark.parametrize(
  ('call', 'says'),
  [
    (lambda p: p.batches(row=-1), 'row is -1: it counts'),
    (lambda p: p.batches(row=1.5), 'row is 1.5: it counts'),
    (lambda p: p.batches(length=100), 'length is 100: it divides'),
    (lambda p: p.batches(length=64), 'at least 114 with these shares'),
    (lambda p: p.batches(length=512), 'length is 512: it divides'),
    (lambda p: p.restore({'next_index': 7}), r"has \['next_index'\]: it holds"),
    (lambda p: p.restore({}), 'it holds row and fingerprint'),
    (
      lambda p: p.restore({'row': -4, 'fingerprint': p.fingerprint}),
      'row is -4',
    ),
    (
      lambda p: p.restore({'row': None, 'fingerprint': p.fingerprint}),
      'row is None',
    ),
  ],
)
def test_a_bad_start(call: Any, says: str) -> None:
  with pytest.raises(ConfigError, match=says):
    call(Pipeline.of(CONFIG, CORPUS))


def test_a_bad_length_while_running() -> None:
  with Pipeline.of(CONFIG, CORPUS).batches() as batches:
    batches.length = 100
    with pytest.raises(ConfigError, match='length is 100: it divides'):
      next(batches)
    assert batches.row == 0
    batches.length = 256
    assert next(batches).tokens.shape == (4, 256)


@pytest.mark.parametrize(
  ('change', 'hosts', 'says'),
  [
    ({'seed': -1, 'workers': -1}, (0, 1), 'seed is -1.*; workers is -1'),
    ({}, (0, 3), 'batch_rows is 4: 3 hosts'),
    ({}, (2, 2), 'host is 2 of 2'),
    ({}, (-1, 2), 'host is -1 of 2'),
    ({}, (0, 0), 'host is 0 of 0'),
    ({'vocab': 300}, (0, 1), 'give the model 408'),
    ({'tokenizer': 'nowhere.json'}, (0, 1), "'nowhere.json': cannot be read"),
  ],
)
def test_a_bad_config(
  change: dict[str, Any], hosts: tuple[int, int], says: str
) -> None:
  config = dataclasses.replace(CONFIG, **change)
  with pytest.raises(ConfigError, match=says):
    Pipeline.of(config, CORPUS, host=hosts[0], hosts=hosts[1])


def test_documents_of_one_token() -> None:
  corpus = Corpus('short', (np.zeros(1, np.uint8),) * 3, (), 'none')
  with pytest.raises(ConfigError, match='3 documents for training, none of 2'):
    Pipeline.of(CONFIG, corpus)
