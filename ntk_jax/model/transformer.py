"""A pre-norm decoder as one pure function of (parameters, tokens, scheme)."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ntk_jax.errors import ConfigError
from ntk_jax.model.layers import rms_norm, self_attention, swiglu
from ntk_jax.rope.phase import cos_sin
from ntk_jax.scheme import SchemeArrays
from ntk_jax.typing import Array, Float32, Int32, NDArray


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """The shape of a decoder: RMS pre-norm, rotary attention, SwiGLU, tied.

  Attributes:
    vocab: token ids, V.
    dim: residual width, D.
    layers: blocks, L.
    heads: query heads, N.
    kv_heads: key and value heads, K; divides heads.
    head_dim: width of a head, H; even.
    mlp_dim: hidden width of the MLP, F.
    rope_theta: base of the rotary frequencies.
  """

  vocab: int
  dim: int = 128
  layers: int = 4
  heads: int = 4
  kv_heads: int = 4
  head_dim: int = 32
  mlp_dim: int = 344
  rope_theta: float = 1e4

  def validate(self) -> None:
    """Raises ConfigError, all problems in one message."""
    wrong = [
      f'{field.name} is {getattr(self, field.name)}, must be at least 1'
      for field in dataclasses.fields(self)
      if getattr(self, field.name) < 1
    ]
    if self.head_dim % 2:
      wrong.append(f'head_dim is {self.head_dim}, must be even for rope')
    if self.kv_heads > 0 and self.heads % self.kv_heads:
      wrong.append(f'kv_heads {self.kv_heads} must divide heads {self.heads}')
    if wrong:
      raise ConfigError('model: ' + '; '.join(wrong))


class Params(NamedTuple):
  """A tree of arrays.

  Attributes:
    embed: input and output embedding [V, D].
    layers: matrices and norms by name, stacked over layers [L, ...].
    final_norm: [D].
  """

  embed: Float32[Array, 'V D']
  layers: dict[str, Array]
  final_norm: Float32[Array, ' D']


def init_params(key: Array, config: ModelConfig) -> Params:
  """Gaussian parameters of standard deviation 1/sqrt(fan-in).

  The two matrices that write to the residual stream are smaller by
  1/sqrt(2 L), so that its variance does not grow with depth. Layers are
  stacked on a leading axis of length L.
  """
  c = config
  shapes = {
    'q': (c.dim, c.heads * c.head_dim),
    'k': (c.dim, c.kv_heads * c.head_dim),
    'v': (c.dim, c.kv_heads * c.head_dim),
    'out': (c.heads * c.head_dim, c.dim),
    'gate': (c.dim, c.mlp_dim),
    'up': (c.dim, c.mlp_dim),
    'down': (c.mlp_dim, c.dim),
  }
  keys = dict(zip([*shapes, 'embed'], jax.random.split(key, len(shapes) + 1)))
  layers = {
    name: jax.random.normal(keys[name], (c.layers, *shape)) * shape[0] ** -0.5
    for name, shape in shapes.items()
  }
  for name in ('out', 'down'):
    layers[name] *= (2 * c.layers) ** -0.5
  for name in ('attention_norm', 'mlp_norm'):
    layers[name] = jnp.ones((c.layers, c.dim))
  embed = jax.random.normal(keys['embed'], (c.vocab, c.dim)) * c.dim**-0.5
  return Params(embed, layers, jnp.ones(c.dim))


def parameter_count(params: Params) -> int:
  """The number of scalars in a tree of parameters."""
  return sum(leaf.size for leaf in jax.tree.leaves(params))


def forward(
  params: Params,
  config: ModelConfig,
  tokens: Int32[Array | NDArray, 'B T'],
  positions: Int32[Array | NDArray, '*B T'],
  scheme: SchemeArrays,
) -> Float32[Array, 'B T V']:
  """Logits of the next token at every position.

  Args:
    params: as `init_params` makes them.
    config: the model's shape (static).
    tokens: ids; the caller keeps them in [0, V).
    positions: of each token, one row for all or one per row.
    scheme: `Scheme.arrays` of a rope method, temperature and window.

  Returns:
    Float32 logits [B, T, V].
  """
  B, T = tokens.shape
  phases, factor = scheme.phases, scheme.attention_factor
  if phases.ndim == 3:  # one set of frequencies per row, for all its tokens
    phases, factor = phases[:, None], factor[:, None]
  rotation = cos_sin(positions, phases, attention_factor=factor)
  x = params.embed[tokens.reshape(-1)] * config.dim**0.5

  def block(x: Array, layer: dict[str, Array]) -> tuple[Array, None]:
    x = x + self_attention(
      rms_norm(x, layer['attention_norm']),
      layer,
      rotation,
      scheme.q_scale,
      scheme.window,
      (config.heads, config.kv_heads),
    )
    h = rms_norm(x, layer['mlp_norm'])
    return x + swiglu(h, layer['gate'], layer['up'], layer['down']), None

  x, _ = jax.lax.scan(block, x, params.layers)
  x = rms_norm(x, params.final_norm)
  logits = jnp.dot(x, params.embed.T, preferred_element_type=jnp.float32)
  return logits.reshape(B, T, -1)
