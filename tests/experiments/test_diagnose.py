"""The command: what it refuses, and that one run of it ends well."""

from __future__ import annotations

from pathlib import Path

import pytest

from .test_commands import ROOT, command, refused


@pytest.mark.parametrize(
  ('flags', 'says'),
  [
    (('--lengths=64,32', '--seeds=0'), 'seeds is 0, must be at least 1'),
    (
      ('--preset=yi', '--config.seed=1'),
      '--preset and --config name a model each: give one',
    ),
  ],
)
def test_refusals(flags: tuple[str, ...], says: str, tmp_path: Path) -> None:
  done = command('diagnose', *flags, f'--out={tmp_path / "out"}')
  refused(done, says)
  assert not (tmp_path / 'out').exists()


@pytest.mark.slow
@pytest.mark.parametrize(
  ('flags', 'says'),
  [
    (('--lengths=64,x',), "lengths has 'x': give whole numbers"),
    (('--preset=yy',), "unknown preset 'yy'"),
    (('--workdir=no/such',), 'holds no run of experiments.train'),
    (('--checkpoint=no/such/one',), 'is neither a folder nor'),
    (('--workdir=a', '--corpus=b'), 'that it was trained on; leave it out'),
    (('--step=3',), 'step is 3 without --workdir'),
    (('--corpus=no/such',), 'is neither a file nor a folder'),
    (('--config.model.dimm=1',), 'Did you mean "dim" instead of "dimm"?'),
    (('--config.model.heads=0',), 'heads is 0, must be at least 1'),
    (('--reference=100',), 'reference is 100, must be one of the lengths'),
    (('stray',), 'stray arguments: stray'),
  ],
)
def test_more_refusals(flags: tuple[str, ...], says: str) -> None:
  refused(command('diagnose', *flags), says)


@pytest.mark.slow
def test_a_preset_with_plans_and_temperatures(tmp_path: Path) -> None:
  done = command(
    'diagnose',
    '--fast',
    '--preset=longchat-ntk-logn-window',
    f'--corpus={ROOT / "ntk_jax"}',
    f'--out={tmp_path}',
  )
  assert done.returncode == 0, done.stderr
  assert 'neural tangent kernel, from 64 to 256 tokens' in done.stdout
  page = (tmp_path / 'diagnose.md').read_text()
  assert 'longchat-ntk-logn-window' in page
  assert '--preset=longchat-ntk-logn-window' in page


@pytest.mark.slow
def test_help_teaches() -> None:
  done = command('diagnose', '--help')
  assert done.returncode == 0
  for words in ('--workdir', 'python -m experiments.diagnose', 'rho of values'):
    assert words in done.stdout
