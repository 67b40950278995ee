"""Tokens against known complexity, on a tokenizer that counts."""

import numpy as np
import pytest
import scipy.stats
import toy_tokenizers

from tokpress_jax import tokenizers
from tokpress_jax.errors import UserError
from tokpress_jax.report import complexity

TOY = toy_tokenizers.PixelConfig()
SIDE, N = TOY.image_size, TOY.tokens


def drawings(count=40):
  """Black images whose first k pixels are white; and k."""
  known = np.random.default_rng(0).integers(1, N + 1, count)
  flat = np.where(np.arange(SIDE**2) < known[:, None], 1.0, -1.0)
  return flat.reshape(count, SIDE, SIDE, 1).astype(np.float32), known


def test_spearman_is_scipys_with_ties():
  rng = np.random.default_rng(0)
  x, y = rng.integers(0, 6, 50), rng.integers(0, 4, 50)
  expected = scipy.stats.spearmanr(x, y).statistic
  np.testing.assert_allclose(complexity.spearman(x, y), expected, atol=1e-12)
  with pytest.raises(UserError, match='all 50 images have 3'):
    complexity.spearman(x, np.full(50, 3))


@pytest.fixture(scope='module')
def found():
  images, known = drawings()
  # 60 dB: nothing may be missing.
  policy = tokenizers.Quality(target=60.0)
  others = {'white': np.ones((3, SIDE, SIDE, 1), np.float32)}
  return complexity.measure_complexity(
    TOY.load(), images, known, policy, others=others, noise=(0.3,)
  )


def test_tokens_are_the_known_numbers(found):
  _, known = drawings()
  np.testing.assert_array_equal(found.chosen.tokens, known)
  assert found.spearman == pytest.approx(1)
  assert (found.chosen.psnr > 60).all() and (found.chosen.error < 1e-6).all()


def test_the_same_number_for_all_is_worse(found):
  images, known = drawings()
  mean = known.mean()
  low = int(np.floor(mean))
  assert set(found.fixed) == {low, low + 1}
  for n, value in found.fixed.items():
    # White pixels that were cut off: an error of 1 each, of 16.
    missing = np.maximum(known - n, 0) / SIDE**2
    psnr = -10 * np.log10(np.maximum(missing, 1e-10))
    got = complexity.lengths_of(
      TOY.load(), images, np.full(len(images), n)
    ).psnr
    assert value == pytest.approx(got.mean())
    cut = missing > 0
    np.testing.assert_allclose(got[cut], psnr[cut], rtol=1e-4)
  assert found.fixed_psnr < found.chosen.psnr.mean() - 10


def test_noise_and_other_images_take_more(found):
  assert list(found.noisy) == [0.0, 0.3]
  assert (found.noisy[0.3].tokens == N).all()
  assert list(found.structure) == [
    'as they are', 'one colour', 'pixels shuffled', 'noise alone', 'white'
  ]  # fmt: skip
  assert (found.structure['white'].tokens == N).all()
  text = complexity.tables(found, what='shapes')[0]
  assert 'Spearman of tokens and shapes: 1.000' in text.caption
  assert len(text.rows) == len(np.unique(drawings()[1]))
  assert len(complexity.complexity_figure(found).axes) == 3


def test_examples_show_one_image_of_each_kind():
  images, known = drawings()
  policy = tokenizers.Quality(target=60.0)
  sheet = complexity.examples_sheet(TOY.load(), images, known, policy)
  cells = np.asarray(sheet.convert('RGBA'))
  white = (cells[..., :3] == 255).all(axis=-1) & (cells[..., 3] == 255)
  # Cells of 18 x 18 a pixel: k white ones for each k, twice.
  expected = 2 * np.unique(known).sum() * 18**2
  assert white.sum() == expected
