"""The FID's Inception against torch-fidelity's, with redrawn weights."""

import jax
import numpy as np
import pytest
from inception_case import LAYERS, TOLERANCE, golden, images, released

from tokpress_jax import metrics
from tokpress_jax.errors import UserError
from tokpress_jax.io import safetensors
from tokpress_jax.metrics import features, inception

OURS = {
  '64': 'pool_64',
  '192': 'pool_192',
  '768': 'pool_768',
  '2048': 'pool',
}


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
  path = tmp_path_factory.mktemp('inception') / 'official.safetensors'
  safetensors.save(path, released())
  return metrics.load_inception(path)


def _errors(found):
  """The largest error of each layer, in tolerances."""
  return {
    layer: np.abs(found[OURS.get(layer, layer)] - golden()[layer]).max()
    / golden()[layer].std()
    / TOLERANCE[layer]
    for layer in LAYERS
  }


def test_every_layer_equals_torch_fidelity(weights):
  extractor = metrics.FeatureExtractor(weights, batch_size=2)
  found = extractor(images(), [OURS.get(layer, layer) for layer in LAYERS])
  errors = _errors(found)
  assert max(errors.values()) < 1, errors
  assert found['spatial'].shape == (2, inception.SPATIAL_FEATURES)
  # Another way to resize is another number.
  for resize in ('clean', 'torch'):
    extractor.resize = resize
    other = _errors(extractor(images(), list(found)))
    assert min(other.values()) > 100, other
  # Three images in batches of two: the last one is padded.
  extractor.resize = 'tf1'
  three = extractor(np.concatenate([images(), images()[:1]]))['pool']
  expected = found['pool'][[0, 1, 0]]
  np.testing.assert_allclose(three, expected, atol=1e-5 * expected.std())


def test_a_batch_divided_among_devices_gives_the_same(weights):
  devices = jax.devices()[:2]
  extractor = metrics.FeatureExtractor(weights, batch_size=1, devices=devices)
  assert extractor.batch_size == 2
  errors = _errors(extractor(images(), [OURS.get(k, k) for k in LAYERS]))
  assert max(errors.values()) < 1, errors
  found = extractor.dispatch(images(), ['pool'])['pool']
  assert len(found.sharding.device_set) == 2


def test_a_file_with_our_names_is_the_same_network(weights, tmp_path):
  path = tmp_path / 'inception.safetensors'
  safetensors.save(path, weights.variables)
  again = metrics.load_inception(path)
  assert again.fingerprint == weights.fingerprint
  assert again.sha256 != weights.sha256 and len(again.sha256) == 64
  assert again.file == 'inception.safetensors'
  flat = safetensors.flatten(again.variables)
  assert len(flat) == 472
  assert all(x.dtype == np.float32 for x in flat.values())


def test_the_published_sizes():
  flat = safetensors.flatten(inception.expected())
  convolutions = [
    x
    for name, x in flat.items()
    if name.endswith('/kernel') and 'fc' not in name
  ]
  assert len(convolutions) == 94
  # Keras prints 21,802,784 for InceptionV3 without its top, whose batch norms
  # have no scale: three vectors for each convolution, we have four.
  channels = sum(x.shape[-1] for x in convolutions)
  last = 2048 * 1008 + 1008
  assert sum(x.size for x in flat.values()) == 21_802_784 + channels + last


def test_errors(weights, tmp_path):
  with pytest.raises(UserError, match='tokpress convert inception') as error:
    metrics.load_inception(tmp_path / 'none.safetensors')
  assert 'pt_inception-2015-12-05-6726825d.pth' in str(error.value)
  pickle = tmp_path / 'x.pth'
  pickle.write_bytes(b'')
  with pytest.raises(UserError, match='not read as it is'):
    metrics.load_inception(pickle)
  part = tmp_path / 'part.safetensors'
  lost = {k: v for k, v in released().items() if 'Mixed_7c' not in k}
  lost['fc.bias'] = lost['fc.bias'][:1000]
  safetensors.save(part, lost)
  with pytest.raises(UserError) as error:
    metrics.load_inception(part)
  assert 'params/Mixed_7c/branch_pool/kernel' in str(error.value)
  assert 'params/fc/bias: (1000,) there, (1008,) expected' in str(error.value)
  with pytest.raises(UserError, match="'tf1'"):
    metrics.FeatureExtractor(weights, resize='tf')
  with pytest.raises(UserError, match='batch_size must be at least 1'):
    metrics.FeatureExtractor(weights, batch_size=0)
  with pytest.raises(UserError, match='Move the channels to the end'):
    features.check_images(np.zeros((2, 3, 8, 8), np.uint8))
  with pytest.raises(UserError, match='to_uint8'):
    features.check_images(np.zeros((2, 8, 8, 3), np.float32))
  with pytest.raises(ValueError, match=r'takes images \[B, 299, 299, 3\]'):
    inception.Inception().init(jax.random.key(0), np.zeros((1, 8, 8, 3)))
