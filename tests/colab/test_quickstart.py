"""The notebook: in step with its source, and it runs, tiny and offline."""

import base64
import io
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

nbformat = pytest.importorskip('nbformat')
jupytext = pytest.importorskip('jupytext')
nbclient = pytest.importorskip('nbclient')

COLAB = pathlib.Path(__file__).resolve().parents[2] / 'colab'
SOURCE = COLAB / 'quickstart.py'


def _cells(notebook):
  return [(cell.cell_type, cell.source) for cell in notebook.cells]


def test_notebook_is_made_from_the_source():
  notebook = nbformat.read(SOURCE.with_suffix('.ipynb'), as_version=4)
  nbformat.validate(notebook)
  assert _cells(notebook) == _cells(jupytext.read(SOURCE)), (
    'run: jupytext --to ipynb colab/quickstart.py'
  )
  assert not any(cell.get('outputs') for cell in notebook.cells)


@pytest.mark.slow
def test_notebook_runs(monkeypatch, tmp_path):
  pytest.importorskip('sklearn')
  monkeypatch.setenv('TOKPRESS_STEPS', '3')
  monkeypatch.setenv('TOKPRESS_MODEL', '')
  monkeypatch.setenv('TOKPRESS_WORKDIR', str(tmp_path / 'run'))
  monkeypatch.setenv('TOKPRESS_DATA_DIR', str(tmp_path))
  monkeypatch.setenv('IPYTHONDIR', str(tmp_path))
  # The checkout's package, also where it is not installed.
  paths = [str(COLAB.parent), os.environ.get('PYTHONPATH', '')]
  monkeypatch.setenv('PYTHONPATH', os.pathsep.join(filter(None, paths)))
  monkeypatch.delenv('XLA_FLAGS')  # One device is enough, and faster.
  notebook = nbformat.read(SOURCE.with_suffix('.ipynb'), as_version=4)
  # In a process of its own: the client's event loop is not ours to test.
  run = (
    'import sys, nbclient, nbformat\n'
    'nb = nbformat.read(sys.argv[1], 4)\n'
    'nbclient.NotebookClient(nb, timeout=240).execute()\n'
    'nbformat.write(nb, sys.argv[2])\n'
  )
  done = tmp_path / 'done.ipynb'
  subprocess.run(
    [sys.executable, '-c', run, str(SOURCE.with_suffix('.ipynb')), str(done)],
    check=True,
  )
  executed = nbformat.read(done, as_version=4)
  assert len(executed.cells) == len(notebook.cells)
  outputs = [o for c in executed.cells for o in c.get('outputs', ())]
  text = ''.join(o.get('text', '') for o in outputs)
  assert 'codes (297, 16, 1)' in text and ' dB' in text
  pictures = [
    o.data['image/png'] for o in outputs if 'image/png' in o.get('data', {})
  ]
  assert len(pictures) >= 2  # The strip and the curve, at least.
  with Image.open(io.BytesIO(base64.b64decode(pictures[0]))) as strip:
    assert strip.width > 10 * 64 and np.asarray(strip).any()
