"""What the common servers make of a config.json, rule by rule.

Each server is a function from a config to what it would run: frequencies,
attention factor and window of every layer, and the length that it serves. The
doctor compares these with what the config means.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from ntk_jax.interop.servers.hugging_face import transformers4, transformers5
from ntk_jax.interop.servers.llama_cpp import llama_cpp
from ntk_jax.interop.servers.reading import (
  Decoder,
  Layer,
  Reading,
  Unsupported,
)
from ntk_jax.interop.servers.vllm import vllm

__all__ = ['SERVERS', 'Decoder', 'Layer', 'Reading', 'Unsupported']

SERVERS: Mapping[str, Callable[[Decoder], Reading]] = MappingProxyType(
  {
    'transformers v4': transformers4,
    'transformers v5': transformers5,
    'vLLM': vllm,
    'llama.cpp': llama_cpp,
  }
)
