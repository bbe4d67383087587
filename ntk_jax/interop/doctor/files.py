"""What stands beside a config.json, as far as names and headers tell."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

from ntk_jax.errors import ConfigError
from ntk_jax.interop.config_file import read_json

_INDEX, _SINGLE = 'model.safetensors.index.json', 'model.safetensors'


@dataclasses.dataclass(frozen=True)
class Files:
  """What a folder holds.

  Attributes:
    index: whether there is an index of shards.
    tensors: their number by the headers; 0 where there are none to read.
    parameters: their entries.
    problem: why the headers could not be read, or that there are no weights.
    tokenizer_length: `model_max_length` of tokenizer_config.json.
    tokenizer: whether tokenizer.json or tokenizer.model is there.
    generation_config: whether generation_config.json is there.
  """

  index: bool
  tensors: int
  parameters: int
  problem: str | None
  tokenizer_length: int | None
  tokenizer: bool
  generation_config: bool

  def advice(self, target: int) -> list[str]:
    """What these files ask for, at a target length."""
    told = self.tokenizer_length
    advice = []
    if told is not None and told < target:
      advice.append(
        f'tokenizer_config.json: model_max_length is {told}, below the target '
        f'{target}: tokenizers warn or cut there, and vLLM serves no more; '
        'raise it'
      )
    return advice


def look(folder: Path) -> Files:
  """Reads names and headers, never a tensor; what fails becomes a problem."""
  count = parameters = 0
  problem = None
  index = (folder / _INDEX).is_file()
  if not index and not (folder / _SINGLE).is_file():
    problem = f'neither {_INDEX} nor {_SINGLE} is there'
  else:
    try:
      from ntk_jax.interop.folder import stored_tensors

      stored = stored_tensors(folder)
      count = len(stored)
      parameters = sum(math.prod(t.shape) for t in stored.values())
    except ConfigError as error:
      problem = str(error)
  return Files(
    index=index,
    tensors=count,
    parameters=parameters,
    problem=problem,
    tokenizer_length=_tokenizer_length(folder),
    tokenizer=any(
      (folder / name).is_file()
      for name in ('tokenizer.json', 'tokenizer.model')
    ),
    generation_config=(folder / 'generation_config.json').is_file(),
  )


def _tokenizer_length(folder: Path) -> int | None:
  path = folder / 'tokenizer_config.json'
  if not path.is_file():
    return None
  try:
    told = read_json(path).get('model_max_length')
  except ConfigError:
    return None
  real = isinstance(told, int | float) and not isinstance(told, bool)
  return int(told) if real and abs(told) != math.inf else None
