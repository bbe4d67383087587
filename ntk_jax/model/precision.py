"""Which numbers are held and multiplied in which dtype."""

from __future__ import annotations

import dataclasses

from ntk_jax.errors import unknown

DTYPES = ('float32', 'bfloat16')
# What parameters can be held in; float16 is of checkpoints, and training in it
# underflows.
_HELD = (*DTYPES, 'float16')


@dataclasses.dataclass(frozen=True)
class Precision:
  """Dtypes by their use.

  Norms, logits, softmax, rope and loss are float32 whatever is set here, and
  matrix products of bfloat16 operands are summed in float32. The optimizer's
  dtype is its own setting.

  Attributes:
    params: parameters as they are stored and updated.
    compute: operands of matrix products, and the residual stream.

  >>> Precision(compute='bfloat17').problems()
  ["unknown compute dtype 'bfloat17': did you mean 'bfloat16'? Allowed: \
float32, bfloat16"]
  """

  params: str = 'float32'
  compute: str = 'float32'

  def problems(self) -> list[str]:
    """What is wrong, one message per field."""
    allowed = {'params': _HELD, 'compute': DTYPES}
    return [
      str(unknown(f'{name} dtype', getattr(self, name), dtypes))
      for name, dtypes in allowed.items()
      if getattr(self, name) not in dtypes
    ]
