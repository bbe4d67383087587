"""The notebooks run from top to bottom, and are stored without results."""

from __future__ import annotations

import base64
import os
import re
from pathlib import Path
from typing import Any

import make_checkpoint
import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from test_readme import missing_links

ROOT = Path(__file__).resolve().parent.parent
COLABS = ROOT / 'colabs'
NAMES = sorted(path.name for path in COLABS.glob('*.ipynb'))
MOST_CELLS = 12
PNG = b'\x89PNG\r\n\x1a\n'
# An absolute path, of somebody's machine; notebooks use relative ones.
ABSOLUTE = re.compile(r'(?<![\w.:/<)\]}])/\w[\w.]*/')

# Notebook -> files that it leaves where it runs, and lines that it prints.
LEAVES = {
  '01_extend_a_model.ipynb': (
    'runs/colab-fast/report.md',
    'runs/colab-fast/report.json',
    'runs/colab-fast/results.csv',
    'runs/colab-fast/loss_by_length.png',
  ),
  '02_real_checkpoint.ipynb': (
    'runs/checkpoint/report.md',
    'runs/extended/config.json',
    'runs/extended/model.safetensors',
    'runs/extended.gguf',
  ),
  '03_grow_length.ipynb': (
    'runs/grow/plan/metrics.jsonl',
    'runs/grow/window/config.json',
  ),
}
PRINTS = {
  '01_extend_a_model.ipynb': (
    'from 32 to 256 tokens, on cpu:0',
    'yarn+logn',
    '16,384 tokens; the last one sees 1,024 of them',
  ),
  '02_real_checkpoint.ipynb': (
    '118,336 parameters on',
    'fine-tuning needs',
    '192 tokens read, 128 trained; 16 written',
    'transformers v5: exact',
  ),
  '03_grow_length.ipynb': (
    'by a plan: 24 steps',
    'lengths from 32 to 64 tokens\n0 compiles after the first step',
    '32 to 64 tokens at step',
    'rows of 64 tokens, positions to 512',
  ),
}


def read(name: str) -> Any:
  """A stored notebook."""
  return nbformat.read(COLABS / name, as_version=4)


def code_cells(notebook: Any) -> list[Any]:
  """Its cells that run."""
  return [cell for cell in notebook.cells if cell.cell_type == 'code']


def problems(notebook: Any) -> list[str]:
  """What a stored notebook must not have."""
  found = []
  if len(notebook.cells) > MOST_CELLS:
    found.append(f'{len(notebook.cells)} cells, at most {MOST_CELLS}')
  if notebook.metadata.get('kernelspec', {}).get('name') != 'python3':
    found.append('the kernel is not python3')
  if set(notebook.metadata) - {'kernelspec', 'language_info'}:
    found.append(f'metadata of an editor: {sorted(notebook.metadata)}')
  for number, cell in enumerate(notebook.cells):
    if cell.get('outputs') or cell.get('execution_count') is not None:
      found.append(f'cell {number} is stored with its results')
    if cell.metadata:
      found.append(f'cell {number} has metadata {dict(cell.metadata)}')
    found += [
      f'cell {number} names {path}' for path in ABSOLUTE.findall(cell.source)
    ]
  return found


def execute(
  notebook: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> str:
  """Runs all cells in a folder, in a kernel of its own; what they print."""
  monkeypatch.setenv('JUPYTER_RUNTIME_DIR', str(folder / 'jupyter'))
  monkeypatch.setenv('JUPYTER_DATA_DIR', str(folder / 'jupyter'))
  monkeypatch.setenv('JUPYTER_CONFIG_DIR', str(folder / 'jupyter'))
  make_checkpoint.make(folder / 'checkpoint')
  own = {
    'NTK_JAX_CHECKPOINT': 'checkpoint',
    'NTK_JAX_FAST': '1',
    'JAX_PLATFORMS': 'cpu',
    'PYTHONPATH': str(ROOT),
    'IPYTHONDIR': str(folder / 'ipython'),
  }
  client = NotebookClient(
    notebook,
    timeout=300,
    kernel_name='python3',
    resources={'metadata': {'path': str(folder)}},
  )
  client.execute(env=os.environ | own)
  return ''.join(
    output.text
    for cell in code_cells(notebook)
    for output in cell.outputs
    if output.output_type == 'stream'
  )


def figures(notebook: Any) -> list[bytes]:
  """The images that its cells show."""
  return [
    base64.b64decode(output.data['image/png'])
    for cell in code_cells(notebook)
    for output in cell.outputs
    if 'image/png' in output.get('data', {})
  ]


def test_every_notebook_has_its_results_named() -> None:
  assert NAMES
  assert sorted(LEAVES) == sorted(PRINTS) == NAMES


@pytest.mark.parametrize('name', NAMES)
def test_notebook_is_stored_clean(name: str) -> None:
  notebook = read(name)
  nbformat.validate(notebook)
  assert problems(notebook) == []
  prose = [c.source for c in notebook.cells if c.cell_type == 'markdown']
  assert missing_links('\n'.join(prose), COLABS) == []


@pytest.mark.parametrize('name', NAMES)
def test_notebook_runs(
  name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  notebook = read(name)
  said = execute(notebook, tmp_path, monkeypatch)
  for words in PRINTS[name]:
    assert words in said, said
  assert PRINTS[name][-1] in code_cells(notebook)[-1].outputs[-1].text
  for file in LEAVES[name]:
    assert (tmp_path / file).read_bytes()
  shown = figures(notebook)
  assert shown
  assert all(figure.startswith(PNG) for figure in shown)
  assert 'Warning' not in said, said


def _notebook(*sources: str) -> Any:
  cells = [nbformat.v4.new_code_cell(source) for source in sources]
  kernel = {'name': 'python3', 'display_name': 'Python 3'}
  metadata = {'kernelspec': kernel}
  return nbformat.v4.new_notebook(cells=cells, metadata=metadata)


def test_a_failing_cell_is_an_error(
  tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  with pytest.raises(CellExecutionError, match='ZeroDivisionError'):
    execute(_notebook('x = 0', '1 / x'), tmp_path, monkeypatch)


def test_offences_are_found() -> None:
  good = _notebook("open('runs/colab')", "url = 'https://example.org/home/x'")
  assert problems(good) == []
  assert len(problems(_notebook(*'x' * (MOST_CELLS + 1)))) == 1
  bad = _notebook("open('/home/me/text')", 'x')
  bad.metadata = {'colab': {}}
  bad.cells[0].metadata['scrolled'] = True
  bad.cells[1].execution_count = 3
  assert problems(bad) == [
    'the kernel is not python3',
    "metadata of an editor: ['colab']",
    "cell 0 has metadata {'scrolled': True}",
    'cell 0 names /home/',
    'cell 1 is stored with its results',
  ]
