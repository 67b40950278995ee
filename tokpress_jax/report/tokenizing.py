"""Quality of a tokenizer as a function of the tokens kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tokpress_jax import metrics, quantize, types
from tokpress_jax.report import quality
from tokpress_jax.report.images import ImageSet
from tokpress_jax.tokenizers import PyramidConfig
from tokpress_jax.train.tasks.tokenizer import shown_lengths


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerResult:
  """What a tokenizer reaches on test images.

  Attributes:
    config: of the tokenizer.
    tokens: numbers of tokens, rising.
    bits: per image, for each.
    psnr: mean over images in dB, values in [0, 1], peak 1, for each.
    ssim: mean over images, for each.
    ssim_window: side of SSIM's Gaussian window.
    usage: fraction of the codebook that test images use.
    perplexity: of the codes of the test images.
    shown: a few originals [n, H, W, C].
    decoded: number of tokens to their reconstructions.
    scales: of a multi-scale tokenizer, the codes of each scale: by 'training'
      and 'test' images. k-means is fitted to the training images.
    quality: what a PSNR costs if each image takes as many tokens as it needs.
  """

  config: Any
  tokens: tuple[int, ...]
  bits: tuple[float, ...]
  psnr: tuple[float, ...]
  ssim: tuple[float, ...]
  ssim_window: int
  usage: float
  perplexity: float
  shown: np.ndarray
  decoded: dict[int, np.ndarray]
  scales: dict[str, tuple[metrics.ScaleCodes, ...]] = dataclasses.field(
    default_factory=dict
  )
  quality: tuple[quality.QualityCost, ...] = ()


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
    config=config,
    tokens=tokens,
    bits=tuple(n * config.bits_per_token for n in tokens),
    psnr=tuple(psnr),
    ssim=tuple(ssim),
    ssim_window=window,
    usage=float(quantize.usage(count)),
    perplexity=float(quantize.perplexity(count)),
    shown=images.test[:show],
    decoded=decoded,
    scales=measure_scales(
      tokenizer, {'training': images.train, 'test': images.test}
    ),
    quality=quality.measure_quality(tokenizer, images.test),
  )


def measure_scales(
  tokenizer: types.Loaded, images: Mapping[str, np.ndarray], *, batch: int = 256
) -> dict[str, tuple[metrics.ScaleCodes, ...]]:
  """How evenly each scale uses the codes, beside k-means.

  Args:
    tokenizer: the tokenizer.
    images: name of a set to [B, H, W, C] in [-1, 1]; k-means is fitted to what
      the first leaves to each scale.
    batch: images at once.

  Returns:
    Of each set, see `metrics.scale_codes`; empty for a tokenizer without
    scales.
  """
  config = tokenizer.module.config
  if not isinstance(config, PyramidConfig):
    return {}
  module, variables = tokenizer.module, tokenizer.variables

  @jax.jit
  def code(variables, x):
    z = module.apply(variables, x, method='latents')
    whole = jnp.full(x.shape[:1], config.num_tokens, jnp.int32)
    codes = module.apply(variables, z, whole, method='quantize').codes
    rest = lambda m: m.quantizer.residuals(z, codes)
    return module.apply(variables, method=rest), codes[..., 0]

  found: dict[str, tuple[metrics.ScaleCodes, ...]] = {}
  centres: list[np.ndarray] = []
  for name, pixels in images.items():
    parts = [
      jax.device_get(code(variables, pixels[i : i + batch]))
      for i in range(0, len(pixels), batch)
    ]
    rests, codes = zip(*parts, strict=True)
    residuals = [np.concatenate(x) for x in zip(*rests, strict=True)]
    if not found:
      centres = metrics.fit_scales(residuals, size=config.codebook_size)
    found[name] = metrics.scale_codes(
      residuals,
      np.split(np.concatenate(codes), config.boundaries[:-1], axis=1),
      centres,
    )
  return found
