"""Settings of a pipeline: every wrong one is named, all at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ntk_jax.data.settings import DataConfig
from ntk_jax.data.tokenize import ByteTokenizer
from ntk_jax.errors import ConfigError


def said(config: DataConfig, **known: Any) -> str:
  with pytest.raises(ConfigError) as error:
    config.validate(**known)
  return str(error.value)


def test_defaults_are_valid() -> None:
  DataConfig().validate(ByteTokenizer(), np.array([2]), hosts=8)
  DataConfig(vocab=408, key_value=0.5, passkey=0.5).validate(ByteTokenizer())
  DataConfig(vocab=256, passkey=1.0).validate(ByteTokenizer())
  long = DataConfig(long_share=1.0, long_from=69)
  long.validate(ByteTokenizer(), np.array([9, 70]))


@pytest.mark.parametrize(
  ('fields', 'says'),
  [
    ({'max_length': 1}, 'max_length is 1, must be at least 2'),
    ({'max_length': 2048.0}, 'max_length is 2048.0: it is an integer'),
    ({'max_length': '2048'}, "max_length is '2048': it is an integer"),
    ({'batch_rows': 0}, 'batch_rows is 0, must be at least 1'),
    ({'seed': -1}, 'seed is -1, must be at least 0'),
    ({'seed': True}, 'seed is True: it is an integer'),
    ({'seed': None}, 'seed is None: it is an integer'),
    ({'workers': -1}, 'workers is -1, must be at least 0'),
    ({'threads': -2}, 'threads is -2, must be at least 0'),
    ({'prefetch': 0}, 'prefetch is 0, must be at least 1'),
    ({'vocab': 0}, 'vocab is 0, must be at least 1'),
    ({'key_value': -0.1}, 'key_value is -0.1: it is a share of rows'),
    ({'key_value': 1.5}, 'key_value is 1.5: it is a share of rows'),
    ({'passkey': float('nan')}, 'passkey is nan: it is a share of rows'),
    ({'passkey': '0.5'}, "passkey is '0.5': it is a share of rows"),
    ({'passkey': True}, 'passkey is True: it is a share of rows'),
    ({'key_value': 0.7, 'passkey': 0.4}, 'key_value + passkey is 1.1: shares'),
    ({'answer_weight': 0.0}, 'answer_weight is 0.0: a share of the tokens'),
    ({'answer_weight': float('nan')}, 'answer_weight is nan: a share'),
    ({'text_field': ''}, "text_field is '': it names the field"),
    ({'long_share': 0.0, 'long_from': 9}, 'long_share is 0.0: it is a share'),
    ({'long_share': 1.5, 'long_from': 9}, 'long_share is 1.5: it is a share'),
    ({'long_share': float('nan'), 'long_from': 9}, 'long_share is nan: it'),
    ({'long_share': True, 'long_from': 9}, 'long_share is True: it is a'),
    ({'long_share': 0.5, 'long_from': 0}, 'long_from is 0, must be at least 1'),
    ({'long_share': 0.5, 'long_from': 9.5}, 'long_from is 9.5: it is an int'),
    ({'long_share': 0.5}, 'long_from is None: give both'),
    ({'long_from': 512}, 'long_share is None and long_from is 512: give both'),
  ],
)
def test_a_wrong_field(fields: dict[str, Any], says: str) -> None:
  message = said(DataConfig(**fields))
  assert says in message
  assert ';' not in message.replace('; ', '', says.count('; '))


@pytest.mark.parametrize(
  ('fields', 'known', 'says'),
  [
    ({'batch_rows': 6}, {'hosts': 4}, 'batch_rows is 6: 4 hosts take equal'),
    ({}, {'lengths': np.array([1, 0])}, '2 documents for training, none of 2'),
    ({}, {'lengths': np.array([], int)}, '0 documents for training, none of'),
    (
      {'long_share': 0.5, 'long_from': 70},
      {'lengths': np.array([9, 70])},
      'long_from is 70: the longest document for training has 70 tokens',
    ),
    (
      {'vocab': 255},
      {'tokenizer': ByteTokenizer()},
      "vocab is 255: tokenizer 'bytes' has 256 ids; give the model 256",
    ),
    (
      {'vocab': 407, 'key_value': 0.1},
      {'tokenizer': ByteTokenizer()},
      'has 256 ids and 152 symbols of key_value; give the model 408 or more',
    ),
    (
      {'end_of_text': '<end>'},
      {'tokenizer': ByteTokenizer()},
      "end_of_text is '<end>': bytes have no such token",
    ),
    (
      {'max_length': 31, 'key_value': 0.1},
      {'tokenizer': ByteTokenizer()},
      'max_length is 31: rows of key_value need 32 tokens',
    ),
    (
      {'max_length': 113, 'passkey': 0.1},
      {'tokenizer': ByteTokenizer()},
      'max_length is 113: rows of passkey need 114 tokens',
    ),
  ],
)
def test_what_does_not_fit_the_data(
  fields: dict[str, Any], known: dict[str, Any], says: str
) -> None:
  assert says in said(DataConfig(**fields), **known)
  DataConfig(**fields).validate()


def test_all_problems_in_one_message() -> None:
  fields = {'max_length': 0, 'seed': -3, 'workers': -1, 'passkey': 2.0}
  message = said(DataConfig(**fields))
  for name, value in fields.items():
    assert f'{name} is {value}' in message
  message = said(
    DataConfig(vocab=9, end_of_text='x', batch_rows=3, max_length=9, passkey=1),
    tokenizer=ByteTokenizer(),
    lengths=np.array([1]),
    hosts=2,
  )
  for name in ('vocab', 'end_of_text', 'batch_rows', 'max_length', 'corpus'):
    assert f'{name} ' in message
