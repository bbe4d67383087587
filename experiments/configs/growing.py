"""Recipes of growing length: a plan of stages at real size, or a 32nd of it.

A config file of a plan takes words after a colon:

  --config=experiments/configs/grow_512_to_32k.py         a CPU's size
  --config=experiments/configs/grow_512_to_32k.py:real    8B parameters
  --config=experiments/configs/grow_512_to_32k.py:window  one row shape

The small one divides every length by a factor and has 0.8M parameters, bytes of
the standard library's sources and keys to recall in half of the rows. `window`
keeps rows at the full length and grows the window within: no recompile, and the
same losses. What a machine decides is left to flags: --mesh_fsdp, --corpus, ...
"""

from __future__ import annotations

import dataclasses

from ml_collections import ConfigDict

from experiments.configs.recipe import recipe
from ntk_jax.curriculum import GrowthConfig
from ntk_jax.data.retrieval import VOCAB
from ntk_jax.data.settings import DataConfig
from ntk_jax.errors import ConfigError
from ntk_jax.model import ModelConfig, Precision
from ntk_jax.optimizer import OptimizerConfig
from ntk_jax.train import SchemeConfig, StageConfig, TrainConfig

_WORDS = ('real', 'window')
_SMALL_TOKENS, _REAL_TOKENS = 2**12, 2**22  # of a step
_8B = ModelConfig(
  vocab=128_256,
  dim=4096,
  layers=32,
  heads=32,
  kv_heads=8,
  head_dim=128,
  mlp_dim=14_336,
  tied=False,
  rope_theta=5e5,
  precision=Precision(compute='bfloat16'),
  remat='full',
)


@dataclasses.dataclass(frozen=True)
class Staged:
  """A plan of stages.

  Attributes:
    lengths: of the stages.
    at: fractions of the run at which those after the first begin.
    schemes: of each stage, where they change: a method and its scale.
    smaller: what the lengths of the small one are divided by.
    small_steps: of the small one.
  """

  lengths: tuple[int, ...]
  at: tuple[float, ...] = ()
  schemes: tuple[tuple[str, float], ...] = ()
  smaller: int = 32
  small_steps: int = 240

  def recipe(self, words: str | None) -> ConfigDict:
    """The recipe that words behind a config file ask for.

    Raises:
      ConfigError: for an unknown word.
    """
    given = [word.strip() for word in (words or '').split(',') if word.strip()]
    if unknown := [word for word in given if word not in _WORDS]:
      raise ConfigError(
        f'words are {", ".join(_WORDS)}, joined by commas, not '
        f'{",".join(unknown)!r}'
      )
    config = self._real() if 'real' in given else self._small()
    if 'window' in given:
      full = config.data.max_length
      growth = dataclasses.replace(config.growth, buckets=(full,))
      config = dataclasses.replace(config, growth=growth)
    return recipe(config)

  def _small(self) -> TrainConfig:
    lengths = tuple(length // self.smaller for length in self.lengths)
    full = lengths[-1]
    return TrainConfig(
      model=ModelConfig(vocab=VOCAB),
      data=DataConfig(
        max_length=full, batch_rows=_SMALL_TOKENS // full, key_value=0.5
      ),
      optimizer=OptimizerConfig(
        peak=3e-3, steps=self.small_steps, warmup=40, b2=0.98
      ),
      growth=GrowthConfig('discrete', lengths, at=self.at),
      stages=self._stages(lengths),
    )

  def _real(self) -> TrainConfig:
    full = self.lengths[-1]
    return TrainConfig(
      model=_8B,
      data=DataConfig(max_length=full, batch_rows=_REAL_TOKENS // full),
      optimizer=OptimizerConfig(peak=3e-4, steps=250_000, warmup=2000, b2=0.95),
      growth=GrowthConfig('discrete', self.lengths, at=self.at),
      stages=self._stages(self.lengths),
      save_every=500,
    )

  def _stages(self, lengths: tuple[int, ...]) -> tuple[StageConfig, ...]:
    return tuple(
      StageConfig(
        length,
        (SchemeConfig(method, original_length=lengths[0], factor=factor),),
      )
      for length, (method, factor) in zip(lengths[1:], self.schemes)
    )
