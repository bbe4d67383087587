"""The model that a job extends, and the text that it reads."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from jax.sharding import Mesh

from ntk_jax.data.text import BYTES, Corpus
from ntk_jax.evaluation.score import Symbols
from ntk_jax.extend.methods import Setting
from ntk_jax.model.params import Params


@dataclasses.dataclass(frozen=True)
class Subject:
  """Where the base model comes from, and what goes with it.

  Attributes:
    corpus: documents as the model's ids.
    setting: what defines the methods.
    text: the same documents as bytes.
    symbols: how retrieval is asked.
    load: gives the parameters of a model that exists, placed on a mesh if it
      is given one; None trains one.
    about: what a report says of a checkpoint; None of a model trained here.
  """

  corpus: Corpus
  setting: Setting
  text: Corpus
  symbols: Symbols = BYTES
  load: Callable[[Mesh | None], Params] | None = None
  about: dict[str, Any] | None = None
