"""The commands that read texts, on untrained models."""

import json
import sys

import jax
import numpy as np
import pytest
import tiny_models
from command import run
from PIL import Image

from tokpress_jax import generators, models, report
from tokpress_jax.io import export, images
from tokpress_jax.pruners import before_llm

pytestmark = pytest.mark.parity  # They need the package tokenizers.
pytest.importorskip('tokenizers')


@pytest.fixture(scope='module')
def here(tmp_path_factory):
  """A folder with models that read texts, a vocabulary and two images."""
  root = tmp_path_factory.mktemp('texts')
  made = {
    'mask_gen': tiny_models.mask_gen(),
    'ta_titok': tiny_models.ta_titok(),
    'clip': tiny_models.clip_text(),
    'one_d': tiny_models.one_d(),
    'next_token': tiny_models.next_token(),
  }
  for name, model in made.items():
    export.export(
      model.module, model.variables, root / name, tokenizer=model.tokenizer
    )
  tiny_models.clip_vocabulary(root / 'tokenizer.json')
  rng = np.random.default_rng(0)
  for i in range(2):
    pixels = rng.integers(0, 255, (8, 8), np.uint8)
    Image.fromarray(pixels).save(root / f'{i}.png')
  return root


def reading(here):
  return (
    '--text-encoder',
    here / 'clip',
    '--vocabulary',
    here / 'tokenizer.json',
  )


def features(here, texts):
  codes = models.clip_codes(texts, vocabulary=here / 'tokenizer.json', length=6)
  return jax.jit(lambda model, codes: model(codes))(
    tiny_models.clip_text(), codes
  )


def test_a_text_is_drawn(here, tmp_path):
  out = tmp_path / 'x.png'
  texts = ['a cat', 'at']
  argv = 'sample', here / 'mask_gen', *reading(here), '--text', *texts
  assert run(*argv, '--per-class', 2, '--score', 3, '--out', out) == 0
  found = np.load(out.with_suffix('.npz'))
  assert found['texts'].tolist() == texts
  assert found['labels'].tolist() == [0, 0, 1, 1]
  read = features(here, [*texts, ''])
  rows = np.array([0, 0, 1, 1])
  text = generators.text(
    read.before_last[rows],
    read.pooled[rows],
    null_features=read.before_last[2],
    null_pooled=read.pooled[2],
    score=3.0,
    for_decoder=read.last[rows],
  )
  want = generators.sample(
    tiny_models.mask_gen(),
    text,
    rng=jax.random.fold_in(jax.random.key(0), 0),
    sampler=generators.Sampler(),
  )
  np.testing.assert_array_equal(found['codes'], want.codes)
  error = found['images'].astype(int) - images.to_uint8(want.images)
  assert np.abs(error).max() <= 1


def test_a_decoder_reads_a_text(here, tmp_path, capsys):
  photos = here / '0.png', here / '1.png'
  argv = 'reconstruct', here / 'ta_titok', *photos, *reading(here)
  for given in (['a cat'], ['a cat', 'at']):
    out = tmp_path / f'{len(given)}.png'
    assert run(*argv, '--text', *given, '--out', out, '--psnr', 1) == 0
  assert 'tokens on average' in capsys.readouterr().out
  assert (tmp_path / '1.png').read_bytes() != (tmp_path / '2.png').read_bytes()
  file = tmp_path / 't.tok'
  assert run('encode', here / 'ta_titok', *photos, '--out', file) == 0
  argv = 'decode', here / 'ta_titok', file, *reading(here)
  assert run(*argv, '--text', 'a cat', '--out', tmp_path / 'out') == 0
  decoded = images.load_image(tmp_path / 'out' / '0.png')
  model, pixels = tiny_models.ta_titok(), images.load_image(photos[0])
  condition = features(here, ['a cat']).last

  @jax.jit
  def again(model, x):
    return model.decode(model.encode(x), condition=condition)

  want = again(model, images.to_float(pixels[None, ..., :1]))
  error = decoded[..., :1].astype(int) - images.to_uint8(want)[0]
  assert np.abs(error).max() <= 1


@pytest.mark.parametrize(
  'argv, message',
  [
    (['sample', 'M/mask_gen'], 'draws texts: give --text'),
    (['sample', 'M/mask_gen', '--labels', '1'], 'draws texts, not --labels'),
    (['sample', 'M/next_token', '--text', 'a'], 'draws 3 classes: give'),
    (['reconstruct', 'M/ta_titok', 'M/0.png'], 'for each (1); got 0'),
    (['reconstruct', 'M/one_d', 'M/0.png', '--text', 'a'], 'reads none'),
    (
      ['reconstruct', 'M/ta_titok', 'M/0.png', 'M/1.png', '--text', *'abc'],
      'for each (2); got 3',
    ),
    (
      ['reconstruct', 'M/ta_titok', 'M/0.png', '--text', 'a'],
      'clip-text-l14',
    ),
    (
      ['reconstruct', 'M/ta_titok', 'M/0.png', '--text', 'a', '--text-encoder',
       'M/one_d'],
      'needs a text encoder',
    ),
  ],
)  # fmt: skip
def test_what_is_refused(here, argv, message, capsys, monkeypatch, tmp_path):
  monkeypatch.setenv('TOKPRESS_MODELS', str(tmp_path))
  monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
  assert run(*(str(a).replace('M/', f'{here}/') for a in argv)) == 2
  assert message in capsys.readouterr().err


def test_a_text_guides_what_is_kept_of_a_tower(here, tmp_path):
  config = models.ViTConfig(
    image_size=8,
    channels=1,
    patch=2,
    width=16,
    depth=2,
    heads=2,
    classes=0,
    features=8,
  )
  tower = tiny_models.loaded(config, 'model', tiny_models.IMAGES)
  export.export(tower.module, tower.variables, tmp_path / 'tower')
  argv = (
    *('prune', '--model', tmp_path / 'tower', '--image', here / '0.png'),
    *('--pruner', 'idpruner', '--text', 'a cat', '--tokens', 4),
    *('--out', tmp_path / 'p.png', '--json', tmp_path / 'p.json'),
  )
  assert run(*argv, *reading(here)) == 0
  found = json.loads((tmp_path / 'p.json').read_text())
  x = images.to_float(images.load_image(here / '0.png'))[None]
  kept = report.keep(
    tower,
    x,
    {'idpruner': before_llm.IDPruner(budget=4)},
    texts=features(here, ['a cat']).pooled,
  )
  assert found['images'][0]['kept'] == {
    one.label: one.slots(0).tolist() for one in kept
  }
