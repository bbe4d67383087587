"""A small byte-level model on the standard library's sources, for a CPU.

Half an hour on two cores; --steps=200 shows the way.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from experiments.configs.recipe import recipe
from ntk_jax.data.retrieval import VOCAB
from ntk_jax.data.settings import DataConfig
from ntk_jax.model import ModelConfig
from ntk_jax.optimizer import OptimizerConfig
from ntk_jax.train import TrainConfig


def get_config() -> ConfigDict:
  """0.8M parameters, rows of 512 tokens, key-value recall in half of them."""
  return recipe(
    TrainConfig(
      model=ModelConfig(vocab=VOCAB),
      data=DataConfig(max_length=512, batch_rows=8, key_value=0.5),
      optimizer=OptimizerConfig(peak=3e-3, steps=2000, warmup=100),
    )
  )
