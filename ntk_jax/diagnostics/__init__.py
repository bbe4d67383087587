"""What length does to a model, measured: variances, attention, gradients, NTK.

`measure` reads texts at a length under a scheme; `look` sees every head of
every layer; `gradient_norms` and `model_kernel` see every group of parameters.
`ntk_jax.diagnostics.job` puts them together for `experiments.diagnose`.
"""

from ntk_jax.diagnostics.gradients import gradient_norms, group_of
from ntk_jax.diagnostics.heads import Heads, look
from ntk_jax.diagnostics.kernel import (
  KernelFacts,
  empirical_kernel,
  kernel_facts,
  model_kernel,
)
from ntk_jax.diagnostics.pieces import (
  QUERIES,
  Measured,
  Pieces,
  cut,
  measure,
  watched,
)
from ntk_jax.diagnostics.suggest import Suggestion, fitted_slope, suggestion
from ntk_jax.diagnostics.weights import attention_weights, normalised_entropy

__all__ = [
  'QUERIES',
  'Heads',
  'KernelFacts',
  'Measured',
  'Pieces',
  'Suggestion',
  'attention_weights',
  'cut',
  'empirical_kernel',
  'fitted_slope',
  'gradient_norms',
  'group_of',
  'kernel_facts',
  'look',
  'measure',
  'model_kernel',
  'normalised_entropy',
  'suggestion',
  'watched',
]
