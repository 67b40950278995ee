"""`tokpress evaluate --metrics`: what is compared, stored and refused."""

import functools
import json

import command
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models
from inception_case import released

from tokpress_jax import generators, metrics
from tokpress_jax.cli import measure
from tokpress_jax.io import export, safetensors
from tokpress_jax.io import load as load_lib
from tokpress_jax.metrics import features, inception

POOL, SPATIAL, CLASSES = 16, 12, 10


run = functools.partial(command.run, 'evaluate')


@pytest.fixture(scope='module')
def here(tmp_path_factory):
  """Models, and images as the usual evaluator has them."""
  root = tmp_path_factory.mktemp('evaluate')
  for name in ('one_d', 'scale_wise', 'vit'):
    model = getattr(tiny_models, name)()
    export.export(
      model.module, model.variables, root / name, tokenizer=model.tokenizer
    )
  rng = np.random.default_rng(0)
  for name, count, shape in (('a', 40, (8, 8, 3)), ('b', 37, (9, 12, 3))):
    pixels = rng.integers(0, 256, (count, *shape), np.uint8)
    np.savez(root / f'{name}.npz', arr_0=pixels, arr_1=np.arange(count))
  (root / 'network.safetensors').write_bytes(b'')
  return root


@jax.jit
def _small_network(variables, images):
  """Means of patches, mixed: as many numbers as the constants above."""
  del variables
  small = jax.image.resize(images, (len(images), 4, 4, 3), 'linear')
  flat = small.reshape(len(images), -1)
  mix = jax.random.normal(jax.random.key(0), (48, POOL + SPATIAL + CLASSES))
  pool, spatial, logits = jnp.split(flat @ mix, (POOL, POOL + SPATIAL), axis=1)
  none = jnp.zeros((len(images), 1))
  return metrics.InceptionFeatures(
    pool, spatial, logits, logits, none, none, none
  )


@pytest.fixture
def small(monkeypatch):
  """A network of no size: its covariances have a root in no time."""
  monkeypatch.setattr(features, '_network', _small_network)
  monkeypatch.setattr(inception, 'POOL_FEATURES', POOL)
  monkeypatch.setattr(inception, 'SPATIAL_FEATURES', SPATIAL)
  weights = metrics.InceptionWeights({}, 'network.safetensors', 'ab', 'cd')
  monkeypatch.setattr(metrics, 'load_inception', lambda path: weights)


def network(here, batch_size=8):
  file = here / 'network.safetensors'
  return ('--inception', file, '--batch-size', batch_size)


def measured(here, tmp_path, *argv, batch_size=8):
  out = tmp_path / 'numbers.json'
  assert run(*argv, *network(here, batch_size), '--json', out) == 0
  return json.loads(out.read_text())


def values(numbers):
  return {name: number['value'] for name, number in numbers.items()}


def test_samples_against_a_reference(here, tmp_path, small, capsys):
  argv = ('--samples', here / 'a.npz', '--reference', here / 'b.npz')
  found = measured(here, tmp_path, *argv)
  assert list(found) == ['fid', 'sfid', 'is', 'precision', 'recall']
  weights = metrics.InceptionWeights({}, '', '', '')
  extractor = metrics.FeatureExtractor(weights, batch_size=50)
  a, b = (
    metrics.collect(extractor, [np.load(here / f'{name}.npz')['arr_0']])
    for name in ('a', 'b')
  )
  assert values(found) == pytest.approx(metrics.compare(a, b), rel=1e-4)
  recipe = found['fid']['recipe']
  assert recipe['network']['sha256'] == 'ab' and recipe['resize'] == 'tf1'
  assert recipe['samples'] == {
    'count': 40,
    'given': 'images',
    'pixels_sha256': a.sha256,
    'file': 'a.npz',
    'file_sha256': safetensors.file_sha256(here / 'a.npz'),
  }
  assert recipe['reference']['count'] == 37
  assert set(recipe['versions']) >= {'jax', 'tokpress-jax', 'numpy'}
  assert str(here) not in json.dumps(found)
  assert found['is']['recipe']['shuffle_seed'] == 2020
  assert 'reference' not in found['is']['recipe']
  text = capsys.readouterr().out
  assert 'network.safetensors, sha256 ab' in text
  assert 'note: fid of 40 samples, sfid of 40 samples is too large' in text
  # Once more, and the other way to resize and to cut.
  assert measured(here, tmp_path, *argv) == found
  other = measured(here, tmp_path, *argv, '--resize', 'clean')
  assert other['fid']['value'] != found['fid']['value']
  other = measured(here, tmp_path, *argv, '--is-order', 'file')
  assert other['is']['recipe']['shuffle_seed'] is None
  assert other['is']['value'] != found['is']['value']


def test_statistics_stand_for_the_reference(here, tmp_path, small, capsys):
  file = tmp_path / 'statistics.npz'
  reference = ('--reference', here / 'b.npz')
  argv = (*reference, *network(here), '--save-statistics', file)
  assert run(*argv) == 0
  argv = ('--samples', here / 'a.npz', '--metrics', 'fid', 'sfid')
  expected = measured(here, tmp_path, *argv, *reference)
  found = measured(here, tmp_path, *argv, '--reference', file)
  assert values(found) == pytest.approx(values(expected), rel=1e-9)
  theirs = found['fid']['recipe']['reference']
  assert theirs['given'] == 'statistics' and theirs['count'] == 37
  # The evaluator's own files: statistics of many images, and some images.
  both = tmp_path / 'both.npz'
  arrays = {k: v for k, v in np.load(file).items() if k != 'recipe'}
  np.savez(both, **arrays, arr_0=np.load(here / 'b.npz')['arr_0'][:20])
  argv = ('--samples', here / 'a.npz', '--metrics', 'fid', 'recall')
  found = measured(here, tmp_path, *argv, '--reference', both)
  assert found['fid']['value'] == pytest.approx(expected['fid']['value'])
  assert found['fid']['recipe']['reference']['count'] is None
  assert found['recall']['recipe']['reference']['count'] == 20
  argv = ('--samples', here / 'a.npz', '--reference', file, *network(here))
  assert run(*argv, '--metrics', 'fid', 'precision') == 2
  assert 'no images, which precision would need' in capsys.readouterr().err
  assert run(*argv, '--metrics', 'fid', '--resize', 'clean') == 2
  assert 'were made with resize tf1' in capsys.readouterr().err


def test_a_generator(here, tmp_path, small, capsys):
  file = tmp_path / 'samples.npz'
  argv = (here / 'scale_wise', '--guidance', 1.5, '--top-k', 9, '--num-samples')
  argv = (*argv, 20, '--reference', here / 'b.npz')
  found = measured(here, tmp_path, *argv, '--save', file)
  assert f'20 samples: {file}' in capsys.readouterr().out
  arrays = np.load(file)
  assert arrays['arr_0'].shape == (20, 8, 8, 1)
  assert sorted(np.bincount(arrays['arr_1'])) == [6, 7, 7]
  assert (np.diff(arrays['arr_1']) < 0).any()  # not in class order
  drawn = found['fid']['recipe']['samples']
  assert drawn['seed'] == 0 and drawn['batch_size'] == 8
  assert drawn['sampler']['guidance'] == 1.5 and drawn['sampler']['top_k'] == 9
  model = load_lib.load(here / 'scale_wise')
  assert drawn['drawn_by']['fingerprint'] == safetensors.fingerprint(
    model.variables
  )
  # The file gives the same numbers, the same command too, another seed others.
  again = measured(
    here, tmp_path, '--samples', file, '--reference', here / 'b.npz'
  )
  assert values(again) == values(found)
  assert measured(here, tmp_path, *argv) == found
  other = measured(here, tmp_path, *argv, '--seed', 1)
  assert other['fid']['value'] != found['fid']['value']
  # Divided among two devices, the same images but for the last bit.
  batches = measure.draw(
    model,
    arrays['arr_1'].astype(np.int32),
    seed=0,
    sampler=generators.Sampler(guidance=1.5, top_k=9),
    batch_size=8,
    devices=jax.devices()[:2],
  )
  two = np.concatenate(list(batches))
  assert two.shape == arrays['arr_0'].shape
  assert np.abs(np.int16(two) - np.int16(arrays['arr_0'])).max() <= 1


def test_a_tokenizer(here, tmp_path, small):
  argv = (here / 'one_d', '--data', 'digits', '--metrics')
  wanted = ('rfid', 'is', 'psnr', 'ssim')
  found = measured(here, tmp_path, *argv, *wanted, batch_size=64)
  assert list(found) == ['rfid', 'is', 'psnr', 'ssim']
  recipe = found['rfid']['recipe']
  assert recipe['reference']['data'] == 'digits'
  assert recipe['samples']['count'] == recipe['reference']['count'] == 297
  assert recipe['samples']['reconstructions_by']['tokens'] == 3
  assert found['ssim']['recipe']['window'] == 7
  # The task's own number, but for the rounding to uint8.
  out = tmp_path / 'task.json'
  assert run(here / 'one_d', '--data', 'digits', '--json', out) == 0
  expected = json.loads(out.read_text())['psnr']
  assert found['psnr']['value'] == pytest.approx(expected, abs=0.02)
  # No network is needed for these two, and fewer tokens give less.
  out = tmp_path / 'fewer.json'
  assert run(*argv, 'psnr', '--tokens', 1, '--json', out) == 0
  fewer = json.loads(out.read_text())
  assert fewer['psnr']['recipe']['samples']['reconstructions_by']['tokens'] == 1
  assert fewer['psnr']['value'] != found['psnr']['value']


def test_a_data_set_as_reference(here, tmp_path, small):
  argv = (here / 'scale_wise', '--per-class', 3, '--metrics', 'fid')
  argv = (*argv, '--data', 'digits')
  found = measured(here, tmp_path, *argv, batch_size=64)
  recipe = found['fid']['recipe']
  assert recipe['samples']['count'] == 9
  assert recipe['reference']['count'] == 297
  assert recipe['reference']['split'] == 'test'


def test_with_the_network_itself(here, tmp_path):
  """At its full size, with redrawn weights and a batch of two."""
  file = tmp_path / 'official.safetensors'
  safetensors.save(file, released())
  out = tmp_path / 'n.json'
  pixels = np.load(here / 'a.npz')['arr_0'][:10]
  np.savez(tmp_path / 'ten.npz', arr_0=pixels)
  argv = ('--samples', tmp_path / 'ten.npz', '--metrics', 'is')
  argv = (*argv, '--inception', file, '--batch-size', 2, '--json', out)
  assert run(*argv) == 0
  found = json.loads(out.read_text())['is']
  assert found['value'] == pytest.approx(1)  # ten parts of one image
  stated = found['recipe']['network']
  assert stated['sha256'] == safetensors.file_sha256(file)
  assert stated['file'] == 'official.safetensors'


@pytest.mark.parametrize(
  'argv, message',
  [
    ([], '--samples FILE.npz'),
    (['M/scale_wise', '--metrics', 'fid', '--data', 'digits'], '--inception'),
    (['M/scale_wise', '--metrics', 'fid'], '--data digits'),
    (['M/scale_wise', '--metrics', 'fdi', '--data', 'digits'], "'fid'"),
    (['M/scale_wise', '--guidance', '2'], '--guidance means nothing'),
    (['M/scale_wise', '--metrics', 'is', '--step', '3'], '--step 3'),
    (['M/scale_wise', '--metrics', 'is', '--save', 'x.png'], '.npz'),
    (['M/scale_wise', '--metrics', 'is', '--num-samples', '0'], 'at least 1'),
    (['M/scale_wise', '--metrics=is', '--top-k', '99'], 'codebook size 16'),
    (
      ['M/scale_wise', '--metrics=is', '--num-samples=2', '--per-class=2'],
      'not both',
    ),
    (['M/one_d', '--metrics', 'psnr'], '--data digits'),
    (['M/one_d', '--metrics', 'fid', '--data', 'digits'], "'rfid'"),
    (
      ['M/one_d', '--metrics', 'rfid', '--reference', 'M/b.npz'],
      '--reference means nothing when a tokenizer is measured',
    ),
    (['M/vit', '--metrics', 'fid'], 'makes no images'),
    (['M/vit', '--samples', 'M/a.npz'], 'not both'),
    (
      ['--samples', 'M/a.npz', '--metrics', 'is', '--inception', 'M/none'],
      'tokpress convert inception',
    ),
    (['--samples', 'M/none.npz'], 'no file or folder'),
    (['--samples', 'M/a.npz', '--seed', '1'], '--seed means nothing'),
    (['--samples', 'M/a.npz', '--inception', 'M/x'], 'There is no file'),
  ],
)
def test_errors_are_one_paragraph(here, argv, message, capsys, monkeypatch):
  monkeypatch.chdir(here)
  argv = [word.replace('M/', f'{here}/') for word in argv]
  assert run(*argv) == 2
  text = capsys.readouterr().err
  assert message in text
  assert 'Traceback' not in text and len(text.splitlines()) < 12


def test_a_reference_is_needed_and_only_one(here, small, capsys):
  argv = ('--samples', here / 'a.npz', *network(here))
  assert run(*argv, '--metrics', 'is', 'fid') == 2
  assert 'fid compare with real images' in capsys.readouterr().err
  both = ('--reference', here / 'b.npz', '--data', 'digits')
  assert run(*argv, *both) == 2
  assert 'Give --reference or --data, not both' in capsys.readouterr().err
