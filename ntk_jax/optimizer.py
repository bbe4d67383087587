"""AdamW with clipping; the learning rate is an argument of every step.

A transform is built once per set of moments, decay and clip, and holds no
schedule, so runs of any length and learning rate share one executable: an
optimizer object per run would compile per run.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ntk_jax.errors import ConfigError, unknown
from ntk_jax.learning_rate import Schedule
from ntk_jax.typing import Array, ArrayLike

__all__ = [
  'OptimizerConfig',
  'OptimizerState',
  'Schedule',
  'adamw',
  'descend',
  'global_norm',
  'group_norms',
]

Tree = TypeVar('Tree')
OptimizerState = optax.OptState
global_norm = optax.tree.norm

_DTYPES = ('float32', 'bfloat16')
# Weights that are no matrices: decay would pull them off their meaning.
_NOT_DECAYED = ('norm', 'bias', 'scale', 'sink')


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  """AdamW and its learning rate over a run.

  Attributes:
    peak: learning rate after the warm-up.
    steps: length of the run.
    warmup: steps of the warm-up.
    schedule: 'cosine' or 'wsd'; see `learning_rate.Schedule`.
    decay: share of all steps that the decay of wsd takes.
    curve: of that decay, 'linear' or '1-sqrt'.
    final: share of the peak that the last step has.
    b1: decay of the mean of gradients.
    b2: decay of the mean of their squares.
    eps: added to the root of that mean.
    weight_decay: of matrices, in units of the learning rate.
    clip_norm: largest global norm of a gradient; None does not clip.
    mu_dtype: dtype of the first moment.
    nu_dtype: dtype of the second moment. In bfloat16 it is rounded up or down
      at random, right on average: rounded to the nearest, increments of a
      share 1 - b2 below 0.004 would be lost.
  """

  peak: float
  steps: int
  warmup: int
  schedule: str = 'cosine'
  decay: float = 0.2
  curve: str = '1-sqrt'
  final: float = 0.1
  b1: float = 0.9
  b2: float = 0.98
  eps: float = 1e-8
  weight_decay: float = 0.1
  clip_norm: float | None = 1.0
  mu_dtype: str = 'float32'
  nu_dtype: str = 'float32'

  def validate(self) -> None:
    """Raises ConfigError, all problems in one message."""
    wrong = self.learning_rate.problems()
    for name in ('b1', 'b2'):
      if not 0 <= getattr(self, name) < 1:
        wrong.append(f'{name} is {getattr(self, name)}, must be in [0, 1)')
    if not (math.isfinite(self.eps) and self.eps > 0):
      wrong.append(f'eps is {self.eps}, must be above 0')
    if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
      wrong.append(f'weight_decay is {self.weight_decay}, must be at least 0')
    clip = self.clip_norm
    if clip is not None and not (math.isfinite(clip) and clip > 0):
      wrong.append(f'clip_norm is {clip}, must be above 0, or None for none')
    for name in ('mu_dtype', 'nu_dtype'):
      if getattr(self, name) not in _DTYPES:
        wrong.append(str(unknown(name, getattr(self, name), _DTYPES)))
    if wrong:
      raise ConfigError('optimizer: ' + '; '.join(wrong))

  @property
  def learning_rate(self) -> Schedule:
    """From a step to its learning rate."""
    return Schedule(
      peak=self.peak,
      steps=self.steps,
      warmup=self.warmup,
      shape=self.schedule,
      decay=self.decay,
      curve=self.curve,
      final=self.final,
    )

  def transform(self) -> optax.GradientTransformation:
    """`adamw` of these settings: the same object for the same settings."""
    return adamw(
      b1=self.b1,
      b2=self.b2,
      eps=self.eps,
      weight_decay=self.weight_decay,
      clip_norm=self.clip_norm,
      mu_dtype=self.mu_dtype,
      nu_dtype=self.nu_dtype,
    )


@functools.cache
def adamw(
  *,
  b1: float = 0.9,
  b2: float = 0.98,
  eps: float = 1e-8,
  weight_decay: float = 0.1,
  clip_norm: float | None = 1.0,
  mu_dtype: str = 'float32',
  nu_dtype: str = 'float32',
) -> optax.GradientTransformation:
  """Clip to a norm, Adam, weight decay on matrices.

  Returns the descent direction for a learning rate of 1, in float32 whatever
  the dtype of the parameters; `descend` scales it. Equal settings give the
  same object, so as a static argument of jit it compiles once.

  Source: Loshchilov and Hutter 2019 (arXiv 1711.05101); both moments in
  bfloat16: DeepSeek-AI 2024 (arXiv 2412.19437), section 3.3.
  """
  no_clip = optax.identity()
  adam = optax.scale_by_adam(
    b1=b1, b2=b2, eps=eps, mu_dtype=jnp.dtype(mu_dtype)
  )
  chain = optax.chain(
    no_clip if clip_norm is None else optax.clip_by_global_norm(clip_norm),
    adam if nu_dtype == 'float32' else _rounding_nu(adam),
    optax.add_decayed_weights(weight_decay, mask=_is_matrix),
    optax.scale(-1.0),
  )

  def init(params: Any) -> OptimizerState:
    return chain.init(_float32(params))

  def update(
    updates: Any, state: OptimizerState, params: Any = None
  ) -> tuple[Any, OptimizerState]:
    return chain.update(_float32(updates), state, _float32(params))

  return optax.GradientTransformation(init, update)


def _rounding_nu(
  adam: optax.GradientTransformation,
) -> optax.GradientTransformation:
  """Adam that keeps its second moment in bfloat16 between steps."""

  def init(params: Any) -> Any:
    state: Any = adam.init(params)
    nu = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), state.nu)
    return state._replace(nu=nu)

  def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
    wide: Any = state._replace(nu=_float32(state.nu))
    found: Any = adam.update(updates, wide, params)
    updates, after = found
    leaves, structure = jax.tree.flatten(after.nu)
    step = after.count.astype(jnp.uint32) * len(leaves)
    rounded = [
      round_at_random(step + number, leaf) for number, leaf in enumerate(leaves)
    ]
    return updates, after._replace(nu=jax.tree.unflatten(structure, rounded))

  return optax.GradientTransformation(init, update)


def round_at_random(seed: ArrayLike, x: Array) -> Array:
  """Bfloat16 of float32: one of both neighbours, x on average.

  The upper one has the probability `(x - lower) / (upper - lower)`: 16 bits of
  a hash of place and seed are added to the 16 that are then cut off. (Bits of
  `jax.random` would stand in memory beside every array; these are fused.)

  Args:
    seed: uint32 scalar, another one for every array and step.
    x: float32, finite.

  >>> x = jnp.full(10_000, 1 + 2**-9)  # a quarter of the way from 1 up
  >>> up = round_at_random(0, x) > 1
  >>> print(up.mean().round(2))
  0.25
  """
  bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
  place = jnp.asarray(seed, jnp.uint32) * np.uint32(0x9E3779B9)
  stride = 1
  for dim in reversed(range(x.ndim)):
    along = jax.lax.broadcasted_iota(jnp.uint32, x.shape, dim)
    place += along * np.uint32(stride % 2**32)
    stride *= x.shape[dim]
  kept = ((bits + (_mixed(place) >> 16)) >> 16).astype(jnp.uint16)
  return jax.lax.bitcast_convert_type(kept, jnp.bfloat16)


def _mixed(x: Array) -> Array:
  """A bijection of uint32 whose bits all depend on all bits (MurmurHash3)."""
  x = (x ^ (x >> 16)) * np.uint32(0x85EBCA6B)
  x = (x ^ (x >> 13)) * np.uint32(0xC2B2AE35)
  return x ^ (x >> 16)


def descend(params: Tree, updates: Any, learning_rate: ArrayLike) -> Tree:
  """`p + learning_rate * u`, in float32, then back to the dtype of p.

  >>> float(descend({'w': jnp.ones(1)}, {'w': jnp.ones(1)}, -0.25)['w'][0])
  0.75
  """

  def move(p: Array, u: Array) -> Array:
    return (p.astype(jnp.float32) + learning_rate * u).astype(p.dtype)

  return jax.tree.map(move, params, updates)


def group_norms(grads: Any) -> dict[str, Array]:
  """The norm of each kind of parameter: `sqrt(sum g^2)` over its leaves.

  The kind is the last name on the way to a leaf, over all layers and towers;
  whatever has 'norm' in its name counts as `norms`. The squares of all groups
  add up to the square of the global norm.

  Returns:
    Float32 scalars by kind, in the order of their names.

  >>> one = jnp.ones(4)
  >>> tree = {'layers': {'q': one, 'mlp_norm': one}, 'final_norm': one}
  >>> {name: round(float(n), 3) for name, n in group_norms(tree).items()}
  {'norms': 2.828, 'q': 2.0}
  """
  squares: dict[str, Array] = {}
  for path, leaf in jax.tree_util.tree_flatten_with_path(grads)[0]:
    kind = _kind(path)
    square = jnp.sum(jnp.square(leaf.astype(jnp.float32)))
    squares[kind] = squares[kind] + square if kind in squares else square
  return {kind: jnp.sqrt(squares[kind]) for kind in sorted(squares)}


def _kind(path: tuple[Any, ...]) -> str:
  """The last name of a path; indices of lists are no names."""
  names = [getattr(key, 'key', getattr(key, 'name', None)) for key in path]
  last = next((n for n in reversed(names) if isinstance(n, str)), 'other')
  return 'norms' if 'norm' in last else last


def _is_matrix(params: Any) -> Any:
  """True for projections and embeddings, False for norms, biases, scales."""

  def decays(path: tuple[Any, ...], _: Any) -> bool:
    name = jax.tree_util.keystr(path)
    return not any(word in name for word in _NOT_DECAYED)

  return jax.tree_util.tree_map_with_path(decays, params)


def _float32(tree: Any) -> Any:
  return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), tree)
