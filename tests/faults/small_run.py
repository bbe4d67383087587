"""A small real training run, to be stopped and killed: run as a script.

  python small_run.py FOLDER STEPS SAVE_EVERY

Every step's loss goes to FOLDER/losses as `step hex`, session after session;
the last line of a finished run is the digests of its state.
"""

from __future__ import annotations

import sys
from pathlib import Path

import jax
import numpy as np

from ntk_jax.checkpoint import Checkpoints, StopSignals
from ntk_jax.checkpoint.digest import digests
from ntk_jax.checkpoint.interrupt import resume_line
from ntk_jax.checkpoint.note import named_leaves
from ntk_jax.data import retrieval
from ntk_jax.data.mixture import Mixture
from ntk_jax.data.text import Corpus
from ntk_jax.model import ModelConfig, init_params
from ntk_jax.objective import Objective
from ntk_jax.optimizer import adamw
from ntk_jax.rope.spec import RopeSpec
from ntk_jax.scheme import Scheme
from ntk_jax.step import StepConfig, init_state, train_step

CONFIG = ModelConfig(
  vocab=retrieval.VOCAB,
  dim=8,
  layers=1,
  heads=2,
  kv_heads=1,
  head_dim=4,
  mlp_dim=8,
)
STEP = StepConfig(Objective(CONFIG), adamw())
LENGTH = 32


def made_up_text() -> Mixture:
  """Batches of random letters."""
  letters = np.random.default_rng(0).integers(97, 123, 3000, np.uint8)
  return Mixture(Corpus('made up', (letters,), (), 'none'), 2, LENGTH, seed=0)


def main(folder: Path, steps: int, save_every: int) -> None:
  """Goes on from the newest checkpoint to the last step."""
  mixture = made_up_text()
  arrays = Scheme(RopeSpec('default', 4)).arrays(LENGTH, np.arange(LENGTH))
  state, start = init_state(init_params(jax.random.key(0), CONFIG), STEP), 0
  with (
    StopSignals() as stop,
    Checkpoints(folder, run={'model': CONFIG, 'seed': 0}) as checkpoints,
    (folder / 'losses').open('a') as log,
  ):
    found = checkpoints.restore(state)
    if found is not None:
      state, start = found.tree, found.step
      print(*found.set_aside, sep='\n')
    print(f'start {start}', flush=True)
    for step in range(start, steps):
      state, metrics = train_step(
        state, mixture.batch(step), arrays, np.float32(0.01), config=STEP
      )
      log.write(f'{step} {float(metrics.text).hex()}\n')
      log.flush()
      done = step + 1
      stopping = stop.agreed(done)
      if stopping or done % save_every == 0 or done == steps:
        print(f'save {done}', flush=True)
        checkpoints.save(done, state, {})
      if stopping:
        checkpoints.wait()
        print(resume_line(done))
        sys.exit(stop.exit_code)
    log.write(f'end {sorted(digests(named_leaves(state)).items())}\n')


if __name__ == '__main__':
  main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
