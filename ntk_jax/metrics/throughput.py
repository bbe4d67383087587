"""Tokens per second, and the share of the hardware's peak they make."""

from __future__ import annotations

import time
from collections.abc import Sequence

# Dense bfloat16 FLOP/s of one JAX device, by the start of its device_kind;
# the longest start that fits counts. A chip is one device, except TPU7x,
# whose chips are two.
#   TPU: docs.cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e,tpu7x}, "peak compute
#   per chip (bf16)"; kinds as jax names them (jax/_src/mesh_utils.py).
#   NVIDIA data sheets, halved where they count sparsity: A100 312; H100 SXM
#   1979/2, PCIe 1513/2, NVL 1671/2; GH200 and H200 SXM as H100 SXM, H200 NVL
#   1671/2; B200 4500/2 (HGX), GB200 5000/2.
_PEAKS = {
  'TPU v4': 275e12,
  'TPU v5 lite': 197e12,
  'TPU v5e': 197e12,
  'TPU v5': 459e12,
  'TPU v5p': 459e12,
  'TPU v6 lite': 918e12,
  'TPU v6e': 918e12,
  'TPU7x': 2307e12 / 2,
  'NVIDIA A100': 312e12,
  'NVIDIA H100': 989.4e12,
  'NVIDIA H100 PCIe': 756e12,
  'NVIDIA H100 NVL': 835.5e12,
  'NVIDIA GH200': 989.4e12,
  'NVIDIA H200': 989.4e12,
  'NVIDIA H200 NVL': 835.5e12,
  'NVIDIA B200': 2250e12,
  'NVIDIA GB200': 2500e12,
}
# Would be taken for another: an inference chip, a slice of a GPU.
_UNKNOWN = ('TPU v4 lite', ' MIG ')


def peak_flops(device_kind: str) -> float | None:
  """Dense bfloat16 FLOP/s of one device; None where it is not known.

  Args:
    device_kind: as `jax.devices()[0].device_kind` says it.

  >>> peak_flops('NVIDIA H100 80GB HBM3'), peak_flops('cpu')
  (989400000000000.0, None)
  """
  if any(word in device_kind for word in _UNKNOWN):
    return None
  starts = [start for start in _PEAKS if device_kind.startswith(start)]
  return _PEAKS[max(starts, key=len)] if starts else None


def flops_per_token(
  parameters: int,
  attention_dim: int,
  length: int,
  windows: Sequence[int | None],
) -> float:
  """Floating-point operations that training takes per token, by formula.

  `6 M + sum_l 12 N H c_l`: a multiplication and an addition per parameter,
  and per channel of every score and of every mixed value, once forward and
  twice backward. c_l is the mean number of keys that a query of layer l sees:
  causal attention to all of a row of T tokens is (T + 1) / 2, half of what
  PaLM's formula counts. What is computed again in the backward pass, for
  memory, is no work of the model and does not count; nor do the masked
  halves of tiles.

  Args:
    parameters: M, those that multiply every token: all but an input embedding
      that is only looked up. A tied one counts once, as the output matrix.
    attention_dim: N * H, query heads times head dim.
    length: T, tokens of a row (of a document, where documents are kept apart).
    windows: of each layer, keys that a query sees; None is all before it.

  Source: Chowdhery et al. 2022 (arXiv 2204.02311), appendix B, where it is
  6 N + 12 L H Q T.

  >>> flops_per_token(1000, 8, 4, [None, 2])
  6408.0
  """
  keys = 0.0
  for window in windows:
    seen = length if window is None else min(window, length)
    # 1, 2, .. seen, and then seen for every query after it.
    keys += (seen * (seen + 1) / 2 + (length - seen) * seen) / length
  return 6.0 * parameters + 12.0 * attention_dim * keys


class Throughput:
  """Speed from one reading of the clock to the next.

  The first interval starts with `restart`: call it after the step that
  compiles, and after work that is not training.
  """

  def __init__(self, device_kind: str, devices: int) -> None:
    """Starts the clock.

    Args:
      device_kind: as jax says it.
      devices: how many the job has, on all hosts.
    """
    peak = peak_flops(device_kind)
    self._peak = None if peak is None else peak * devices
    self._start = time.monotonic()

  def restart(self) -> None:
    """Starts the interval anew, so that what was until now is not counted."""
    self._start = time.monotonic()

  def measure(self, tokens: int, flops_per_token: float) -> dict[str, float]:
    """Speed since the last call, and a new start.

    Args:
      tokens: trained on meanwhile, by all devices, results at hand (a step
        that is only dispatched has taken no time yet).
      flops_per_token: of the function of that name.

    Returns:
      `tokens_per_second`, and `mfu`, the share of all devices' peak, where
      that is known.
    """
    now = time.monotonic()
    seconds = max(now - self._start, 1e-9)
    self._start = now
    speed = tokens / seconds
    found = {'tokens_per_second': speed}
    if self._peak is not None:
      found['mfu'] = speed * flops_per_token / self._peak
    return found
