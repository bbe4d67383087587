"""What can be done to any method's frequencies afterwards."""

from __future__ import annotations

import math

import numpy as np

from ntk_jax.errors import ConfigError, unknown
from ntk_jax.rope.frequencies import Frequencies

_PAIRS = 20  # pairs that CoPE clips, as published

# A name, or a name with the number of pairs that it acts on.
Modifier = str | tuple[str, int]


def resonance(inv_freq: Frequencies) -> Frequencies:
  """Whole wavelengths: `w' = 2 pi / round(2 pi / w)`, so tables are periodic.

  Zero frequencies stay; wavelengths below one token become one.

  Source: Wang et al. 2024 (arXiv 2403.00071), equation 5.

  >>> (2 * np.pi / resonance(np.array([1.0, 0.01]))).round(6)
  array([  6., 628.])
  """
  turning = inv_freq > 0
  wavelength = np.round(2 * math.pi / np.where(turning, inv_freq, 1.0))
  return np.where(turning, 2 * math.pi / np.maximum(wavelength, 1.0), 0.0)


def cope(inv_freq: Frequencies, pairs: int = _PAIRS) -> Frequencies:
  """CoPE, soft: the last n pairs times `(1 + cos(pi j / (n - 1))) / 2`.

  Source: arXiv 2602.05258, soft clipping.

  >>> cope(np.ones(4), pairs=3)
  array([1. , 1. , 0.5, 0. ])
  """
  fade = 0.5 * (1 + np.cos(np.linspace(0.0, math.pi, pairs)))
  return np.concatenate([inv_freq[:-pairs], inv_freq[-pairs:] * fade])


def cope_hard(inv_freq: Frequencies, pairs: int = _PAIRS) -> Frequencies:
  """CoPE, hard: the last n pairs do not turn.

  Source: arXiv 2602.05258, hard clipping.

  >>> cope_hard(np.ones(4), pairs=3)
  array([1., 0., 0., 0.])
  """
  return np.concatenate([inv_freq[:-pairs], np.zeros(pairs)])


_CLIPS = {'cope': cope, 'cope_hard': cope_hard}
MODIFIERS = ('resonance', *_CLIPS)


def modify(inv_freq: Frequencies, modifier: Modifier) -> Frequencies:
  """Applies a modifier by name.

  Args:
    inv_freq: frequencies of any method.
    modifier: `'resonance'`, `'cope'`, `'cope_hard'`, or `('cope', n)` for
      other than the last 20 pairs.

  Raises:
    ConfigError: an unknown name, or a number of pairs that are not there.

  >>> modify(np.ones(3), ('cope_hard', 2))
  array([1., 0., 0.])
  """
  parts = modifier if isinstance(modifier, tuple) else (modifier,)
  name, *count = parts or ('',)
  if not isinstance(name, str) or name not in MODIFIERS:
    raise unknown('rope modifier', name, MODIFIERS)
  if name == 'resonance':
    if count:
      raise ConfigError(f'modifier {modifier!r}: resonance takes no number')
    return resonance(inv_freq)
  pairs = count[0] if count else _PAIRS
  if len(count) > 1 or not isinstance(pairs, int) or isinstance(pairs, bool):
    raise ConfigError(f'modifier {modifier!r}: use a name or (name, pairs)')
  if not 1 <= pairs <= len(inv_freq):
    raise ConfigError(
      f'modifier {name!r} acts on the last {pairs} pairs, but there are '
      f'{len(inv_freq)}; give how many, as ({name!r}, 4) or {name}:4'
    )
  return _CLIPS[name](inv_freq, pairs)
