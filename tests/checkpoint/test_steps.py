"""Steps of a run: exact, strict, the last ones kept, one line of history."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntk_jax.checkpoint import Checkpoints, Restored
from ntk_jax.errors import CheckpointError, ConfigError, WorkdirError

ROOT = Path(__file__).resolve().parents[2]


class State(NamedTuple):
  params: dict[str, Any]
  count: Any
  extra: tuple[Any, ...] = ()


def state(step: int = 0) -> State:
  rng = np.random.default_rng(step)
  return State(
    {
      'w': jnp.asarray(rng.normal(size=(3, 5)), jnp.float32),
      'narrow': jnp.asarray(rng.normal(size=7), jnp.bfloat16),
      'host': rng.normal(size=(2, 3)).T,
    },
    jnp.int32(step),
    (np.array([True, False]), np.int64(2**40), jax.random.key(step)),
  )


def shapes(tree: Any) -> Any:
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def assert_same(found: Any, wanted: Any) -> None:
  assert jax.tree.structure(found) == jax.tree.structure(wanted)
  for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(wanted)):
    assert (x.shape, x.dtype) == (y.shape, y.dtype)
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
      x, y = jax.random.key_data(x), jax.random.key_data(y)
    assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def filled(folder: Path, *steps: int, **options: Any) -> None:
  with Checkpoints(folder, **options) as checkpoints:
    for step in steps:
      checkpoints.save(step, state(step), {'step': step})


def restored(
  folder: Path, like: Any = None, *, step: int | None = None, **options: Any
) -> Restored:
  with Checkpoints(folder, **options) as checkpoints:
    like = state() if like is None else like
    found = checkpoints.restore(like, step=step)
  assert found is not None
  return found


def refused(folder: Path, *args: Any, **options: Any) -> str:
  with pytest.raises(CheckpointError) as error:
    restored(folder, *args, **options)
  return str(error.value)


def names(folder: Path) -> list[str]:
  return sorted(path.name for path in folder.iterdir() if path.name != '.lock')


def test_all_comes_back_to_the_bit(tmp_path: Path) -> None:
  about = {'loss': [1.5, 0.1 + 0.2], 'name': 'größe', 'none': None}
  with Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.restore(state()) is None
    checkpoints.save(7, state(7), about)
    found = checkpoints.restore(state())
  assert found is not None
  assert (found.step, found.about, found.set_aside) == (7, about, ())
  assert_same(found.tree, state(7))
  # Numpy comes back as numpy, jax as jax.
  kinds = jax.tree.map(lambda x: isinstance(x, jax.Array), found.tree)
  assert kinds.params == {'w': True, 'narrow': True, 'host': False}


def test_shapes_are_enough(tmp_path: Path) -> None:
  like = {'w': jnp.ones((3, 5)), 'n': jnp.int32(0)}
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(0, like, {})
    found = checkpoints.restore(shapes(like))
  assert found is not None
  assert_same(found.tree, like)


def test_the_last_ones_are_kept(tmp_path: Path) -> None:
  filled(tmp_path, 1, 2, 3, 4, 5, keep=2)
  assert names(tmp_path) == ['4', '5']
  assert restored(tmp_path, step=4).about == {'step': 4}


def test_what_was_saved_may_change_at_once(tmp_path: Path) -> None:
  add = jax.jit(lambda x: x + 1, donate_argnums=0)
  host, device = np.zeros(2**18, np.float32), jnp.zeros(2**18)
  with Checkpoints(tmp_path, keep=9) as checkpoints:
    for step in range(5):
      checkpoints.save(step, {'host': host, 'device': device}, {})
      host += 1
      device = add(device)
    for step in reversed(range(5)):
      found = checkpoints.restore({'host': host, 'device': device}, step=step)
      assert found is not None
      assert (found.tree['host'] == step).all()
      assert (found.tree['device'] == step).all()


def test_a_step_that_would_be_lost_is_refused(tmp_path: Path) -> None:
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(10, state(), {})
    for step in (10, 9, 0):
      with pytest.raises(CheckpointError, match=r'cannot be saved: .* step 10'):
        checkpoints.save(step, state(), {})
    checkpoints.save(11, state(), {})
  with (
    Checkpoints(tmp_path / 'new') as checkpoints,
    pytest.raises(CheckpointError, match='step -1 cannot'),
  ):
    checkpoints.save(-1, state(), {})


def test_going_back_sets_newer_steps_aside(tmp_path: Path) -> None:
  filled(tmp_path, 10, 20, 30)
  with Checkpoints(tmp_path) as checkpoints:
    for _ in range(2):
      found = checkpoints.restore(state(), step=20)
      assert found is not None
      assert found.step == 20
      for step in (25, 30):  # orbax alone would drop both
        checkpoints.save(step, state(step + 1), {'again': step})
      checkpoints.wait()
      assert checkpoints.steps()[-3:] == [20, 25, 30]
  assert restored(tmp_path).about == {'again': 30}
  aside = [n for n in names(tmp_path) if not n.isdecimal()]
  assert aside == ['rewound-25', 'rewound-30', 'rewound-30-1']


def test_an_absent_step(tmp_path: Path) -> None:
  filled(tmp_path, 1, 2)
  assert 'no step 3 in' in refused(tmp_path, step=3)
  assert 'there are: [1, 2]' in refused(tmp_path, step=3)
  assert 'there are: none' in refused(tmp_path / 'new', step=3)


@pytest.mark.parametrize(
  ('changed', 'says'),
  [
    ({'count': jnp.zeros(1, jnp.int32)}, 'count is int32[], not int32[1]'),
    ({'count': jnp.float32(0)}, 'count is int32[], not float32[]'),
    ({'params': {}}, 'params/host is float64[3, 2], not absent'),
    ({'extra': ()}, 'extra/0 is bool[2], not absent'),
    ({'extra': (*state().extra, np.ones(2))}, 'extra/3 is absent, not float64'),
  ],
)
def test_another_tree_is_refused_and_nothing_moved(
  tmp_path: Path, changed: dict[str, Any], says: str
) -> None:
  filled(tmp_path, 1, 2)
  message = refused(tmp_path, state()._replace(**changed))
  assert message.startswith(f'step 2 in {tmp_path} holds another tree')
  assert says in message
  assert names(tmp_path) == ['1', '2']


RUN = {'model': {'dim': 8, 'layers': [1, 2]}, 'data': {'seed': 0}}
OTHER = {**RUN, 'data': {'seed': 1}}


def test_another_run_is_refused(tmp_path: Path) -> None:
  filled(tmp_path, 1, run=RUN)
  message = refused(tmp_path, run=OTHER)
  assert f'step 1 in {tmp_path} is of another run: data.seed was 0, is 1' in (
    message
  )
  assert message.endswith('or allow a change of data')
  assert 'model.dim was 8, is None' in refused(tmp_path, run={'data': {}})
  assert names(tmp_path) == ['1']
  assert restored(tmp_path, run=OTHER, allow=('data',)).step == 1
  assert restored(tmp_path, run=RUN).step == 1
  assert restored(tmp_path).step == 1  # nothing said, nothing compared


@pytest.mark.parametrize(
  ('tree', 'says'),
  [
    ({'a': jnp.ones(2), 'step': 3}, 'step is 3: only arrays are saved'),
    ({'a': np.ones((2, 0))}, r'a has the shape \(2, 0\): an array without'),
    ({'a/b': np.ones(2), 'a': {'b': np.ones(2)}}, 'two arrays are called a/b'),
    ({}, 'has no arrays'),
  ],
)
def test_what_cannot_be_saved(tmp_path: Path, tree: Any, says: str) -> None:
  with Checkpoints(tmp_path) as checkpoints:
    with pytest.raises(CheckpointError, match=says):
      checkpoints.save(1, tree, {})
    with pytest.raises(TypeError, match='Path has no plain form'):
      checkpoints.save(1, state(), {'path': Path()})
    checkpoints.save(1, state(), {})
  assert names(tmp_path) == ['1']


def test_one_writer(tmp_path: Path) -> None:
  filled(tmp_path, 1)
  with (
    Checkpoints(tmp_path),
    pytest.raises(WorkdirError) as error,
    Checkpoints(tmp_path),
  ):
    raise AssertionError('it was opened')
  assert f'folder {str(tmp_path)!r} is in use by process {os.getpid()}' in (
    str(error.value)
  )
  with pytest.raises(KeyError), Checkpoints(tmp_path):
    raise KeyError  # unlocks too
  assert restored(tmp_path).step == 1


SECOND = """
import sys
import ntk_jax.extend
from ntk_jax.checkpoint import Checkpoints
from ntk_jax.errors import WorkdirError
assert 'orbax' not in sys.modules  # who keeps no checkpoints does not load it
try:
  with Checkpoints(sys.argv[1]):
    print('opened')
except WorkdirError as error:
  print(error)
"""


def test_a_second_process_is_refused(tmp_path: Path) -> None:
  def second() -> str:
    return subprocess.run(
      [sys.executable, '-c', SECOND, str(tmp_path)],
      env={**os.environ, 'PYTHONPATH': str(ROOT)},
      capture_output=True,
      text=True,
      timeout=120,
    ).stdout

  (tmp_path / '9.orbax-checkpoint-tmp').mkdir()
  with Checkpoints(tmp_path) as checkpoints:
    unfinished = tmp_path / '10.orbax-checkpoint-tmp'
    unfinished.mkdir()
    assert f'is in use by process {os.getpid()};' in second()
    assert unfinished.exists()  # it may be ours, being written
    assert checkpoints.steps() == []
  assert second() == 'opened\n'
  assert names(tmp_path) == []


@pytest.mark.parametrize(
  ('options', 'says'),
  [
    ({'folder': 'gs://bucket/run'}, "is 'gs://bucket/run': mount it"),
    ({'keep': 0}, 'checkpoints to keep is 0, must be at least 1'),
  ],
)
def test_wrong_settings(
  tmp_path: Path, options: dict[str, Any], says: str
) -> None:
  options = dict(options)
  with pytest.raises(ConfigError, match=says):
    Checkpoints(options.pop('folder', tmp_path), **options)


def test_a_relative_folder_stays_where_it_was(
  tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.chdir(tmp_path)
  checkpoints = Checkpoints('run')
  monkeypatch.chdir('/')
  assert checkpoints.folder == tmp_path / 'run'


def test_a_fallback_is_told(
  tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
  filled(tmp_path, 1, 2)
  shutil.rmtree(tmp_path / '2' / 'note')
  with caplog.at_level(logging.WARNING, 'ntk_jax'):
    found = restored(tmp_path)
  assert found.step == 1
  (said,) = found.set_aside
  assert said.startswith(f'step 2 in {tmp_path} is damaged, now bad-2: ')
  assert said in caplog.messages


def test_it_is_used_open(tmp_path: Path) -> None:
  with Checkpoints(tmp_path) as checkpoints:
    pass
  for call in (
    lambda: checkpoints.save(1, state(), {}),
    lambda: checkpoints.restore(state()),
  ):
    with pytest.raises(CheckpointError, match='is not open'):
      call()
  checkpoints.close()  # as often as one likes
