"""The decoder: a pure forward function over a tree of arrays.

`Transformer`, the Flax module around it, loads flax on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ntk_jax.model.cache import Cache, empty_cache
from ntk_jax.model.config import ModelConfig
from ntk_jax.model.params import (
  Params,
  active_parameter_count,
  init_params,
  parameter_count,
)
from ntk_jax.model.precision import Precision
from ntk_jax.model.remat import REMAT
from ntk_jax.model.transformer import Controls, forward

if TYPE_CHECKING:
  from ntk_jax.model.shell import Transformer

__all__ = [
  'REMAT',
  'Cache',
  'Controls',
  'ModelConfig',
  'Params',
  'Precision',
  'Transformer',
  'active_parameter_count',
  'empty_cache',
  'forward',
  'init_params',
  'parameter_count',
]


def __getattr__(name: str) -> Any:
  if name == 'Transformer':
    from ntk_jax.model.shell import Transformer

    return Transformer
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
