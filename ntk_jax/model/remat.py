"""What the backward pass of a block recomputes, by name.

The blocks name what a policy can choose between: `layer_input`,
`attention_out` with its `attention_lse`, and `weights`, the gathered ones.
Gathered weights are never kept, or every device would hold all of them; nor
are slices of them, an expert's matrices once for each block of its tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_name

_policies = jax.checkpoint_policies


# How one expert's matrices are taken out of those of all.
_SLICING = ('dynamic_slice', 'squeeze')


def _all_but_weights(primitive: Any, *_: Any, **settings: Any) -> bool:
  """Keeps everything but matrices gathered over fsdp."""
  if primitive.name == 'all_gather':
    return 'fsdp' not in settings['axis_name']
  if primitive.name in _SLICING:
    return False
  return primitive.name != 'name' or settings['name'] != 'weights'


# Name -> policy of jax.checkpoint.
REMAT: dict[str, Callable[..., Any]] = {
  # Keep everything: fastest, most memory.
  'none': _all_but_weights,
  # Keep the results of matrix products and of attention.
  'dots': _policies.save_only_these_names(
    'dot', 'attention_out', 'attention_lse'
  ),
  # Keep the result of attention, recompute all else from the layer input.
  'attention': _policies.save_only_these_names(
    'attention_out', 'attention_lse'
  ),
  # Keep the layer input only.
  'full': _policies.nothing_saveable,
  # Keep the layer input and the result of attention in host memory.
  'offload': _policies.save_and_offload_only_these_names(
    names_which_can_be_saved=['attention_lse'],
    names_which_can_be_offloaded=['layer_input', 'attention_out'],
    offload_src='device',
    offload_dst='pinned_host',
  ),
}

name = checkpoint_name


def rematerialised(
  block: Callable[..., Any], policy: str, gathers: bool
) -> Callable[..., Any]:
  """A block that keeps for its backward pass what the policy says.

  Args:
    block: a function of arrays.
    policy: a name of `REMAT`.
    gathers: whether weights are gathered inside; if not, `none` costs nothing.
  """
  if policy == 'none' and not gathers:
    return block
  return jax.checkpoint(block, policy=REMAT[policy])
