"""The shape of a decoder, and how many parameters it has."""

from __future__ import annotations

import dataclasses
import math

from ntk_jax.errors import ConfigError, unknown
from ntk_jax.model.precision import Precision
from ntk_jax.model.remat import REMAT
from ntk_jax.temperature import divisor

ACTIVATIONS = ('silu', 'gelu', 'gelu_exact')
_FROM_ONE = (
  'vocab',
  'dim',
  'layers',
  'heads',
  'kv_heads',
  'head_dim',
  'mlp_dim',
  'experts_per_token',
  'rope_theta',
)
_ABOVE_ZERO = (
  'norm_eps',
  'attention_scale',
  'attention_soft_cap',
  'logit_soft_cap',
  'out_gain',
)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """The shape of a decoder: RMS norms, rotary attention, gated MLPs.

  Attributes:
    vocab: token ids, V.
    dim: residual width, D.
    layers: blocks, L.
    heads: query heads, N.
    kv_heads: key and value heads, K; divides heads. 1 is MQA, N is MHA.
    head_dim: width of a head, H; even.
    mlp_dim: hidden width of the MLP, or of each expert, F.
    experts: gated MLPs of a layer, E, behind a router (Mixtral); 0 is one MLP
      without a router.
    experts_per_token: those that a token is sent to. With 1 the router gets
      no gradient.
    rope_theta: base of the rotary frequencies.
    layer_plan: for each layer the number of its scheme (rope, temperature,
      window) among those that a forward pass is given; empty is 0 for all.
    activation: of the gate: silu (SwiGLU), gelu (GeGLU, tanh form) or
      gelu_exact.
    norm_eps: of every RMS norm.
    norm_offset: norms multiply by 1 + weight (Gemma), stored around 0.
    qkv_bias: biases on q, k and v (Qwen 2).
    out_bias: a bias on the attention's output projection.
    mlp_bias: biases in the MLP.
    qk_norm: an RMS norm over each head's q and k before rope (Qwen 3).
    post_norms: norms on what attention and MLP add to the stream (Gemma 2).
    head_norm: an RMS norm over each head's attention output: its variance
      does not depend on length.
    divisor: of q . k: sqrt (sqrt(H)) or linear (H).
    attention_scale: multiplier of q . k in place of the divisor, or None.
    attention_soft_cap: bound of the attention logits, or None.
    logit_soft_cap: bound of the output logits, or None.
    tied: the output matrix is the embedding's transpose.
    scale_embed: the embedding is multiplied by sqrt(D).
    out_gain: factor of the output projections of attention at the start; see
      `ntk_jax.initializers.length_aware_gain`.
    precision: dtypes of parameters and of computation.
    remat: what a backward pass recomputes; a name of `ntk_jax.model.REMAT`.
    mlp_chunk: most tokens of a device whose hidden channels of an MLP exist at
      a time; its backward pass makes them again, whatever remat says. None is
      all of them, kept as remat says.
  """

  vocab: int
  dim: int = 128
  layers: int = 4
  heads: int = 4
  kv_heads: int = 4
  head_dim: int = 32
  mlp_dim: int = 344
  experts: int = 0
  experts_per_token: int = 2
  rope_theta: float = 1e4
  layer_plan: tuple[int, ...] = ()
  activation: str = 'silu'
  norm_eps: float = 1e-6
  norm_offset: bool = False
  qkv_bias: bool = False
  out_bias: bool = False
  mlp_bias: bool = False
  qk_norm: bool = False
  post_norms: bool = False
  head_norm: bool = False
  divisor: str = 'sqrt'
  attention_scale: float | None = None
  attention_soft_cap: float | None = None
  logit_soft_cap: float | None = None
  tied: bool = True
  scale_embed: bool = True
  out_gain: float = 1.0
  precision: Precision = Precision()
  remat: str = 'none'
  mlp_chunk: int | None = None

  def __post_init__(self) -> None:
    """Makes the plan a tuple of ints, as a static argument has to be."""
    plan = tuple(int(number) for number in self.layer_plan)
    object.__setattr__(self, 'layer_plan', plan)

  @property
  def plan(self) -> tuple[int, ...]:
    """The number of each layer's scheme."""
    return self.layer_plan or (0,) * self.layers

  @property
  def scale(self) -> float:
    """The multiplier of q . k."""
    if self.attention_scale is not None:
      return self.attention_scale
    return 1 / divisor(self.head_dim, self.divisor)

  def problems(self) -> list[str]:
    """What is wrong, one message per field."""
    wrong = [
      f'{name} is {getattr(self, name)}, must be at least 1'
      for name in _FROM_ONE
      if getattr(self, name) < 1
    ]
    for name in _ABOVE_ZERO:
      value = getattr(self, name)
      if value is not None and not (math.isfinite(value) and value > 0):
        wrong.append(f'{name} is {value}, must be finite and above 0')
    chunk = self.mlp_chunk
    whole = isinstance(chunk, int) and not isinstance(chunk, bool)
    if chunk is not None and not (whole and chunk >= 1):
      wrong.append(
        f'mlp_chunk is {chunk!r}, must be at least 1 token, or None for all '
        'at once'
      )
    if self.head_dim % 2:
      wrong.append(f'head_dim is {self.head_dim}, must be even for rope')
    if self.kv_heads > 0 and self.heads % self.kv_heads:
      wrong.append(f'kv_heads {self.kv_heads} must divide heads {self.heads}')
    wrong += self._expert_problems()
    if self.layer_plan and len(self.layer_plan) != self.layers:
      wrong.append(
        f'layer_plan names the schemes of {len(self.layer_plan)} layers, '
        f'there are {self.layers}'
      )
    if any(number < 0 for number in self.layer_plan):
      wrong.append(f'layer_plan is {self.layer_plan}: numbers from 0 up')
    for name, allowed in (
      ('activation', ACTIVATIONS),
      ('divisor', ('sqrt', 'linear')),
      ('remat', tuple(REMAT)),
    ):
      value = getattr(self, name)
      if value not in allowed:
        wrong.append(str(unknown(name, value, allowed)))
    return wrong + self.precision.problems()

  def _expert_problems(self) -> list[str]:
    if self.experts == 0:
      return []
    wrong = []
    if self.experts < 2:
      wrong.append(
        f'experts is {self.experts}, must be 0 (one MLP, no router) or at '
        'least 2'
      )
    elif self.experts_per_token > self.experts:
      wrong.append(
        f'experts_per_token is {self.experts_per_token}, must be 1 to '
        f'experts, {self.experts}'
      )
    if self.mlp_bias:
      wrong.append('mlp_bias with experts: experts have no biases, turn it off')
    return wrong

  def validate(self) -> None:
    """Raises ConfigError, all problems in one message."""
    wrong = self.problems()
    if wrong:
      raise ConfigError('model: ' + '; '.join(wrong))
