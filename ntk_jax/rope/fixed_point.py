"""Angles as 64-bit fractions of a turn, in the two uint32 words JAX has.

A frequency w becomes the integer F = round(w / (2 pi) * 2**64) modulo 2**64.
The upper half of `p * F` is the angle of position p in units of 2**-32 turn:
integer overflow removes the whole turns, so that the error is a few units at
every position, without float64, range reduction or transcendental functions.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from ntk_jax.typing import Array, ArrayLike, Float32, Int32, UInt32

RADIANS = np.float32(2 * np.pi / 2**32)  # of one unit

# Bits of 1 / (2 pi): the exponents of float64, the 64 that are kept, and 128
# that decide the rounding.
_BITS = 1024 + 64 + 128


def _inverse_two_pi(bits: int) -> int:
  """floor(2**bits / (2 pi)), with pi by Machin's formula on integers."""
  one = 1 << (2 * bits)

  def arctan_of_inverse(n: int) -> int:
    power, total, k = one // n, 0, 1
    while power:
      total += power // k if k % 4 == 1 else -(power // k)
      power //= n * n
      k += 2
    return total

  pi = 4 * (4 * arctan_of_inverse(5) - arctan_of_inverse(239))
  return (one << bits) // (2 * pi)


_INVERSE_TWO_PI = _inverse_two_pi(_BITS)
# The same in words, for float32: 160 zero bits, since its least exponent e is
# -150, then 256 bits after the binary point.
_WORDS = np.array(
  [0] * 5
  + [_INVERSE_TWO_PI >> (_BITS - 32 * k) & 0xFFFFFFFF for k in range(1, 9)],
  np.uint32,
)


def turns(frequency: float) -> int:
  """round(w / (2 pi) * 2**64) modulo 2**64, in exact integer arithmetic.

  Args:
    frequency: w >= 0 in radians per position, finite.

  >>> hex(turns(1.0)), turns(0.0)
  ('0x28be60db9391054a', 0)
  """
  mantissa, exponent = math.frexp(frequency)
  shift = _BITS - 64 + 53 - exponent
  product = int(math.ldexp(mantissa, 53)) * _INVERSE_TWO_PI
  return ((product + (1 << (shift - 1))) >> shift) % 2**64


def turns_of_float32(
  w: Float32[Array, '*P'],
) -> tuple[UInt32[Array, '*P'], UInt32[Array, '*P']]:
  """`turns` of float32 values inside a program: the (high, low) words.

  w = m * 2**e with a 24-bit m. The bits of 1 / (2 pi) of weight 2**-e and
  more make whole turns; m times the next 128 bits is the rest, of which 64
  are kept. (Zero and subnormal w are read as 2**-127 or so: they round to 0.)
  A negative w gives the negative turns; one that is not finite is the
  caller's to mask.

  Source: Payne and Hanek 1983, Radian reduction for trigonometric functions.

  >>> high, low = turns_of_float32(jnp.array([1.0]))
  >>> print(hex(high[0]), hex(low[0]))
  0x28be60db 0x9391054a
  """
  bits = jax.lax.bitcast_convert_type(w, jnp.uint32)
  m = (bits & 0x7FFFFF) | 0x800000
  start = ((bits >> 23) & 0xFF) + 10  # e + 160, the exponent field is e + 150
  index, shift = (start >> 5).astype(jnp.int32), start & 31
  table = jnp.asarray(_WORDS)
  words = [table[index + k] for k in range(5)]
  product, carry = [], jnp.zeros_like(m)
  for k in (3, 2, 1, 0):
    window = (words[k] << shift) | ((words[k + 1] >> 1) >> (31 - shift))
    term = m * window + carry
    carry = high_product(m, window) + (term < carry)
    product.append(term)
  low = product[2] + (product[1] >> 31)
  high = product[3] + (low < product[2])
  negative = (bits >> 31) == 1
  return (
    jnp.where(negative, ~high + (low == 0), high),
    jnp.where(negative, -low, low),
  )


def high_product(
  a: UInt32[Array, '*a'], b: UInt32[Array, '*b']
) -> UInt32[Array, '*product']:
  """The upper 32 bits of a product of two uint32, in 16-bit limbs.

  >>> print(high_product(jnp.uint32(2**31), jnp.uint32(6)))
  3
  """
  a1, a0, b1, b0 = a >> 16, a & 0xFFFF, b >> 16, b & 0xFFFF
  middle = a1 * b0 + ((a0 * b0) >> 16)
  return a1 * b1 + (middle >> 16) + ((a0 * b1 + (middle & 0xFFFF)) >> 16)


def difference(
  new: UInt32[ArrayLike, '*new 2'], old: UInt32[ArrayLike, '*old 2']
) -> UInt32[Array, '*difference 2']:
  """Phase words of w_new - w_old: subtraction modulo 2**64.

  >>> new, old = jnp.array([[2, 0], [0, 0]], 'uint32'), jnp.uint32([0, 1])
  >>> print(difference(new, old))
  [[         1 4294967295]
   [4294967295 4294967295]]
  """
  new, old = jnp.asarray(new), jnp.asarray(old)
  borrow = (new[..., 1] < old[..., 1]).astype(jnp.uint32)
  high = new[..., 0] - old[..., 0] - borrow
  return jnp.stack([high, new[..., 1] - old[..., 1]], axis=-1)


def phase(
  p: Int32[Array, '*p'], high: UInt32[Array, '*w'], low: UInt32[Array, '*w']
) -> UInt32[Array, '*phase']:
  """The angle of position p in units of 2**-32 turn, modulo one turn.

  The magnitude of p is multiplied and its sign given back: opposite positions
  have opposite angles, to the bit.

  >>> quarter = jnp.uint32(2**30)  # of a turn per position
  >>> print(phase(jnp.array([3, -3, 4]), quarter, jnp.uint32(0)) / 2.0**32)
  [0.75 0.25 0.  ]
  """
  size = jnp.abs(p).astype(jnp.uint32)  # also of -2**31
  units = size * high + high_product(size, low)
  return jnp.where(p < 0, -units, units)


def rotation(
  units: UInt32[Array, '*phase'], radians: ArrayLike = RADIANS
) -> tuple[Float32[Array, '*phase'], Float32[Array, '*phase']]:
  """Cosine and sine of an angle in units of 2**-32 turn, to 1.2e-7.

  The nearest quarter turn, and polynomials of degree 8 and 7 in the rest,
  r in [-pi/4, pi/4].

  Args:
    units: the angle.
    radians: of one unit; NaN where the result shall be NaN.

  Source: Moshier's Cephes library, sinf.c and cosf.c (the coefficients).

  >>> cos, sin = rotation(jnp.uint32(2**32 // 6))
  >>> print(cos, sin)
  0.5 0.8660254
  """
  quarter = (units + jnp.uint32(2**29)) >> 30
  rest = jax.lax.bitcast_convert_type(units - (quarter << 30), jnp.int32)
  r = rest.astype(jnp.float32) * radians
  x = r * r
  c = -1.388731625493765e-3 + x * 2.443315711809948e-5
  c = 1 - 0.5 * x + x * x * (4.166664568298827e-2 + x * c)
  s = 8.3321608736e-3 + x * -1.9515295891e-4
  s = r + r * x * (-1.6666654611e-1 + x * s)
  swap = (quarter & 1) == 1
  cos, sin = jnp.where(swap, s, c), jnp.where(swap, c, s)
  return (
    jnp.where(((quarter + 1) & 2) == 2, -cos, cos),
    jnp.where((quarter & 2) == 2, -sin, sin),
  )
