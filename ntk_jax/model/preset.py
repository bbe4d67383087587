"""A row of the presets: a system's decoder and how it reaches its length."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

from ntk_jax.errors import ConfigError
from ntk_jax.model.config import ModelConfig
from ntk_jax.model.plan import segments
from ntk_jax.rope.spec import RopeSpec
from ntk_jax.scheme import Scheme, Temperature

_TINY_LAYERS, _TINY_HEADS, _TINY_TIMES = 4, 4, 8


class Size(NamedTuple):
  """What a row's schemes depend on.

  Attributes:
    head_dim: width of a head, H.
    theta: base of the model's frequencies.
    original: L0, tokens.
    target: length to reach, tokens.
  """

  head_dim: int
  theta: float
  original: int
  target: int

  @property
  def factor(self) -> float:
    """Target / original length."""
    return self.target / self.original

  def scheme(
    self,
    method: str = 'default',
    *,
    temperature: Temperature | None = None,
    window: int | None = None,
    **fields: Any,
  ) -> Scheme:
    """A scheme of this size; fields are those of `RopeSpec`."""
    own: dict[str, Any] = {
      'theta': self.theta,
      'original_length': self.original,
    }
    spec = RopeSpec(method, self.head_dim, **{**own, **fields})
    return Scheme(spec, temperature, window)


Rule = Callable[[Size], tuple[Scheme, ...]]


@dataclasses.dataclass(frozen=True)
class Preset:
  """One row: a decoder, two lengths, and the schemes that join them.

  Attributes:
    name: as `PRESETS` has it.
    source: paper, model card or config that the row is taken from.
    did: what the system really did, in words.
    here: how the row maps to it, in words.
    model: the decoder, at real size until `tiny`.
    original_length: L0, tokens of the rows it was first trained on.
    target_length: tokens that it is to read.
    rule: from a size to the schemes at the target, one for each number in the
      model's layer plan.
    base: the same before the extension; None where the rule says it, for a
      target that is the original length.
    tuned: whether the parameters are trained further at the target length
      with these schemes; otherwise they are used as they come.
  """

  name: str
  source: str
  did: str
  here: str
  model: ModelConfig
  original_length: int
  target_length: int
  rule: Rule
  base: Rule | None = None
  tuned: bool = False

  @property
  def system(self) -> str:
    """The name before its variant."""
    return self.name.partition('-')[0]

  @property
  def schemes(self) -> tuple[Scheme, ...]:
    """How positions enter the layers at the target length."""
    return self.rule(self._size(self.target_length))

  @property
  def base_schemes(self) -> tuple[Scheme, ...]:
    """How they did in the first training, at the original length."""
    return (self.base or self.rule)(self._size(self.original_length))

  @property
  def training_length(self) -> int:
    """Tokens of the rows of the last training."""
    return self.target_length if self.tuned else self.original_length

  @property
  def training_schemes(self) -> tuple[Scheme, ...]:
    """The schemes of the last training; never per-length ones."""
    return self.schemes if self.tuned else self.base_schemes

  @property
  def refusal(self) -> str:
    """What no Hugging Face config.json can say of the row; '' if all can.

    Dynamic NTK, bases, linear and YaRN scaling and windows have fields there;
    a multiplier of q that grows with position has none.
    """
    for scheme in self.schemes:
      if scheme.temperature is not None:
        return f'temperature {getattr(scheme.temperature, "kind", "")!r}'
    return ''

  def tiny(self, vocab: int = 256, length: int = 128) -> Preset:
    """The same row for a CPU: 4 layers of width 128, short lengths.

    What differs between rows stays: shares of kv heads, norms, biases, layer
    plan, bases, and windows and floors as shares of the original length. The
    target is at most 8 times the original length.

    Args:
      vocab: ids of the model.
      length: the original length, at least 64.

    Raises:
      ConfigError: a length below 64.
    """
    if length < 64:
      raise ConfigError(
        f'length is {length}, must be at least 64: windows are shares of it'
      )
    model = self.model
    times = min(self.target_length // self.original_length, _TINY_TIMES)
    tiny = dataclasses.replace(
      model,
      vocab=vocab,
      dim=128,
      layers=_TINY_LAYERS,
      heads=_TINY_HEADS,
      kv_heads=max(1, _TINY_HEADS * model.kv_heads // model.heads),
      head_dim=32,
      mlp_dim=344,
      layer_plan=_shortened(model.layer_plan),
    )
    return dataclasses.replace(
      self, model=tiny, original_length=length, target_length=times * length
    )

  def _size(self, target: int) -> Size:
    model = self.model
    return Size(model.head_dim, model.rope_theta, self.original_length, target)


def _shortened(plan: tuple[int, ...]) -> tuple[int, ...]:
  """The plan of fewer layers: its patterns, repeated less often.

  >>> _shortened((0, 0, 0, 1) * 8), _shortened((0,) * 16 + (1,) * 16)
  ((0, 0, 0, 1), (0, 0, 1, 1))
  """
  shorter: tuple[int, ...] = ()
  for segment in segments(plan):
    pattern = tuple(plan[segment.start :][: len(segment.pattern)])
    shorter += pattern * max(1, segment.repeats * _TINY_LAYERS // len(plan))
  return shorter
