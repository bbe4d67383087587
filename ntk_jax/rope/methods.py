"""The table of RoPE methods: what each computes, needs and comes from.

A method's function names in its signature what it takes; that is the schema
that a `RopeSpec` is checked against: `factor` and `original_length` are fields
of the spec, `length` makes the method per-length, all other names are options,
and what has a default may be left out.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from ntk_jax import temperature
from ntk_jax.rope import frequencies, yarn
from ntk_jax.rope.frequencies import Frequencies, growth

REQUIRED = inspect.Parameter.empty  # default of what must be given
_NOT_OPTIONS = (
  'theta',
  'dim',
  'length',
  'factor',
  'original_length',
  'partial_rotary_factor',
)


class Method(NamedTuple):
  """One row of the table.

  Attributes:
    frequencies: pure function of (theta, rotary dim, ...) to inverse
      frequencies, float64.
    formula: what it computes, in the letters of `frequencies.py`.
    source: paper or code.
    attention: pure function to the factor on cos and sin, of the same names;
      None for 1.
  """

  frequencies: Callable[..., Frequencies]
  formula: str
  source: str
  attention: Callable[..., float] | None = None

  @property
  def per_length(self) -> bool:
    """Whether the frequencies change with the length that is seen."""
    return 'length' in inspect.signature(self.frequencies).parameters

  @property
  def arguments(self) -> dict[str, Any]:
    """All that either function takes, with defaults (or REQUIRED)."""
    functions = [f for f in (self.attention, self.frequencies) if f]
    return {
      name: parameter.default
      for function in functions
      for name, parameter in inspect.signature(function).parameters.items()
    }

  @property
  def options(self) -> dict[str, Any]:
    """The arguments that a spec carries as options."""
    return {k: v for k, v in self.arguments.items() if k not in _NOT_OPTIONS}


def bind(function: Callable[..., Any], given: Mapping[str, Any]) -> Any:
  """Calls a function with those of the given values that it names.

  >>> bind(sqrt_attention, {'factor': 4.0, 'theta': 1e4})
  2.0
  """
  names = inspect.signature(function).parameters
  return function(**{k: v for k, v in given.items() if k in names})


def yarn_attention(
  factor: float,
  mscale: float | None = None,
  mscale_all_dim: float | None = None,
) -> float:
  """YaRN's factor on cos and sin: `m(s)`, `m(s, k) = 0.1 k ln(s) + 1`.

  With both mscale options given and not 0 it is `m(s, mscale) /
  m(s, mscale_all_dim)`; one alone changes nothing.

  Source: arXiv 2309.00071, equation 22; transformers for the mscale pair.

  >>> round(yarn_attention(16.0), 6)
  1.277259
  >>> yarn_attention(40.0, mscale=1.0, mscale_all_dim=1.0)
  1.0
  """
  if mscale and mscale_all_dim:
    above = temperature.yarn(factor, mscale)
    return above / temperature.yarn(factor, mscale_all_dim)
  return temperature.yarn(factor)


def dynamic_yarn_attention(
  original_length: int,
  length: int | None,
  mscale: float | None = None,
  mscale_all_dim: float | None = None,
) -> float:
  """YaRN's factor with `s = L / L0` at every length.

  Source: `LlamaDynamicYaRNScaledRotaryEmbedding` of jquesnelle/yarn.

  >>> round(dynamic_yarn_attention(4096, 65536), 6)
  1.277259
  """
  times = growth(length, original_length)
  return yarn_attention(times, mscale, mscale_all_dim)


def longrope_attention(factor: float, original_length: int) -> float:
  """LongRoPE's factor on cos and sin: `sqrt(1 + ln s / ln L0)`.

  Source: arXiv 2402.13753, section 3; transformers `longrope`.

  >>> round(longrope_attention(32.0, 4096), 6)
  1.190238
  """
  return temperature.longrope(factor, original_length)


def sqrt_attention(factor: float) -> float:
  """Grok's factor on cos and sin: `sqrt(s)`.

  Source: `_yarn_get_mscale` of Grok in sglang-jax.

  >>> sqrt_attention(4.0)
  2.0
  """
  return math.sqrt(factor)


METHODS: Mapping[str, Method] = MappingProxyType(
  {
    'default': Method(
      frequencies.default_frequencies,
      'w_i = theta^(-2i/d)',
      'Su et al. 2021, arXiv 2104.09864',
    ),
    'linear': Method(
      frequencies.linear_frequencies,
      'w_i / s',
      'Chen et al. 2023, arXiv 2306.15595',
    ),
    'ntk': Method(
      frequencies.ntk_frequencies,
      'theta -> theta * s^(d/(d-2))',
      'bloc97 2023; arXiv 2309.00071, eq. 16',
    ),
    'ntk_exponent': Method(
      frequencies.exponent_frequencies,
      'theta^(-(2i/d) q), q = 1 + d/(d-2) ln(s)/ln(theta)',
      'exact rewriting of arXiv 2309.00071, eq. 16',
    ),
    'dynamic': Method(
      frequencies.dynamic_frequencies,
      'theta -> theta * (s L/L0 - (s-1))^(d/(d-2)) for L > L0',
      'emozilla 2023; transformers',
    ),
    'dynamic_linear': Method(
      frequencies.dynamic_linear_frequencies,
      'w_i L0/L for L > L0',
      'jquesnelle/yarn, LlamaDynamicScaled',
    ),
    'ntk_by_parts': Method(
      yarn.ntk_by_parts_frequencies,
      'w/s, NTK and w, joined by ramps over 0.75..1.25 and 2..16 turns',
      'jquesnelle/yarn, LlamaPartNTKScaled',
    ),
    'yarn': Method(
      yarn.yarn_frequencies,
      '(w/s) r + w (1-r), r a ramp over pairs',
      'Peng et al. 2023, arXiv 2309.00071; transformers',
      yarn_attention,
    ),
    'yarn_paper': Method(
      yarn.yarn_paper_frequencies,
      '(w/s) (1-g) + w g, g a ramp over turns within L0',
      'Peng et al. 2023, arXiv 2309.00071, eq. 17-19',
      yarn_attention,
    ),
    'dynamic_yarn': Method(
      yarn.dynamic_yarn_frequencies,
      'yarn with s = L/L0 for L > L0',
      'jquesnelle/yarn, LlamaDynamicYaRNScaled',
      dynamic_yarn_attention,
    ),
    'yarn_harmonic': Method(
      yarn.yarn_harmonic_frequencies,
      'w / (r s + 1 - r)',
      'dwzhu-pku/PoSE, revised_yarn',
      yarn_attention,
    ),
    'yarn_log': Method(
      yarn.yarn_log_frequencies,
      'w s^(-r)',
      'sglang-jax, Grok',
      sqrt_attention,
    ),
    'theta_scale': Method(
      frequencies.theta_scale_frequencies,
      'theta -> theta^p, p = ln(s L0/2pi) / ln(L0/2pi)',
      'sglang-jax, Grok',
    ),
    'longrope': Method(
      frequencies.longrope_frequencies,
      'w_i / short_i, or w_i / long_i for L > L0',
      'Ding et al. 2024, arXiv 2402.13753; transformers',
      longrope_attention,
    ),
    'dynamic_longrope': Method(
      frequencies.dynamic_longrope_frequencies,
      'w_i / (1 + (long_i - 1) (L/L0 - 1)/(s - 1)) for L > L0',
      'microsoft/LongRoPE, DynamicLongRoPE',
      longrope_attention,
    ),
    'mixed_longrope': Method(
      frequencies.mixed_longrope_frequencies,
      'w_i / long_i; the first start_token positions keep w_i',
      'microsoft/LongRoPE, MixedLongRoPE',
      longrope_attention,
    ),
    'llama3': Method(
      frequencies.llama3_frequencies,
      'w/s below low turns in L0, w above high, blended between',
      'meta-llama/llama-models; transformers',
    ),
    'proportional': Method(
      frequencies.proportional_frequencies,
      'w_i over the full head for the first share p of pairs, 0 beyond',
      'Barbero et al. 2024, arXiv 2410.06205; transformers',
    ),
    'ntk_fixed': Method(
      frequencies.ntk_fixed_frequencies,
      'w_i s^(-2(i+1)/d)',
      'Su 2023, kexue.fm/9706',
    ),
    'ntk_mixed': Method(
      frequencies.ntk_mixed_frequencies,
      'w_i exp(-a (i+1)^b), a = ln(s) / (d/2)^b',
      'Su 2023, kexue.fm/9706',
    ),
  }
)
