"""A RoPE method with its settings: a value, checked once, used everywhere."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from ntk_jax.errors import ConfigError, unknown
from ntk_jax.rope.methods import METHODS, REQUIRED, Method, bind
from ntk_jax.rope.modifiers import Modifier, modify
from ntk_jax.typing import ArrayLike, Float64, NDArray

_FIELDS = ('factor', 'original_length')  # what a method may require of a spec
_WIDEST = 2**16  # channels of a head
_LONGEST = 2**53  # tokens; whole numbers are exact in float64 up to here
_LISTS = ('short_factor', 'long_factor')
_POSITIVE = (
  'beta_fast',
  'beta_slow',
  'low_freq_factor',
  'high_freq_factor',
  'b',
)


@dataclasses.dataclass(frozen=True)
class RopeSpec:
  """A RoPE method and its settings: frequencies as a function of length.

  Attributes:
    method: a key of `METHODS`.
    head_dim: channels of a head, H.
    theta: base of the unscaled frequencies.
    partial_rotary_factor: share of the head that turns; `proportional` keeps
      the whole head and gives the rest of the pairs frequency 0.
    original_length: trained length L0 in tokens.
    factor: the method's scale (s, k, or alpha of `ntk`), at least 1.
      Per-length methods without one take it as the nominal target / L0.
    attention_factor: multiplier of cos and sin; None is the method's own.
    options: further settings of the method, any mapping; kept as sorted pairs.
    modifiers: applied in order: 'resonance', 'cope', 'cope_hard', or
      ('cope', n) for other than the last 20 pairs.

  Raises:
    ConfigError: an unknown name, or a value that is missing, unused or out of
      range, naming field, value and what is allowed.

  Sources: those of `METHODS`.

  >>> spec = RopeSpec('yarn', 128, factor=16.0, original_length=4096)
  >>> inv_freq, attention_factor = spec.frequencies()
  >>> print(inv_freq[0], round(inv_freq[-1], 10), attention_factor.round(4))
  1.0 7.2174e-06 1.2773
  """

  method: str
  head_dim: int
  theta: float = 1e4
  partial_rotary_factor: float = 1.0
  original_length: int | None = None
  factor: float | None = None
  attention_factor: float | None = None
  options: Any = ()
  modifiers: tuple[Modifier, ...] = ()

  def __post_init__(self) -> None:
    if not isinstance(self.method, str) or self.method not in METHODS:
      raise unknown('rope method', self.method, METHODS)
    self._set('options', _sorted_pairs(self.options))
    if not isinstance(self.modifiers, tuple | list):
      raise ConfigError(
        f'modifiers is {self.modifiers!r}; give a tuple: ({self.modifiers!r},)'
      )
    self._set('modifiers', tuple(map(_frozen, self.modifiers)))
    self._check_shape()
    for name in ('theta', 'factor', 'attention_factor'):
      value = getattr(self, name)
      if value is not None or name == 'theta':
        self._set(name, _number(f'{self.method}: {name}', value))
    if self.theta <= 0:
      raise ConfigError(f'theta is {self.theta}, must be above 0')
    if self.factor is not None and self.factor < 1:
      raise ConfigError(
        f'{self.method}: factor is {self.factor}, must be at least 1 (target '
        'length / original length)'
      )
    if self.attention_factor is not None and self.attention_factor <= 0:
      raise ConfigError(
        f'attention_factor is {self.attention_factor}, must be above 0'
      )
    if self.original_length is not None:
      length = _whole('original_length', self.original_length, _LONGEST)
      self._set('original_length', length)
      if length * (self.factor or 1.0) > _LONGEST:
        raise ConfigError(
          f'{self.method}: factor is {self.factor} and original_length '
          f'{length}: the target length is beyond 2**53 tokens'
        )
    self._check_arguments()
    self.frequencies(None)  # what only the numbers show, shows now
    if self.per_length:
      self.frequencies(2 * (self.original_length or 1))

  @property
  def rotary_dim(self) -> int:
    """Channels that turn: `int(head_dim * partial_rotary_factor)`."""
    if self.method == 'proportional':
      return self.head_dim
    return int(self.head_dim * self.partial_rotary_factor)

  @property
  def per_length(self) -> bool:
    """Whether the frequencies change with the length that is seen."""
    options = dict(self.options)
    if self.method == 'longrope':
      return options['short_factor'] != options['long_factor']
    return METHODS[self.method].per_length

  @property
  def resolved_options(self) -> dict[str, Any]:
    """The options with the defaults of those not given."""
    defaults = METHODS[self.method].options
    return {k: v for k, v in defaults.items() if v is not REQUIRED} | dict(
      self.options
    )

  def frequencies(
    self, length: ArrayLike | None = None
  ) -> tuple[Float64[NDArray, '*len P'], Float64[NDArray, '*len']]:
    """Inverse frequencies and attention factor at a length.

    Args:
      length: highest position + 1 that a sequence sees, an int or an array of
        them, concrete; None is at or below the original length.

    Returns:
      Radians per token `[*len, P]`, and the multiplier of cos and sin `[*len]`.

    Raises:
      ConfigError: a length below 1 or not whole, or a traced one.

    >>> spec = RopeSpec('dynamic', 4, factor=1.0, original_length=4096)
    >>> spec.frequencies(np.array([4096, 8192]))[0]
    array([[1.   , 0.01 ],
           [1.   , 0.005]])
    """
    if length is None:
      inv_freq, factor = self._at(None)
      return inv_freq, np.asarray(factor, np.float64)
    lengths = _lengths(length)
    known = {int(n): self._at(int(n)) for n in np.unique(lengths)}
    pairs = [known[int(n)] for n in lengths.ravel()]
    inv_freq = np.array([w for w, _ in pairs], np.float64)
    factor = np.array([a for _, a in pairs], np.float64)
    shape = lengths.shape
    return inv_freq.reshape(*shape, self.rotary_dim // 2), factor.reshape(shape)

  def describe(self) -> str:
    """What the method does, in words and numbers, over several lines.

    Wavelengths, pairs that never turn within the original length, the
    critical dimension `2 ceil(d/2 log_theta(L0 / 2 pi))` (Liu et al. 2023,
    arXiv 2310.05209), and the factor.

    >>> spec = RopeSpec('linear', 128, factor=8.0, original_length=4096)
    >>> print(spec.describe())
    linear: w_i / s
      factor 8, original length 4096, target length 32768, theta 10000
      attention factor 1
      wavelengths 50.27 to 4.353e+05 tokens in 64 pairs of 128 channels
      unscaled, pairs 46 to 63 (18) never turn within 4096 tokens
      critical dimension 92 of 128
    """
    row = METHODS[self.method]
    inv_freq, attention = self.frequencies(self.target_length)
    settings = [
      f'{name} {value:g}' if isinstance(value, float) else f'{name} {value}'
      for name, value in self._settings()
    ]
    lines = [f'{self.method}: {row.formula}', ', '.join(settings)]
    lines.append(f'attention factor {float(attention):.6g}')
    turning = inv_freq[inv_freq > 0]
    if len(turning):
      with np.errstate(over='ignore'):  # a wavelength beyond float64
        waves = 2 * math.pi / turning
      lines.append(
        f'wavelengths {waves.min():.4g} to {waves.max():.4g} tokens in '
        f'{len(turning)} pairs of {self.head_dim} channels'
      )
    still = len(inv_freq) - len(turning)
    if still:
      lines.append(f'{still} pairs do not turn at all')
    return '\n  '.join(lines + self._within_original())

  @property
  def target_length(self) -> int | None:
    """Original length times factor, where both are known."""
    if self.original_length is None:
      return None
    # Down to whole tokens, but not for a product just short of one.
    return math.floor(self.original_length * (self.factor or 1.0) * (1 + 1e-12))

  @classmethod
  def from_hf(
    cls, config: Mapping[str, Any], layer_type: str | None = None
  ) -> RopeSpec | None:
    """The spec of a Hugging Face config.json; see `ntk_jax.rope.hf`."""
    from ntk_jax.rope import hf

    return hf.spec_from(config, layer_type)

  def to_hf(self, form: str = 'dual', *, carrier: bool = False) -> dict:
    """Keys to merge into a config.json; see `ntk_jax.rope.hf_export`."""
    from ntk_jax.rope import hf_export

    return hf_export.fields_of(self, form, carrier=carrier)

  def _settings(self) -> list[tuple[str, Any]]:
    named = [
      ('factor', self.factor),
      ('original length', self.original_length),
      ('target length', self.target_length if self.factor else None),
      ('theta', self.theta),
      *self.resolved_options.items(),
      ('modifiers', self.modifiers or None),
    ]
    return [(name, value) for name, value in named if value is not None]

  def _within_original(self) -> list[str]:
    """What the unscaled frequencies make of the original length."""
    length, dim = self.original_length, self.rotary_dim
    if length is None or dim == 0:
      return []
    unscaled = RopeSpec('default', dim, theta=self.theta).frequencies()[0]
    slow = np.flatnonzero(length * unscaled < 2 * math.pi)
    lines = []
    if len(slow):
      lines.append(
        f'unscaled, pairs {slow[0]} to {slow[-1]} ({len(slow)}) never turn '
        f'within {length} tokens'
      )
    if self.theta > 1 and length > 2 * math.pi:
      pairs = dim / 2 * math.log(length / (2 * math.pi)) / math.log(self.theta)
      critical = min(dim, 2 * math.ceil(pairs))
      lines.append(f'critical dimension {critical} of {dim}')
    return lines

  def _at(self, length: int | None) -> tuple[NDArray, float]:
    row = METHODS[self.method]
    given = self._given() | {
      'theta': self.theta,
      'dim': self.rotary_dim,
      'length': length,
      'partial_rotary_factor': self.partial_rotary_factor,
    }
    inv_freq = self._computed(given)
    for modifier in self.modifiers:
      inv_freq = modify(inv_freq, modifier)
    if self.attention_factor is not None:
      return inv_freq, self.attention_factor
    return inv_freq, bind(row.attention, given) if row.attention else 1.0

  def _computed(self, given: dict[str, Any]) -> NDArray:
    """The method's frequencies, or one error where numbers run out."""
    try:
      with np.errstate(all='ignore'):
        inv_freq = bind(METHODS[self.method].frequencies, given)
    except ConfigError:
      raise
    except (ArithmeticError, ValueError):
      inv_freq = np.array([np.nan])
    if not (np.isfinite(inv_freq) & (inv_freq >= 0)).all():
      raise ConfigError(
        f'{self.method}: these settings give frequencies that are not finite, '
        f'or negative: '
        f'{str(self)[:400]}'
      )
    return inv_freq

  def _given(self) -> dict[str, Any]:
    fields = {name: getattr(self, name) for name in _FIELDS}
    return {k: v for k, v in fields.items() if v is not None} | dict(
      self.options
    )

  def _set(self, name: str, value: Any) -> None:
    object.__setattr__(self, name, value)

  def _check_shape(self) -> None:
    self._set('head_dim', _whole('head_dim', self.head_dim, _WIDEST))
    share = _number('partial_rotary_factor', self.partial_rotary_factor)
    self._set('partial_rotary_factor', share)
    lowest = 0.0 if self.method == 'proportional' else math.ulp(0.0)
    if not lowest <= share <= 1:
      raise ConfigError(
        f'partial_rotary_factor is {share}, must be above 0 and at most 1'
      )
    dim = self.rotary_dim
    if dim < 2 or dim % 2:
      raise ConfigError(
        f'rotary dim is {dim} (head_dim {self.head_dim} * '
        f'partial_rotary_factor {share:g}), must be even and at least 2'
      )

  def _check_arguments(self) -> None:
    row, given = METHODS[self.method], self._given()
    options = row.options
    for name in dict(self.options):
      if name not in options:
        raise unknown(f'option of {self.method}', name, options or ['(none)'])
    functions: list[Any] = [row.frequencies]
    if self.attention_factor is None and row.attention:
      functions.append(row.attention)
    for name in _required(functions):
      if name not in given:
        raise ConfigError(f'{self.method} needs {name}; {_remedy(name)}')
    unused = self.factor is not None and 'factor' not in row.arguments
    if unused and not row.per_length:
      raise ConfigError(
        f'{self.method} takes no factor, but factor is {self.factor}; name a '
        'method that scales'
      )
    self._check_options(row)

  def _check_options(self, row: Method) -> None:
    for name, value in self.options:
      if name in _LISTS:
        self._check_list(name, value)
      elif isinstance(row.options[name], bool):
        if not isinstance(value, bool):
          raise ConfigError(f'{name} is {value!r}, must be True or False')
      elif name == 'start_token':
        if isinstance(value, bool) or not isinstance(value, int):
          raise ConfigError(f'{name} is {value!r}, must be a whole number')
      else:
        number = _number(f'{self.method}: {name}', value)
        if number < 0 or (name in _POSITIVE and number == 0):
          bound = 'above 0' if name in _POSITIVE else 'at least 0'
          raise ConfigError(
            f'{self.method}: {name} is {value}, must be {bound}'
          )

  def _check_list(self, name: str, value: Any) -> None:
    pairs = self.rotary_dim // 2
    if not isinstance(value, tuple) or len(value) != pairs:
      size = len(value) if isinstance(value, tuple) else repr(value)
      raise ConfigError(
        f'{self.method}: {name} has {size} entries, must be a list of {pairs} '
        f'(rotary dim {self.rotary_dim} / 2)'
      )
    for entry in value:
      if _number(f'{self.method}: an entry of {name}', entry) <= 0:
        raise ConfigError(
          f'{self.method}: an entry of {name} is {entry}, must be above 0'
        )


def _required(functions: list[Any]) -> dict[str, None]:
  """Names that the functions need and a spec must give, in order."""
  own = ('theta', 'dim', 'length')
  return {
    name: None
    for function in functions
    for name, default in Method(function, '', '').arguments.items()
    if default is REQUIRED and name not in own
  }


def _remedy(name: str) -> str:
  if name == 'original_length':
    return 'give the length in tokens that the model was trained at'
  if name == 'factor':
    return 'give target length / original length, at least 1'
  return f"give it in options, as options={{'{name}': ...}}"


def _sorted_pairs(options: Any) -> tuple[tuple[str, Any], ...]:
  """Any mapping or pairs as sorted, hashable pairs; None is not given."""
  try:
    given = dict(options)
    named = sorted((str(name), value) for name, value in given.items())
  except (TypeError, ValueError) as error:
    raise ConfigError(
      f'options is {options!r}, must be a mapping of names to values'
    ) from error
  return tuple((k, _frozen(v)) for k, v in named if v is not None)


def _frozen(value: Any) -> Any:
  """Lists and arrays as tuples of plain values."""
  if isinstance(value, np.ndarray | np.generic):
    value = value.tolist()
  if isinstance(value, list | tuple):
    return tuple(_frozen(v) for v in value)
  return value


def _number(name: str, value: Any) -> float:
  if isinstance(value, np.generic):
    value = value.item()
  if isinstance(value, bool) or not isinstance(value, int | float):
    raise ConfigError(f'{name} is {repr(value)[:80]}, must be a number')
  try:
    number = float(value)
  except OverflowError:
    number = math.inf
  if not math.isfinite(number):
    raise ConfigError(f'{name} is {str(value)[:20]}, must be finite')
  return number


def _whole(name: str, value: Any, most: int) -> int:
  number = _number(name, value)
  if number != int(number) or not 1 <= number <= most:
    raise ConfigError(f'{name} is {value}, must be a whole number, 1 to {most}')
  return int(number)


def _lengths(length: Any) -> NDArray:
  if isinstance(length, jax.core.Tracer):
    raise ConfigError(
      'length is traced: frequencies are made on the host in float64; compute '
      'them outside jit and pass the arrays in (Scheme.arrays does)'
    )
  try:
    lengths = np.asarray(length)
  except ValueError:  # rows of different sizes
    lengths = np.array('ragged')
  if lengths.dtype.kind not in 'iu' or (lengths.size and lengths.min() < 1):
    raise ConfigError(
      f'length is {length!r}, must be whole numbers of tokens, at least 1'
    )
  return lengths
