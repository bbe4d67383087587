"""Which parameters a run trains, and adapters in place of those it does not.

A tree of parameters is split in two: what is trained, in float32, and what is
frozen, as it was. Gradients, moments and checkpoints exist for the first part
alone. An adapter of a matrix W [D, F] is a pair A [D, r], B [r, F]: the layer
multiplies by `W + (alpha / r) A B`, and so does the model after `merge`.
"""

from __future__ import annotations

import dataclasses
import zlib
from typing import Any

import jax
import jax.numpy as jnp

from ntk_jax.errors import ConfigError, unknown
from ntk_jax.initializers import init_matrix
from ntk_jax.model.block import ADAPTED, adapter_names
from ntk_jax.model.config import ModelConfig
from ntk_jax.model.params import Params, param_shapes
from ntk_jax.typing import Array

_ATTENTION = (*ADAPTED, 'attention_norm', 'attention_post_norm', 'head_norm')
_ATTENTION += tuple(f'{name}_{kind}' for name in 'qk' for kind in ('norm',))
_ATTENTION += tuple(f'{name}_bias' for name in ADAPTED)
# Kind -> whether a parameter of that name is trained.
_TRAINED = {
  'all': lambda name: True,
  'attention': lambda name: name in _ATTENTION,
  'norms_embeddings': lambda name: name == 'embed' or name.endswith('norm'),
  'lora': lambda name: False,
}
_TRAINED['longlora'] = _TRAINED['norms_embeddings']
_ADAPTING = ('lora', 'longlora')
TRAINABLE = tuple(_TRAINED)


@dataclasses.dataclass(frozen=True)
class Trainable:
  """What of a model is trained.

  Attributes:
    kind: 'all'; 'attention' (q, k, v, out, their biases and norms);
      'norms_embeddings' (all norms and the input embedding); 'lora' (adapters
      of q, k, v and out, all else frozen); 'longlora' (both of these).
    rank: r of the adapters.
    alpha: the adapters' product is multiplied by alpha / r; None is 2 r.

  Source: Hu et al. 2021 (arXiv 2106.09685), section 4.1; norms and embeddings
  beside the adapters: Chen et al. 2023 (arXiv 2309.12307), section 3.3.

  >>> Trainable.parse('lora:16')
  Trainable(kind='lora', rank=16, alpha=None)
  """

  kind: str = 'all'
  rank: int = 8
  alpha: float | None = None

  @classmethod
  def parse(cls, text: str) -> Trainable:
    """Of what a user types: a kind, with `:rank` after lora or longlora.

    Raises:
      ConfigError: for another kind, or a rank that is none.
    """
    kind, colon, rank = text.partition(':')
    if colon and not (kind in _ADAPTING and rank.isdecimal() and int(rank)):
      raise ConfigError(
        f'trainable is {text!r}: a rank from 1 up, as in lora:8, goes with '
        f'{" and ".join(_ADAPTING)} alone'
      )
    made = cls(kind, int(rank)) if colon else cls(kind)
    made.validate()
    return made

  @property
  def adapts(self) -> bool:
    """Whether there are adapters."""
    return self.kind in _ADAPTING

  @property
  def scale(self) -> float:
    """The multiplier of an adapter's product."""
    return 2.0 if self.alpha is None else self.alpha / self.rank

  def __str__(self) -> str:
    """As `parse` takes it.

    >>> str(Trainable('lora', 4)), str(Trainable())
    ('lora:4', 'all')
    """
    return f'{self.kind}:{self.rank}' if self.adapts else self.kind

  def trains(self, name: str) -> bool:
    """Whether the parameter of that name is trained itself."""
    return _TRAINED[self.kind](name)

  def validate(self) -> None:
    """Raises ConfigError, all problems in one message."""
    wrong = []
    if self.kind not in TRAINABLE:
      wrong.append(str(unknown('trainable', self.kind, TRAINABLE)))
    if self.rank < 1:
      wrong.append(f'rank is {self.rank}, must be at least 1')
    if self.alpha is not None and not 0 < self.alpha < float('inf'):
      wrong.append(f'alpha is {self.alpha}, must be finite and above 0')
    if wrong:
      raise ConfigError('; '.join(wrong))


def split(
  params: Params, trainable: Trainable, key: Array
) -> tuple[Params, Params]:
  """Parameters that are trained, with adapters, and those that are frozen.

  Args:
    params: a whole model's.
    trainable: what of it is trained.
    key: draws the A of each adapter, of standard deviation 1 / sqrt(D); each
      B is 0, so that training starts from the model as it is.

  Returns:
    Two trees of the structure of `params` without what is in the other: the
    trained part in float32, whatever it was stored in (a small step would
    round to nothing in bfloat16), and the frozen part untouched.
  """

  def half(trained: bool) -> Params:
    def own(name: str, leaf: Array | None) -> Any:
      if leaf is None or trainable.trains(name) != trained:
        return None
      return leaf.astype(jnp.float32) if trained else leaf

    every = {name: own(name, leaf) for name, leaf in params.layers.items()}
    layers = {name: leaf for name, leaf in every.items() if leaf is not None}
    rest = {n: own(n, getattr(params, n)) for n in _OUTSIDE}
    return Params(layers=layers, **rest)

  trained, frozen = half(True), half(False)
  if trainable.adapts:
    trained.layers.update(_adapters(params, trainable.rank, key))
  return trained, frozen


_OUTSIDE = ('embed', 'final_norm', 'unembed')


def _adapters(params: Params, rank: int, key: Array) -> dict[str, Array]:
  made = {}
  for name in ADAPTED:
    L, D, F = params.layers[name].shape
    a, b = adapter_names(name)
    own = jax.random.fold_in(key, zlib.crc32(a.encode()))
    made[a] = init_matrix(own, (L, D, rank), D).astype(jnp.float32)
    made[b] = jnp.zeros((L, rank, F), jnp.float32)
  return made


def combine(
  trained: Params, frozen: Params | None, trainable: Trainable
) -> Params:
  """One tree that a forward pass takes, adapters in it; copies no matrix.

  Args:
    trained: as `split` gives it, or as training has left it.
    frozen: the other part; None where all is trained.
    trainable: what `split` was told.
  """
  layers = dict(trained.layers)
  if trainable.adapts:
    for name in ADAPTED:
      _, b = adapter_names(name)
      layers[b] = trainable.scale * layers[b]
  if frozen is None:
    return trained._replace(layers=layers)
  rest = {
    name: getattr(frozen, name)
    if getattr(trained, name) is None
    else getattr(trained, name)
    for name in _OUTSIDE
  }
  return Params(layers={**frozen.layers, **layers}, **rest)


def merge(
  trained: Params, frozen: Params | None, trainable: Trainable, like: Any = None
) -> Params:
  """A whole model without adapters: `W + (alpha / r) A B`, one rounding.

  Args:
    trained: as training has left it.
    frozen: the other part, or None.
    trainable: what `split` was told.
    like: a tree with the dtypes of the result; None keeps those of each part.
  """
  whole = combine(trained, frozen, trainable)
  layers = dict(whole.layers)
  for name in ADAPTED if trainable.adapts else ():
    a, b = (layers.pop(each) for each in adapter_names(name))
    layers[name] = _merged(layers[name], a, b)
  whole = whole._replace(layers=layers)
  if like is None:
    return whole
  return jax.tree.map(lambda leaf, as_: leaf.astype(as_.dtype), whole, like)


@jax.jit
def _merged(w_LDF: Array, a_LDR: Array, b_LRF: Array) -> Array:
  """`W + A B` layer by layer, summed in float32."""

  def one(parts: tuple[Array, Array, Array]) -> Array:
    w, a, b = parts
    product = jnp.dot(a, b, precision='highest')
    return (w.astype(jnp.float32) + product).astype(w.dtype)

  return jax.lax.map(one, (w_LDF, a_LDR, b_LRF))


def trained_shapes(
  config: ModelConfig, trainable: Trainable
) -> tuple[Params, Params]:
  """`split` of shapes alone: float32 for what is trained."""

  def whole() -> Params:
    return jax.tree.map(
      lambda shape: jnp.zeros(shape, config.precision.params),
      param_shapes(config),
      is_leaf=lambda x: type(x) is tuple,
    )

  return jax.eval_shape(lambda: split(whole(), trainable, jax.random.key(0)))
