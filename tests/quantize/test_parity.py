"""Against vector-quantize-pytorch, on its own random weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokpress_jax.quantize import (
  LFQConfig,
  VQConfig,
  fsq,
  lfq,
  residual_vq,
  vq,
)
from tokpress_jax.quantize.codebook import update_codebook

pytestmark = [
  pytest.mark.parity,
  pytest.mark.filterwarnings('ignore'),  # PyTorch's own.
]
torch = pytest.importorskip('torch')
peer = pytest.importorskip('vector_quantize_pytorch')


@pytest.fixture(autouse=True)
def _seed():
  torch.manual_seed(0)


def _z(*shape):
  return torch.randn(*shape)


@pytest.mark.parametrize('cosine', [False, True])
def test_vq_and_its_moving_average(cosine):
  config = VQConfig(
    codebook_size=16,
    dim=4,
    learning='ema',
    distance='cosine' if cosine else 'l2',
    decay=0.8,
  )
  theirs = peer.VectorQuantize(
    dim=4,
    codebook_size=16,
    use_cosine_sim=cosine,
    decay=0.8,
    commitment_weight=0.25,
    rotation_trick=False,
  )
  codebook = theirs._codebook.embed[0].numpy().copy()
  state = {
    'codebook': jnp.asarray(codebook),
    'total': jnp.asarray(theirs._codebook.embed_avg[0].numpy().copy()),
    'weight': jnp.asarray(theirs._codebook.cluster_size[0].numpy().copy()),
    'usage': jnp.ones(16),
  }
  for _ in range(3):
    z = _z(5, 40, 4)
    ours = vq(
      z.numpy(),
      state['codebook'],
      distance=config.distance,
      codebook_weight=0.0,
    )
    out, codes, loss = theirs.train()(z)
    np.testing.assert_array_equal(ours.codes[..., 0], codes)
    np.testing.assert_allclose(ours.embeddings, out, atol=1e-5)
    if not cosine:  # Theirs compares with the input before it is scaled.
      np.testing.assert_allclose(ours.loss, loss.item(), rtol=1e-5)
    state = update_codebook(state, ours.stats, config, rng=jax.random.key(0))
    np.testing.assert_allclose(
      state['codebook'], theirs._codebook.embed[0], atol=1e-4
    )


def test_fsq():
  levels = (8, 5, 4, 3)
  theirs = peer.FSQ(list(levels))
  z = _z(2, 500, 4) * 2
  out, codes = theirs(z)
  ours = fsq(z.numpy(), levels, form='lucidrains')
  np.testing.assert_array_equal(ours.codes[..., 0], codes)
  np.testing.assert_allclose(ours.embeddings, out, atol=1e-6)


@pytest.mark.parametrize('sphere', [False, True])
def test_lfq(sphere):
  # On the sphere, theirs scales the inputs too: only 1 is the paper's form.
  scale = 1.0 if sphere else 0.5
  config = LFQConfig(
    bits=8,
    norm='sphere' if sphere else 'none',
    scale=None if sphere else scale,
    diversity=2.0,
  )
  theirs = peer.LFQ(
    codebook_size=256,
    dim=8,
    spherical=sphere,
    codebook_scale=scale,
    entropy_loss_weight=0.1,
    commitment_loss_weight=0.25,
    diversity_gamma=2.0,
  )
  z = _z(3, 50, 8) * 0.1
  (out, codes, aux), parts = theirs.train()(z, return_loss_breakdown=True)
  ours = lfq(z.numpy(), config)
  np.testing.assert_array_equal(ours.codes[..., 0], codes)
  np.testing.assert_allclose(ours.embeddings, out.detach(), atol=1e-6)
  sample, mean = parts.per_sample_entropy, parts.batch_entropy
  np.testing.assert_allclose(
    ours.losses['entropy'], 0.1 * (sample - 2 * mean), rtol=1e-4
  )
  np.testing.assert_allclose(ours.loss, aux.item(), rtol=1e-4)


def test_residual_vq():
  theirs = peer.ResidualVQ(dim=4, num_quantizers=3, codebook_size=16)
  z = _z(2, 30, 4)
  out, codes, _ = theirs.eval()(z)
  ours = residual_vq(z.numpy(), theirs.codebooks.numpy())
  np.testing.assert_array_equal(ours.codes, codes)
  np.testing.assert_allclose(ours.embeddings, out, atol=1e-5)
