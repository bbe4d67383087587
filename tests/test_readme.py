"""The README is true: its Python runs, its command works, its links exist."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from ntk_jax.model.presets import table
from ntk_jax.rope import METHODS

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / 'README.md'

FENCE = re.compile(r'^```(\w*)\n(.*?)^```$', re.MULTILINE | re.DOTALL)
LINK = re.compile(r'!?\[[^\]]*\]\(([^)\s]+)[^)]*\)|(?:src|href)="([^"]+)"')

PRINT = re.compile(r'^print\(.*\)  # (.*)$', re.MULTILINE)


def blocks(text: str, language: str) -> list[str]:
  """The fenced code blocks of one language."""
  return [body for name, body in FENCE.findall(text) if name == language]


def promised(source: str) -> list[str]:
  """What a block says it prints, in a comment behind each print."""
  return PRINT.findall(source)


def missing_links(text: str, root: Path) -> list[str]:
  """Relative links and images of a text that lead nowhere under `root`."""
  prose = FENCE.sub('', text)
  targets = [first or second for first, second in LINK.findall(prose)]
  paths = [t.partition('#')[0] for t in targets if not re.match(r'\w+:', t)]
  return [path for path in paths if path and not (root / path).exists()]


def _text() -> str:
  return README.read_text() if README.exists() else ''


def test_readme_shows_commands_and_python() -> None:
  assert README.exists()
  assert blocks(_text(), 'bash')
  assert blocks(_text(), 'python')


@pytest.mark.parametrize('index', range(len(blocks(_text(), 'python'))))
def test_python_block_prints_what_it_says(
  index: int,
  tmp_path: Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  monkeypatch.chdir(tmp_path)
  source = blocks(_text(), 'python')[index]
  name = f'README.md:python:{index}'
  exec(compile(source, name, 'exec'), {'__name__': '__main__'})
  assert capsys.readouterr().out.splitlines() == promised(source)


@pytest.mark.parametrize('library', ['jax', 'linen', 'nnx'])
def test_a_block_shows_each_way_and_prints_a_result(library: str) -> None:
  imports = {
    'jax': lambda source: 'flax' not in source,
    'linen': lambda source: 'from flax import linen' in source,
    'nnx': lambda source: 'from flax import nnx' in source,
  }
  sources = [s for s in blocks(_text(), 'python') if promised(s)]
  assert any(map(imports[library], sources))


def test_first_block_is_the_two_commands() -> None:
  lines = blocks(_text(), 'bash')[0].splitlines()
  assert len(lines) == 2
  for line in lines:
    assert line.startswith('python3 -m venv .venv && .venv/bin/pip install')
  assert lines[0].endswith('.venv/bin/python -m experiments.extend')
  assert '[test]' in lines[1]
  assert '-m pytest' in lines[1]


def test_main_command_runs(tmp_path: Path) -> None:
  """The job of the first line, made fast, leaves a report."""
  last = blocks(_text(), 'bash')[0].splitlines()[0].split('&&')[-1]
  _, *words = shlex.split(last)
  done = subprocess.run(
    [sys.executable, *words, '--fast', f'--workdir={tmp_path / "run"}'],
    cwd=ROOT,
    env=os.environ | {'JAX_PLATFORMS': 'cpu'},
    capture_output=True,
    text=True,
    timeout=900,
  )
  assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
  assert (tmp_path / 'run' / 'report.md').read_text().strip()


def test_the_checkpoint_commands_run(tmp_path: Path) -> None:
  """On the tiny checkpoint that the first of them makes."""
  found = [b for b in blocks(_text(), 'bash') if 'make_checkpoint' in b]
  (block,) = found
  for line in block.splitlines():
    _, *words = shlex.split(line.replace('runs/', f'{tmp_path}/'))
    done = subprocess.run(
      [sys.executable, *words],
      cwd=ROOT,
      env=os.environ | {'JAX_PLATFORMS': 'cpu'},
      capture_output=True,
      text=True,
      timeout=900,
    )
    assert done.returncode == 0, line + done.stdout[-2000:] + done.stderr
    assert done.stdout.strip(), line
  assert (tmp_path / 'tiny-512' / 'model.safetensors').exists()


def test_the_table_of_systems_is_that_of_the_rows() -> None:
  assert table() in _text()


def test_the_table_of_methods_is_the_one_in_use() -> None:
  rows = re.findall(r'^\| `(\w+)` \| `(.*)` \| (.*) \|$', _text(), re.MULTILINE)
  assert rows == [(k, m.formula, m.source) for k, m in METHODS.items()]


def test_links_exist() -> None:
  assert missing_links(_text(), ROOT) == []


SAMPLE = """
[good](LICENSE) [part](LICENSE#x) [web](https://example.org/a) [here](#top)
![plot](no/such.png "title") <img src="gone.svg" width="1"> [bad](nowhere.md)
```python
x = a[1](absent)
```
```bash
one
two
```
"""


def test_a_dead_link_is_found() -> None:
  assert missing_links(SAMPLE, ROOT) == [
    'no/such.png',
    'gone.svg',
    'nowhere.md',
  ]


def test_blocks_are_split_by_language() -> None:
  assert blocks(SAMPLE, 'python') == ['x = a[1](absent)\n']
  assert blocks(SAMPLE, 'bash') == ['one\ntwo\n']


def test_what_a_block_prints_is_read_from_its_comments() -> None:
  source = 'x = 1  # one\nprint(x)  # 1\n# print(2)\nprint((x, x))  # (1, 1)\n'
  assert promised(source) == ['1', '(1, 1)']
