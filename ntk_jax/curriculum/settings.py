"""How the length of a run grows."""

from __future__ import annotations

import dataclasses

from ntk_jax.curriculum.quality import QualityConfig


@dataclasses.dataclass(frozen=True)
class GrowthConfig:
  """What growth by quality reads of it."""

  kind: str = 'constant'
  lengths: tuple[int, ...] = ()
  quality: QualityConfig = QualityConfig()
