"""How does a model go on from a text?

  python -m experiments.generate --checkpoint=DIR --prompt='Once upon a time'
  python -m experiments.generate --checkpoint=DIR --prompt_file=book.txt \
    --max_new_tokens=200 --temperature=0.8 --top_p=0.95 --seed=1
  cat book.txt | python -m experiments.generate --checkpoint=DIR --prompt_file=-
  python -m experiments.generate --checkpoint=DIR --prompt_ids=1,450,4996

The checkpoint is a Hugging Face folder: config.json, safetensors and, for
text, tokenizer.json. With --prompt_ids no tokenizer is needed, and ids are
printed. The text appears as it is written; the numbers at the end go to
stderr, so that `> out.txt` keeps the text alone.

Long prompts are read in chunks of --chunk tokens, so that beside parameters
and cache memory does not grow with them. A method whose frequencies depend on
the length (dynamic, longrope, ...) reads everything again when they change:
--regime_length=N takes those of N tokens throughout instead, which is faster
and, at other lengths, another model.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments import launch
from ntk_jax.data.tokenize import Tokenizer, load_tokenizer
from ntk_jax.errors import ConfigError
from ntk_jax.generate import generate
from ntk_jax.generate.request import choice_of
from ntk_jax.generate.words import Words
from ntk_jax.interop.hub import folder_of
from ntk_jax.model.precision import DTYPES
from ntk_jax.typing import NDArray

_CHECKPOINT = flags.DEFINE_string(
  'checkpoint', None, 'a Hugging Face folder, or a name on the hub'
)
_DTYPE = flags.DEFINE_enum(
  'dtype',
  None,
  DTYPES,
  'of parameters and computation (default: as stored, computed in float32)',
)
_PROMPT = flags.DEFINE_string('prompt', None, 'the text to go on from')
_PROMPT_FILE = flags.DEFINE_string(
  'prompt_file', None, 'a UTF-8 file that holds it; - is stdin'
)
_PROMPT_IDS = flags.DEFINE_list(
  'prompt_ids', None, 'the prompt as token ids, without a tokenizer'
)
_MAX_NEW_TOKENS = flags.DEFINE_integer(
  'max_new_tokens', 100, 'how many at most'
)
_TEMPERATURE = flags.DEFINE_float(
  'temperature', 0.0, 'of sampling; 0 takes the most likely token'
)
_TOP_K = flags.DEFINE_integer(
  'top_k', 0, 'sample from the k most likely tokens; 0 is all'
)
_TOP_P = flags.DEFINE_float(
  'top_p', 1.0, 'sample from the fewest tokens of this probability together'
)
_SEED = flags.DEFINE_integer(
  'seed', 0, 'of sampling', lower_bound=-(2**63), upper_bound=2**63 - 1
)
_STOP = flags.DEFINE_list(
  'stop', None, "ids that end the text (default: the folder's eos_token_id)"
)
_BOS = flags.DEFINE_integer(
  'bos',
  None,
  'an id to put before the text; -1 for none (default: bos_token_id, where '
  'tokenizer_config.json has add_bos_token)',
)
_REGIME_LENGTH = flags.DEFINE_integer(
  'regime_length', None, 'length whose frequencies are taken throughout'
)
_CHUNK = flags.DEFINE_integer('chunk', 512, 'tokens of prompt read at once')


class Clock:
  """Seconds of reading and of writing, without those of compiling."""

  def __init__(self) -> None:
    """Starts; from now on hears what jax compiles."""
    self._compiling = self.compiled = 0.0
    jax.monitoring.register_event_duration_secs_listener(self._heard)
    self._start = time.perf_counter()
    self.laps: list[tuple[int, float]] = []

  def _heard(self, event: str, duration_secs: float, **_: Any) -> None:
    if event.startswith('/jax/core/compile/'):
      self._compiling += duration_secs
      self.compiled += duration_secs

  def lap(self, tokens: int) -> None:
    """Some tokens have come."""
    now = time.perf_counter()
    self.laps.append((tokens, max(now - self._start - self._compiling, 1e-9)))
    self._start, self._compiling = now, 0.0

  def summary(self, prompt: int) -> str:
    """Tokens per second of both."""
    tokens = sum(n for n, _ in self.laps[1:])
    seconds = sum(s for _, s in self.laps[1:])
    read = self.laps[0][1]
    line = f'prompt: {prompt} tokens in {read:.2f} s, {prompt / read:,.1f}/s'
    if tokens:
      line += (
        f'; written after the first: {tokens} tokens in {seconds:.2f} s, '
        f'{tokens / seconds:,.1f}/s'
      )
    return line + f'; compiling took {self.compiled:.1f} s more'


def main() -> None:
  """Writes what follows the prompt."""
  given = [flag for flag in (_PROMPT, _PROMPT_FILE, _PROMPT_IDS) if flag.value]
  if not _CHECKPOINT.value:
    raise ConfigError('checkpoint is missing: give --checkpoint=DIR')
  if len(given) != 1:
    raise ConfigError(
      'the prompt is one of --prompt, --prompt_file and --prompt_ids: '
      f'{len(given)} are given'
    )
  folder = folder_of(_CHECKPOINT.value)
  tokenizer = None if _PROMPT_IDS.value else _tokenizer(folder)
  ids = _ids(folder, tokenizer)
  stop = _numbers('stop', _STOP.value) if _STOP.value else _stops(folder)
  settings = _TEMPERATURE.value, _TOP_K.value, _TOP_P.value
  key = jax.random.key(_SEED.value)
  choice_of(2**31, *settings, key, stop)  # what is wrong shows before a load
  from ntk_jax import interop

  model = interop.load(folder, dtype=_DTYPE.value)
  clock, words = Clock(), Words(tokenizer.decode if tokenizer else _spelt)

  def show(new: NDArray) -> None:
    clock.lap(new.shape[1])
    row = new[0].tolist()
    ended = next((i for i, each in enumerate(row) if each in stop), len(row))
    print(words.add(row[:ended]), end='', flush=True)

  generate(
    model,
    np.array([ids], np.int32),
    max_new_tokens=_MAX_NEW_TOKENS.value,
    temperature=_TEMPERATURE.value,
    top_k=_TOP_K.value,
    top_p=_TOP_P.value,
    key=key,
    stop=stop,
    regime_length=_REGIME_LENGTH.value,
    on_tokens=show,
    chunk=_CHUNK.value,
  )
  print(words.add([], last=True), flush=True)
  print(clock.summary(len(ids)), file=sys.stderr)


def _tokenizer(folder: Path) -> Tokenizer:
  path = folder / 'tokenizer.json'
  if not path.is_file():
    raise ConfigError(
      f'{str(path)!r} is not there: give the prompt as --prompt_ids=1,2,3, or '
      'put the tokenizer.json of the model into the folder'
    )
  return load_tokenizer(str(path))


def _spelt(ids: Sequence[int]) -> str:
  return ''.join(f'{each} ' for each in ids)


def _ids(folder: Path, tokenizer: Tokenizer | None) -> list[int]:
  """The prompt as ids."""
  if tokenizer is None:
    return _numbers('prompt_ids', _PROMPT_IDS.value or [])
  text = _PROMPT.value or _read(_PROMPT_FILE.value or '')
  ids = tokenizer.encode(text).tolist()
  bos = _BOS.value
  if bos is None and _field(folder, 'tokenizer_config.json', 'add_bos_token'):
    bos = _field(folder, 'config.json', 'bos_token_id')
  if isinstance(bos, int) and bos >= 0:
    ids.insert(0, bos)
  if not ids:
    raise ConfigError('the prompt is empty: there is nothing to go on from')
  return ids


def _read(path: str) -> str:
  try:
    data = sys.stdin.buffer.read() if path == '-' else Path(path).read_bytes()
    return data.decode()
  except OSError as error:
    raise ConfigError(
      f'prompt_file {path!r}: cannot be read ({error.strerror})'
    ) from error
  except UnicodeDecodeError as error:
    raise ConfigError(f'prompt_file {path!r}: not UTF-8 ({error})') from error


def _numbers(name: str, values: Sequence[str]) -> list[int]:
  try:
    return [int(value) for value in values]
  except ValueError as error:
    raise ConfigError(
      f'{name} is {",".join(values)}: give ids, as 1,450,4996'
    ) from error


def _stops(folder: Path) -> list[int]:
  """What generation_config.json says, or else config.json."""
  for name in ('generation_config.json', 'config.json'):
    found = _field(folder, name, 'eos_token_id')
    if found is not None:
      found = found if isinstance(found, list) else [found]
      return [each for each in found if isinstance(each, int)]
  return []


def _field(folder: Path, name: str, field: str) -> Any:
  """A field of a JSON file, None where either is missing."""
  try:
    values = json.loads((folder / name).read_text())
  except (OSError, ValueError):  # interop says what is wrong with a config
    return None
  return values.get(field) if isinstance(values, dict) else None


if __name__ == '__main__':
  launch.run(main)
