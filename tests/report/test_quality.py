"""What a quality costs, against loops over a table of PSNRs."""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from tokpress_jax import report, types
from tokpress_jax.tokenizers import lengths

BOUNDS = (1, 2, 3, 5, 6, 7, 8, 9, 10, 12, 14, 16)
ROWS = np.random.default_rng(0)
# The error of each image at each length; it does not only fall.
ERROR = np.exp(-np.arange(12) / 4 + ROWS.normal(size=(60, 12)) * 0.8)
ERROR = ERROR.astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Config:
  boundaries: tuple[int, ...] = BOUNDS
  condition_shape: None = None
  draws: bool = False
  nested: bool = True


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
      valid=lengths.prefix_mask(length, 16),
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
  images = np.tile(ERROR[:, None, :, None], (1, 12, 1, 1))
  spec = types.Spec(name='', family='tokenizer', config=Config())
  loaded = types.Loaded(Tokenizer(), {}, spec)
  found = report.measure_quality(loaded, images, parts=(0.25, 0.5), batch=32)
  psnr = -20 * np.log10(ERROR / 2)
  for cost, column in zip(found, (3, 6), strict=True):
    target = np.median(psnr[:, column])
    np.testing.assert_allclose(cost.target, target, rtol=1e-5)
    length = []
    for row in psnr:
      low, high = 0, 11
      while low < high:
        middle = (low + high) // 2
        if row[middle] >= target - 1e-4:
          high = middle
        else:
          low = middle + 1
      near = range(max(high - 4, 0), high)
      good = [i for i in near if row[i] >= target - 1e-4]
      length.append(BOUNDS[min(good, default=high)])
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
      [b for b, s in zip(BOUNDS, share, strict=True) if s >= hits], default=16
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
