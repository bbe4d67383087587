"""A diagnosis: the start, a little training or a trained model, and a page."""

from __future__ import annotations

import dataclasses
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ntk_jax.checkpoint import write_atomic
from ntk_jax.config import to_plain
from ntk_jax.diagnostics import variants as kinds
from ntk_jax.diagnostics.figures import save_figures
from ntk_jax.diagnostics.findings import Findings, Record
from ntk_jax.diagnostics.page import diagnosis_page
from ntk_jax.diagnostics.settings import DiagnoseConfig
from ntk_jax.diagnostics.stage import INDEPENDENT, Stage, work_of
from ntk_jax.diagnostics.subject import Subject
from ntk_jax.diagnostics.suggest import Suggestion, suggestion
from ntk_jax.diagnostics.variants import Model, Variant
from ntk_jax.errors import ConfigError
from ntk_jax.metrics import Progress
from ntk_jax.metrics.versions import versions
from ntk_jax.train.settings import TrainConfig

PROTOCOL = 'diagnose-1'
START, TRAINED = 'start', 'trained'
_FITTED = {
  'entropy': kinds.FITTED_ENTROPY,
  'variance': kinds.FITTED_VARIANCE,
}
# At the start, and what would be seen of others is known without a look: a
# gain or a norm does to independent values what it does to any.
_INDEPENDENT = (
  *kinds.DIVISORS,
  'own scale',
  kinds.NAIVE,
  kinds.LOGN,
  kinds.FLAT_ENTROPY,
  kinds.FLAT_VARIANCE,
)
_DIFFERENTIATED = (
  *kinds.DIVISORS,
  'own scale',
  kinds.NAIVE,
  kinds.AWARE,
  kinds.NORM,
  kinds.FLAT_VARIANCE,
)


def diagnose(
  subject: Subject, config: DiagnoseConfig, folder: str | Path, command: str
) -> tuple[dict[str, Any], Findings]:
  """Measures a model and writes what it found.

  Leaves in the folder: diagnose.md (what the numbers say), measurements.csv
  (every number), diagnose.json (what produced them, and the temperatures that
  they suggest) and plots.

  Args:
    subject: the model and its text.
    config: what to measure.
    folder: where to write.
    command: that does it again.

  Returns:
    What diagnose.json holds, and all measurements.

  Raises:
    ConfigError: for wrong settings, or too little text.
    NumericsError: if training for a few steps failed.
  """
  config.validate()
  job = _Job(subject, config)
  _check_writable(Path(folder))
  began = time.monotonic()
  if subject.trained:
    job.trained()
  else:
    job.start()
    if config.steps and subject.run is not None:
      job.after_some_steps(subject.run)
  # As it is stored: what is stored makes the same page again.
  found = Findings.from_csv(Findings(job.records).to_csv())
  result = job.facts() | {
    'command': command,
    'seconds': round(time.monotonic() - began, 1),
  }
  _write(result, found, Path(folder))
  job.progress.close(f'diagnosis: {Path(folder) / "diagnose.md"}')
  return result, found


class _Job:
  """The stages in turn, and what they leave."""

  def __init__(self, subject: Subject, config: DiagnoseConfig) -> None:
    self.subject, self.config = subject, config
    self.records: list[Record] = []
    self.suggested: dict[str, list[Suggestion]] = {}
    self.reference = self._reference()
    self.rows = subject.rows(config.row_tokens, config.rows_needed)
    self.progress = Progress(float(self._work()))

  def _reference(self) -> int:
    """n0: as told, the trained length, or the first."""
    config, trained = self.config, self.subject.trained
    if config.reference is not None:
      return config.reference
    if not trained:
      return config.lengths[0]
    if trained not in config.lengths:
      raise ConfigError(
        f'the model was trained at {trained} tokens: give lengths that hold '
        'it, or one of them as the reference'
      )
    return trained

  def start(self) -> None:
    """Every variant before training, for every draw of parameters."""
    variants = kinds.at_start(self.subject.config, self.reference)
    itself, *others = variants
    stages = []
    for seed in range(self.config.seeds):
      stage = self._stage(START, self.subject.params(seed), seed)
      self._tell(f'draw {seed}: heads')
      stage.see_itself(itself, every_head=seed == 0)
      stage.see([*others, *self._fits(stage)])
      stage.see(kinds.named(variants, _INDEPENDENT), INDEPENDENT)
      self._tell(f'draw {seed}: gradients')
      stage.differentiate(kinds.named(variants, _DIFFERENTIATED))
      stage.differentiate(
        kinds.named(variants, (*kinds.DIVISORS, 'own scale')), INDEPENDENT
      )
      self._tell(f'draw {seed}: kernel')
      stage.contract(variants)
      stages.append(stage)
    self._keep(START, stages)

  def trained(self) -> None:
    """A trained model as it is and under temperatures."""
    self._tell('heads')
    stage = self._stage(TRAINED, self.subject.params(0), 0)
    self._with_temperatures(stage, kinds.own(self.subject.config))
    self._keep(TRAINED, [stage])

  def after_some_steps(self, run: TrainConfig) -> None:
    """Each way to start, trained for a few steps of its own."""
    name = f'after {self.config.steps} steps'
    stages = []
    for variant, config in self._ways(run):
      self._tell(f'{self.config.steps} steps, {variant.name}')
      params = _few_steps(config, self.config.steps)
      stage = self._stage(name, params, 0, config.model.head_norm)
      if not stages:
        self._with_temperatures(stage, variant)
      else:
        stage.see_itself(variant, every_head=False)
        stage.differentiate([variant])
        stage.contract([variant])
      stages.append(stage)
    self._keep(name, stages)

  def _with_temperatures(self, stage: Stage, itself: Variant) -> None:
    """A trained model itself, and under what would change its reading."""
    stage.see_itself(itself)
    temperatures = [
      *kinds.named(kinds.closed_forms(self.reference, 1.0), [kinds.LOGN]),
      *self._fits(stage),
    ]
    stage.see(temperatures)
    self._tell(f'{stage.name}: gradients and kernel')
    stage.differentiate([itself, *temperatures])
    stage.contract([itself, *temperatures])

  def _ways(self, run: TrainConfig) -> Iterator[tuple[Variant, TrainConfig]]:
    """The ways to start that a config has a field for; the own one first."""
    measured = [n for n in self.config.lengths if n <= run.data.max_length]
    n = max(measured, default=self.reference)
    stage = self._stage(START, self.subject.params(0), 0)
    stage.model.rho.update(self._rho())
    for variant in kinds.at_start(run.model, self.reference):
      if variant.temperature is not None:
        continue
      model = dataclasses.replace(
        run.model, head_norm=run.model.head_norm or variant.head_norm
      )
      if variant.divisor is not None:
        model = dataclasses.replace(
          model, divisor=variant.divisor, attention_scale=None
        )
      gain = float(stage.model.under(variant, n).gain.mean())
      model = dataclasses.replace(model, out_gain=model.out_gain * gain)
      # What it was started with is in its parameters from then on.
      started = dataclasses.replace(variant, gain='')
      yield started, dataclasses.replace(run, model=model)

  def _rho(self) -> dict[int, np.ndarray]:
    """Correlations at the start, mean over draws."""
    found = Findings(self.records)
    own, layers = (
      kinds.own_name(self.subject.config),
      self.subject.config.layers,
    )
    by_layer = [
      found.mean(START, own, 'rho', f'layer {layer}') for layer in range(layers)
    ]
    return dict(zip(self.config.lengths, np.transpose(by_layer)))

  def _fits(self, stage: Stage) -> list[Variant]:
    """The suggested temperatures of a model that was seen."""
    return [
      kinds.fitted(_FITTED[s.keeps], self.reference, s.slope)
      for s in self._suggest([stage])
      if np.isfinite(s.slope)
    ]

  def _suggest(self, stages: list[Stage]) -> list[Suggestion]:
    """From the mean of their curves."""
    curves = {
      name: np.mean([stage.curves[name] for stage in stages], axis=0)
      for name in ('entropy', 'sum_squares')
    }
    given = self.config.lengths, self.reference
    return [
      suggestion('entropy', *given, curves['entropy']),
      suggestion('variance', *given, np.log(curves['sum_squares'])),
    ]

  def _keep(self, name: str, stages: list[Stage]) -> None:
    """Adds what stages of one moment have found."""
    for stage in stages:
      self.records += stage.records
    # Draws are of one model; of several ways to train the first is the own.
    own = stages if name == START else stages[:1]
    self.suggested[name] = self._suggest(own)

  def _stage(
    self, name: str, params: Any, seed: int, head_norm: bool | None = None
  ) -> Stage:
    config = self.subject.config
    if head_norm is not None:
      config = dataclasses.replace(config, head_norm=head_norm)
    model = Model(params, config, self.subject.schemes, self.reference)
    return Stage(name, model, seed, self.config, self.rows, self.progress)

  def _tell(self, what: str) -> None:
    self.progress.stage(what)

  def _work(self) -> int:
    """All of it, in tokens of a forward pass."""
    config, own = self.config, self.subject.config
    if self.subject.trained:
      return work_of(config, 4, 4, 4)
    variants = kinds.at_start(own, self.reference)
    alone = len(kinds.named(variants, _INDEPENDENT))
    differ = len(kinds.named(variants, _DIFFERENTIATED)) + 2
    work = config.seeds * work_of(
      config, len(variants) + 2 + alone // 2, differ, len(variants)
    )
    if config.steps and self.subject.run is not None:
      ways = sum(variant.temperature is None for variant in variants)
      work += work_of(config, ways + 3, ways + 3, ways + 3)
    return work

  def facts(self) -> dict[str, Any]:
    """What produced the numbers, and what they suggest."""
    endings = self.rows[: self.config.contexts, -2].tolist()
    pairs = [(a, b) for i, a in enumerate(endings) for b in endings[:i]]
    return {
      'protocol': PROTOCOL,
      'subject': self.subject.facts(),
      'settings': to_plain(self.config),
      'reference': self.reference,
      'corpus': self.subject.corpus.describe(),
      'versions': versions(),
      'pairs': len(pairs),
      'pairs_alike': sum(a == b for a, b in pairs),
      'suggested': {
        stage: [_plain(s) for s in suggested]
        for stage, suggested in self.suggested.items()
      },
    }


def _check_writable(folder: Path) -> None:
  """Before minutes of work."""
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise ConfigError(
      f'out {str(folder)!r} cannot be written ({error.strerror}): name a folder'
    ) from error


def _few_steps(config: TrainConfig, steps: int) -> Any:
  """Parameters after a short run of the config: its own warm-up and decay."""
  from ntk_jax.train import run

  warmup = min(config.optimizer.warmup, steps // 3)
  optimizer = dataclasses.replace(config.optimizer, steps=steps, warmup=warmup)
  short = dataclasses.replace(config, optimizer=optimizer, save_every=steps)
  with tempfile.TemporaryDirectory() as folder:
    return jax.device_get(run(short, folder).params)


def _plain(found: Suggestion) -> dict[str, Any]:
  """JSON-able: nan is None."""

  def number(x: float) -> float | None:
    return float(f'{x:.5g}') if np.isfinite(x) else None

  return {
    'keeps': found.keeps,
    'slope': number(found.slope),
    'multipliers': [number(x) for x in found.multipliers],
    'by_layer': [number(x) for x in found.by_layer],
    'off': number(found.off),
  }


def _write(result: dict[str, Any], found: Findings, folder: Path) -> None:
  """The page, the numbers, what produced them, and the plots."""
  text = json.dumps(result, indent=1, allow_nan=False) + '\n'
  write_atomic(folder / 'diagnose.json', text.encode())
  write_atomic(folder / 'measurements.csv', found.to_csv().encode())
  save_figures(result, found, folder)
  write_atomic(folder / 'diagnose.md', diagnosis_page(result, found).encode())
