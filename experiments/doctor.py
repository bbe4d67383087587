"""What does this checkpoint's config mean, and do servers read it so?

Give a checkpoint's folder or a config.json alone. Nothing is loaded and
nothing compiled: architecture, the rope of every kind of layer, what
transformers 4 and 5, vLLM and llama.cpp make of it (exact, wrong and by how
much, unsupported and why), what to do, and keys to paste into config.json.

  python -m experiments.doctor path/to/checkpoint
  python -m experiments.doctor path/to/config.json --json

Ends with code 0 whatever the verdicts are, and with 2 where the config cannot
be read.
"""

from __future__ import annotations

import json

from absl import flags

from experiments import launch
from ntk_jax.errors import ConfigError
from ntk_jax.interop import doctor

_JSON = flags.DEFINE_boolean(
  'json', False, 'print the whole diagnosis as JSON instead of a page'
)


def main(*paths: str) -> None:
  """Prints the diagnosis of the one path."""
  if len(paths) != 1:
    raise ConfigError(
      'give one path, of a folder or a config.json: python -m '
      'experiments.doctor PATH'
    )
  found = doctor.examine(paths[0])
  if _JSON.value:
    print(json.dumps(found.to_json(), indent=2, allow_nan=False))
  else:
    print(doctor.text(found))


if __name__ == '__main__':
  launch.run(main, positional=True)
