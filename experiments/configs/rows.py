"""Recipes of the presets: a row by its words, tiny or at real size.

A config file of a system takes words after a colon, joined by commas:

  --config=experiments/configs/mistral.py                  the first row, tiny
  --config=experiments/configs/mistral.py:v0.2             a variant
  --config=experiments/configs/longchat.py:base            before its extension
  --config=experiments/configs/llama2.py:abf,real          at its real size
  --config=experiments/configs/yi.py:200k,grow             not at once

Tiny rows (0.8M parameters, bytes of the standard library's sources with keys to
recall in every row, some minutes on two cores) are trained from scratch on rows
of the length that the system was last trained on, with its schemes there.
`base` takes the original length and the schemes before the extension; so do
rows that were extended without training, whose methods are for reading: score
those with experiments.evaluate.

`grow` begins at the original length and doubles it, evenly over the first 64%
of the run, until it is the row's; the schemes are the row's own all along.
best_known does so unless it is asked for its base.

`real` sets model, length, precision, remat and Llama 2's optimizer settings (a
further training: those of Llama 2 Long, arXiv 2309.16039, section 2). What a
machine decides is left to flags: --corpus, --tokenizer, --mesh_fsdp, ...
"""

from __future__ import annotations

import dataclasses

from ml_collections import ConfigDict

from experiments.configs.recipe import recipe
from ntk_jax.curriculum import GrowthConfig
from ntk_jax.data.retrieval import VOCAB
from ntk_jax.data.settings import DataConfig
from ntk_jax.errors import ConfigError
from ntk_jax.model import Precision
from ntk_jax.model.preset import Preset
from ntk_jax.model.presets import PRESETS, preset
from ntk_jax.optimizer import OptimizerConfig
from ntk_jax.train import SchemeConfig, TrainConfig

_TINY_TOKENS, _REAL_TOKENS = 2**12, 2**22  # of a batch
_OTHER_WORDS = ('real', 'base', 'grow')
_GROWING = 0.64  # of the run


def row_recipe(
  system: str, words: str | None, *, grow: bool = False
) -> ConfigDict:
  """The recipe that words behind a config file ask for.

  Args:
    system: of the presets.
    words: a variant, 'real', 'base', 'grow', joined by commas; all may be
      left out.
    grow: whether a row that was trained on at a longer length grows to it
      unasked.

  Raises:
    ConfigError: for an unknown word, two variants, or a row that has no other
      length to grow from.
  """
  given = [word.strip() for word in (words or '').split(',') if word.strip()]
  row = _row(system, [word for word in given if word not in _OTHER_WORDS])
  if 'base' in given:
    row = dataclasses.replace(
      row, rule=row.base or row.rule, target_length=row.original_length
    )
  if 'real' not in given:
    row = row.tiny(VOCAB)
  config = _real(row) if 'real' in given else _tiny(row)
  if 'grow' in given or (grow and row.tuned and 'base' not in given):
    config = _grown(config, row)
  return recipe(config)


def variants(system: str) -> tuple[str, ...]:
  """The variants of a system, '' for the row without one.

  >>> variants('mistral')
  ('v0.1', 'v0.2', 'v0.3', 'window-yarn')
  """
  names = [p.name for p in PRESETS.values() if p.system == system]
  return tuple(name.removeprefix(system).lstrip('-') for name in names)


def _row(system: str, chosen: list[str]) -> Preset:
  known = variants(system)
  wrong = [word for word in chosen if word not in known]
  if wrong or len(chosen) > 1:
    *others, last = _OTHER_WORDS
    raise ConfigError(
      f'{system}.py takes one variant ({", ".join(filter(None, known))}) and '
      f'{", ".join(others)} and {last}, not {",".join(chosen)!r}'
    )
  variant = chosen[0] if chosen else known[0]
  return preset(f'{system}-{variant}' if variant else system)


def _grown(config: TrainConfig, row: Preset) -> TrainConfig:
  """The same run, begun near the original length."""
  full = config.data.max_length
  lengths = [full]
  while lengths[0] % 2 == 0 and lengths[0] // 2 >= row.original_length:
    lengths.insert(0, lengths[0] // 2)
  if len(lengths) == 1:
    raise ConfigError(
      f'{row.name} trains at {full} tokens, its original length: there is no '
      'shorter one to grow from; leave out grow'
    )
  at = tuple(_GROWING * i / (len(lengths) - 1) for i in range(1, len(lengths)))
  growth = GrowthConfig('discrete', tuple(lengths), at=at)
  return dataclasses.replace(config, growth=growth)


def _tiny(row: Preset) -> TrainConfig:
  length = row.training_length
  return TrainConfig(
    model=row.model,
    data=DataConfig(
      max_length=length, batch_rows=_TINY_TOKENS // length, key_value=1.0
    ),
    optimizer=OptimizerConfig(peak=3e-3, steps=800, warmup=50),
    schemes=tuple(map(SchemeConfig.of, row.training_schemes)),
  )


def _real(row: Preset) -> TrainConfig:
  model = dataclasses.replace(
    row.model, precision=Precision(compute='bfloat16'), remat='full'
  )
  length = row.training_length
  peak, steps = (2e-5, 100_000) if row.tuned else (3e-4, 500_000)
  return TrainConfig(
    model=model,
    data=DataConfig(max_length=length, batch_rows=_REAL_TOKENS // length),
    optimizer=OptimizerConfig(peak=peak, steps=steps, warmup=2000, b2=0.95),
    schemes=tuple(map(SchemeConfig.of, row.training_schemes)),
  )
