"""One scheme for inference that does what mixed training did."""

from __future__ import annotations

from ntk_jax.errors import ConfigError
from ntk_jax.rope.frequencies import default_frequencies
from ntk_jax.rope.spec import RopeSpec
from ntk_jax.scheme import Scheme
from ntk_jax.train.alternatives import unscaled_below, usable


def two_sided(
  scheme: Scheme, original: Scheme, original_length: int, length: int
) -> Scheme:
  """The original frequencies up to L0 tokens, the rescaled beyond.

  LongRoPE's form, which evaluation, generation and export know: a sequence is
  read by its highest position + 1.

  Args:
    scheme: of documents beyond L0.
    original: of documents of up to L0.
    original_length: L0 in tokens.
    length: that the rescaled method saw.

  Raises:
    ConfigError: what `usable` says; frequencies of 0, which no divisor gives;
      factors of cos and sin, or temperatures, that differ between the sides.

  Source: LongRoPE2, Shang et al. 2025, arXiv:2502.20082.

  >>> import numpy as np
  >>> linear = Scheme(RopeSpec('linear', 4, factor=4.0))
  >>> both = two_sided(linear, Scheme(RopeSpec('default', 4)), 8, 32)
  >>> both.spec.frequencies(np.array([8, 9]))[0]
  array([[1.    , 0.01  ],
         [0.25  , 0.0025]])
  """
  wrong = usable([scheme], [original], original_length, length)
  sides = original.spec.frequencies(None), scheme.spec.frequencies(length)
  (short, factor), (long, long_factor) = sides
  if not (short.all() and long.all()):
    wrong.append('pairs of frequency 0 have no divisor')
  if factor != long_factor:
    wrong.append(
      f'cos and sin are multiplied by {factor:g} up to {original_length} '
      f'tokens and by {long_factor:g} beyond: a scheme has one factor; set '
      'attention_factor of both alike'
    )
  if original.temperature != scheme.temperature and not (
    original.temperature is None and unscaled_below(scheme, original_length)
  ):
    wrong.append('the temperatures of the two sides differ')
  if wrong:
    raise ConfigError('; '.join(wrong))
  spec = scheme.spec
  share = spec.partial_rotary_factor
  plain = default_frequencies(spec.theta, spec.rotary_dim)
  longrope = RopeSpec(
    'longrope',
    spec.head_dim,
    theta=spec.theta,
    partial_rotary_factor=1.0 if spec.method == 'proportional' else share,
    original_length=original_length,
    factor=length / original_length,
    attention_factor=float(factor),
    options={'short_factor': plain / short, 'long_factor': plain / long},
  )
  return Scheme(longrope, scheme.temperature, scheme.window)
