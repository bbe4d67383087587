"""From a short context to a long one: RoPE scaling, temperature, evaluation.

The names below load on first use, so that `import ntk_jax` costs nothing and
touches no device:

>>> from ntk_jax import rope
>>> rope.__name__
'ntk_jax.rope'
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what editors see; at run time `__getattr__` answers
  from ntk_jax.mask import Mask
  from ntk_jax.rope import RopeSpec, apply_rope, cos_sin, rerotate
  from ntk_jax.scheme import Scheme

__all__ = [
  'Mask',
  'RopeSpec',
  'Scheme',
  '__version__',
  'apply_rope',
  'attention',
  'cos_sin',
  'extend',
  'interop',
  'mask',
  'model',
  'rerotate',
  'rope',
  'temperature',
  'train',
]
# Where the names live that are not modules of their own name.
_HOMES = {
  'Mask': 'ntk_jax.mask',
  'RopeSpec': 'ntk_jax.rope',
  'Scheme': 'ntk_jax.scheme',
  'apply_rope': 'ntk_jax.rope',
  'cos_sin': 'ntk_jax.rope',
  'rerotate': 'ntk_jax.rope',
}


def _version() -> str:
  from importlib import metadata

  try:
    return metadata.version('ntk_jax')
  except metadata.PackageNotFoundError:  # a clone on sys.path
    return '0+unknown'


def __getattr__(name: str) -> Any:
  if name == '__version__':
    return _version()
  if name in _HOMES:
    return getattr(importlib.import_module(_HOMES[name]), name)
  if name in __all__:
    return importlib.import_module(f'ntk_jax.{name}')
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
  return __all__
