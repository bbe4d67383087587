"""The parameters of a decoder: their shapes, their start, their number."""

from __future__ import annotations

import math
import zlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ntk_jax.initializers import init_matrix, residual_gain
from ntk_jax.model.config import ModelConfig
from ntk_jax.sharding import leaf_name
from ntk_jax.typing import Array, Float


class Params(NamedTuple):
  """A tree of arrays.

  Attributes:
    embed: input embedding [V, D].
    layers: matrices, biases and norms by name, stacked over layers [L, ...];
      with experts gate, up [L, E, D, F] and down [L, E, F, D], else without E.
    final_norm: [D].
    unembed: output matrix [D, V]; None where it is the embedding's transpose.
  """

  embed: Float[Array, 'V D']
  layers: dict[str, Array]
  final_norm: Float[Array, ' D']
  unembed: Float[Array, 'D V'] | None = None


def param_shapes(config: ModelConfig) -> Params:
  """A tree of shapes, the stacking dims L and E included.

  >>> param_shapes(ModelConfig(vocab=9, dim=4, layers=2)).layers['q']
  (2, 4, 128)
  """
  c = config
  q, kv = c.heads * c.head_dim, c.kv_heads * c.head_dim
  stacked = (c.experts,) if c.experts else ()
  layer: dict[str, tuple[int, ...]] = {
    'attention_norm': (c.dim,),
    'q': (c.dim, q),
    'k': (c.dim, kv),
    'v': (c.dim, kv),
    'out': (q, c.dim),
    'mlp_norm': (c.dim,),
    'gate': (*stacked, c.dim, c.mlp_dim),
    'up': (*stacked, c.dim, c.mlp_dim),
    'down': (*stacked, c.mlp_dim, c.dim),
  }
  if c.experts:
    layer['router'] = (c.dim, c.experts)
  if c.qk_norm:
    layer |= {'q_norm': (c.head_dim,), 'k_norm': (c.head_dim,)}
  if c.head_norm:
    layer['head_norm'] = (q,)
  if c.post_norms:
    layer |= {'attention_post_norm': (c.dim,), 'mlp_post_norm': (c.dim,)}
  biased = ('q', 'k', 'v') * c.qkv_bias + ('out',) * c.out_bias
  biased += ('gate', 'up', 'down') * c.mlp_bias
  layer |= {f'{name}_bias': layer[name][-1:] for name in biased}
  return Params(
    embed=(c.vocab, c.dim),  # pyrefly: ignore[bad-argument-type]
    layers={name: (c.layers, *shape) for name, shape in layer.items()},  # pyrefly: ignore[bad-argument-type]
    final_norm=(c.dim,),  # pyrefly: ignore[bad-argument-type]
    unembed=None if c.tied else (c.dim, c.vocab),  # pyrefly: ignore[bad-argument-type]
  )


def init_params(key: Array, config: ModelConfig) -> Params:
  """Gaussian matrices of standard deviation 1/sqrt(fan-in), unit norms.

  The two matrices that write to the residual stream are smaller by
  1/sqrt(2 L), so that its variance does not grow with depth; `out` is larger
  by `config.out_gain`. Biases are 0. Each array has a key of its own by its
  name, so that an option more changes no other array.
  """

  def start(path: tuple[Any, ...], shape: tuple[int, ...]) -> Array:
    name, dtype = leaf_name(path), config.precision.params
    if name.endswith('norm'):
      return jnp.full(
        shape, 0 if config.norm_offset and name != 'head_norm' else 1, dtype
      )
    if name.endswith('bias'):
      return jnp.zeros(shape, dtype)
    own = jax.random.fold_in(key, zlib.crc32(name.encode()))
    fan_in = shape[-1] if name == 'embed' else shape[-2]
    gain = residual_gain(config.layers) if name in ('out', 'down') else 1.0
    if name == 'out':
      gain *= config.out_gain
    return init_matrix(own, shape, fan_in, gain).astype(dtype)

  return jax.tree_util.tree_map_with_path(
    start, param_shapes(config), is_leaf=_is_shape
  )


def parameter_count(params: Params | ModelConfig) -> int:
  """The number of scalars in a tree of parameters, or of a config's.

  >>> parameter_count(ModelConfig(vocab=408))
  843904
  """
  if isinstance(params, ModelConfig):
    shapes = jax.tree.leaves(param_shapes(params), is_leaf=_is_shape)
    return sum(math.prod(shape) for shape in shapes)
  return sum(leaf.size for leaf in jax.tree.leaves(params))


def active_parameter_count(config: ModelConfig) -> int:
  """The number of scalars that one token meets: of E experts its own alone.

  >>> config = ModelConfig(vocab=408, experts=8)
  >>> parameter_count(config), active_parameter_count(config)
  (4546688, 1376384)
  """
  total = parameter_count(config)
  if not config.experts:
    return total
  of_one = 3 * config.layers * config.dim * config.mlp_dim
  return total - (config.experts - config.experts_per_token) * of_one


def _is_shape(x: Any) -> bool:
  return type(x) is tuple
