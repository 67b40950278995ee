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
from tokpress_jax import models, report
from tokpress_jax.cli import prune as command
from tokpress_jax.cli import prune_before
from tokpress_jax.io import export, images
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
  config = models.CLIPConfig(
    image=models.ViTConfig(
      image_size=12, patch=4, width=16, depth=2, heads=2, classes=0, features=6
    ),
    text=models.ClipTextConfig(
      vocabulary=7, length=4, width=8, depth=2, heads=2, features=6
    ),
    words=('red', 'blue', 'disc', 'ring'),
  )
  module = config.build()
  inputs = np.zeros((1, 12, 12, 3), np.float32), config.codes(['red disc'])
  variables = jax.jit(module.init)(jax.random.key(0), *inputs)
  draw = lambda x: x + 0.3 * jax.random.normal(jax.random.key(x.size), x.shape)
  export.export(module, jax.tree.map(draw, variables), root / 'both')
  rng = np.random.default_rng(0)
  for name in ('cat', 'dog'):
    small = Image.fromarray(rng.integers(0, 255, (3, 4, 3), np.uint8))
    small.resize((40, 30)).save(root / f'{name}.png')
  return root


def prune(here, tmp_path, *argv, model='clip.safetensors', code=0):
  """Runs the command; returns the numbers that it wrote."""
  file = tmp_path / 'numbers.json'
  got = run(
    *('prune', '--model', here / model, '--json', file),
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
  assert 'divprune  4\n' in out and 'hired     3  (of a thumb' in out
  assert err == 'compiling the tower divprune vtc_cls hired\n'
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


def test_the_texts_of_a_clip_with_its_own_words(here, tmp_path, capsys):
  images_ = '--image', here / 'cat.png', here / 'dog.png'
  found = prune(
    *(here, tmp_path, *images_, '--pruner', 'idpruner', 'stride'),
    *('--text', 'red disc', 'blue ring', '--keep', 0.34),
    model='both',
  )
  assert found['tokens'] == 3
  assert [i['text'] for i in found['images']] == ['red disc', 'blue ring']
  names = ['idpruner', 'idpruner + text', 'stride']
  assert [method['name'] for method in found['methods']] == names
  assert all(list(image['kept']) == names for image in found['images'])
  assert (
    'idpruner         3  (without a text, the class' in capsys.readouterr().out
  )
  # The same as the parts in Python.
  model = tp.load(here / 'both')
  image, text = models.clip_towers(model)
  pooled = text(model.module.config.codes(['red disc', 'blue ring'])).pooled
  squares = [
    images.fit_image(tp.load_image(here / f'{n}.png', channels=3), 12)[0]
    for n in ('cat', 'dog')
  ]
  kept = report.keep(
    image,
    images.to_float(np.concatenate(squares)),
    {'idpruner': before_llm.IDPruner(budget=3)},
    texts=pooled,
  )
  for row in range(2):
    got = found['images'][row]['kept']
    assert got['idpruner'] == kept[0].slots(row).tolist()
    assert got['idpruner + text'] == kept[1].slots(row).tolist()


def test_one_method_on_a_shallow_tower_and_a_folder_of_pictures(here, tmp_path):
  found = prune(
    *(here, tmp_path, '--image', here, '--pruner', 'hiprune'),
    *('--set', 'share=0.5', '--out', tmp_path / 'x'),
    model='both',
  )
  (method,) = found['methods']
  assert 'middle=0, deep=-2, share=0.5' in method['pruner']
  assert found['tokens'] == 2  # A quarter of nine.
  assert found['pictures'] == [
    str(tmp_path / 'x' / f'{i}_{n}.png') for i, n in enumerate(('cat', 'dog'))
  ]
  assert all(images.load_image(path).ndim == 3 for path in found['pictures'])


def test_unreadable_images_are_left_out(here, tmp_path, capsys):
  folder = tmp_path / 'mixed'
  folder.mkdir()
  whole = (here / 'cat.png').read_bytes()
  (folder / 'b.png').write_bytes(whole)
  (folder / 'a.png').write_bytes(b'no picture')
  (folder / 'c.jpg').write_bytes(whole[: len(whole) // 2])
  found = prune(
    *(here, tmp_path, '--image', folder, '--pruner', 'idpruner'),
    *('--text', 'red', 'blue', 'disc', '--out', tmp_path / 'p.jpg'),
    model='both',
    code=1,
  )
  assert [(i['file'], i['text']) for i in found['images']] == [
    (str(folder / 'b.png'), 'blue')
  ]
  err = capsys.readouterr().err
  assert 'Left out, 2 of 3 images:\n' in err
  assert 'a.png is not an image' in err and 'c.jpg cannot be decoded' in err
  with Image.open(tmp_path / 'p.jpg') as picture:
    assert picture.format == 'JPEG'
  # Before a model is looked for.
  (folder / 'b.png').unlink()
  assert run('prune', '--model', 'none', '--image', folder) == 2
  err = capsys.readouterr().err
  assert 'No image can be read:\n' in err and 'c.jpg' in err


@pytest.mark.parametrize(
  ('argv', 'said'),
  [
    (['--pruner', 'divprune', '--text', 'a cat'], 'divprune, which take none'),
    (['--pruner', 'tome', '--text', 'a cat'], 'tome takes none. Those that'),
    (['--pruner', 'divprune', 'tome'], 'and tome would act inside a tower'),
    (
      ['--pruner', 'divprune', 'scope', '--sites', 'tower_out'],
      '--sites is of one inside',
    ),
    (['--pruner', 'divprune', '--r', '3'], '--r is of pruners inside a tower'),
    (['--pruner', 'divprune', '--tokens', '3', '4'], 'shows one budget'),
    (['--pruner', 'divprune', '--tokens', '10'], 'expected 1 to 9'),
    (['--pruner', 'divprune', 'divprune'], 'names divprune twice'),
    (['--pruner', 'all', '--set', 'share=1'], '--set is of one pruner'),
    (['--pruner', 'catp', '--text', 'a', 'b', 'c'], '3 texts for 2 images'),
    (['--out', '/proc/x/k.png'], '--out /proc/x cannot be made'),
    (['--out', '/proc/x/y'], '--out /proc/x/y cannot be made'),
    (['--json', '/proc/x/a.json'], '--json /proc/x cannot be made'),
    (['--json', '/proc'], '--json /proc is a folder; name a file'),
    (['--out', 'x.pdf'], 'x.pdf: a picture ends in .png, .jpg, .jpeg, .webp'),
  ],
)
def test_what_does_not_fit_is_said(here, argv, said, capsys):
  both = here / 'cat.png', here / 'dog.png'
  code = run(
    *('prune', '--model', here / 'clip.safetensors', '--image', *both, *argv)
  )
  assert code == 2
  assert said in capsys.readouterr().err


def test_all_names_every_method_once():
  assert len(set(prune_before.METHODS)) == len(prune_before.METHODS)
  named = command.classes_of(['scope', 'all'])
  assert list(named)[:2] == ['scope', prune_before.METHODS[0]]
  assert set(named) == set(prune_before.METHODS)
