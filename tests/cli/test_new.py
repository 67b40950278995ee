"""`tokpress new pruner`: what it writes works at once."""

import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from command import run

from tokpress_jax import models
from tokpress_jax.cli import new
from tokpress_jax.pruners.find import find_pruner
from tokpress_jax.viz import pruning

ROOT = pathlib.Path(__file__).resolve().parents[2]
LONG = 'a' * 30


def check(*argv):
  """Runs a Python tool at the root of the repository."""
  env = os.environ | {'PYTHONPATH': str(ROOT)}
  done = subprocess.run(
    [sys.executable, '-m', *map(str, argv)],
    cwd=ROOT,
    env=env,
    capture_output=True,
    text=True,
    timeout=500,
  )
  assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope='module')
def here(tmp_path_factory):
  """A folder with pruners of a short, a usual and the longest name."""
  folder = tmp_path_factory.mktemp('new')
  for name in ('x', 'sharp_edges', LONG):
    assert run('new', 'pruner', name, '--out', folder / 'plain') == 0
  for name in ('x', 'soft_edges', LONG):
    out = folder / 'learned'
    assert run('new', 'pruner', name, '--out', out, '--module') == 0
  return folder


def test_lint_and_types(here):
  assert len(LONG) == new._LONGEST
  check('ruff', 'check', '--config', 'ruff.toml', here)
  check('ruff', 'format', '--check', '--config', 'ruff.toml', here)
  for kind in ('plain', 'learned'):
    check('mypy', '--config-file', 'setup.cfg', *sorted(here.glob(f'{kind}/*')))


@pytest.mark.slow
def test_its_own_test_passes(here):
  tests = sorted(here.glob('*/test_*_edges.py'))
  assert len(tests) == 2
  check('pytest', '-q', '-p', 'no:cacheprovider', '--rootdir', here, *tests)


def test_it_acts_in_a_vit_and_can_be_drawn(here):
  cls = find_pruner(f'{here}/plain/sharp_edges.py:SharpEdges')
  config = models.ViTConfig(
    image_size=16, patch=4, width=16, depth=2, heads=2, classes=3
  )
  vit = config.build()
  images = jax.random.uniform(jax.random.key(0), (2, 16, 16, 3))
  plan = (('block_0.after_attention', cls(budget=5)),)

  @jax.jit
  def classify(images):
    variables = vit.init(jax.random.key(1), images)
    return vit.apply(variables, images, plan=plan)

  out = classify(images)
  assert out.tokens.features.shape == (2, 6, 16)  # and the class token
  pixels = np.full((16, 16, 3), 100, np.uint8)
  picture = pruning.draw_reductions(
    pixels, out.reductions, grid=(4, 4), leading=1, panels=1, gap=0
  )
  assert (picture[:, 16:] == 100).all(axis=-1).sum() == 5 * 16


def test_it_says_what_to_do_next(tmp_path, capsys):
  assert run('new', 'pruner', 'sharp_edges', '--out', tmp_path) == 0
  said = capsys.readouterr().out
  assert f'  pytest {tmp_path}/test_sharp_edges.py\n' in said
  assert f'--pruner {tmp_path}/sharp_edges.py:SharpEdges' in said
  assert "('block_3.after_attention', SharpEdges(budget=16))" in said
  assert run('new', 'pruner', 'soft', '--out', tmp_path, '--module') == 0
  assert 'Soft(budget=16).bind(variables)' in capsys.readouterr().out


@pytest.mark.parametrize(
  ('name', 'causes'),
  [
    ('SharpEdges', ["in lower case with underscores, such as 'sharp_edges'"]),
    ('2fast', ["such as 'fast'"]),
    ('class', ["'class' is a keyword"]),
    ('none', ["'none' is a keyword"]),  # the class would be None
    ('tome', ["there is a pruner 'tome', ToMe"]),
    ('to_me', ["there is a pruner 'tome', ToMe"]),
    ('Tokens', ['such as', 'the class would be Tokens, a name that']),
    ('numpy', ["would hide the module 'numpy'"]),
    ('random', ["a pruner 'random'", "would hide the module 'random'"]),
    ('test_it', ['takes files named test_... for tests']),
    ('taken', ['/taken.py exists', '/test_taken.py exists']),
    ('a' * 31, ['31 letters are more than 30']),
  ],
)
def test_bad_names_are_refused_with_all_causes(name, causes, tmp_path, capsys):
  for file in ('taken.py', 'test_taken.py'):
    (tmp_path / file).write_text('mine')
  assert run('new', 'pruner', name, '--out', tmp_path) == 2
  said = capsys.readouterr().err
  assert all(cause in said for cause in causes), said
  assert len(said.splitlines()) == 1 + len(causes), said
  assert len(list(tmp_path.iterdir())) == 2
  assert (tmp_path / 'taken.py').read_text() == 'mine'
