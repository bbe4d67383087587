"""What rows do with positions, as functions of their size."""

from __future__ import annotations

from ntk_jax.model.preset import Rule, Size
from ntk_jax.rope.frequencies import raised_theta
from ntk_jax.scheme import Scheme
from ntk_jax.temperature import Temperature


def plain(size: Size) -> tuple[Scheme, ...]:
  """RoPE of the model's base."""
  return (size.scheme(),)


def plain_by_halves(size: Size) -> tuple[Scheme, ...]:
  """The same for two numbers of a layer plan."""
  return size.scheme(), size.scheme()


def dynamic(size: Size) -> tuple[Scheme, ...]:
  """Dynamic NTK of factor 1: alpha is L / L0."""
  return (size.scheme('dynamic', factor=1.0),)


def based(theta: float) -> Rule:
  """RoPE of another base, whatever the model's own."""
  return lambda size: (size.scheme(theta=theta),)


def linear(size: Size) -> tuple[Scheme, ...]:
  """Positions divided by the factor."""
  return (size.scheme('linear', factor=size.factor),)


def ntk_logn_window(size: Size) -> tuple[Scheme, ...]:
  """Dynamic NTK and log-n everywhere, a window of L0 in the lower half."""
  temperature = Temperature('logn', length=size.original)
  lower, upper = (
    size.scheme('dynamic', factor=2.0, temperature=temperature, window=keys)
    for keys in (size.original, None)
  )
  return lower, upper


def ntk_linear(size: Size) -> tuple[Scheme, ...]:
  """Linear by 2, NTK by the rest: w_0 / 2 .. w_last / factor."""
  theta = raised_theta(size.theta, size.head_dim, size.factor / 2)
  reached = size.target // 2  # by the base, before positions are halved
  return (
    size.scheme('linear', factor=2.0, theta=theta, original_length=reached),
  )


def window(size: Size) -> tuple[Scheme, ...]:
  """A window of half the original length."""
  return (size.scheme(window=size.original // 2),)


def window_yarn(size: Size) -> tuple[Scheme, ...]:
  """The window is widened by the factor that YaRN stretches by."""
  return (size.scheme('yarn', factor=size.factor, window=size.target // 2),)


def _local(size: Size) -> Scheme:
  return size.scheme(window=size.original // 8)


def local_and_global(size: Size) -> tuple[Scheme, ...]:
  """Llama 4's temperature on p-RoPE layers, which alone are scaled."""
  return _local(size), size.scheme(
    'proportional',
    theta=1e6,
    partial_rotary_factor=0.25,
    factor=size.factor,
    temperature=Temperature('llama4', floor=size.original),
  )


def local_and_nope(size: Size) -> tuple[Scheme, ...]:
  """The same temperature on layers without position embedding."""
  return _local(size), size.scheme(
    'proportional',
    partial_rotary_factor=0.0,
    temperature=Temperature('llama4', floor=size.original),
  )
