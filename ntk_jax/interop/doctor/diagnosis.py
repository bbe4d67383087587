"""What a config.json means, and what each server makes of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ntk_jax.errors import ConfigError
from ntk_jax.interop.architectures import architecture
from ntk_jax.interop.doctor.advice import Block, advise, best_block
from ntk_jax.interop.doctor.compare import Verdict, verdict
from ntk_jax.interop.doctor.files import Files
from ntk_jax.interop.doctor.ropes import Rope, ropes_of
from ntk_jax.interop.servers import SERVERS, Decoder, Layer, Unsupported
from ntk_jax.model import parameter_count
from ntk_jax.rope.hf import text_config


@dataclasses.dataclass(frozen=True)
class Diagnosis:
  """A config.json as a whole.

  Attributes:
    family: model type.
    layers: their number; and so heads, kv_heads, head_dim.
    parameters: as the shape implies.
    max_position_embeddings: as the config or its class has it.
    target_length: the largest of all ropes.
    spelling: which keys speak of rope: v4, v5, dual or none.
    ropes: one per kind of layer.
    verdicts: server -> verdict.
    advice: what to do, most important first.
    block: keys to paste, and what the servers make of the config with them.
    files: what a folder holds; None where there was none.
  """

  family: str
  layers: int
  heads: int
  kv_heads: int
  head_dim: int
  parameters: int
  max_position_embeddings: int
  target_length: int
  spelling: str
  ropes: tuple[Rope, ...]
  verdicts: Mapping[str, Verdict]
  advice: tuple[str, ...]
  block: Block | None
  files: Files | None = None

  def to_json(self) -> dict[str, Any]:
    """Plain values, as `json.dumps` takes them."""
    return dataclasses.asdict(self)


def diagnose(
  config: Mapping[str, Any], files: Files | None = None
) -> Diagnosis:
  """Reads a config.json and tries it on every server's rules.

  Args:
    config: the whole file; of a multimodal one the text part counts.
    files: what stands beside it.

  Raises:
    ConfigError: as `ntk_jax.interop.architecture`: what cannot be read has no
      meaning to compare with.

  Source: the rules of `ntk_jax.interop.servers`, each from its server's code.

  >>> found = diagnose({'model_type': 'mistral', 'sliding_window': 4096,
  ...                   'max_position_embeddings': 32768})
  >>> found.verdicts['vLLM'].kind, found.verdicts['llama.cpp'].position
  ('exact', 4096)
  """
  config = text_config(config)
  found = architecture(config)
  decoder = Decoder.of(config, found)
  meant = tuple(
    Layer(found.schemes[i].spec, found.schemes[i].window)
    for i in found.model.plan
  )
  ropes = ropes_of(decoder, meant)
  target = max(rope.target_length for rope in ropes)
  verdicts = try_servers(config, meant, target)
  block = best_block(config, ropes, meant, target, try_servers)
  model = found.model
  return Diagnosis(
    family=found.family.name,
    layers=model.layers,
    heads=model.heads,
    kv_heads=model.kv_heads,
    head_dim=model.head_dim,
    parameters=parameter_count(model),
    max_position_embeddings=found.length,
    target_length=target,
    spelling=_spelling(config),
    ropes=ropes,
    verdicts=verdicts,
    advice=advise(config, ropes, verdicts, block, files),
    block=block,
    files=files,
  )


def try_servers(
  config: Mapping[str, Any], meant: tuple[Layer, ...], target: int
) -> dict[str, Verdict]:
  """The verdicts on a config that is to mean these layers.

  Raises:
    ConfigError: a config that cannot be read.
  """
  decoder = Decoder.of(config, architecture(config))
  verdicts = {}
  for name, read in SERVERS.items():
    try:
      verdicts[name] = verdict(meant, read(decoder), target)
    except Unsupported as error:
      verdicts[name] = Verdict('unsupported', str(error))
    except ConfigError as error:  # a misreading of its own without sense
      verdicts[name] = Verdict('unsupported', f'what it reads: {error}')
  return verdicts


def _spelling(config: Mapping[str, Any]) -> str:
  old = config.get('rope_scaling') or config.get('rope_theta') is not None
  if config.get('rope_parameters'):
    return 'dual' if old else 'v5'
  return 'v4' if old or config.get('rope_condense_ratio') else 'none'
