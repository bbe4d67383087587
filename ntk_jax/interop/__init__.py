"""Hugging Face checkpoints in and out, and what servers make of them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from ntk_jax.interop.architectures import Architecture, architecture
  from ntk_jax.interop.gguf_saving import save_gguf
  from ntk_jax.interop.loading import load
  from ntk_jax.interop.saving import save

__all__ = ['Architecture', 'architecture', 'load', 'save', 'save_gguf']
_HOMES = {
  'Architecture': 'architectures',
  'architecture': 'architectures',
  'load': 'loading',
  'save': 'saving',
  'save_gguf': 'gguf_saving',
}


def __getattr__(name: str) -> Any:
  if name in __all__:
    home = importlib.import_module(f'ntk_jax.interop.{_HOMES[name]}')
    return getattr(home, name)
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
