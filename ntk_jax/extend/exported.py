"""The fine-tuned winner of a job as a checkpoint that servers read."""

from __future__ import annotations

import os
from typing import Any

from ntk_jax.errors import ConfigError, WorkdirError
from ntk_jax.extend.imported import Checkpoint, as_model
from ntk_jax.extend.outcome import CONTROL, Row
from ntk_jax.extend.settings import ExtendConfig
from ntk_jax.extend.stages import Stages
from ntk_jax.interop import doctor, save
from ntk_jax.interop.config_file import place
from ntk_jax.model.params import Params


def check_free(folder: str | None) -> None:
  """Raises ConfigError unless it is a new or empty folder, or can become one.

  Before the work of hours, not after it.
  """
  if folder is None:
    return
  path = place(folder)
  if path.is_dir() and not any(path.iterdir()):
    return
  if path.exists():
    raise ConfigError(
      f'export is {folder!r}: it is there already; name a new folder'
    )
  parent = next(p for p in path.absolute().parents if p.exists())
  if not (parent.is_dir() and os.access(parent, os.W_OK)):
    raise ConfigError(
      f'export is {folder!r}: {str(parent)!r} is no folder that can be written'
    )


def export(
  config: ExtendConfig,
  checkpoint: Checkpoint,
  result: dict[str, Any],
  stages: Stages,
  base: Params,
  tuned: list[Row],
) -> dict[str, Any]:
  """Writes the best fine-tuned method that a checkpoint can express.

  Args:
    config: the job's settings.
    checkpoint: what was extended.
    result: what report.json holds so far.
    stages: of the one seed, where the fine-tuned parameters are.
    base: the checkpoint's parameters.
    tuned: fine-tuned methods.

  Returns:
    A JSON-able mapping: method and folder (None if no method could be
    written), by what it was chosen, what was refused and why, and doctor's
    verdicts with their page.
  """
  by_name = {row.candidate.name: row.candidate for row in tuned}
  names, chosen_by = order(result['tuned'])
  facts: dict[str, Any] = {
    'method': None,
    'folder': None,
    'chosen_by': chosen_by,
    'refused': [],
    'verdicts': {},
    'doctor': '',
  }
  folder = place(config.export or '')
  for name in names:
    candidate = by_name[name]
    trained, _ = stages.tune(base, candidate)
    model = as_model(config, checkpoint, trained.params, candidate.schemes)
    try:
      save(model, folder, tokenizer_from=checkpoint.folder)
    except WorkdirError:  # of the disk: another method would not help
      raise
    except ConfigError as error:
      facts['refused'].append({'name': name, 'reason': str(error)})
      continue
    found = doctor.examine(folder)
    verdicts = {server: v.kind for server, v in found.verdicts.items()}
    return facts | {
      'method': name,
      'folder': config.export,
      'verdicts': verdicts,
      'doctor': doctor.markdown(found),
    }
  return facts


def order(tuned: dict[str, Any]) -> tuple[list[str], str]:
  """Fine-tuned methods, the one to take first, and what that rests on.

  Methods come before plain continuation. Where retrieval does not decide, the
  loss does.

  >>> rows = [{'name': 'none'}, {'name': 'ntk'}, {'name': 'yarn'}]
  >>> order({'answer': {'take': 'yarn'}, 'rows': rows})
  (['yarn', 'ntk', 'none'], 'ranking')
  >>> order({'answer': {'take': None}, 'rows': rows})
  (['ntk', 'yarn', 'none'], 'loss')
  """
  take = tuned['answer']['take']
  names = [row['name'] for row in tuned['rows']]
  names.sort(key=lambda name: (name != take, name == CONTROL))
  return names, 'loss' if take is None else 'ranking'
