"""Notebooks of colab/: in step with their sources, and executed offline."""

import base64
import io
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from tokpress_jax import types

nbformat = pytest.importorskip('nbformat')
jupytext = pytest.importorskip('jupytext')
pytest.importorskip('nbclient')

COLAB = pathlib.Path(__file__).resolve().parents[2] / 'colab'

# In a process of its own: the client's event loop is not ours to test.
RUN = """
import sys, nbclient, nbformat
nb = nbformat.read(sys.argv[1], 4)
nbclient.NotebookClient(nb, timeout=240).execute()
nbformat.write(nb, sys.argv[2])
"""


def redrawn(name, config, *inputs, tokenizer=None):
  """A model whose every weight matters, other ones for another name."""
  module = config.build()
  rng = np.random.default_rng(len(name))

  def draw(path, x):
    scale = np.prod(x.shape[:-1]) ** -0.5 if x.ndim > 1 else 0.1
    if path[-1].key in ('codebook', 'embedding', 'table', 'scale'):
      scale = 1.0
    return jnp.asarray(rng.normal(size=x.shape) * scale, jnp.float32)

  shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)
  variables = jax.tree_util.tree_map_with_path(draw, shapes)
  spec = types.Spec(name=name, family=config.family, config=config)
  return types.Loaded(module, variables, spec, tokenizer)


def check_in_step(name):
  """Asserts that a notebook is what jupytext makes of its source."""
  source = COLAB / f'{name}.py'
  notebook = nbformat.read(source.with_suffix('.ipynb'), as_version=4)
  nbformat.validate(notebook)
  cells = lambda nb: [(cell.cell_type, cell.source) for cell in nb.cells]
  assert cells(notebook) == cells(jupytext.read(source)), (
    f'run: jupytext --to ipynb colab/{name}.py'
  )
  assert not any(cell.get('outputs') for cell in notebook.cells)


def execute(name, monkeypatch, tmp_path):
  """Runs a notebook; returns its text and its pictures, [H, W, 4] each."""
  monkeypatch.setenv('IPYTHONDIR', str(tmp_path))
  # The checkout's package, also where it is not installed.
  paths = [str(COLAB.parent), os.environ.get('PYTHONPATH', '')]
  monkeypatch.setenv('PYTHONPATH', os.pathsep.join(filter(None, paths)))
  # One device is enough; programs this small take their time to compile.
  monkeypatch.setenv('XLA_FLAGS', '--xla_backend_optimization_level=0')
  source, done = COLAB / f'{name}.ipynb', tmp_path / 'done.ipynb'
  subprocess.run(
    [sys.executable, '-c', RUN, str(source), str(done)], check=True
  )
  executed = nbformat.read(done, as_version=4)
  assert len(executed.cells) == len(nbformat.read(source, 4).cells)
  outputs = [o for c in executed.cells for o in c.get('outputs', ())]
  text = ''.join(o.get('text', '') for o in outputs)
  pictures = []
  for output in outputs:
    if 'image/png' in output.get('data', {}):
      data = base64.b64decode(output.data['image/png'])
      with Image.open(io.BytesIO(data)) as picture:
        pictures.append(np.asarray(picture.convert('RGBA')))
  return text, pictures
