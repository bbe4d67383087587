"""A Hugging Face checkpoint as the model of a job."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ntk_jax.config import fingerprint
from ntk_jax.data.files import PIECE
from ntk_jax.data.retrieval import choose_pairs
from ntk_jax.data.text import SHORTEST, Corpus, load_corpus
from ntk_jax.data.tokenize import JsonTokenizer, tokenize
from ntk_jax.errors import ConfigError
from ntk_jax.extend.methods import Setting, extended
from ntk_jax.extend.settings import ExtendConfig
from ntk_jax.extend.subject import Subject
from ntk_jax.interop import architecture, load
from ntk_jax.interop.config_file import read_json
from ntk_jax.interop.folder import dtype_of, stored_tensors
from ntk_jax.interop.hub import folder_of
from ntk_jax.interop.tensors import EMBED
from ntk_jax.model.params import Params
from ntk_jax.model.precision import Precision
from ntk_jax.model.shell import Transformer, with_params
from ntk_jax.scheme import Scheme

_BYTES_PER_TOKEN = 8  # no more than that on average, in a long document
_ENDS = 2**20  # bytes of each end of a file that its fingerprint covers


@dataclasses.dataclass(frozen=True)
class Checkpoint:
  """What a folder says before its weights are read.

  Attributes:
    folder: where it is.
    family: its model_type.
    schemes: by their number in the layer plan.
    original: the length that methods extend from: before any scaling.
    fingerprint: of the config, and of names, sizes and ends of the files.
  """

  folder: Path
  family: str
  schemes: tuple[Scheme, ...]
  original: int
  fingerprint: str


def resolved(config: ExtendConfig) -> tuple[ExtendConfig, Checkpoint]:
  """The settings of a job on a checkpoint, with what its folder says.

  The trained length is that of its scaling (original length x factor), and
  `max_position_embeddings` without one. Blocks are recomputed in the backward
  pass. Computation is float32 on a CPU, and elsewhere bfloat16 where the
  weights are stored so.

  Raises:
    ConfigError: as `ntk_jax.interop.load` before it reads weights.
  """
  folder = folder_of(config.checkpoint or '', None)
  settings = read_json(folder / 'config.json')
  found = architecture(settings)
  stored = stored_tensors(folder)
  if EMBED not in stored:
    raise ConfigError(f'{folder}: the weights lack {EMBED}')
  dtype = dtype_of(stored[EMBED])
  short = dtype == 'bfloat16' and jax.default_backend() != 'cpu'
  model = dataclasses.replace(
    found.model,
    precision=Precision(dtype, 'bfloat16' if short else 'float32'),
    remat='full',
  )
  spec = found.schemes[extended(found.schemes)[0]].spec
  scaled = spec.method != 'default'
  trained = (spec.target_length if scaled else None) or found.length
  if spec.per_length and spec.method != 'longrope':
    trained = spec.original_length or found.length
  config = dataclasses.replace(config, model=model, train_length=trained)
  files = sorted({tensor.file for tensor in stored.values()})
  return config, Checkpoint(
    folder,
    str(settings['model_type']),
    found.schemes,
    (spec.original_length if scaled else None) or trained,
    fingerprint(settings, [_ends(file) for file in files]),
  )


def _ends(file: Path) -> tuple[str, int, str]:
  """Name, size, and a digest of both ends of a file."""
  size = file.stat().st_size
  digest = hashlib.sha256()
  with file.open('rb') as opened:
    digest.update(opened.read(_ENDS))
    opened.seek(max(0, size - _ENDS))
    digest.update(opened.read(_ENDS))
  return file.name, size, digest.hexdigest()


def subject(config: ExtendConfig, checkpoint: Checkpoint) -> Subject:
  """The model, its methods, and the text as its tokenizer reads it.

  Args:
    config: as `resolved` gives it.
    checkpoint: the same.

  Raises:
    ConfigError: for text or a tokenizer that cannot be used.
  """
  longest = config.lengths[-1] + 1
  text = load_corpus(
    config.corpus,
    shortest=min(SHORTEST, longest),
    piece=max(PIECE, _BYTES_PER_TOKEN * longest),
  )
  tokenizer = JsonTokenizer(checkpoint.folder / 'tokenizer.json')
  if tokenizer.vocab > config.model.vocab:
    raise ConfigError(
      f'tokenizer.json of {checkpoint.folder} has ids up to '
      f'{tokenizer.vocab - 1}, the model {config.model.vocab} embeddings; is '
      'it the tokenizer of this model?'
    )
  train, held_out = (
    tuple(tokenize(part, tokenizer)) for part in (text.train, text.held_out)
  )
  mark = fingerprint(text.fingerprint, tokenizer.fingerprint)
  pairs = choose_pairs(
    tokenizer.vocab,
    tokenizer.decode,
    tokenizer.special,
    np.concatenate(held_out),
  )
  spec = checkpoint.schemes[extended(checkpoint.schemes)[0]].spec
  setting = Setting(
    spec.head_dim,
    spec.theta,
    checkpoint.original,
    config.target / checkpoint.original,
    spec.partial_rotary_factor if spec.method != 'proportional' else 1.0,
    checkpoint.schemes,
  )
  return Subject(
    Corpus(text.name, train, held_out, mark),
    setting,
    text,
    pairs,
    lambda mesh: load(checkpoint.folder, mesh=mesh).params,
    _about(config, checkpoint, tokenizer, [*pairs.keys, *pairs.values]),
  )


def _about(
  config: ExtendConfig,
  checkpoint: Checkpoint,
  tokenizer: JsonTokenizer,
  symbols: list[int],
) -> dict[str, Any]:
  """What a report says of it."""
  precision = config.model.precision
  return {
    'name': checkpoint.folder.resolve().name,
    'family': checkpoint.family,
    'fingerprint': checkpoint.fingerprint,
    'original_length': checkpoint.original,
    'trained_length': config.train_length,
    'stored': precision.params,
    'compute': precision.compute,
    'tokenizer': tokenizer.fingerprint,
    'symbols': [tokenizer.decode([number]) for number in symbols],
    'trainable': config.trainable,
    'moments': config.moments,
    'learning_rate': config.tune_rate,
  }


def as_model(
  config: ExtendConfig,
  checkpoint: Checkpoint,
  params: Params,
  schemes: tuple[Scheme, ...],
) -> Transformer:
  """Parameters under schemes, as `ntk_jax.interop.save` writes them."""
  model = with_params(config.model, params, schemes)
  model.origin = json.dumps(read_json(checkpoint.folder / 'config.json'))
  return model
