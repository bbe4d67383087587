"""The model that is diagnosed, and the text that it reads."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ntk_jax.config import to_plain
from ntk_jax.data.files import PIECE
from ntk_jax.data.text import Corpus, load_corpus, spread_rows
from ntk_jax.data.tokenize import (
  ByteTokenizer,
  JsonTokenizer,
  Tokenizer,
  load_tokenizer,
  tokenize,
)
from ntk_jax.errors import ConfigError
from ntk_jax.interop import architecture, load
from ntk_jax.interop.config_file import read_json
from ntk_jax.interop.hub import folder_of
from ntk_jax.model.config import ModelConfig
from ntk_jax.model.params import Params, init_params, parameter_count
from ntk_jax.scheme import Scheme
from ntk_jax.train.finished import read_config, read_params
from ntk_jax.train.settings import TrainConfig
from ntk_jax.typing import Int32, NDArray

_BYTES_PER_TOKEN = 8  # no more than that on average, in a long document


@dataclasses.dataclass(frozen=True)
class Subject:
  """A model, trained or about to be, and text that it has not read.

  Attributes:
    name: of the model, for reports.
    config: its shape.
    schemes: one for each number of its layer plan.
    params: from a seed to parameters; a trained model has one seed.
    trained: tokens of the rows that it was trained on; 0 before training.
    corpus: the text's name and fingerprint.
    documents: held-out documents as its ids.
    run: how it would be trained; None of a trained one.
    about: what else a report says.
  """

  name: str
  config: ModelConfig
  schemes: tuple[Scheme, ...]
  params: Callable[[int], Params]
  trained: int
  corpus: Corpus
  documents: tuple[NDArray, ...]
  run: TrainConfig | None = None
  about: dict[str, Any] = dataclasses.field(default_factory=dict)

  def rows(self, tokens: int, count: int) -> Int32[NDArray, 'rows tokens']:
    """Held-out rows, each of another document as long as there are any.

    Raises:
      ConfigError: if the text holds fewer.
    """
    return spread_rows(self.documents, tokens, count)

  def facts(self) -> dict[str, Any]:
    """What a report says of the model."""
    return {
      'name': self.name,
      'parameters': parameter_count(self.config),
      'trained_length': self.trained,
      'model': to_plain(self.config),
      'schemes': [repr(scheme) for scheme in self.schemes],
      **self.about,
    }


def about_to_train(
  config: TrainConfig, name: str, schemes: tuple[Scheme, ...] = ()
) -> Subject:
  """The model that a config would train, as it starts.

  Args:
    config: of a training run.
    name: of it.
    schemes: how positions enter when it is diagnosed; none are those of the
      config, under which it would be trained.

  Raises:
    ConfigError: for a wrong config, one too large for this machine, or text
      or a tokenizer of no use.
  """
  config.validate(jax.device_count())
  check_room(config.model)
  corpus, documents = _text(config)
  return Subject(
    name,
    config.model,
    schemes or config.build_schemes(),
    lambda seed: init_params(jax.random.key(config.seed + seed), config.model),
    0,
    corpus,
    documents,
    config,
    {'config': to_plain(config)},
  )


def trained_run(folder: str, step: int | None = None) -> Subject:
  """The model of a run of `experiments.train`.

  Args:
    folder: its workdir.
    step: of the checkpoint; None is the newest.

  Raises:
    ConfigError: a folder without a run, another text than it was trained on.
  """
  config, trained_on = read_config(Path(folder))
  corpus, documents = _text(config)
  if corpus.fingerprint != trained_on:
    raise ConfigError(
      f'corpus {corpus.name!r} has fingerprint {corpus.fingerprint}, the run '
      f'was trained on {trained_on}: what is held out now may have been read '
      'then; diagnose it with the text that it was trained on'
    )
  params, at = read_params(Path(folder), config, step)
  return Subject(
    f'{folder}, step {at}',
    config.model,
    config.build_schemes(),
    lambda seed: params,
    config.data.max_length,
    corpus,
    documents,
    about={'config': to_plain(config), 'step': at},
  )


def loaded_checkpoint(
  folder: str, corpus_path: str | None = None, longest: int = 0
) -> Subject:
  """The model of a Hugging Face folder.

  Args:
    folder: with config.json, safetensors and tokenizer.json.
    corpus_path: text to read; None is the standard library's sources.
    longest: tokens of a row that will be read; 0 is four times the trained
      length.

  Raises:
    ConfigError: as `ntk_jax.interop.load` does, or for text or a tokenizer of
      no use.
  """
  path = folder_of(folder, None)
  tokenizer = JsonTokenizer(path / 'tokenizer.json')
  model = load(path)
  if tokenizer.vocab > model.config.vocab:
    raise ConfigError(
      f'tokenizer.json of {path} has ids up to {tokenizer.vocab - 1}, the '
      f'model {model.config.vocab} embeddings; is it the tokenizer of this '
      'model?'
    )
  trained = _trained_length(path, model.schemes)
  longest = longest or 4 * trained
  corpus = load_corpus(
    corpus_path, piece=max(PIECE, _BYTES_PER_TOKEN * longest)
  )
  params = model.params
  return Subject(
    path.resolve().name,
    model.config,
    model.schemes,
    lambda seed: params,
    trained,
    corpus,
    _ids(corpus, tokenizer),
  )


def check_room(config: ModelConfig) -> None:
  """Raises ConfigError where a CPU has no room for parameters and gradients.

  The parameters, two gradients and one that is being made.
  """
  if jax.default_backend() != 'cpu':
    return
  needs = 4 * 4 * parameter_count(config)
  has = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
  if needs > has:
    raise ConfigError(
      f'a model of {parameter_count(config):,} parameters needs '
      f'{needs / 2**30:,.0f} GiB here (parameters and three gradients), the '
      f'machine has {has / 2**30:,.0f} GiB: diagnose a smaller one'
    )


def _trained_length(folder: Path, schemes: tuple[Scheme, ...]) -> int:
  """Of a checkpoint: before any scaling of its rope."""
  known = [s.spec.original_length for s in schemes if s.spec.original_length]
  if known:
    return max(known)
  return architecture(read_json(folder / 'config.json')).length


def _text(config: TrainConfig) -> tuple[Corpus, tuple[NDArray, ...]]:
  """The corpus of a run, with the documents that training does not read."""
  data = config.data
  tokenizer = load_tokenizer(data.tokenizer)
  if tokenizer.vocab > config.model.vocab:
    raise ConfigError(
      f'model.vocab is {config.model.vocab}: {tokenizer.name} has '
      f'{tokenizer.vocab} ids'
    )
  corpus = load_corpus(
    data.corpus,
    text_field=data.text_field,
    shortest=1,
    piece=max(PIECE, data.max_length),  # as in training: the same are held out
  )
  return corpus, _ids(corpus, tokenizer)


def _ids(corpus: Corpus, tokenizer: Tokenizer) -> tuple[NDArray, ...]:
  if isinstance(tokenizer, ByteTokenizer):
    return corpus.held_out
  documents = tokenize(corpus.held_out, tokenizer, None)
  return tuple(np.asarray(documents[i]) for i in range(len(documents.lengths)))
