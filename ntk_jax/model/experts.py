"""An MLP of experts: a router sends every token to a few of E gated MLPs.

No load is balanced here: the auxiliary loss that a router is trained from
scratch with is out of scope; what is fine-tuned keeps the balance it has.
No token is dropped either, however uneven the load.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ntk_jax.model.layers import dense, gated
from ntk_jax.model.remat import name
from ntk_jax.typing import Array, Float, Float32, Int32

# So few pairs (token, expert) read the matrices of their own experts alone.
_FEW = 8
# Rows of a block at most: more make no product faster.
_BLOCK = 256


class Routes(NamedTuple):
  """Where each token goes.

  Attributes:
    weights: of its experts, the largest first; they sum to 1.
    numbers: of those experts, in [0, E).
  """

  weights: Float32[Array, 'tokens chosen']
  numbers: Int32[Array, 'tokens chosen']


def route(
  x: Float[Array, 'tokens D'], router: Float[Array, 'D E'], chosen: int
) -> Routes:
  """The experts of largest probability: `p = softmax(x W_r)`, in float32.

  The chosen ones' probabilities are divided by their sum. Of equal ones the
  lower number goes first. With one expert per token its weight is 1 whatever
  the router says, so the router gets no gradient.

  Args:
    x: tokens.
    router: W_r.
    chosen: experts per token.

  Source: Jiang et al. 2024 (arXiv 2401.04088), section 2.1; a softmax over
  the chosen logits, as written there, is the same.

  >>> x = jnp.log(jnp.array([[1.0, 6.0, 3.0]]))
  >>> weights, numbers = route(x, jnp.eye(3), 2)
  >>> print(numbers[0], [round(float(w), 4) for w in weights[0]])
  [1 2] [0.6667, 0.3333]
  """
  logits = jnp.dot(
    x.astype(jnp.float32), router.astype(jnp.float32), precision='highest'
  )
  top, numbers = jax.lax.top_k(jax.nn.softmax(logits, axis=-1), chosen)
  return Routes(top / jnp.sum(top, axis=-1, keepdims=True), numbers)


def experts(
  x: Float[Array, 'tokens D'],
  routes: Routes,
  gate: Float[Array, 'E D F'],
  up: Float[Array, 'E D F'],
  down: Float[Array, 'E F D'],
  activation: str = 'silu',
) -> Float[Array, 'tokens D']:
  """`sum_e p_e (act(x W_gate,e) * (x W_up,e)) W_down,e` over chosen experts.

  Each expert multiplies its own tokens only, in blocks of one expert; a few
  tokens read the matrices of the chosen experts only. Products are of x's
  dtype, the weights p_e and the sum over experts float32.

  Args:
    x: tokens.
    routes: of `route`.
    gate: W_gate of every expert.
    up: W_up.
    down: W_down.
    activation: as in `gated`.

  Source: Jiang et al. 2024 (arXiv 2401.04088), section 2.1; Gale et al. 2022
  (arXiv 2211.15841) for blocks in place of a capacity.

  >>> x, one = jnp.ones((1, 1)), jnp.ones((2, 1, 1))
  >>> routes = Routes(jnp.ones((1, 1)), jnp.zeros((1, 1), int))
  >>> print(round(float(experts(x, routes, one, one, one)[0, 0]), 4))
  0.7311
  """
  weights_TC, numbers_TC = routes
  matrices, numbers_M = (gate, up, down), numbers_TC.reshape(-1)
  x_MD = jnp.repeat(x, numbers_TC.shape[1], axis=0)
  if numbers_M.size <= _FEW:
    y_MD = jnp.concatenate(
      [
        _mlp(row[None], _expert(number, matrices), activation)
        for row, number in zip(x_MD, numbers_M)
      ]
    )
  else:
    y_MD = _in_blocks(x_MD, numbers_M, matrices, activation)
  y_TCD = y_MD.reshape(*numbers_TC.shape, -1).astype(jnp.float32)
  return jnp.sum(weights_TC[..., None] * y_TCD, axis=1).astype(x.dtype)


Matrices = tuple[Array, Array, Array]


def _mlp(x: Array, matrices: Matrices, activation: str) -> Array:
  """The gated MLP of one expert."""
  gate, up, down = matrices
  return dense(gated(dense(x, gate), dense(x, up), activation), down)


def _expert(number: Array, matrices: Matrices) -> Matrices:
  """The matrices of one expert; of the last for a number beyond it."""
  gate, up, down = (
    name(jax.lax.dynamic_index_in_dim(m, number, keepdims=False), 'weights')
    for m in matrices
  )
  return gate, up, down


def _in_blocks(
  x_MD: Array, numbers_M: Array, matrices: Matrices, activation: str
) -> Array:
  """Each row through its expert, a scan over blocks of rows of one expert."""
  (M, D), E = x_MD.shape, matrices[0].shape[0]
  size = block_size(M, E)
  place_M, owner_B = blocks_of(numbers_M, E, size)
  x_BSD = jnp.zeros((len(owner_B) * size, D), x_MD.dtype)
  x_BSD = x_BSD.at[place_M].set(x_MD, unique_indices=True)

  def step(_: None, block: tuple[Array, Array]) -> tuple[None, Array]:
    x_SD, owner = block
    # A branch: blocks that are left over cost nothing, and no compiler
    # converts the matrices of all experts ahead of the loop.
    y_SD = jax.lax.cond(
      owner < E,
      lambda x, own: _mlp(x, own, activation),
      lambda x, _: jnp.zeros_like(x),
      x_SD,
      _expert(owner, matrices),
    )
    return None, y_SD

  # Without this a backward pass would keep the matrices of every block.
  step = jax.checkpoint(
    step,
    policy=jax.checkpoint_policies.save_only_these_names('dot'),
    prevent_cse=False,
  )
  _, y_BSD = jax.lax.scan(step, None, (x_BSD.reshape(-1, size, D), owner_B))
  return y_BSD.reshape(-1, D).at[place_M].get(unique_indices=True)


def block_size(rows: int, experts: int) -> int:
  """Rows of a block: the largest power of 2 up to an even share, or 256.

  So blocks that are not full make the rows at most twice as many.

  >>> block_size(1024, 8), block_size(2**20, 8), block_size(9, 64)
  (128, 256, 1)
  """
  share = max(1, min(rows // experts, _BLOCK))
  return 1 << (share.bit_length() - 1)


def blocks_of(
  numbers: Int32[Array, ' rows'], experts: int, size: int
) -> tuple[Int32[Array, ' rows'], Int32[Array, ' blocks']]:
  """Places of rows such that every block of places has one expert.

  Args:
    numbers: the expert of each row.
    experts: E.
    size: places of a block.

  Returns:
    The place of each row, rows of an expert in their order; the expert of
    each of `(rows + E (size - 1)) // size` blocks, as many as any load can
    take; E where a block is left over.

  >>> place, owner = blocks_of(jnp.array([1, 0, 1, 1]), 2, 2)
  >>> print(place, owner)
  [2 0 3 4] [0 1 1]
  """
  hot_ME = jax.nn.one_hot(numbers, experts, dtype=jnp.int32)
  rank_M = jnp.sum((jnp.cumsum(hot_ME, axis=0) - 1) * hot_ME, axis=1)
  blocks_E = -(-jnp.sum(hot_ME, axis=0) // size)
  stop_E = jnp.cumsum(blocks_E)
  place_M = (stop_E - blocks_E)[numbers] * size + rank_M
  count = (numbers.shape[0] + experts * (size - 1)) // size
  owner_B = jnp.searchsorted(stop_E, jnp.arange(count), side='right')
  return place_M, owner_B
