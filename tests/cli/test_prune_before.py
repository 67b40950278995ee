"""`tokpress prune` before a language model: contact sheets of methods."""

import json

import host_cases
import jax
import numpy as np
import pytest
from command import run
from PIL import Image
from safetensors import numpy as files

import tokpress_jax as tp
from tokpress_jax.io import images
from tokpress_jax.pruners import before_llm


@pytest.fixture(scope='module')
def here(tmp_path_factory):
  """CLIP's and SigLIP's image towers of 9 patches, and two photographs."""
  root = tmp_path_factory.mktemp('before')
  for name in ('clip', 'siglip'):
    official = root / f'official_{name}.safetensors'
    files.save_file(host_cases.tensors(name), official)
    out = root / f'{name}.safetensors'
    assert run('convert', name, official, '--out', out) == 0
  rng = np.random.default_rng(0)
  for name in ('cat', 'dog'):
    small = Image.fromarray(rng.integers(0, 255, (3, 4, 3), np.uint8))
    small.resize((40, 30)).save(root / f'{name}.png')
  return root


def prune(here, tmp_path, *argv, model='clip', code=0):
  """Runs the command; returns the numbers that it wrote."""
  file = tmp_path / 'numbers.json'
  got = run(
    *('prune', '--model', here / f'{model}.safetensors', '--json', file),
    *('--out', tmp_path / 'p.png', '--cell', 30, *argv),
  )
  assert got == code
  return json.loads(file.read_text())


def test_several_methods_on_the_same_images(here, tmp_path, capsys):
  found = prune(
    *(here, tmp_path, '--image', here / 'dog.png', here / 'cat.png'),
    *('--pruner', 'divprune', 'vtc_cls', 'hired', '--tokens', 4),
  )
  out, err = capsys.readouterr()
  assert found['tokens'] == 4 and found['layer'] == -2
  assert 'divprune  4\n' in out and 'hired     4  (of a thumbnail' in out
  assert err.split() == [
    'compiling',
    'the',
    'tower',
    *['divprune', 'vtc_cls', 'hired'],
  ]
  # The same as the parts in Python.
  model = tp.load(here / 'clip.safetensors')
  squares = [
    images.fit_image(tp.load_image(here / f'{n}.png', channels=3), 12)[0]
    for n in ('dog', 'cat')
  ]
  x = images.to_float(np.concatenate(squares))
  vtc = before_llm.VTCCLS(budget=4, layers=(-2,))
  for name, pruner in (
    ('divprune', before_llm.DivPrune(budget=4)),
    ('vtc_cls', vtc),
  ):
    tokens, signals = jax.jit(
      lambda m, x, p=pruner: m.observe(x, needs=p.needs, layer=-2)
    )(model, x)
    index = np.sort(jax.jit(pruner.plan)(tokens, signals).index, axis=1)
    got = [image['kept'][name] for image in found['images']]
    assert got == index.tolist(), name
  assert [i['file'] for i in found['images']] == [
    str(here / 'dog.png'),
    str(here / 'cat.png'),
  ]
  # More methods than images: these go across.
  sheet = images.load_image(tmp_path / 'p.png')
  assert sheet.shape[0] > 4 * 30 and sheet.shape[1] < 200
