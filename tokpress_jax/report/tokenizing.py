"""Quality of a tokenizer as a function of the tokens kept."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from tokpress_jax import metrics, quantize, types
from tokpress_jax.report.images import ImageSet
from tokpress_jax.train.tasks.tokenize import shown_lengths


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerResult:
  """What a tokenizer reaches on test images.

  Attributes:
    tokens: numbers of tokens, rising.
    bits: per image, for each.
    psnr: mean over images in dB, values in [0, 1], peak 1, for each.
    ssim: mean over images, for each.
    ssim_window: side of SSIM's Gaussian window.
    usage: fraction of the codebook that test images use.
    perplexity: of the codes of the test images.
    shown: a few originals [n, H, W, C].
    decoded: number of tokens to their reconstructions.
  """

  tokens: tuple[int, ...]
  bits: tuple[float, ...]
  psnr: tuple[float, ...]
  ssim: tuple[float, ...]
  ssim_window: int
  usage: float
  perplexity: float
  shown: np.ndarray
  decoded: dict[int, np.ndarray]


def measure_tokenizer(
  tokenizer: types.Loaded, images: ImageSet, *, show: int = 10
) -> TokenizerResult:
  """Encodes the test images and decodes them from ever more tokens.

  Args:
    tokenizer: the tokenizer.
    images: what it is measured on.
    show: how many images are kept for the picture.

  Returns:
    The result.
  """
  config = tokenizer.module.config
  test = jnp.asarray(images.test)
  codes = jax.jit(lambda t, x: t.encode(x).codes)(tokenizer, test)
  decode = jax.jit(lambda t, c, n: t.decode_codes(c, length=n))
  unit = lambda x: (x + 1) / 2
  side = min(test.shape[1:3])
  window = min(11, side - 1 + side % 2)
  tokens = shown_lengths(config.boundaries)
  psnr, ssim, decoded = [], [], {}
  for n in tokens:
    again = decode(tokenizer, codes, n)
    psnr.append(float(jnp.mean(metrics.psnr(unit(again), unit(test)))))
    ssim.append(
      float(jnp.mean(metrics.ssim(unit(again), unit(test), window=window)))
    )
    decoded[n] = np.asarray(again[:show])
  count = quantize.count_codes(codes, config.codebook_size)
  return TokenizerResult(
    tokens=tokens,
    bits=tuple(n * config.bits_per_token for n in tokens),
    psnr=tuple(psnr),
    ssim=tuple(ssim),
    ssim_window=window,
    usage=float(quantize.usage(count)),
    perplexity=float(quantize.perplexity(count)),
    shown=images.test[:show],
    decoded=decoded,
  )
