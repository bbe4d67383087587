"""Temperatures that are one number: divisors, and factors of cos and sin."""

from __future__ import annotations

import math

import numpy as np

from ntk_jax.errors import ConfigError, unknown


def yarn(factor: float, mscale: float = 1.0) -> float:
  """YaRN's multiplier of cos and sin: 0.1 mscale ln s + 1 (of logits: squared).

  Raises:
    ConfigError: a factor below 1.

  Source: Peng et al. 2023, arXiv:2309.00071, section 3.4; mscale is DeepSeek's.

  >>> round(yarn(32) ** 2, 6)
  1.81326
  """
  _check_factor(factor)
  check_number('mscale', mscale)
  return 0.1 * mscale * math.log(factor) + 1.0


def longrope(factor: float, length: int) -> float:
  """LongRoPE's multiplier of cos and sin: sqrt(1 + ln s / ln L0).

  Args:
    factor: s, the target length over the original one.
    length: L0, the original length.

  Raises:
    ConfigError: a factor below 1, a length that is not an integer or below 2.

  Source: Ding et al. 2024, arXiv:2402.13753; Phi-3 (transformers).

  >>> round(longrope(32, 4096), 6)
  1.190238
  """
  _check_factor(factor)
  check_integer('length', length, least=2)
  return math.sqrt(1 + math.log(factor) / math.log(length))


def deepseek(factor: float, mscale_all_dim: float) -> float:
  """DeepSeek's multiplier of the softmax scale: yarn(s, mscale_all_dim)^2.

  Raises:
    ConfigError: a factor below 1.

  Source: DeepSeek-V2 and V3 (transformers, yarn_apply_mscale).

  >>> round(deepseek(40, 1.0), 6)
  1.873854
  """
  return yarn(factor, mscale_all_dim) ** 2


def chunk_llama(factor: float) -> float:
  """ChunkLlama's multiplier of cos and sin: 0.05 ln(L / L0) + 1.

  Args:
    factor: L / L0.

  Raises:
    ConfigError: a factor below 1.

  Source: An et al. 2024, arXiv:2402.17463 (the authors' code).

  >>> round(chunk_llama(8), 6)
  1.103972
  """
  return yarn(factor, 0.5)


def yarn_log(factor: float) -> float:
  """Grok's multiplier of cos and sin under its geometric YaRN: sqrt(s).

  Raises:
    ConfigError: a factor below 1.

  Source: Grok 2 (SGLang).

  >>> yarn_log(4)
  2.0
  """
  _check_factor(factor)
  return math.sqrt(factor)


def divisor(head_dim: int, kind: str | float = 'sqrt') -> float:
  """What logits are divided by: the softmax scale is 1 / divisor.

  Args:
    head_dim: d.
    kind: 'sqrt' for sqrt(d); 'linear' for d, as in muP; or a number, which is
      the divisor itself (Gemma: sqrt(query_pre_attn_scalar); Granite:
      1 / attention_multiplier).

  Raises:
    ConfigError: an unknown kind, a number that is not positive and finite, a
      head_dim that is not an integer or below 1.

  Source: Vaswani et al. 2017, arXiv:1706.03762; Yang et al. 2022,
  arXiv:2203.03466 (muP).

  >>> divisor(64), divisor(64, 'linear'), divisor(64, 12.0)
  (8.0, 64.0, 12.0)
  """
  check_integer('head_dim', head_dim, least=1)
  if isinstance(kind, str):
    kinds = {'sqrt': math.sqrt(head_dim), 'linear': float(head_dim)}
    if kind not in kinds:
      raise unknown('divisor', kind, [*kinds, 'a positive number'])
    return kinds[kind]
  check_number('divisor', kind)
  if kind <= 0:
    raise ConfigError(f'divisor is {kind}, must be positive and finite')
  return float(kind)


def check_integer(name: str, value: int, least: int) -> None:
  """ConfigError unless an integer in [least, 2**31).

  >>> check_integer('length', 512, least=2)
  """
  integer = isinstance(value, int | np.integer) and value is not True
  if not integer or not least <= value < 2**31:
    raise ConfigError(f'{name} is {value!r}, must be an integer >= {least}')


def check_number(name: str, value: float) -> None:
  """ConfigError unless a finite number.

  >>> check_number('beta', 0.1)
  """
  number = isinstance(value, int | float | np.integer | np.floating)
  if isinstance(value, bool) or not number or not -math.inf < value < math.inf:
    raise ConfigError(f'{name} is {value!r}, must be a finite number')


def _check_factor(factor: float) -> None:
  check_number('factor', factor)
  if factor < 1:
    raise ConfigError(f'factor is {factor}, must be at least 1')
