"""What a quality costs, against loops over a table of PSNRs."""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from tokpress_jax import report, types
from tokpress_jax.tokenizers import lengths

BOUNDS = (1, 2, 4, 8)
ROWS = np.random.default_rng(0)
# The error of each image at each length; the fourth's is no longer falling.
ERROR = np.exp(-np.arange(4) + ROWS.normal(size=(20, 4)) * 0.8)
ERROR = ERROR.astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Config:
  boundaries: tuple[int, ...] = BOUNDS
  condition_shape: None = None


class Tokenizer(nn.Module):
  """Images carry their own errors: pixel k is that of the k-th length."""

  config: Config = Config()

  def encode(self, images, *, policy=None):
    decode = lambda n: self._decode(images, n)
    length = (policy or lengths.Fixed()).lengths(
      lengths.Coded(images=images, boundaries=BOUNDS, decode=decode)
    )
    return types.Encoded(
      codes=images,
      embeddings=None,
      valid=lengths.prefix_mask(length, 8),
      length=length,
      positions=None,
      image_size=jnp.zeros((len(images), 2), jnp.int32),
    )

  def decode(self, encoded):
    return self._decode(encoded.codes, encoded.length)

  def _decode(self, images, length):
    index = jnp.searchsorted(jnp.asarray(BOUNDS), length)
    rows = jnp.arange(len(images))
    return images + images[rows, 0, index, 0][:, None, None, None]


def test_costs_equal_those_of_loops():
  images = np.tile(ERROR[:, None, :, None], (1, 4, 1, 1))
  spec = types.Spec(name='', family='tokenizer', config=Config())
  loaded = types.Loaded(Tokenizer(), {}, spec)
  found = report.measure_quality(loaded, images, parts=(0.25, 0.5), batch=8)
  psnr = -20 * np.log10(ERROR / 2)
  for cost, column in zip(found, (1, 2), strict=True):
    target = np.median(psnr[:, column])
    np.testing.assert_allclose(cost.target, target, rtol=1e-5)
    length = []
    for row in psnr:  # Bisection over four: the second, then a neighbour.
      low, high = (0, 1) if row[1] >= target - 1e-4 else (2, 3)
      good = row[low] >= target - 1e-4
      length.append(BOUNDS[low if good else high])
    shortest = [
      min(
        [b for b, q in zip(BOUNDS, row, strict=True) if q >= target - 1e-4],
        default=8,
      )
      for row in psnr
    ]
    hits = np.mean(
      [
        row[BOUNDS.index(n)] >= target - 1e-4
        for row, n in zip(psnr, length, strict=True)
      ]
    )
    share = (psnr >= target - 1e-4).mean(axis=0)
    fixed = min(
      [b for b, s in zip(BOUNDS, share, strict=True) if s >= hits], default=8
    )
    np.testing.assert_allclose(cost.tokens, np.mean(length))
    np.testing.assert_allclose(cost.hits, hits)
    assert cost.fixed == fixed
    np.testing.assert_allclose(cost.saved, 1 - np.mean(length) / fixed)
    agrees = np.mean(np.array(length) == shortest)
    np.testing.assert_allclose(cost.agrees, agrees)
  assert any(cost.agrees < 1 for cost in found)  # Not all fall with length.


def test_too_few_lengths_are_not_measured():
  spec = types.Spec(name='', family='tokenizer', config=None)
  module = Tokenizer(Config(boundaries=(1, 8)))
  loaded = types.Loaded(module, {}, spec)
  assert report.measure_quality(loaded, np.zeros((2, 4, 4, 1))) == ()
