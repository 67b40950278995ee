"""The commands that use a model, on untrained ones."""

import json

import jax
import numpy as np
import pytest
import tiny_models
from command import run
from PIL import Image

from tokpress_jax.cli import common
from tokpress_jax.cli import sample as command
from tokpress_jax.io import export, images, stablehlo, tokens
from tokpress_jax.tokenizers import Quality

BOX = '--box', '0', '0', '0.5', '1'  # the upper half
EDIT = '--image', 'M/images/1.png', *BOX
PRUNE = 'prune', '--image', 'M/images/0.png', '--model'


@pytest.fixture(scope='module')
def here(tmp_path_factory):
  """A folder with three models and a folder of three images."""
  root = tmp_path_factory.mktemp('models')
  models = {
    'one_d': tiny_models.one_d(),
    'scale_wise': tiny_models.scale_wise(),
    'next_token': tiny_models.next_token(),
    'vit': tiny_models.vit(),
  }
  for name, model in models.items():
    export.export(
      model.module, model.variables, root / name, tokenizer=model.tokenizer
    )
  (root / 'images').mkdir()
  rng = np.random.default_rng(0)
  for i, shape in enumerate(((8, 8), (17, 30, 3), (9, 12, 4))):
    pixels = rng.integers(0, 255, shape, np.uint8)
    Image.fromarray(pixels).save(root / 'images' / f'{i}.png')
  return root


@pytest.mark.parametrize('fit', ['crop', 'pad', 'tile'])
def test_encode_and_decode(here, tmp_path, fit, capsys):
  file = tmp_path / 'x' / 't.tok'
  assert run('encode', here / 'one_d', here / 'images', '--out', file,
             '--fit', fit, '--batch-size', 2) == 0  # fmt: skip
  found = list(tokens.Reader([file]))
  assert [record.name for record in found] == ['0.png', '1.png', '2.png']
  rows = {'crop': [1, 1, 1], 'pad': [1, 1, 1], 'tile': [1, 3 * 4, 2 * 2]}[fit]
  assert [record.codes.shape for record in found] == [(r, 3, 1) for r in rows]
  assert all((record.lengths == 3).all() for record in found)
  squares, places = common.read_squares(
    sorted((here / 'images').iterdir()), tiny_models.ONE_D, fit
  )
  want = jax.jit(tiny_models.one_d().encode)(images.to_float(squares)).codes
  codes = np.concatenate([record.codes for record in found])
  np.testing.assert_array_equal(codes, want)
  assert [record.placement for record in found] == places
  assert run('decode', here / 'one_d', file, '--out', tmp_path / 'out') == 0
  sizes = [
    images.load_image(tmp_path / 'out' / f'{i}.png').shape for i in range(3)
  ]
  whole = [(8, 8, 1), (17, 30, 1), (9, 12, 1)]
  square = [(8, 8, 1), (17, 17, 1), (9, 9, 1)]
  assert sizes == (square if fit == 'crop' else whole)
  assert 'tokens of 4 bits' in capsys.readouterr().out


def test_a_budget_of_tokens(here, tmp_path):
  few, all_ = tmp_path / 'few.tok', tmp_path / 'all.tok'
  where = here / 'one_d', here / 'images', '--out'
  assert run('encode', *where, few, '--tokens', 2) == 0
  assert run('encode', *where, all_) == 0
  pairs = zip(tokens.Reader([few]), tokens.Reader([all_]), strict=True)
  for a, b in pairs:
    np.testing.assert_array_equal(a.codes[:, :2], b.codes[:, :2])
    assert (a.codes[:, 2:] == 0).all() and a.lengths == 2


@pytest.mark.parametrize('coding', ['packed', 'adaptive', 'generator'])
def test_codings_decode_to_the_same_images(here, tmp_path, coding):
  model = here / 'next_token' / 'tokenizer'
  flags = ('--generator', here / 'next_token') if coding == 'generator' else ()
  plain, coded = tmp_path / 'plain.tok', tmp_path / 'folder'
  coded.mkdir()
  assert run('encode', model, here / 'images', '--out', plain) == 0
  assert run('encode', model, here / 'images', '--out', coded,
             '--coding', coding, *flags) == 0  # fmt: skip
  assert [p.name for p in coded.iterdir()] == ['images-00000-of-00001.tok']
  again = tmp_path / 'again.tok'
  assert run('decode', model, plain, '--out', tmp_path / 'a') == 0
  assert run('decode', model, coded, '--out', tmp_path / 'b', *flags,
             '--recode', again) == 0  # fmt: skip
  assert tokens.Reader([again]).header.coding == 'adaptive'
  for a, b in zip(tokens.Reader([plain]), tokens.Reader([again]), strict=True):
    np.testing.assert_array_equal(a.codes, b.codes)
  names = sorted(p.name for p in (tmp_path / 'a').iterdir())
  assert names == ['0.png', '1.png', '2.png']
  for name in names:
    ours, theirs = (tmp_path / x / name for x in 'ab')
    assert ours.read_bytes() == theirs.read_bytes()


def test_each_image_takes_as_many_tokens_as_its_quality_needs(here, tmp_path):
  file = tmp_path / 'x.tok'
  assert run('encode', here / 'one_d', here / 'images', '--out', file,
             '--psnr', 7.5) == 0  # fmt: skip
  found = tokens.Reader([file])
  squares, _ = common.read_squares(
    sorted((here / 'images').iterdir()), tiny_models.ONE_D, 'crop'
  )
  want = jax.jit(tiny_models.one_d().encode)(
    images.to_float(squares), policy=Quality(target=7.5)
  )
  np.testing.assert_array_equal(
    np.concatenate([r.lengths for r in found]), want.length
  )
  assert found.header.lengths == 'psnr=7.5'


def test_a_budget_between_two_lengths_is_rounded_and_said(here, tmp_path):
  tokenizer = here / 'scale_wise' / 'tokenizer'
  out = tmp_path / 't.tok'
  with pytest.warns(UserWarning, match='3 tokens is no legal length'):
    run('encode', tokenizer, here / 'images', '--out', out, '--tokens', 3)
  assert all(record.lengths == 1 for record in tokens.Reader([out]))


@pytest.mark.parametrize(
  'argv, message',
  [
    (['encode', 'M/one_d', 'M/images', '--tokens', '0'], 'budget of 0 tokens'),
    (['encode', 'M/one_d', 'M/images', '--tokens', '4'], 'uses 1 to 3 tokens'),
    (['encode', 'M/one_d', 'M/none'], 'no image or folder'),
    (['encode', 'M/one_d', 'M/vit/README.md'], 'README.md is not an image'),
    (['encode', 'M/one_d', 'M/vit'], 'no images in'),
    (['encode', 'M/one_d'], 'at least one image'),
    (['reconstruct', 'M/one_d'], 'at least one image'),
    (['encode', 'M/oned', 'M/images'], "Did you mean 'one_d'"),
    (['encode', 'M/images', 'M/images'], 'neither a model directory'),
    (['encode', 'M/vit', 'M/images'], 'needs a tokenizer'),
    (['encode', 'M/scale_wise', 'M/images'], 'tokenizer is in'),
    (['decode', 'M/one_d', 'M/images/0.png'], 'no token file'),
    (['decode', 'M/one_d', 'M/none.tok'], 'no token file'),
    (['decode', 'M/one_d', 'M/one_d/model.safetensors'], '`tokpress encode`'),
    (['decode', 'M/one_d', 'M/one_d'], 'holds no sets of tokens'),
    (['encode', 'M/one_d', 'M/images', '--coding', 'generator'], 'go together'),
    (
      ['encode', 'M/one_d', 'M/images', '--tokens', '2', '--psnr', '9'],
      'give one of them',
    ),
    (
      ['encode', 'M/one_d', 'M/images', '--loss', '0.1'],
      'give --psnr DB',
    ),
    (['complexity', 'M/one_d', '--loss', '0.1'], 'give --psnr DB'),
    (['complexity', 'M/one_d'], 'Give --loss X'),
    (['decode', 'M/one_d'], 'at least one token file'),
    (['encode', 'M/one_d', 'M/images', '--data', 'digits'], 'not both'),
    (['encode', 'M/one_d', 'M/images', '--shards', '2'], '--shards without'),
    (['encode', 'M/one_d', '--data', 'digist'], "'digits'"),
    (['encode', 'M/one_d', '--data', 'tokens'], 'no images to encode'),
    (['encode', 'M/one_d', '--data', 'digits', '--part', '2', '2'], '--part 2'),
    (['encode', 'M/one_d', '--data', 'digits', '--shards', '0'], '--shards 0'),
    (
      ['encode', 'M/one_d', 'M/images', '--out', 'M/images/0.png'],
      'is no token file',
    ),
    (['sample', 'M/scale_wise', '--labels', '7'], 'unknown class [7]'),
    (['sample', 'M/scale_wise', '--top-k', '99'], 'codebook size 16'),
    (['sample', 'M/scale_wise', '--guidance', '-1'], 'must not be negative'),
    (['sample', 'M/scale_wise', '--tokens', '0'], 'budget of 0 tokens'),
    (['sample', 'M/scale_wise', '--image', 'M/images/1.png'], 'needs both'),
    (['sample', 'M/scale_wise', '--draw', 'outside'], '--image and --box'),
    (
      ['sample', 'M/scale_wise', '--image', 'M/x.png', *BOX],
      'x.png cannot be opened',
    ),
    (
      ['sample', 'M/scale_wise', '--image', 'M/images/1.png', *BOX[:-1], '1.2'],
      'in fractions of the image, as 0.1 0.1 0.8 0.8; got 0.0 0.0 0.5 1.2',
    ),
    (
      ['sample', 'M/scale_wise', '--image=M/images/1.png', '--box', *'0001'],
      'got 0.0 0.0 0.0 1.0',
    ),
    (
      [
        *('sample', 'M/scale_wise', '--image', 'M/images/1.png', '--box'),
        *('0', '0', '0.1', '0.1'),
      ],
      'make it larger',
    ),
    (['sample', 'M/next_token', *EDIT], 'this one is a NextTokenConfig'),
    (['sample', 'M/next_token', '--show-scales'], 'is a NextTokenConfig'),
    (['sample', 'M/next_token', '--smooth'], 'only scale-wise generators'),
    (['sample', 'M/scale_wise', *EDIT, '--fit', 'tile'], 'try pad'),
    (['sample', 'M/scale_wise', '--mesh.fsdp', '9'], 'does not fit 8 device'),
    ([*PRUNE, 'M/vit', '--pruner', 'tom'], "'tome'"),
    ([*PRUNE, 'M/vit', '--tokens', '9'], '1 to 4'),
    ([*PRUNE, 'M/one_d'], 'needs a classifier'),
    ([*PRUNE, 'M/vit', '--pruner=tome', '--keep=0.25'], '--keep 0.38'),
    ([*PRUNE, 'M/vit', '--sites', 'blok'], 'unknown site'),
    (['prune', '--image', 'M/x.jpg', '--model', 'M/vit'], 'no image or folder'),
    ([*PRUNE, 'M/vot'], "There is no '"),
    ([*PRUNE, 'M/vit', '--names', 'M/vit/config.json'], 'names 0 classes'),
    ([*PRUNE, 'M/vit', '--set', 'metrik=features'], "'metric'"),
    (['export', 'M/vit', 'M/x'], 'is a model already'),
    (['evaluate', 'M/vit'], '--data digits'),
    (['data', 'describe', 'digist'], "'digits'"),
    (['bench', 'matmull'], "'matmul'"),
    (['list', 'model'], 'models'),
  ],
)
def test_errors_are_one_paragraph(here, argv, message, capsys):
  argv = [word.replace('M/', f'{here}/') for word in argv]
  assert run(*argv) == 2
  text = capsys.readouterr().err
  assert message in text
  assert 'Traceback' not in text and len(text.splitlines()) < 12


def test_other_files_in_a_folder_are_passed_over(here, tmp_path, capsys):
  folder = tmp_path / 'mixed'
  folder.mkdir()
  (folder / 'a.PNG').write_bytes((here / 'images' / '0.png').read_bytes())
  (folder / 'notes.txt').write_text('no image')
  out = tmp_path / 't.tok'
  assert run('encode', here / 'one_d', folder, '--out', out) == 0
  assert tokens.Reader([out])[0].name == 'a.PNG'
  assert f'Skipped in {folder}: 1 not images' in capsys.readouterr().out


def test_tokens_of_another_tokenizer(here, tmp_path, capsys):
  file = tmp_path / 't.tok'
  run('encode', here / 'one_d', here / 'images', '--out', file)
  other = here / 'scale_wise' / 'tokenizer'
  assert run('decode', other, file, '--out', tmp_path) == 2
  assert 'encoded by another tokenizer' in capsys.readouterr().err


def sample(here, out, *flags):
  flags = '--labels', 2, 0, '--per-class', 3, '--guidance', 1.5, *flags
  assert run('sample', here / 'scale_wise', '--out', out, *flags) == 0
  assert images.load_image(out).shape[0] > 16
  return dict(np.load(out.with_suffix('.npz')))


def test_sample(here, tmp_path):
  a = sample(here, tmp_path / 'a.png')
  assert a['labels'].tolist() == [2, 2, 2, 0, 0, 0]
  assert a['images'].shape == (6, 8, 8, 1) and a['images'].dtype == np.uint8
  np.testing.assert_array_equal(
    a['codes'], sample(here, tmp_path / 'b.png')['codes']
  )
  c = sample(here, tmp_path / 'c.png', '--seed', 1)
  assert (a['codes'] != c['codes']).any()
  # Six rows on four devices: two are added and left out again.
  spread = sample(here, tmp_path / 'd.png', '--mesh.data', 4, '--mesh.fsdp', 2)
  np.testing.assert_array_equal(a['codes'], spread['codes'])


def test_sample_scale_by_scale(here, tmp_path):
  sharp = sample(here, tmp_path / 'a.png')
  flags = '--smooth', '--show-scales', '--cell', 8
  smooth = sample(here, tmp_path / 'b.png', *flags)
  # The draw of the first scale is the same, what follows from it is not.
  np.testing.assert_array_equal(smooth['codes'][:, 0], sharp['codes'][:, 0])
  assert (smooth['images'] != sharp['images']).any()
  strip = images.load_image(tmp_path / 'b_scales.png', channels=1)
  right = strip[-20:, -20:]  # two classes, two scales, 4 pixels between
  for row, first in ((0, 0), (12, 3)):
    found = right[row : row + 8, 12:]
    np.testing.assert_array_equal(found, smooth['images'][first])
    assert (right[row : row + 8, :8] != found).any()


def test_sample_edits_an_image(here, tmp_path, capsys):
  out = tmp_path / 'e.png'
  edit = [word.replace('M/', f'{here}/') for word in EDIT]
  argv = '--per-class', 2, '--cell', 8, '--out', out
  assert run('sample', here / 'scale_wise', *edit, *argv) == 0
  found = dict(np.load(out.with_suffix('.npz')))
  assert found['labels'].tolist() == [3, 3]  # No class.
  squares, _ = common.read_squares(
    [here / 'images' / '1.png'], tiny_models.MULTI_SCALE, 'crop'
  )
  np.testing.assert_array_equal(found['original'], squares[0])
  model = tiny_models.scale_wise()
  codes = jax.jit(model.tokenizer.encode)(images.to_float(squares)).codes
  # 1 token of the image as a whole, then the upper and the lower two.
  for kept in (0, 3, 4):
    assert (found['codes'][:, kept] == codes[:, kept]).all()
  picture = images.load_image(out, channels=1)[-8:, -44:]
  np.testing.assert_array_equal(picture[:, :8], squares[0])
  np.testing.assert_array_equal(picture[4:, 12:20], squares[0][4:])
  assert (picture[:4, 12:20] == 127).all()
  np.testing.assert_array_equal(picture[:, 24:32], found['images'][0])
  np.testing.assert_array_equal(picture[:, 36:], found['images'][1])


def test_few_of_many_classes_are_drawn_by_default(capsys):
  flags = command.Flags(model='x')
  assert command._classes(flags, 3) == (0, 1, 2)
  assert command._classes(flags, 0) == (0,)
  assert command._classes(flags, 1000)[::7] == (0, 999)
  assert '8 of 1000 classes' in capsys.readouterr().out
  edit = command.Flags(model='x', image='y')
  assert command._classes(edit, 1000) == (1000,)


def test_reconstruct(here, tmp_path, capsys):
  out = tmp_path / 'r.png'
  assert run('reconstruct', here / 'one_d', here / 'images', '--out', out) == 0
  lines = capsys.readouterr().out.splitlines()
  assert [line.split()[0] for line in lines[-4:-1]] == ['1', '2', '3']
  assert images.load_image(out).shape[0] >= 4 * 96
  argv = ('reconstruct', here / 'one_d', here / 'images', '--out', out)
  for target, most in ((-20, 1), (99, 3)):  # any picture; no picture
    assert run(*argv, '--psnr', target) == 0
    text = capsys.readouterr().out
    assert f'   {most}.0   tokens on average' in text
    assert ('and not reached' in text) == (most == 3)
  per_image = text.splitlines()[-4:-2]
  assert all(line.split()[0] == '3' and 'images' in line for line in per_image)


def test_export_of_programs(here, tmp_path):
  assert run('export', here / 'vit', tmp_path, '--stablehlo') == 0
  assert list(stablehlo.load_programs(tmp_path)) == ['apply']


def test_list_and_data(capsys):
  assert run('list') == 0
  text = capsys.readouterr().out
  for name in ('one_d', 'tome', 'tokenizer_task', 'digits'):
    assert name in text
  assert run('data', 'list') == 0
  assert 'digits' in capsys.readouterr().out


def test_bench(tmp_path, capsys):
  assert run('bench') == 0
  assert 'matmul' in capsys.readouterr().out
  file = tmp_path / 'b.json'
  argv = '--sizes', 16, '--repeats', 1, '--dtypes', 'float32', '--json', file
  assert run('bench', 'matmul', *argv) == 0
  assert json.loads(file.read_text())['rows']
