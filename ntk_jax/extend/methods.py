"""The methods that an extension job compares, by the names users type.

A name is a method, then `+`-separated additions: `ntk+logn`, `yarn+window`,
`ntk+cope:4` (the last 4 pairs).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

from ntk_jax.errors import ConfigError, unknown
from ntk_jax.rope.methods import METHODS
from ntk_jax.rope.modifiers import Modifier
from ntk_jax.rope.spec import RopeSpec
from ntk_jax.scheme import Scheme
from ntk_jax.temperature import Temperature

DEFAULT_METHODS = (
  'none',
  'window',
  'linear',
  'ntk',
  'yarn',
  'by_parts',
  'yarn_scaled',
  'dynamic',
  'ntk+logn',
)


class Setting(NamedTuple):
  """What defines a method here.

  Attributes:
    head_dim: of the model.
    theta: of the model.
    train_length: L0.
    factor: target / L0.
    partial_rotary_factor: share of a head that turns.
    own: the schemes of a model that came with some; () is plain rope.
  """

  head_dim: int
  theta: float
  train_length: int
  factor: float
  partial_rotary_factor: float = 1.0
  own: tuple[Scheme, ...] = ()

  def spec(self, method: str, **fields: Any) -> RopeSpec:
    """A spec of this setting; a method that does not scale takes no factor."""
    scaled: dict[str, Any] = {
      'original_length': self.train_length,
      'factor': self.factor,
      'partial_rotary_factor': self.partial_rotary_factor,
    }
    return RopeSpec(
      method, self.head_dim, theta=self.theta, **{**scaled, **fields}
    )


@dataclasses.dataclass(frozen=True)
class Candidate:
  """One row of the comparison.

  Attributes:
    name: what a user types.
    label: what a table prints.
    family: methods of one family differ in details; fine-tuning takes the
      best of two families.
    scheme: rope spec, temperature and window.
    layers: the schemes by their number in the layer plan, where not all are
      `scheme`.
  """

  name: str
  label: str
  family: str
  scheme: Scheme
  layers: tuple[Scheme, ...] = ()

  @property
  def schemes(self) -> tuple[Scheme, ...]:
    """One for each number of the layer plan."""
    return self.layers or (self.scheme,)


class _Recipe(NamedTuple):
  label: str
  family: str
  spec: Callable[[Setting], RopeSpec]


def _of(method: str, **fields: Any) -> Callable[[Setting], RopeSpec]:
  return lambda setting: setting.spec(method, **fields)


def _unscaled(setting: Setting) -> RopeSpec:
  return RopeSpec(
    'default',
    setting.head_dim,
    theta=setting.theta,
    partial_rotary_factor=setting.partial_rotary_factor,
  )


def _yarn_scaled(setting: Setting) -> RopeSpec:
  betas = {'beta_fast': setting.train_length / (8 * math.pi), 'beta_slow': 1.0}
  return setting.spec('yarn', options={**betas, 'truncate': False})


_LLAMA3 = {'low_freq_factor': 1.0, 'high_freq_factor': 4.0}

_RECIPES: dict[str, _Recipe] = {
  'none': _Recipe('no method', 'none', _unscaled),
  'window': _Recipe('sliding window', 'window', _unscaled),
  'linear': _Recipe('linear interpolation', 'linear', _of('linear')),
  'ntk': _Recipe('NTK-aware', 'ntk', _of('ntk')),
  'yarn': _Recipe('YaRN (betas 32, 1)', 'yarn', _of('yarn')),
  'by_parts': _Recipe(
    'NTK-by-parts (YaRN, factor 1)', 'yarn', _of('yarn', attention_factor=1.0)
  ),
  'yarn_scaled': _Recipe('YaRN, betas scaled to L0', 'yarn', _yarn_scaled),
  'dynamic': _Recipe('dynamic NTK', 'ntk', _of('dynamic', factor=1.0)),
  'ntk_exponent': _Recipe('exponent form', 'ntk', _of('ntk_exponent')),
  'dynamic_linear': _Recipe(
    'dynamic linear', 'linear', _of('dynamic_linear', factor=None)
  ),
  'ntk_by_parts': _Recipe('NTK-by-parts v1', 'yarn', _of('ntk_by_parts')),
  'yarn_paper': _Recipe('YaRN, ramp of the paper', 'yarn', _of('yarn_paper')),
  'dynamic_yarn': _Recipe(
    'dynamic YaRN', 'yarn', _of('dynamic_yarn', factor=None)
  ),
  'yarn_harmonic': _Recipe('YaRN, harmonic', 'yarn', _of('yarn_harmonic')),
  'yarn_log': _Recipe('YaRN, geometric', 'yarn', _of('yarn_log')),
  'theta_scale': _Recipe('theta scale', 'ntk', _of('theta_scale')),
  'llama3': _Recipe('Llama 3 (1, 4)', 'yarn', _of('llama3', options=_LLAMA3)),
  'ntk_fixed': _Recipe('NTK fixed (Su)', 'ntk', _of('ntk_fixed')),
  'ntk_mixed': _Recipe('NTK mixed (Su)', 'ntk', _of('ntk_mixed')),
}

_SEARCHED = 'needs factor lists that a search or a checkpoint gives'
_NOT_DEFINED = {
  'longrope': _SEARCHED,
  'dynamic_longrope': _SEARCHED,
  'mixed_longrope': _SEARCHED,
  'proportional': 'needs the share of pairs that turn, a choice of training',
}
# Every method of the table is either a row or has its reason.
_IN_RECIPES = {'default': 'none'}

_COUNTED = ('cope', 'cope_hard')  # take a number of pairs, as cope:4
_ADDITIONS = ('logn', 'window', 'resonance', *_COUNTED)


def catalogue() -> tuple[str, ...]:
  """The names of methods, without additions."""
  return tuple(_RECIPES)


def candidate(name: str, setting: Setting) -> Candidate:
  """The row that a name stands for.

  Raises:
    ConfigError: for an unknown name or addition, or one given twice, and
      where the method is not defined in this setting.
  """
  base, *additions = name.split('+')
  if base not in _RECIPES:
    reason = _NOT_DEFINED.get(base)
    if reason:
      raise ConfigError(f'method {base!r} is not applicable here: {reason}')
    raise unknown('method', base, _RECIPES)
  kinds = [addition.partition(':')[0] for addition in additions]
  for kind in kinds:
    if kind not in _ADDITIONS:
      raise unknown('addition to a method', kind, _ADDITIONS)
    if kinds.count(kind) > 1:
      raise ConfigError(f'method {name!r} has the addition {kind!r} twice')
  label, family, make = _RECIPES[base]
  spec = make(setting)
  modifiers = tuple(
    _modifier(a) for a in additions if a not in ('logn', 'window')
  )
  if modifiers:
    spec = dataclasses.replace(spec, modifiers=modifiers)
  windowed = 'window' in (base, *additions)
  length = setting.train_length
  logn = Temperature('logn', length=length) if 'logn' in additions else None
  scheme = Scheme(spec, logn, length if windowed else None)
  label = ' + '.join([label, *additions]).replace('logn', 'log-n')
  return _in_layers(Candidate(name, label, family, scheme), setting.own)


def _in_layers(made: Candidate, own: tuple[Scheme, ...]) -> Candidate:
  """A method in the place of a model's own schemes.

  It takes the place of those that `extended` names; the others, and windows
  and temperatures that it does not bring, stay.
  """
  if not own:
    return made
  first = own[extended(own)[0]]
  if made.name == 'none':
    method = first.spec.method
    label = 'as it is' if method == 'default' else f'as it is ({method})'
    return dataclasses.replace(made, label=label, scheme=first, layers=own)

  def replaced(scheme: Scheme) -> Scheme:
    spec = scheme.spec if made.name == 'window' else made.scheme.spec
    return Scheme(
      spec,
      made.scheme.temperature or scheme.temperature,
      made.scheme.window if scheme.window is None else scheme.window,
    )

  layers = tuple(
    replaced(scheme) if number in extended(own) else scheme
    for number, scheme in enumerate(own)
  )
  scheme = layers[extended(own)[0]]
  return dataclasses.replace(made, scheme=scheme, layers=layers)


def extended(own: tuple[Scheme, ...]) -> list[int]:
  """Numbers of the schemes that have to change for a longer context.

  Those that turn and see everything; if all that turn have a window, these.

  Raises:
    ConfigError: if none turns.
  """
  turning = [
    n
    for n, scheme in enumerate(own)
    if scheme.spec.method != 'proportional'
    or scheme.spec.partial_rotary_factor > 0
  ]
  if not turning:
    raise ConfigError(
      'no layer of the model has a position embedding: there is no method to '
      'choose'
    )
  return [n for n in turning if own[n].window is None] or turning


def _modifier(addition: str) -> Modifier:
  """The modifier of an addition; `cope:4` acts on the last 4 pairs."""
  kind, colon, pairs = addition.partition(':')
  if not colon:
    return kind
  if kind not in _COUNTED or not pairs.isdecimal():
    raise ConfigError(
      f'addition {addition!r}: a number of pairs, as in cope:4, goes with '
      f'{" and ".join(_COUNTED)} alone'
    )
  return kind, int(pairs)


def select(
  names: tuple[str, ...], setting: Setting
) -> tuple[list[Candidate], list[dict[str, str]]]:
  """The rows to compare, and what was asked for but is not applicable.

  Args:
    names: method names, or ('all',) for every method that theta, L0 and the
      factor define. `none` is always compared: it is what others are
      measured against.
    setting: head, theta, L0 and factor.

  Returns:
    Candidates in the order asked, and `{'name', 'reason'}` of the others.

  Raises:
    ConfigError: for an unknown or repeated name.
  """
  if names == ('all',):
    return _select_all(setting)
  if not names or len(set(names)) != len(names):
    raise ConfigError(
      f'methods are {",".join(names)!r}: name each method once, at least one'
    )
  wanted = names if 'none' in names else ('none', *names)
  return [candidate(name, setting) for name in wanted], []


def _select_all(
  setting: Setting,
) -> tuple[list[Candidate], list[dict[str, str]]]:
  extra = [n for n in METHODS if _IN_RECIPES.get(n, n) not in _RECIPES]
  names = [*_RECIPES, *extra, 'ntk+logn', 'yarn+resonance', 'ntk+cope:4']
  candidates, others = [], []
  for name in names:
    try:
      candidates.append(candidate(name, setting))
    except ConfigError as error:
      reason = _NOT_DEFINED.get(name, str(error))
      others.append({'name': name, 'reason': reason})
  return candidates, others
